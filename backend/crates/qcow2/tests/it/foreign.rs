//! Images that qemu wrote, read by us.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use holdfast_qcow2::{Chain, Compression, ReadError};

use crate::support::*;

/// A raw file with noise, repetition and holes, and an odd size.
fn raw_file(dir: &Path) -> PathBuf {
    let path = dir.join("disk.raw");
    let file = fs::File::create(&path).unwrap();
    file.set_len((9 << 20) + 3 * 512).unwrap();
    let mut bytes = vec![0; 700_000];
    noise(1, &mut bytes);
    file.write_all_at(&bytes, 100_000).unwrap();
    bytes.fill(7);
    file.write_all_at(&bytes, 3 << 20).unwrap();
    file.write_all_at(&bytes[..3 * 512], 9 << 20).unwrap();
    path
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Reads the disk of a chain of files, newest first.
fn read_disk(files: &[&Path]) -> Vec<u8> {
    let chain = Chain::new(files.iter().map(|file| open_file(file).unwrap()).collect()).unwrap();
    let geometry = *chain.geometry();
    let mut disk = vec![0; (geometry.clusters() * geometry.cluster_size().bytes()) as usize];
    for_each_data(&chain, |cluster, raw| {
        let at = cluster as usize * raw.len();
        disk[at..at + raw.len()].copy_from_slice(raw);
    });
    disk.truncate(geometry.virtual_size() as usize);
    disk
}

#[test]
fn images_of_qemu_are_read_at_every_cluster_size_and_compression() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_file(dir.path());
    let expected = fs::read(&raw).unwrap();
    for bits in [9, 12, 14, 16, 18, 21] {
        for (compression, kind) in [("zlib", Compression::Zlib), ("zstd", Compression::Zstd)] {
            for compress in [true, false] {
                let image = dir.path().join("image.qcow2");
                let options = format!("cluster_size={},compression_type={compression}", 1 << bits);
                let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", &options];
                if compress {
                    args.push("-c");
                }
                args.extend([path(&raw), path(&image)]);
                run("qemu-img", &args);
                assert_eq!(open_file(&image).unwrap().compression(), kind);
                assert!(read_disk(&[&image]) == expected, "{options} {compress}");
            }
        }
    }
}

#[test]
fn an_overlay_of_qemu_with_zeroes_and_discards_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_file(dir.path());
    let base = dir.path().join("base.qcow2");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-c",
            path(&raw),
            path(&base),
        ],
    );
    let overlay = dir.path().join("overlay.qcow2");
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            path(&base),
            path(&overlay),
            "12M",
        ],
    );
    let commands = [
        "write -P 0xaa 1M 200k",
        "write -z 3M 128k",
        "discard 3584k 256k",
        "write -P 0xbb 11M 64k",
    ];
    for command in commands {
        run(
            "qemu-io",
            &["-f", "qcow2", "-d", "unmap", "-c", command, path(&overlay)],
        );
    }
    let expected = dir.path().join("expected.raw");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            path(&overlay),
            path(&expected),
        ],
    );
    let disk = read_disk(&[&overlay, &base]);
    assert!(disk == fs::read(&expected).unwrap());
    assert_eq!(disk[1 << 20], 0xaa);
    let header = open_file(&overlay).unwrap().header().clone();
    assert_eq!(header.backing_file.as_deref(), Some(path(&base).as_bytes()));
    assert_eq!(header.backing_format.as_deref(), Some(b"qcow2".as_slice()));
}

#[test]
fn preallocated_images_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for preallocation in ["metadata", "falloc", "full"] {
        let image = dir.path().join("image.qcow2");
        let options = format!("preallocation={preallocation}");
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", &options, path(&image), "4M"],
        );
        assert!(
            read_disk(&[&image]).iter().all(|byte| *byte == 0),
            "{preallocation}"
        );
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    let create = |options: &str| {
        let _ = fs::remove_file(&image);
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", options, path(&image), "1M"],
        );
        open_file(&image)
    };
    assert!(matches!(
        create("compat=0.10").unwrap_err(),
        ReadError::Version(2)
    ));
    assert!(matches!(
        create("extended_l2=on,cluster_size=128k").unwrap_err(),
        ReadError::Features(0x10)
    ));
    let data_file = format!("data_file={}", path(&dir.path().join("data.raw")));
    assert!(matches!(create(&data_file).unwrap_err(), ReadError::ExternalData));
    create("compat=1.1").unwrap();
    run("qemu-img", &["snapshot", "-c", "one", path(&image)]);
    assert!(matches!(open_file(&image).unwrap_err(), ReadError::Snapshots(1)));
    // The old method: for LUKS qemu measures the processor first, which fails on a busy machine.
    let secret = [
        "--object",
        "secret,id=s,data=x",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
    ];
    let args = [
        &["create", "-q", "-f", "qcow2"],
        secret.as_slice(),
        &[path(&image), "1M"],
    ]
    .concat();
    run("qemu-img", &args);
    assert!(matches!(open_file(&image).unwrap_err(), ReadError::Encrypted(1)));
    fs::write(&image, b"QFI").unwrap();
    assert!(matches!(open_file(&image).unwrap_err(), ReadError::NotQcow2));
}
