//! qemu-img as the judge of what we write.

use std::collections::BTreeMap;
use std::fs;

use holdfast_qcow2::{ClusterSize, Geometry};

use crate::support::*;

fn cluster(bytes: u64) -> ClusterSize {
    ClusterSize::new(bytes).unwrap()
}

/// Checks every layer and compares the newest with the model; returns the sizes of the files.
fn judge(layers: &[Layer], cluster_size: ClusterSize, min_head: u64) -> Vec<u64> {
    let dir = tempfile::tempdir().unwrap();
    let stored: Vec<Stored> = layers
        .iter()
        .enumerate()
        .map(|(i, layer)| write_layer(layer, i, cluster_size, min_head))
        .collect();
    let newest = store(&stored, dir.path());
    for number in 0..layers.len() {
        check(&dir.path().join(file_name(number)));
    }
    let raw = dir.path().join("raw");
    write_raw(
        layers,
        &Geometry::new(layers.last().unwrap().virtual_size, cluster_size).unwrap(),
        &raw,
    );
    compare(&newest, &raw);
    // The way a stranger restores.
    let restored = dir.path().join("restored");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            newest.to_str().unwrap(),
            restored.to_str().unwrap(),
        ],
    );
    run("cmp", &[raw.to_str().unwrap(), restored.to_str().unwrap()]);
    stored.iter().map(|layer| layer.image.len() as u64).collect()
}

#[test]
fn an_empty_image_is_valid_at_every_cluster_size() {
    for bits in 14..=21 {
        for virtual_size in [512, 1 << 20, (65 << 20) + 512] {
            judge(
                &[Layer {
                    virtual_size,
                    clusters: BTreeMap::new(),
                }],
                cluster(1 << bits),
                0,
            );
        }
    }
}

#[test]
fn three_layers_with_zeroes_and_trims_convert_to_the_volume() {
    let virtual_size = (100 << 20) + 7 * 512;
    for bytes in [16 << 10, 64 << 10, 2 << 20] {
        let count = Geometry::new(virtual_size, cluster(bytes)).unwrap().clusters();
        let full = (0..count)
            .map(|c| {
                (
                    c,
                    if c % 3 == 0 {
                        Content::Noise(c)
                    } else {
                        Content::Mixed(c)
                    },
                )
            })
            .collect();
        let middle = (0..count)
            .filter(|c| c % 2 == 0)
            .map(|c| {
                (
                    c,
                    if c % 4 == 0 {
                        Content::Trimmed
                    } else {
                        Content::Mixed(c + 1000)
                    },
                )
            })
            .collect();
        let newest = (0..count)
            .filter(|c| c % 5 == 0)
            .map(|c| {
                (
                    c,
                    if c % 10 == 0 {
                        Content::Noise(c + 2000)
                    } else {
                        Content::Zero
                    },
                )
            })
            .collect();
        let layer = |clusters| Layer {
            virtual_size,
            clusters,
        };
        judge(&[layer(full), layer(middle), layer(newest)], cluster(bytes), 0);
    }
}

#[test]
fn spans_far_apart_cost_what_they_hold() {
    let virtual_size = 128u64 << 30;
    let count = virtual_size >> 16;
    let clusters = [0, 8191, 8192, count / 2, count - 1]
        .map(|c| (c, Content::Mixed(c)))
        .into();
    let dir = tempfile::tempdir().unwrap();
    let stored = write_layer(
        &Layer {
            virtual_size,
            clusters,
        },
        0,
        ClusterSize::DEFAULT,
        0,
    );
    let path = store(&[stored], dir.path());
    check(&path);
    // Head of three clusters; padded data and L2 table of four spans, the first holding two clusters; a refcount block.
    assert_eq!(
        fs::metadata(&path).unwrap().len(),
        (3 + (2 + 1) + 3 * (1 + 1) + 1) << 16
    );
}

#[test]
fn refcounts_stay_right_across_their_blocks() {
    // Clusters of 16 KiB: a block counts 128 MiB of file.
    let virtual_size = 260 << 20;
    let clusters = (0..virtual_size >> 14).map(|c| (c, Content::Noise(c))).collect();
    let sizes = judge(
        &[Layer {
            virtual_size,
            clusters,
        }],
        cluster(16 << 10),
        0,
    );
    // Content that does not shrink costs one sector per cluster, and tables: below 4 % at the smallest clusters.
    assert!(
        sizes[0] > virtual_size && sizes[0] < virtual_size * 104 / 100,
        "{sizes:?}"
    );
}

#[test]
fn incompressible_content_costs_one_sector_per_cluster() {
    let virtual_size = 64 << 20;
    let clusters = (0..virtual_size >> 16).map(|c| (c, Content::Noise(c))).collect();
    let sizes = judge(
        &[Layer {
            virtual_size,
            clusters,
        }],
        ClusterSize::DEFAULT,
        0,
    );
    // Head of three clusters; 1024 clusters and as many sectors, which are eight more; L2 table; refcount block.
    assert_eq!(sizes[0], (3 + 1024 + 8 + 1 + 1) << 16);
}

#[test]
fn a_padded_head_is_valid() {
    let clusters: BTreeMap<u64, Content> = (0..40).map(|c| (c, Content::Mixed(c))).collect();
    for bytes in [16 << 10, 64 << 10] {
        let layer = Layer {
            virtual_size: 40 * bytes,
            clusters: clusters.clone(),
        };
        judge(&[layer.clone(), layer], cluster(bytes), 5 << 20);
    }
}

#[test]
fn qemu_names_the_backing_file_and_its_format() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer {
        virtual_size: 1 << 20,
        clusters: BTreeMap::new(),
    };
    let newest = store(
        &write_chain(&[layer.clone(), layer], ClusterSize::DEFAULT),
        dir.path(),
    );
    let output = run("qemu-img", &["info", "--output=json", newest.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        r#""backing-filename": "layer-0.qcow2""#,
        r#""backing-filename-format": "qcow2""#,
        r#""compression-type": "zstd""#,
        r#""compat": "1.1""#,
        r#""refcount-bits": 16"#,
        r#""corrupt": false"#,
    ] {
        assert!(text.contains(expected), "{expected} not in {text}");
    }
}
