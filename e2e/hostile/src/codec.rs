//! Compressed clusters.

use holdfast_qcow2::{ClusterSize, Compression, Compressor, Decompressor};

use crate::carve::Carver;

/// Bytes that claim to be a cluster.
pub(crate) fn cluster(input: &[u8]) {
    let mut input = Carver::new(input);
    let kind = input.byte();
    let compression = if kind.is_multiple_of(2) {
        Compression::Zstd
    } else {
        Compression::Zlib
    };
    let bits = u32::from(kind / 2 % 13) + 9;
    let cluster_size = ClusterSize::from_bits(bits).expect("9 to 21");
    let stored = input.rest();
    let mut decompressor = Decompressor::new(cluster_size).expect("zstd has memory");
    let mut compressor = Compressor::new(cluster_size, 1).expect("zstd has memory");
    let mut raw = vec![0xa5; cluster_size.as_usize()];
    let read = decompressor.decompress(compression, stored, &mut raw);
    // Sectors are filled up with whatever is there.
    let mut padded = stored.to_vec();
    padded.resize(stored.len().next_multiple_of(512), 0);
    let mut again = vec![0; cluster_size.as_usize()];
    if read.is_ok() {
        // A zlib stream that fills the cluster and would go on may go on wrongly.
        let padded = decompressor.decompress(compression, &padded, &mut again);
        assert!(padded.is_ok() || compression == Compression::Zlib, "{padded:?}");
        assert!(padded.is_err() || raw == again, "padding changes a cluster");
    } else {
        // The input itself is as good a content as any.
        raw.fill(0);
        let len = raw.len().min(stored.len());
        raw[..len].copy_from_slice(&stored[..len]);
    }
    let mut frame = Vec::new();
    compressor.compress(&raw, &mut frame).expect("a whole cluster");
    assert!(frame.len() <= raw.len() + 512, "{} bytes of frame", frame.len());
    decompressor
        .decompress(Compression::Zstd, &frame, &mut again)
        .expect("what was compressed is read");
    assert!(raw == again, "a cluster changed");
}
