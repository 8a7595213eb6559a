//! What has to be on a target.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_target::layout::Uid;

use crate::operator::OpenedVolume;

/// A point that was committed.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// Counts up from one to the next.
    pub(crate) number: u32,
    pub(crate) sealed: bool,
    pub(crate) objects: Bytes,
    /// What every volume held.
    pub(crate) volumes: Vec<Arc<[u8]>>,
}

/// All points there are.
pub(crate) type Points = BTreeMap<Uid, Point>;

/// Somebody who has resolved a point and restores it later, whatever becomes of it meanwhile.
pub(crate) struct Reader {
    pub(crate) name: Uid,
    pub(crate) point: Point,
    pub(crate) volumes: Vec<OpenedVolume>,
}
