//! States of unfinished writers, which checkpoints hold.

use holdfast_qcow2::{
    ClusterIndex, ClusterSize, ClusterState, Compressor, Digest, Image, ImageSpec, ImageWriter, Index,
    IndexSpec, IndexWriter, Payload,
};

use crate::carve::Carver;
use crate::sparse::Sparse;

/// Longest state.
const LONGEST: usize = 1 << 20;

fn disk() -> (ImageSpec, IndexSpec) {
    let cluster_size = ClusterSize::new(16 << 10).expect("a valid size");
    let spec = ImageSpec {
        virtual_size: 70 << 20,
        cluster_size,
        backing: Some("below.qcow2".parse().expect("a valid name")),
        min_head: 0,
    };
    let geometry = *ImageWriter::new(spec.clone()).expect("a valid image").geometry();
    let index = IndexSpec {
        image: "saved.qcow2".parse().expect("a valid name"),
        geometry,
        overlay: true,
    };
    (spec, index)
}

/// The states after these clusters, as the input that holds them.
pub(crate) fn states(clusters: &[u64]) -> Vec<u8> {
    let (spec, index_spec) = disk();
    let mut body = Vec::new();
    let mut image = ImageWriter::new(spec).expect("a valid image");
    let mut index = IndexWriter::new(&index_spec, &mut body);
    for cluster in clusters.iter().copied().map(ClusterIndex) {
        let (payload, state) = match cluster.0 % 3 {
            0 => (Payload::Zero, ClusterState::Trimmed),
            _ => (Payload::Frame(b"frame"), ClusterState::Data(Digest([7; 32]))),
        };
        image
            .push(cluster, payload, &mut body)
            .expect("clusters come in order");
        index
            .push(cluster, &state, &mut body)
            .expect("clusters come in order");
    }
    let mut input = Vec::new();
    Sparse::of(&image.save()).encode(&mut input);
    Sparse::of(&index.save()).encode(&mut input);
    input
}

/// A state is refused, or saves itself again and lets the writer go on to its end.
pub(crate) fn saved_state(input: &[u8]) {
    let mut input = Carver::new(input);
    let mut state = || {
        let file = Sparse::carve(&mut input);
        let len = holdfast_qcow2::ReadAt::size(&file).min(LONGEST as u64);
        file.get(0, len as usize).expect("it is inside")
    };
    let (image, index) = (state(), state());
    let (spec, index_spec) = disk();
    let last = ClusterIndex(index_spec.geometry.clusters() - 1);
    let mut compressor = Compressor::new(spec.cluster_size, 1).expect("zstd has memory");
    let mut frame = Vec::new();
    compressor
        .compress(&vec![1; spec.cluster_size.as_usize()], &mut frame)
        .expect("a whole cluster");
    if let Ok(mut writer) = ImageWriter::resume(spec.clone(), &image) {
        let again = ImageWriter::resume(spec, &writer.save()).expect("its own state");
        assert!(again.save() == writer.save(), "the state of an image changed");
        let (begin, mut body) = (writer.position(), Vec::new());
        let pushed = writer.push(last, Payload::Frame(&frame), &mut body);
        assert!(pushed.is_ok() || body.is_empty());
        let finished = writer.finish(&mut body);
        assert_eq!(finished.summary.file_size, begin + body.len() as u64);
        // Its tables may be anybody's; reading them is tried elsewhere.
        let _ = Image::open(finished.head);
    }
    if let Ok(mut writer) = IndexWriter::resume(&index_spec, &index) {
        let again = IndexWriter::resume(&index_spec, &writer.save()).expect("its own state");
        assert!(again.save() == writer.save(), "the state of an index changed");
        let mut body = Vec::new();
        let pushed = writer.push(last, &ClusterState::Zero, &mut body);
        assert!(pushed.is_ok() || body.is_empty());
        let summary = writer.finish(&mut body);
        assert!(summary.size >= body.len() as u64);
        let _ = Index::open(body);
    }
}
