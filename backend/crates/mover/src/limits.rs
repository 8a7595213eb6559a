//! The constants that bound memory. Together: five image buffers, two index buffers and the chunks under way are below
//! 130 MiB; what the runtime, TLS and zstd need comes on top.

/// Bytes of the volume that one worker reads and compresses at a time. A multiple of every cluster size.
pub const CHUNK: u64 = 2 << 20;
/// Chunks between reading and writing, over the number of workers: what keeps workers busy while an earlier, slower chunk
/// holds up the order.
pub const CHUNKS_AHEAD: usize = 4;
/// Bytes of a part of an image. 10,000 parts of this are more than a shard that does not compress.
pub const IMAGE_PART: usize = 16 << 20;
/// Buffers for parts of images: one waits for the head, one is filled, the others are on the wire.
pub const IMAGE_BUFFERS: usize = 5;
/// Bytes of a part of an index.
pub const INDEX_PART: usize = 8 << 20;
/// Buffers for parts of indexes.
pub const INDEX_BUFFERS: usize = 2;
/// Parts of an image from one checkpoint to the next.
pub const CHECKPOINT_PARTS: u32 = 8;
/// Bytes of the volume restored as one piece: fetched together, written together.
pub const BATCH: u64 = 2 << 20;
/// Bytes of a volume that are restored from one flush of the device to the next.
pub const FLUSH: u64 = 512 << 20;
/// Most clusters of an image that a verification fetches together.
pub const BATCH_CLUSTERS: usize = 128;
/// Most problems that a verification names.
pub const PROBLEMS: usize = 1000;
/// Pieces of a restore or of a verification that are being fetched.
pub const FETCHES: usize = 8;
/// Requests under way for one piece, or to look which objects are there.
pub const RANGES: usize = 8;
/// Bytes of an image that nobody needs, but that are read along to make one request of two.
pub const GAP: u64 = 64 << 10;
/// Pieces of a merge from one checkpoint to the next, at least.
pub const CHECKPOINT_PIECES: usize = 4;
/// Copies of a merge that the store is making.
pub const COPIES: usize = 8;
/// Parts of a merged image that are read or sent.
pub const MERGE_BUFFERS: usize = 3;
/// Most worker threads; more than this outruns every network.
pub const WORKERS: usize = 8;

/// Worker threads on this machine. One more than cores: one of them waits for the device.
pub fn workers() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .saturating_add(1)
        .min(WORKERS)
}
