//! Container images without a registry: files into one layer, a small archive around it, imported into containerd.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::node::ctr;
use crate::paths;
use crate::run::Run;
use crate::ui;

/// The image every pod's sandbox is made from.
pub(crate) const PAUSE: &str = "sandbox/pause:1";

/// Part of every fingerprint; to be raised when the way images are built changes.
const BUILDER: &str = "1";
const DEADLINE: Duration = Duration::from_secs(600);

/// An image to be built: what lies in it and how it starts.
pub(crate) struct Image {
    name: String,
    config: Value,
    entries: Vec<Entry>,
}

enum Entry {
    Dir {
        path: String,
        mode: u32,
    },
    File {
        path: String,
        source: PathBuf,
        mode: u32,
    },
    Text {
        path: String,
        content: String,
        mode: u32,
    },
    Link {
        path: String,
        target: String,
    },
    /// A whole folder, and what its content is known by.
    Tree {
        source: PathBuf,
        fingerprint: String,
    },
}

impl Image {
    /// `config` is the `config` object of an OCI image: `Entrypoint`, `Cmd`, `Env`, `User`, `WorkingDir`.
    pub(crate) fn new(name: &str, config: Value) -> Self {
        Self {
            name: name.to_owned(),
            config,
            entries: Vec::new(),
        }
    }

    pub(crate) fn dir(mut self, path: &str, mode: u32) -> Self {
        self.entries.push(Entry::Dir {
            path: path.to_owned(),
            mode,
        });
        self
    }

    pub(crate) fn file(mut self, path: &str, source: impl Into<PathBuf>, mode: u32) -> Self {
        self.entries.push(Entry::File {
            path: path.to_owned(),
            source: source.into(),
            mode,
        });
        self
    }

    pub(crate) fn text(mut self, path: &str, content: &str, mode: u32) -> Self {
        self.entries.push(Entry::Text {
            path: path.to_owned(),
            content: content.to_owned(),
            mode,
        });
        self
    }

    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        self.entries.push(Entry::Link {
            path: path.to_owned(),
            target: target.to_owned(),
        });
        self
    }

    pub(crate) fn tree(mut self, source: PathBuf, fingerprint: &str) -> Self {
        self.entries.push(Entry::Tree {
            source,
            fingerprint: fingerprint.to_owned(),
        });
        self
    }

    /// A program of the host together with the shared libraries it needs.
    pub(crate) fn program(mut self, path: &str, source: &Path) -> Result<Self> {
        self = self.file(path, source, 0o755);
        let known: BTreeSet<String> = self
            .entries
            .iter()
            .filter_map(|e| e.path().map(str::to_owned))
            .collect();
        for library in shared_libraries(source)? {
            let inside = library.to_string_lossy().into_owned();
            if !known.contains(&inside) {
                self = self.file(&inside, library, 0o755);
            }
        }
        Ok(self)
    }

    /// Builds the archive unless the cache has it, and imports it unless the cluster has it. Returns
    /// what its content is known by.
    pub(crate) fn ensure(&self, cluster: &Cluster) -> Result<String> {
        let fingerprint = self.fingerprint()?;
        let stamp = cluster.dir("images")?.join(self.file_name());
        let imported = fs::read_to_string(&stamp).is_ok_and(|old| old == fingerprint);
        if imported && self.exists(cluster)? {
            return Ok(fingerprint);
        }
        let archive = self.build(&fingerprint)?;
        ui::note(format!("importing {}", self.name));
        ctr(cluster)
            .args(["images", "import"])
            .arg(&archive)
            .within(DEADLINE)
            .ok()?;
        fs::write(stamp, &fingerprint)?;
        Ok(fingerprint)
    }

    fn exists(&self, cluster: &Cluster) -> Result<bool> {
        let repository = if self.name.contains('/') {
            self.name.clone()
        } else {
            format!("library/{}", self.name)
        };
        let filter = format!("name==docker.io/{repository}");
        Ok(!ctr(cluster)
            .args(["images", "list", "--quiet", &filter])
            .output()?
            .trim()
            .is_empty())
    }

    fn file_name(&self) -> String {
        self.name.replace(['/', ':'], "-")
    }

    fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(BUILDER);
        hash.update(self.config.to_string());
        for entry in &self.entries {
            hash.update(entry.fingerprint()?);
            hash.update(b"\0");
        }
        Ok(hex::encode(hash.finalize())[..16].to_owned())
    }

    fn build(&self, fingerprint: &str) -> Result<PathBuf> {
        let dir = paths::sandbox()?.join("images");
        fs::create_dir_all(&dir)?;
        let archive = dir.join(format!("{}-{fingerprint}.tar", self.file_name()));
        if archive.is_file() {
            return Ok(archive);
        }
        ui::note(format!("building {}", self.name));
        let work = dir.join(format!(".{}-{}", self.file_name(), std::process::id()));
        let result = self.build_in(&work, &archive);
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        result?;
        remove_older(&dir, &self.file_name(), &archive)?;
        Ok(archive)
    }

    fn build_in(&self, work: &Path, archive: &Path) -> Result<()> {
        let root = work.join("root");
        let parts = work.join("parts");
        fs::create_dir_all(&root)?;
        fs::create_dir_all(&parts)?;
        for entry in &self.entries {
            entry.put(&root)?;
        }
        let layer = parts.join("layer.tar");
        tar(&root, &layer)?;
        let layer_digest = digest(&layer)?;
        let config = json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        })
        .to_string();
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        fs::write(parts.join(&config_name), &config)?;
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        fs::write(parts.join("manifest.json"), manifest.to_string())?;
        let partial = work.join("image.tar");
        tar(&parts, &partial)?;
        fs::rename(&partial, archive)?;
        Ok(())
    }
}

impl Entry {
    fn path(&self) -> Option<&str> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Dir { .. } | Self::Text { .. } | Self::Link { .. } | Self::Tree { .. } => None,
        }
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(match self {
            Self::Dir { path, mode } => format!("d {path} {mode:o}"),
            Self::Text { path, content, mode } => format!("t {path} {mode:o} {content}"),
            Self::Link { path, target } => format!("l {path} {target}"),
            Self::Tree { fingerprint, .. } => format!("r {fingerprint}"),
            Self::File { path, source, mode } => {
                let meta = fs::metadata(source).with_context(|| source.display().to_string())?;
                format!(
                    "f {path} {mode:o} {} {} {} {}",
                    source.display(),
                    meta.size(),
                    meta.mtime(),
                    meta.mtime_nsec()
                )
            }
        })
    }

    fn put(&self, root: &Path) -> Result<()> {
        let inside = |path: &str| -> Result<PathBuf> {
            let full = root.join(path.trim_start_matches('/'));
            if let Some(parent) = full.parent() {
                fs::create_dir_all(parent)?;
            }
            Ok(full)
        };
        let set_mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        match self {
            Self::Dir { path, mode } => {
                let full = inside(path)?;
                fs::create_dir_all(&full)?;
                set_mode(&full, *mode)?;
            }
            Self::File { path, source, mode } => {
                let full = inside(path)?;
                fs::copy(source, &full).with_context(|| source.display().to_string())?;
                set_mode(&full, *mode)?;
            }
            Self::Text { path, content, mode } => {
                let full = inside(path)?;
                fs::write(&full, content)?;
                set_mode(&full, *mode)?;
            }
            Self::Link { path, target } => symlink(target, inside(path)?)?,
            Self::Tree { source, .. } => {
                Run::new("cp")
                    .args(["--archive", "--reflink=auto"])
                    .arg(source.join("."))
                    .arg(root)
                    .within(DEADLINE)
                    .ok()?;
            }
        }
        Ok(())
    }
}

/// A tar that is the same for the same files.
fn tar(dir: &Path, output: &Path) -> Result<()> {
    Run::new("tar")
        .args([
            "--sort=name",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--create",
            "--file",
        ])
        .arg(output)
        .arg("--directory")
        .arg(dir)
        .arg(".")
        .within(DEADLINE)
        .ok()
}

fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hash.finalize())),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn remove_older(dir: &Path, name: &str, keep: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        // Names may be prefixes of each other; what follows the name is exactly `-`, 16 digits, `.tar`.
        let older = file
            .strip_prefix(name)
            .is_some_and(|rest| rest.len() == 21 && rest.ends_with(".tar"));
        if older && entry.path() != keep {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Absolute paths of the shared libraries a program loads; none for static ones.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let Ok(listed) = Run::new("ldd").arg(program).output() else {
        return Ok(Vec::new());
    };
    let mut libraries = Vec::new();
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
        let path = line
            .split("=>")
            .last()
            .unwrap_or_default()
            .split_whitespace()
            .next()
            .unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image architecture is known for {other}"),
    }
}
