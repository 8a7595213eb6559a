//! Mounts and loop devices of a cluster: found by where they lie, so that a crashed run's are found as well.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::Run;

/// Mount points at or below a folder, deepest and youngest first.
pub(crate) fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    Ok(points)
}

/// Unmounts everything at or below a folder.
pub(crate) fn unmount_below(dir: &Path) -> Result<()> {
    // Mounts may be stacked on one point: each round takes the uppermost layer.
    for _ in 0..10 {
        let points = below(dir)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points {
            if !Run::new("umount").arg(&point).status()? {
                Run::new("umount").arg("--lazy").arg(&point).status()?;
            }
        }
    }
    bail!("cannot unmount {:?}", below(dir)?)
}

/// The table writes space, tab, newline and backslash as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Loop devices whose file lies below a folder, and loop devices on top of those, uppermost first.
pub(crate) fn loops_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/sys/block")?.flatten() {
        if let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) {
            let file = file
                .trim_end_matches('\n')
                .trim_end_matches(" (deleted)")
                .to_owned();
            all.push((PathBuf::from("/dev").join(entry.file_name()), PathBuf::from(file)));
        }
    }
    let mut found: Vec<PathBuf> = Vec::new();
    loop {
        // The kubelet puts a loop device on a raw volume's device, which may show as /dev/loopN or as /loopN.
        let on_ours = |file: &Path| {
            found.iter().any(|f| {
                f == file
                    || f.strip_prefix("/dev")
                        .is_ok_and(|n| Path::new("/").join(n) == file)
            })
        };
        let more: Vec<PathBuf> = all
            .iter()
            .filter(|(device, file)| !found.contains(device) && (file.starts_with(dir) || on_ours(file)))
            .map(|(device, _)| device.clone())
            .collect();
        if more.is_empty() {
            found.reverse();
            return Ok(found);
        }
        found.extend(more);
    }
}

/// Detaches loop devices.
pub(crate) fn detach(devices: &[PathBuf]) -> Result<()> {
    for device in devices {
        let attached = Path::new("/sys/block")
            .join(device.file_name().unwrap_or_default())
            .join("loop/backing_file");
        if attached.exists() {
            Run::new("losetup").arg("--detach").arg(device).ok()?;
        }
    }
    Ok(())
}
