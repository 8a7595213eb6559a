//! Inputs to begin with: small ones, made by the writers of this repository, and images by `qemu-img`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use holdfast_qcow2::{
    ClusterIndex, ClusterSize, ClusterState, Compressor, Geometry, ImageSpec, ImageWriter, IndexSpec,
    IndexWriter, Payload, cluster_hash,
};
use holdfast_repository::point::CommitObject;
use holdfast_seal::{DataKey, PlanKey, RecoveryKey, Sealer, seal_document, wrap};
use holdfast_target::layout::BackupManifest;
use serde_json::{Value, json};

use crate::documents::{HOME, LOCATION};
use crate::merge::below_name;
use crate::saved::states;
use crate::sealed::{self, CONTEXT, PLAN_KEY, RECOVERY_KEY};
use crate::sparse::Sparse;

/// An input for a target.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Name of the target.
    pub target: &'static str,
    /// What it is.
    pub name: &'static str,
    /// The input.
    pub input: Vec<u8>,
}

/// Inputs for every target. What is sealed is so under new random numbers each time.
///
/// # Errors
/// When `qemu-img` is not there.
pub fn seeds() -> Result<Vec<Seed>> {
    let mut all = Vec::new();
    let mut add = |target, name, input| all.push(Seed { target, name, input });
    for (name, image) in foreign_images()? {
        add("image", name, encode(&[], [&image]));
    }
    let [base, middle, newest] = [0, 1, 2].map(layer);
    add("image", "full", encode(&[], [&base.image]));
    add("image", "overlay", encode(&[], [&newest.image]));
    add("image", "no-content", encode(&[], [&layer(9).image]));
    let images = [&newest.image, &middle.image, &base.image];
    add("chain", "three", encode(&[2], images));
    add("chain", "two", encode(&[1], [&newest.image, &base.image]));
    add("chain", "circle", encode(&[1], [&newest.image, &newest.image]));
    // Kind, then the rules: least piece, largest copy, literals, alignment, gap, weight of the dead, pieces, memory; then
    // what is left out.
    let copies = |kind| [kind, 4, 64, 0, 8, 14, 4, 1, 200, 0, 16, 6, 0, 0, 0];
    let packs = |kind| [kind, 255, 0, 4, 255, 16, 0, 3, 255, 0, 1, 0, 0, 0, 0];
    add("merge", "to-base", encode(&copies(4), images));
    add(
        "merge",
        "to-overlay",
        encode(&copies(3), [&newest.image, &middle.image]),
    );
    add(
        "merge",
        "packed",
        encode(&packs(3), [&newest.image, &middle.image]),
    );
    add("merge", "one", encode(&copies(0), [&base.image]));
    add("saved-state", "begin", states(&[]));
    add("saved-state", "middle", states(&[1, 2, 3, 2049, 2050]));
    add("index", "full", encode_indexes(&[], [&base.index]));
    add("index", "overlay", encode_indexes(&[], [&newest.index]));
    let indexes = [&newest.index, &middle.index, &base.index];
    add("index-merge", "to-base", encode_indexes(&[4], indexes));
    add(
        "index-merge",
        "to-overlay",
        encode_indexes(&[3], [&newest.index, &middle.index]),
    );
    all.extend(clusters()?);
    all.extend(sealed_seeds()?);
    all.extend(documents()?);
    all.extend(texts());
    Ok(all)
}

/// An image with its index.
struct Layer {
    image: Vec<u8>,
    index: Vec<u8>,
}

/// Number 0 is a full image, the others lie on it; the ninth is a full one that holds nothing.
fn layer(number: u64) -> Layer {
    let cluster_size = ClusterSize::new(16 << 10).expect("a valid size");
    let clusters: &[u64] = match number {
        0 => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 40, 2047, 2048, 2050],
        1 => &[2, 3, 7, 8, 9, 10, 11, 2049],
        2 => &[1, 3, 9, 2050, 2051],
        _ => &[],
    };
    let overlay = (1..9).contains(&number);
    let name = |number: u64| format!("layer-{number}.qcow2").parse().expect("a valid name");
    let mut writer = ImageWriter::new(ImageSpec {
        virtual_size: (2052 << 14) - 512,
        cluster_size,
        backing: overlay.then(|| name(number - 1)),
        min_head: 0,
    })
    .expect("a valid image");
    let geometry: Geometry = *writer.geometry();
    let (mut body, mut index, mut frame) = (Vec::new(), Vec::new(), Vec::new());
    let spec = IndexSpec {
        image: name(number),
        geometry,
        overlay,
    };
    let mut indexer = IndexWriter::new(&spec, &mut index);
    let mut compressor = Compressor::new(cluster_size, 1).expect("zstd has memory");
    for cluster in clusters {
        let raw: Vec<u8> = (0..1 << 14)
            .map(|at: u64| {
                if at < 700 {
                    ((at * at * (cluster + 3)) >> 3) as u8
                } else {
                    number as u8 + 1
                }
            })
            .collect();
        let (payload, state) = match (overlay, cluster % 5) {
            (true, 3) => (Payload::Zero, ClusterState::Zero),
            (true, 4) => (Payload::Zero, ClusterState::Trimmed),
            _ => {
                compressor.compress(&raw, &mut frame).expect("a whole cluster");
                (Payload::Frame(&frame), ClusterState::Data(cluster_hash(&raw)))
            }
        };
        let cluster = ClusterIndex(*cluster);
        writer
            .push(cluster, payload, &mut body)
            .expect("clusters come in order");
        indexer
            .push(cluster, &state, &mut index)
            .expect("clusters come in order");
    }
    let mut image = writer.finish(&mut body).head;
    image.append(&mut body);
    let _ = indexer.finish(&mut index);
    Layer { image, index }
}

fn encode<'a>(begin: &[u8], files: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut input = begin.to_vec();
    for file in files {
        Sparse::of(file).encode(&mut input);
    }
    input
}

/// Each index begins with the byte that asks for right hashes.
fn encode_indexes<'a>(begin: &[u8], files: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut input = begin.to_vec();
    for file in files {
        input.push(0);
        Sparse::of(file).encode(&mut input);
    }
    input
}

/// What qemu makes: other cluster sizes, zlib, clusters that are not compressed, header extensions of its own.
fn foreign_images() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let text: Vec<u8> = (0..24_000_u32)
        .map(|i| if i % 7 == 0 { (i >> 8) as u8 } else { 42 })
        .collect();
    std::fs::write(at("raw"), &text)?;
    let kinds: [(&str, &[&str]); 4] = [
        (
            "qemu-zlib-512",
            &["-c", "-o", "cluster_size=512,compression_type=zlib"],
        ),
        (
            "qemu-zlib-4k",
            &[
                "-c",
                "-o",
                "cluster_size=4096,compression_type=zlib,refcount_bits=1",
            ],
        ),
        (
            "qemu-zstd-64k",
            &["-c", "-o", "cluster_size=65536,compression_type=zstd"],
        ),
        ("qemu-plain-4k", &["-o", "cluster_size=4096,refcount_bits=64"]),
    ];
    let mut images = Vec::new();
    for (name, options) in kinds {
        let args = ["convert", "-f", "raw", "-O", "qcow2"];
        qemu_img(
            Command::new("qemu-img")
                .args(args)
                .args(options)
                .arg(at("raw"))
                .arg(at(name)),
        )?;
        images.push((name, std::fs::read(at(name))?));
    }
    let overlay = at("overlay");
    let below = at(below_name());
    std::fs::copy(at("qemu-plain-4k"), &below)?;
    let args = [
        "create",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-o",
        "cluster_size=4096",
        "-b",
        below_name(),
    ];
    qemu_img(Command::new("qemu-img").args(args).arg(&overlay))?;
    write_with_qemu(&overlay, "write -z 4k 8k")?;
    write_with_qemu(&overlay, "write -P 7 16k 4k")?;
    images.push(("qemu-overlay", std::fs::read(overlay)?));
    Ok(images)
}

fn write_with_qemu(image: &Path, command: &str) -> Result<()> {
    qemu_img(
        Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", command])
            .arg(image),
    )
}

fn qemu_img(command: &mut Command) -> Result<()> {
    let output = command.output().context("qemu-img and qemu-io are needed")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn clusters() -> Result<Vec<Seed>> {
    let seed = |name, kind: u8, stored: Vec<u8>| Seed {
        target: "cluster",
        name,
        input: [vec![kind], stored].concat(),
    };
    // The kind is twice the logarithm of the size above 9, and one more for zlib.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1)?;
    let text: Vec<u8> = (0..4096_u32).map(|i| ((i * i) >> 5) as u8).collect();
    let deflated = [&[0x00, 0x00, 0x02, 0xff, 0xfd][..], &text[..512]].concat();
    Ok(vec![
        seed("zstd", 6, zstd::bulk::compress(&text, 1)?),
        seed("zstd-zeroes", 14, zstd::bulk::compress(&[0; 64 << 10], 1)?),
        seed("zstd-bomb", 24, bomb),
        seed("zlib-stored", 1, deflated),
        seed("noise", 6, text),
    ])
}

fn sealed_seeds() -> Result<Vec<Seed>> {
    let key: DataKey = sealed::data_key();
    let mut seeds = Vec::new();
    let mut add = |target, name, input| seeds.push(Seed { target, name, input });
    let mut sealer = Sealer::new(&key);
    let mut bytes = Vec::new();
    sealer.push(&[7; 200_000], &mut bytes)?;
    let layout = sealer.finish(&mut bytes)?;
    let places = [
        &[0][..],
        &[1, 0, 1, 0, 0, 0, 0, 0, 0, 2],
        &[0, 0, 1, 0, 0, 0, 0, 0, 0, 1],
    ]
    .concat();
    add(
        "layout",
        "one",
        [serde_json::to_vec(&layout)?, places.clone()].concat(),
    );
    let slice = |key: &str, region: &str, first: u64, plain: u64, ends: bool| json!({"key": key, "region": region, "first": first, "plain": plain, "ends": ends});
    let (a, b) = (
        "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
        "b0b1b2b3b4b5b6b7b8b9babbbcbdbebf",
    );
    let vector = json!([
        slice("b-1", a, 1, 5, true),
        slice("b-2", b, 0, 5, true),
        slice("b-1", a, 0, 65536, false)
    ]);
    add(
        "layout",
        "of-several",
        [serde_json::to_vec(&vector)?, places.clone()].concat(),
    );
    let large = json!([
        slice("b-1", a, 0, 1 << 40, false),
        slice("b-1", a, 1 << 24, 1 << 36, true)
    ]);
    add("layout", "large", [serde_json::to_vec(&large)?, places].concat());
    add(
        "document",
        "short",
        seal_document(&key, CONTEXT, b"{\"format\":1}\n")?,
    );
    add("document", "empty", seal_document(&key, CONTEXT, b"")?);
    let other = DataKey::generate("c-1/p-1/b-9".parse()?);
    add(
        "document",
        "other-key",
        seal_document(&other, CONTEXT, b"not ours")?,
    );
    let recovery = RecoveryKey::parse(RECOVERY_KEY)?;
    let wrapped = wrap(&key, &PlanKey::parse(PLAN_KEY)?, &[recovery.recipient()])?;
    add("wrapped-key", "wrapped", wrapped);
    add(
        "wrapped-key",
        "plan-key",
        format!("# public key\n{PLAN_KEY}\n").into_bytes(),
    );
    add(
        "names",
        "recipient",
        recovery.recipient().to_string().into_bytes(),
    );
    Ok(seeds)
}

fn image_record(id: &str, parent: Option<&str>) -> Value {
    let object = |name: String| json!({"key": name, "size": 1, "etag": "e"});
    let mut record = json!({"id": id, "kind": if parent.is_some() { "Incremental" } else { "Full" },
        "virtualSize": 1 << 30, "clusterSize": 65536, "stored": 2, "shards": [{"shard": 0, "virtualSize": 1 << 30,
            "image": object(format!("{id}-s0.qcow2")), "index": object(format!("{id}-s0.index")),
            "tables": "0".repeat(64), "indexDigest": "1".repeat(64)}]});
    if let Some(parent) = parent {
        record["parent"] = parent.into();
    }
    record
}

/// An image in a chain file.
fn entry(record: &Value) -> Value {
    let file = |object: &Value| json!({"key": object["key"], "size": object["size"], "etag": object["etag"]});
    let shard = &record["shards"][0];
    let mut entry = json!({"id": record["id"], "record": record, "files": [file(&shard["image"]), file(&shard["index"])]});
    if let Some(parent) = record.get("parent") {
        entry["parent"] = parent.clone();
    }
    entry
}

/// The commit object of a point in clear, sealed.
fn sealed_commit(clear: &Value) -> Result<Vec<u8>> {
    let location = LOCATION.parse().context("a location")?;
    let manifest = BackupManifest::parse(&location, clear.to_string().as_bytes())?;
    Ok(CommitObject::encode(&manifest, Some(&sealed::data_key()))?)
}

fn documents() -> Result<Vec<Seed>> {
    let uid = |uid: &str| json!({"namespace": "n", "name": "n", "uid": uid});
    let (full, more) = (image_record("b-a1", None), image_record("b2-a1", Some("b-a1")));
    let mut sealed = full.clone();
    sealed["shards"][0]["image"]["seal"] =
        json!([{"key": "b", "region": "0".repeat(32), "first": 0, "plain": 65536, "ends": true}]);
    let volume = |image: &str, chain: Value| {
        json!({"claim": "data", "claimUid": "v", "home": HOME, "generation": 1, "image": image,
            "capacity": 1 << 30, "volumeMode": "Block", "driver": "d", "accessModes": ["ReadWriteOnce"],
            "snapshotTime": "2026-01-01T00:00:00Z", "chain": chain})
    };
    let commit = |volumes: Value| {
        json!({"format": 1, "location": LOCATION, "attempt": 3, "createdBy": "t", "cluster": {"uid": "c-1"},
            "plan": uid("p-1"), "backup": uid("b-1"), "backupType": "Mixed", "requester": "r",
            "started": "2026-01-01T00:00:00Z", "completed": "2026-01-01T00:00:00Z",
            "namespace": {"name": "n", "uid": "n", "labels": {"a": "b"}, "annotations": {}}, "volumes": volumes,
            "objects": {"key": "objects-3.jsonl.zst", "size": 1, "blake3": "2".repeat(64), "count": 1},
            "excludedClaims": ["cache"]})
    };
    let gone = json!([{"image": "b0-a1", "files": ["b0-a1-s0.qcow2"], "generation": 2, "at": "2026-01-01T00:00:00Z"}]);
    let chain = |images: [&Value; 2]| {
        let images = images.map(entry);
        json!({"format": 1, "home": HOME, "generation": 2, "previous": 1, "images": images, "unlinked": gone})
    };
    let [x, y] = [
        image_record("x-a1", Some("y-a1")),
        image_record("y-a1", Some("x-a1")),
    ];
    let mut bare = image_record("b-1-a1", None);
    bare["shards"] = json!([]);
    let two = commit(json!([volume("b2-a1", json!([more, full]))]));
    let seed = |target, name, json: &Value| Seed {
        target,
        name,
        input: json.to_string().into_bytes(),
    };
    Ok(vec![
        seed("commit-object", "no-volumes", &commit(json!([]))),
        seed(
            "commit-object",
            "full",
            &commit(json!([volume("b-a1", json!([sealed]))])),
        ),
        seed("commit-object", "chain", &two),
        Seed {
            target: "commit-object",
            name: "sealed",
            input: sealed_commit(&two)?,
        },
        seed("chain-file", "two", &chain([&full, &more])),
        seed("chain-file", "circle", &chain([&x, &y])),
        seed("chain-file", "record", &bare),
    ])
}

fn texts() -> Vec<Seed> {
    let objects = "\x01\x02{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\
        \"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"name\":\"b\"}]}}\n\
        {\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"b\"},\"spec\":{\"template\":{\
        \"spec\":{\"volumes\":[{\"persistentVolumeClaim\":{\"claimName\":\"c\"}}]}}}}\n";
    let lines = b"{\"a\":[0,0,0,0,0,0]}\n".repeat(8);
    let packed = zstd::bulk::compress(&lines, 1).expect("memory is enough");
    let text = |target, name, text: &str| Seed {
        target,
        name,
        input: text.as_bytes().to_vec(),
    };
    vec![
        text("objects", "text", objects),
        Seed {
            target: "objects",
            name: "file",
            input: [&[0, 8][..], &packed].concat(),
        },
        text("names", "commit-key", "holdfast/points/c-1/p-1/b-1/backup.json"),
        text(
            "names",
            "objects-key",
            "holdfast/points/c-1/p-1/b-1/objects-12.jsonl.zst",
        ),
        text("names", "image-key", "holdfast/volumes/c-1/p-1/v/b-a1-s0.qcow2"),
        text("names", "index-key", "holdfast/volumes/c-1/p-1/v/b-a1-s17.index"),
        text(
            "names",
            "chain-key",
            "holdfast/volumes/c-1/p-1/v/chain-0000000007.json",
        ),
        text(
            "names",
            "wrapped-key",
            "holdfast/keys/c-1/p-1/b-1/key-0000000001.age",
        ),
        text(
            "names",
            "merged-key",
            "holdfast/volumes/c-1/p-1/v/b-a1-m3-s2.index",
        ),
        text("names", "location", LOCATION),
        text("names", "image-id", "b-a1-a2"),
        text("names", "digest", &"0".repeat(64)),
    ]
}
