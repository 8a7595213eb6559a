//! What lies where on a target, and the documents that bind it together. `docs/FORMAT.md` is the public side of this
//! module; a change here is a change there.
//!
//! ```text
//! holdfast/points/<cluster>/<plan>/<backup>/objects-<attempt>.jsonl.zst   captured objects, one JSON document a line
//! holdfast/points/<cluster>/<plan>/<backup>/backup.json                   commit object, written last, never again
//! holdfast/volumes/<cluster>/<plan>/<claim>/<files>-s<shard>.qcow2        one image per shard of 128 GiB
//! holdfast/volumes/<cluster>/<plan>/<claim>/<files>-s<shard>.index        its index
//! holdfast/volumes/<cluster>/<plan>/<claim>/<files>-s<shard>.resume-<n>.json  where an interrupted upload goes on
//! holdfast/volumes/<cluster>/<plan>/<claim>/chain-<generation>.json       which images there are; a new key each time
//! holdfast/volumes/<cluster>/<plan>/<claim>/reader-<reader>-<n>.json      somebody reads images of this volume
//! holdfast/keys/<cluster>/<plan>/<backup>/key-<generation>.age            wrapped data key of a backup
//! holdfast/reports/<cluster>/restore-<uid>.jsonl.zst                      report of a restore, one line per object
//! holdfast/probe/<random>                                                 written, read and removed by the health probe
//! holdfast/probe/standing                                                 the probe's where the bucket locks everything
//! ```
//! `<cluster>`, `<plan>`, `<backup>`, `<claim>` are Kubernetes UIDs (`<cluster>` that of the namespace kube-system),
//! `<files>` is `<image>`, or `<image>-m<generation>` for those that were merged, `<image>` is `<backup>-a<attempt>`;
//! `<generation>` in the name of a chain file is a zero-padded decimal of ten digits.

mod documents;
mod names;

pub use documents::{
    BackupManifest, BackupType, ClusterRecord, DocumentError, FileRecord, ImageKind, ImageRecord,
    NamespaceRecord, ObjectRecord, ShardRecord, SourceRecord, VolumeMode, VolumeRecord, check_chain,
    check_size, parse_document, print_document,
};
pub use names::{
    Attempt, Digest, FileStem, Generation, ImageId, Location, NameError, ShardNumber, Uid, VolumeHome,
    probe_key, report_key, standing_probe_key,
};

use crate::Prefix;

/// Format version that this code writes and the highest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Virtual bytes of one shard: each shard is an image chain of its own, so that parts and objects stay small enough
/// for every store.
pub const SHARD_SIZE: u64 = 128 << 30;
/// Root of everything we write in a bucket.
pub const ROOT: &str = "holdfast/";
/// Largest `backup.json` that is read, in bytes: a point with a thousand volumes and long chains stays far below.
pub const MAX_MANIFEST: u64 = 32 << 20;
/// Largest chain file that is read, in bytes.
pub const MAX_CHAIN: u64 = 16 << 20;

/// Highest number of an attempt that is read. Every restart of an operator in the middle of a backup is an attempt.
pub const MAX_ATTEMPT: u32 = 1_000_000;
/// Most virtual bytes of a volume that is read (1 PiB).
pub const MAX_VOLUME: u64 = 1 << 50;
/// Most volumes of a point that is read.
pub const MAX_VOLUMES: usize = 10_000;

/// Prefix of all points of all clusters: list it to find what can be restored.
pub fn points_prefix() -> Prefix {
    Prefix::new(format!("{ROOT}points/"))
}

/// Prefix of the volumes of all clusters.
pub fn volumes_prefix() -> Prefix {
    Prefix::new(format!("{ROOT}volumes/"))
}
