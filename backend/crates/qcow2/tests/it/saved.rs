//! States of unfinished writers: what is none is refused. That writers go on as if nothing had been is shown by all tests
//! that write layers.

use holdfast_qcow2::{
    ClusterIndex, ClusterSize, ClusterState, Geometry, ImageSpec, ImageWriter, IndexSpec, IndexWriter,
    Payload, WriteError, cluster_hash,
};

#[test]
fn states_that_are_none_are_refused() {
    let cluster_size = ClusterSize::new(16 << 10).unwrap();
    let spec = ImageSpec {
        virtual_size: 70 << 20,
        cluster_size,
        backing: None,
        min_head: 0,
    };
    let index_spec = IndexSpec {
        image: "a.qcow2".parse().unwrap(),
        geometry: Geometry::new(spec.virtual_size, cluster_size).unwrap(),
        overlay: false,
    };
    let mut body = Vec::new();
    let mut image = ImageWriter::new(spec.clone()).unwrap();
    let mut index = IndexWriter::new(&index_spec, &mut body);
    for cluster in [3, 2049, 4100].map(ClusterIndex) {
        image.push(cluster, Payload::Frame(b"frame"), &mut body).unwrap();
        let state = ClusterState::Data(cluster_hash(b"content"));
        index.push(cluster, &state, &mut body).unwrap();
    }
    let (image, index) = (image.save(), index.save());
    let resume_image = |state: &[u8]| ImageWriter::resume(spec.clone(), state).map(|_| ());
    let resume_index = |state: &[u8]| IndexWriter::resume(&index_spec, state).map(|_| ());
    assert_eq!((resume_image(&image), resume_index(&index)), (Ok(()), Ok(())));
    let refused = |outcome: Result<(), WriteError>| matches!(outcome, Err(WriteError::SavedState(_)));
    assert!(refused(resume_image(&index)) && refused(resume_index(&image)));
    for len in (0..image.len()).step_by(997) {
        assert!(refused(resume_image(&image[..len])), "{len}");
    }
    for len in 0..index.len() {
        assert!(refused(resume_index(&index[..len])), "{len}");
    }
    assert!(refused(resume_image(&[&image[..], b"x"].concat())));
    assert!(refused(resume_index(&[&index[..], b"x"].concat())));
    // Another disk.
    let other = ImageSpec {
        virtual_size: 200 << 20,
        ..spec.clone()
    };
    assert!(refused(ImageWriter::resume(other, &image).map(|_| ())));
}

/// A state lies on the target between two attempts, where somebody may have changed it. Numbers are eight bytes each.
#[test]
fn states_that_would_lead_a_writer_astray_are_refused() {
    let cluster_size = ClusterSize::new(16 << 10).unwrap();
    let spec = ImageSpec {
        virtual_size: 70 << 20,
        cluster_size,
        backing: Some("a.qcow2".parse().unwrap()),
        min_head: 0,
    };
    let index_spec = IndexSpec {
        image: "b.qcow2".parse().unwrap(),
        geometry: Geometry::new(spec.virtual_size, cluster_size).unwrap(),
        overlay: true,
    };
    let mut body = Vec::new();
    let mut image = ImageWriter::new(spec.clone()).unwrap();
    let mut index = IndexWriter::new(&index_spec, &mut body);
    for cluster in [3, 2049, 4100].map(ClusterIndex) {
        image.push(cluster, Payload::Frame(b"frame"), &mut body).unwrap();
        let state = ClusterState::Data(cluster_hash(b"content"));
        index.push(cluster, &state, &mut body).unwrap();
    }
    let (image, index) = (image.save(), index.save());
    let with = |state: &[u8], at: usize, number: u64| {
        let mut state = state.to_vec();
        state[at..at + 8].copy_from_slice(&number.to_be_bytes());
        state
    };
    let refused = |outcome: Result<(), WriteError>| matches!(outcome, Err(WriteError::SavedState(_)));
    // Behind the tag: position, next cluster, length and entries of the L1 table (three), span.
    let (position, next, span) = (8, 16, 24 + 8 + 3 * 8);
    let [data, zero, payload] = [3, 2, 1].map(|from_end| image.len() - from_end * 8);
    for (at, number) in [
        (position, 0),
        (position, 1 << 60),
        (position, (3 << 14) + 1),
        (next, 4481),
        (next, u64::MAX),
        (span, 1),
        (span, u64::MAX),
        (data, u64::MAX),
        (zero, 1 << 20),
        (payload, u64::MAX),
    ] {
        let outcome = ImageWriter::resume(spec.clone(), &with(&image, at, number));
        assert!(
            refused(outcome.map(|_| ())),
            "{number} at {at} of the image's state"
        );
    }
    // Behind the tag: position, next cluster, span; the counts stand at the end, the number of pages before them.
    for (at, number) in [
        (8, 0),
        (8, u64::MAX),
        (16, u64::MAX),
        (24, 0),
        (24, u64::MAX),
        (index.len() - 32, u64::MAX),
        (index.len() - 24, u64::MAX),
        (index.len() - 8, 1 << 20),
    ] {
        let outcome = IndexWriter::resume(&index_spec, &with(&index, at, number));
        assert!(
            refused(outcome.map(|_| ())),
            "{number} at {at} of the index's state"
        );
    }
}
