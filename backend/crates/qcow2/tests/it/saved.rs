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
