//! Goes through tables and indexes, and decides which content is read.
use std::sync::Arc;

use holdfast_qcow2::{
    ClusterIndex, ClusterState, Extent, Image, Index, IndexPage, Mapping, SpanIndex, SpanMap,
};
use holdfast_target::layout::Digest;
use tokio::sync::mpsc;

use super::{
    Shared, Unit,
    content::Batch,
    findings::{Kind, Object},
    window::Window,
};
use crate::{
    Damage, MoverError, Progress,
    content::{Content, Shard},
    limits,
    remote::{Remote, RemoteFile},
};

const NOT_IN_IMAGE: &str = "has content in the index, none in the image";
const NOT_IN_INDEX: &str = "has content in the image, none in the index";
const SHINES_THROUGH: &str = "is empty in the index, the image shows what lies below";
const NOT_HELD: &str = "is empty in the image, the index does not hold it";

/// One walk over all shards. Blocks.
pub(super) struct Walk<'a> {
    pub(super) remote: &'a Remote,
    pub(super) shared: &'a Shared,
    pub(super) progress: &'a Progress,
    /// Content to read; absent: none.
    pub(super) window: Option<Window>,
    pub(super) out: mpsc::Sender<Batch>,
}

/// A shard whose tables and index can be read.
struct Opened {
    at: usize,
    image: Image<RemoteFile>,
    index: Index<RemoteFile>,
    /// Damage of entries that contradict each other: if the tables were altered, that is why.
    disagreement: Damage,
    shard: Arc<Shard>,
    contents: Vec<Content>,
    /// Stored bytes of `contents`, and of all handed on before.
    waiting: u64,
    sent: u64,
}

impl Walk<'_> {
    /// Returns how far the window came.
    pub(super) fn run(mut self) -> Result<Option<Window>, MoverError> {
        for at in 0..self.shared.units.len() {
            if self.remote.cancel.is_cancelled() {
                return Err(MoverError::Cancelled);
            }
            let read = self.unit(at)?;
            let shard = self.shared.units[at].shard();
            self.progress
                .done((shard.image.size + shard.index.size).saturating_sub(read));
        }
        Ok(self.window)
    }

    /// Checks one shard; returns how many bytes of content were handed on.
    fn unit(&mut self, at: usize) -> Result<u64, MoverError> {
        let unit = &self.shared.units[at];
        let index = match unit.index_is_bound {
            true => self.soften(
                at,
                Object::Index,
                self.remote.open_index(&unit.record, unit.shard()),
            )?,
            false => None,
        };
        let image = match unit.image_is_bound {
            true => self.open_image(at, unit)?,
            false => None,
        };
        match (image, index) {
            (Some((image, disagreement)), Some(index)) => {
                let members = [(&*unit.record, &image)];
                let geometry = *image.geometry();
                let shard = Shard::of(self.remote, members, geometry, unit.shard().shard, unit.offset)?;
                let mut opened = Opened {
                    at,
                    image,
                    index,
                    disagreement,
                    shard: Arc::new(shard),
                    contents: Vec::new(),
                    waiting: 0,
                    sent: 0,
                };
                self.spans(&mut opened)?;
                self.send(&mut opened)?;
                Ok(opened.sent)
            }
            // Pages can be checked without an image, and tables were.
            (None, Some(index)) => self.pages(at, &index).map(|()| 0),
            _ => Ok(0),
        }
    }

    /// The image, if it can be read at all, and what a contradiction to its index means.
    fn open_image(&self, at: usize, unit: &Unit) -> Result<Option<(Image<RemoteFile>, Damage)>, MoverError> {
        let opened = self.remote.open_image(&unit.record, unit.shard());
        let Some(image) = self.soften(at, Object::Image, opened)? else {
            return Ok(None);
        };
        let digest = image.tables_digest();
        let digest = digest.map_err(|error| MoverError::image(self.remote.key(&unit.shard().image), error));
        let tables = self.soften(at, Object::Image, digest)?;
        let intact = tables.is_some_and(|tables| Digest(tables.0) == unit.shard().tables);
        if tables.is_some() && !intact {
            self.object(
                at,
                Object::Image,
                Damage::Altered,
                "its tables are not those that were written",
            );
        }
        let below = unit
            .record
            .parent
            .as_ref()
            .map(|parent| parent.file_name(unit.shard().shard));
        if intact && image.header().backing_file.as_deref() != below.as_deref().map(str::as_bytes) {
            let what = "it does not lie on the image that its record names";
            self.object(at, Object::Image, Damage::Unfitting, what);
        }
        let disagreement = if intact {
            Damage::Unfitting
        } else {
            Damage::Altered
        };
        Ok(Some((image, disagreement)))
    }

    fn pages(&self, at: usize, index: &Index<RemoteFile>) -> Result<(), MoverError> {
        let mut page = IndexPage::new();
        for span in (0..index.geometry().spans()).map(SpanIndex) {
            self.page(at, index, span, &mut page)?;
        }
        Ok(())
    }

    /// Reads a page; `false` if it is damaged.
    fn page(
        &self,
        at: usize,
        index: &Index<RemoteFile>,
        span: SpanIndex,
        page: &mut IndexPage,
    ) -> Result<bool, MoverError> {
        let read = index.read_page(span, page).map(|_| ());
        let key = || self.remote.key(&self.shared.units[at].shard().index);
        let read = read.map_err(|error| MoverError::index(key(), error));
        self.soften_clusters(at, Object::Index, index.geometry().clusters_of(span), read)
    }

    fn spans(&mut self, opened: &mut Opened) -> Result<(), MoverError> {
        let geometry = *opened.image.geometry();
        let (mut page, mut map) = (IndexPage::new(), SpanMap::new());
        for span in (0..geometry.spans()).map(SpanIndex) {
            let held = opened.index.page_extent(span).is_some() || opened.image.table_extent(span).is_some();
            if !held {
                continue;
            }
            let has_page = self.page(opened.at, &opened.index, span, &mut page)?;
            let read = opened.image.read_span(span, &mut map).map(|_| ());
            let read = read.map_err(|error| MoverError::image(&opened.shard.keys[0], error));
            let has_table =
                self.soften_clusters(opened.at, Object::Image, geometry.clusters_of(span), read)?;
            if has_page && has_table {
                self.compare(opened, &page, &map)?;
            }
            if self.remote.cancel.is_cancelled() {
                return Err(MoverError::Cancelled);
            }
        }
        Ok(())
    }

    /// Index and image must say the same about every cluster of a span.
    fn compare(&mut self, opened: &mut Opened, page: &IndexPage, map: &SpanMap) -> Result<(), MoverError> {
        let overlay = opened.image.is_overlay();
        let mut states = page.iter().peekable();
        for (cluster, mapping) in map.iter() {
            let state = states
                .next_if(|(held, _)| *held == cluster)
                .map(|(_, state)| state);
            let what = match (state, mapping) {
                (Some(ClusterState::Data(hash)), Mapping::Data(extent)) => {
                    self.content(opened, cluster, extent, hash)?;
                    continue;
                }
                (Some(ClusterState::Data(_)), _) => NOT_IN_IMAGE,
                (_, Mapping::Data(_)) => NOT_IN_INDEX,
                (Some(_), Mapping::Unallocated) if overlay => SHINES_THROUGH,
                (None, Mapping::Zero) if overlay => NOT_HELD,
                _ => continue,
            };
            let kind = self.kind(opened.at, Object::Image, opened.disagreement, what);
            self.shared.findings.clusters(kind, cluster.0..cluster.0 + 1);
        }
        Ok(())
    }

    /// A cluster whose content is read if the window says so.
    fn content(
        &mut self,
        opened: &mut Opened,
        cluster: ClusterIndex,
        extent: Extent,
        hash: holdfast_qcow2::Digest,
    ) -> Result<(), MoverError> {
        let unit = &self.shared.units[opened.at];
        let takes = |window: &mut Window| window.takes(unit.position(cluster), extent.len.into());
        if !self.window.as_mut().is_some_and(takes) {
            return Ok(());
        }
        opened.contents.push(Content {
            cluster,
            image: 0,
            extent,
            hash,
        });
        opened.waiting += u64::from(extent.len);
        if opened.waiting >= limits::BATCH || opened.contents.len() == limits::BATCH_CLUSTERS {
            self.send(opened)?;
        }
        Ok(())
    }

    fn send(&self, opened: &mut Opened) -> Result<(), MoverError> {
        if opened.contents.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            unit: opened.at,
            shard: opened.shard.clone(),
            contents: std::mem::take(&mut opened.contents),
        };
        opened.sent += std::mem::take(&mut opened.waiting);
        // Nobody listens any more when another thread has failed; what it failed of is reported there.
        self.out.blocking_send(batch).map_err(|_| MoverError::Cancelled)
    }

    fn kind(&self, unit: usize, object: Object, damage: Damage, what: impl Into<String>) -> Kind {
        Kind {
            unit,
            object,
            damage,
            what: what.into(),
        }
    }

    fn object(&self, unit: usize, object: Object, damage: Damage, what: &str) {
        self.shared.findings.object(self.kind(unit, object, damage, what));
    }

    /// Notes damage and goes on without what is damaged; every other failure ends the walk.
    fn soften<T>(
        &self,
        unit: usize,
        object: Object,
        outcome: Result<T, MoverError>,
    ) -> Result<Option<T>, MoverError> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(MoverError::Damaged { damage, what, .. }) => {
                self.object(unit, object, damage, &what);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The same for what concerns some clusters only.
    fn soften_clusters(
        &self,
        unit: usize,
        object: Object,
        clusters: std::ops::Range<u64>,
        outcome: Result<(), MoverError>,
    ) -> Result<bool, MoverError> {
        match outcome {
            Ok(()) => Ok(true),
            Err(MoverError::Damaged { damage, what, .. }) => {
                let kind = self.kind(unit, object, damage, what);
                self.shared.findings.clusters(kind, clusters);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
