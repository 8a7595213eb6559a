//! File systems of their own: one that can lose its power, freeze and be mounted again.
use std::{fs::File, path::PathBuf, process::Command};

use tempfile::TempDir;

/// An XFS in a file. Needs root and a loop device.
pub(crate) struct LoopDisk {
    folder: TempDir,
}

impl LoopDisk {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-disk-")
            .tempdir()
            .unwrap();
        File::create(folder.path().join("image"))
            .unwrap()
            .set_len(400 << 20)
            .unwrap();
        std::fs::create_dir(folder.path().join("mount")).unwrap();
        let disk = Self { folder };
        run("mkfs.xfs", &["-q", &disk.image()]);
        disk.mount("rw");
        disk
    }

    fn image(&self) -> String {
        self.folder.path().join("image").to_str().unwrap().to_owned()
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn text(&self) -> String {
        self.mount_point().to_str().unwrap().to_owned()
    }

    pub(crate) fn mount(&self, options: &str) {
        let options = format!("loop,{options}");
        run(
            "mount",
            &["-t", "xfs", "-o", &options, &self.image(), &self.text()],
        );
    }

    pub(crate) fn unmount(&self) {
        run("umount", &[&self.text()]);
    }

    pub(crate) fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), &self.text()]);
    }

    /// Loses everything that was not made durable, as a power cut does.
    pub(crate) fn cut_power(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", &self.text()]);
    }

    /// From now on everybody who writes waits.
    pub(crate) fn freeze(&self) {
        run("xfs_freeze", &["-f", &self.text()]);
    }

    pub(crate) fn thaw(&self) {
        run("xfs_freeze", &["-u", &self.text()]);
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // It may not be mounted, or still be in use by a test that failed.
        let _ = Command::new("umount").args(["-l", &self.text()]).output();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
}
