//! What a merge makes, byte for byte.

use holdfast_qcow2::{ImageSpec, ImageWriter, IndexSpec, IndexWriter, Payload};

use super::cases::SMALL;
use super::*;

/// Members made by hand, without the help of zstd, whose output may change with its version.
fn fixed_members() -> Vec<Member> {
    let cluster_size = cluster_size();
    let member = |number: usize| {
        let name = |number: usize| file_name(number).parse().unwrap();
        let virtual_size = (4000 << 14) - 512;
        let spec = ImageSpec {
            virtual_size,
            cluster_size,
            backing: number.checked_sub(1).map(name),
            min_head: 0,
        };
        let mut writer = ImageWriter::new(spec).unwrap();
        let (mut body, mut index) = (Vec::new(), Vec::new());
        let spec = IndexSpec {
            image: name(number),
            geometry: *writer.geometry(),
            overlay: number > 0,
        };
        let mut indexer = IndexWriter::new(&spec, &mut index);
        let holds = |cluster: &u64| match number {
            0 => true,
            1 => cluster % 50 < 17,
            _ => cluster % 900 > 700 || *cluster > 3000 && cluster % 4 != 1,
        };
        for cluster in (0..4000).filter(holds) {
            let frame = vec![(cluster + number as u64) as u8; 1 + cluster as usize * 4];
            let (payload, state) = match cluster % 40 {
                3 => (Payload::Zero, ClusterState::Zero),
                4 => (Payload::Zero, ClusterState::Trimmed),
                _ => (Payload::Frame(&frame), ClusterState::Data(cluster_hash(&frame))),
            };
            writer.push(ClusterIndex(cluster), payload, &mut body).unwrap();
            indexer.push(ClusterIndex(cluster), &state, &mut index).unwrap();
        }
        let mut image = writer.finish(&mut body).head;
        image.append(&mut body);
        let _ = indexer.finish(&mut index);
        Member {
            image,
            index,
            layers: number..number + 1,
        }
    };
    (0..3).map(member).collect()
}

/// Whoever changes what a plan makes of the same members changes its tag, or an interrupted merge goes on with other
/// pieces than it began with.
#[test]
fn the_bytes_of_a_merge_are_fixed() {
    let members = fixed_members();
    let mut facts = Vec::new();
    for run in [0..3, 1..3] {
        let below = (run.start > 0).then(|| file_name(0));
        let fingerprint = {
            let run = open_run(&members[run.clone()], below.as_deref());
            Merge::plan(&run, SMALL).unwrap().fingerprint()
        };
        let (merged, outcome) = merge(&members[run.clone()], run.start == 0, SMALL);
        assert!(
            outcome.copied > 0 && outcome.packed > 0 && outcome.dead > 0,
            "{outcome:?}"
        );
        facts.push(format!(
            "{fingerprint} {} {} {}",
            outcome.image.tables,
            cluster_hash(&merged.image),
            cluster_hash(&merged.index)
        ));
    }
    assert_eq!(facts, FIXED);
}

/// Fingerprint of the plan, digest of the tables, hash of the image, hash of the index.
const FIXED: [&str; 2] = [
    "98ff7af3c816bc06b0240cdc368397c9be6c65332dc6bbb5f52cb768a8bdc4c7 \
     ce637b0c13053d71732fc559d7d7f619cea9db967a48e5f694d58f12bff8c9ae \
     cade4c30f7a41ed512e32986d769456ba48bb8697c8bf091a1e3a520827904be \
     674037e67949889f5e5d214b63488949cd5b7ea48603fa1171bff052757ba22e",
    "f04d6ca23d8c37d43e8d1ae4b7ed14650d19b51d9687aada8b304d85be12cbfb \
     0ad7e26d084a3f4e0adc75d58de114a13d31a3e5cf3bbe17bae4e8d15f47bd4d \
     047d3869da7b3a42f0cb6fa4d2f8bc8c66f3f6d7ff89af0d383bbfa245e9ad13 \
     c59176cc607c82986cdba76d4979c1d5d860a5a62ff3ad3a3d43809704d23fec",
];
