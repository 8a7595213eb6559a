//! Layers of a disk as a model knows them, written with the crate and read back through it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_qcow2::{
    Chain, ClusterIndex, ClusterSize, ClusterState, Compressor, Decompressor, Extent, Finished, Geometry,
    Image, ImageName, ImageSpec, ImageSummary, ImageWriter, Index, IndexSpec, IndexSummary, IndexWriter,
    Payload, ReadAt, ResolvedSpan, Source, SpanIndex, cluster_hash,
};

/// Content of a cluster, cheap to keep: the bytes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Half noise, half repetition.
    Mixed(u64),
    /// Does not compress.
    Noise(u64),
    Zero,
    Trimmed,
}

impl Content {
    /// The cluster's bytes; what lies beyond the end of the disk is zero.
    pub(crate) fn bytes(self, geometry: &Geometry, cluster: u64) -> Vec<u8> {
        let mut raw = vec![0; geometry.cluster_size().as_usize()];
        let used = geometry.bytes_of(ClusterIndex(cluster)) as usize;
        match self {
            Self::Noise(seed) => noise(seed, &mut raw[..used]),
            Self::Mixed(seed) => {
                noise(seed, &mut raw[..used / 2]);
                raw[used / 2..used].fill(seed as u8 | 1);
            }
            Self::Zero | Self::Trimmed => {}
        }
        raw
    }
}

/// xorshift64*, the same on every machine.
pub(crate) fn noise(seed: u64, out: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in out.chunks_mut(8) {
        chunk.copy_from_slice(&next(&mut state).to_le_bytes()[..chunk.len()]);
    }
}

pub(crate) fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// One backup: what it stores, by cluster.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) virtual_size: u64,
    pub(crate) clusters: BTreeMap<u64, Content>,
}

/// One backup as it lies on the target.
pub(crate) struct Stored {
    pub(crate) image: Vec<u8>,
    pub(crate) index: Vec<u8>,
    pub(crate) image_summary: ImageSummary,
    pub(crate) index_summary: IndexSummary,
}

pub(crate) fn file_name(layer: usize) -> String {
    format!("layer-{layer}.qcow2")
}

/// Writes layer number `number` of a chain (0 is the full image).
pub(crate) fn write_layer(layer: &Layer, number: usize, cluster_size: ClusterSize, min_head: u64) -> Stored {
    let backing = number
        .checked_sub(1)
        .map(|below| file_name(below).parse::<ImageName>().unwrap());
    let overlay = backing.is_some();
    let spec = ImageSpec {
        virtual_size: layer.virtual_size,
        cluster_size,
        backing,
        min_head,
    };
    let mut writer = ImageWriter::new(spec.clone()).unwrap();
    let geometry = *writer.geometry();
    let (mut body, mut index) = (Vec::new(), Vec::new());
    let index_spec = IndexSpec {
        image: file_name(number).parse().unwrap(),
        geometry,
        overlay,
    };
    let mut index_writer = IndexWriter::new(&index_spec, &mut index);
    let mut compressor = Compressor::new(cluster_size, 1).unwrap();
    let mut frame = Vec::new();
    for (&cluster, &content) in &layer.clusters {
        let raw = content.bytes(&geometry, cluster);
        let (state, payload) = match content {
            Content::Zero => (ClusterState::Zero, Payload::Zero),
            Content::Trimmed => (ClusterState::Trimmed, Payload::Zero),
            Content::Mixed(_) | Content::Noise(_) => {
                compressor.compress(&raw, &mut frame).unwrap();
                (ClusterState::Data(cluster_hash(&raw)), Payload::Frame(&frame))
            }
        };
        let before = body.len();
        assert_eq!(writer.position(), writer.head_size() + before as u64);
        writer.push(ClusterIndex(cluster), payload, &mut body).unwrap();
        index_writer
            .push(ClusterIndex(cluster), &state, &mut index)
            .unwrap();
        // As if another process went on.
        if cluster % 3 == 0 {
            writer = ImageWriter::resume(spec.clone(), &writer.save()).unwrap();
            index_writer = IndexWriter::resume(&index_spec, &index_writer.save()).unwrap();
        }
        // Padding, one L2 table and a refcount block at most, whatever the disk's size.
        assert!(body.len() - before <= frame.len() + 512 + 4 * cluster_size.as_usize());
    }
    let Finished { head, summary } = writer.finish(&mut body);
    let index_summary = index_writer.finish(&mut index);
    assert_eq!(head.len() as u64, summary.head_size);
    let mut image = head;
    image.append(&mut body);
    assert_eq!(image.len() as u64, summary.file_size);
    assert_eq!(index.len() as u64, index_summary.size);
    Stored {
        image,
        index,
        image_summary: summary,
        index_summary,
    }
}

/// A whole chain, oldest first.
pub(crate) fn write_chain(layers: &[Layer], cluster_size: ClusterSize) -> Vec<Stored> {
    layers
        .iter()
        .enumerate()
        .map(|(i, layer)| write_layer(layer, i, cluster_size, 0))
        .collect()
}

/// What the model says about a cluster after the given layers, oldest first.
pub(crate) fn effective(layers: &[Layer], cluster: u64) -> Option<Content> {
    layers
        .iter()
        .rev()
        .find_map(|layer| layer.clusters.get(&cluster).copied())
}

/// Opens stored layers (given oldest first) as a chain.
pub(crate) fn open_chain(stored: &[Stored]) -> Chain<&[u8]> {
    let images = stored
        .iter()
        .rev()
        .map(|layer| Image::open(layer.image.as_slice()).unwrap())
        .collect();
    Chain::new(images).unwrap()
}

pub(crate) fn open_indexes(stored: &[Stored]) -> Vec<Index<&[u8]>> {
    stored
        .iter()
        .rev()
        .map(|layer| Index::open(layer.index.as_slice()).unwrap())
        .collect()
}

/// Calls `each` with every cluster of the disk that does not read as zeroes.
pub(crate) fn for_each_data<R: ReadAt>(chain: &Chain<R>, mut each: impl FnMut(u64, &[u8])) {
    let cluster_size = chain.geometry().cluster_size();
    let mut decompressor = Decompressor::new(cluster_size).unwrap();
    let mut raw = vec![0; cluster_size.as_usize()];
    let mut resolved = ResolvedSpan::new();
    for span in 0..chain.geometry().spans() {
        chain.resolve(SpanIndex(span), &mut resolved).unwrap();
        for (cluster, source) in resolved.iter() {
            if let Source::Data { image, extent } = source {
                read_extent(&chain.images()[image], extent, &mut decompressor, &mut raw);
                each(cluster.0, &raw);
            }
        }
    }
}

pub(crate) fn read_extent<R: ReadAt>(
    image: &Image<R>,
    extent: Extent,
    decompressor: &mut Decompressor,
    raw: &mut [u8],
) {
    let mut stored = vec![0; extent.len as usize];
    image.source().read_exact_at(extent.offset, &mut stored).unwrap();
    if extent.compressed {
        decompressor
            .decompress(image.compression(), &stored, raw)
            .unwrap();
    } else {
        raw.copy_from_slice(&stored);
    }
}

/// A file as a source.
#[derive(Debug)]
pub(crate) struct FileSource(pub(crate) File);

impl ReadAt for FileSource {
    fn size(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

pub(crate) fn open_file(path: &Path) -> Result<Image<FileSource>, holdfast_qcow2::ReadError> {
    Image::open(FileSource(File::open(path).unwrap()))
}

/// The raw disk after the given layers as a sparse file.
pub(crate) fn write_raw(layers: &[Layer], geometry: &Geometry, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(geometry.virtual_size()).unwrap();
    let clusters: std::collections::BTreeSet<u64> =
        layers.iter().flat_map(|l| l.clusters.keys().copied()).collect();
    for cluster in clusters {
        let content = effective(layers, cluster).unwrap();
        if !matches!(content, Content::Zero | Content::Trimmed) {
            let used = geometry.bytes_of(ClusterIndex(cluster)) as usize;
            let raw = content.bytes(geometry, cluster);
            file.write_all_at(&raw[..used], geometry.offset_of(ClusterIndex(cluster)))
                .unwrap();
        }
    }
}

/// A cluster was cut at the end of the disk as it was when its layer was written.
pub(crate) fn geometry_of(layers: &[Layer], cluster: u64, newest: &Geometry) -> Geometry {
    let layer = layers
        .iter()
        .rev()
        .find(|layer| layer.clusters.contains_key(&cluster))
        .unwrap();
    Geometry::new(layer.virtual_size, newest.cluster_size()).unwrap()
}

/// Like [`write_raw`], but every cluster is cut where its own layer's disk ended.
pub(crate) fn write_grown_raw(layers: &[Layer], geometry: &Geometry, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(geometry.virtual_size()).unwrap();
    for cluster in 0..geometry.clusters() {
        if let Some(content @ (Content::Mixed(_) | Content::Noise(_))) = effective(layers, cluster) {
            let own = geometry_of(layers, cluster, geometry);
            let used = own.bytes_of(ClusterIndex(cluster)) as usize;
            let raw = content.bytes(&own, cluster);
            file.write_all_at(&raw[..used], geometry.offset_of(ClusterIndex(cluster)))
                .unwrap();
        }
    }
}

/// Runs a qemu tool that has to succeed.
pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output
}

/// `qemu-img check` finds neither errors nor leaks.
pub(crate) fn check(path: &Path) {
    let output = run("qemu-img", &["check", "-f", "qcow2", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("No errors were found on the image."), "{text}");
}

/// The disk in `image` (with its backing files) equals the raw file.
pub(crate) fn compare(image: &Path, raw: &Path) {
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "qcow2",
            "-F",
            "raw",
            image.to_str().unwrap(),
            raw.to_str().unwrap(),
        ],
    );
}

/// Stores the layers side by side under their names and returns the newest.
pub(crate) fn store(stored: &[Stored], dir: &Path) -> PathBuf {
    for (number, layer) in stored.iter().enumerate() {
        std::fs::write(dir.join(file_name(number)), &layer.image).unwrap();
    }
    dir.join(file_name(stored.len() - 1))
}
