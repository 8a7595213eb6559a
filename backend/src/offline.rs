//! Verbs for a person's shell: they look into a target, check it and take points out of it, without a cluster.
//!
//! Secrets come by environment and files, never by arguments: others on the machine can read those.

mod export;
mod inspect;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use holdfast_repository::keys::{self, Identity};
use holdfast_repository::{chain, point};
use holdfast_seal::{KeyId, KeyRing, PlanKey, RecoveryKey};
use holdfast_target::layout::{BackupManifest, Location};
use holdfast_target::{Connection, DirectoryTarget, S3Target, SecretKey, Target};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

/// Which target, and what opens it.
#[derive(Args)]
pub(crate) struct Source {
    /// A folder that is a target: the mount of a claim or of an NFS export.
    #[arg(long, conflicts_with_all = ["bucket", "url"], required_unless_present = "bucket")]
    directory: Option<PathBuf>,
    /// The bucket. Its credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long)]
    bucket: Option<String>,
    /// Endpoint of the store; that of AWS for the region when absent.
    #[arg(long)]
    url: Option<String>,
    /// Region.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// File with the certificates (PEM) that the store's is signed by, instead of those of the system.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// File with the plan's key (`AGE-SECRET-KEY-1…`).
    #[arg(long, conflicts_with = "recovery_key")]
    plan_key: Option<PathBuf>,
    /// File with a recovery key. It opens everything, and proves nothing about who made it.
    #[arg(long)]
    recovery_key: Option<PathBuf>,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Show points, chains and bytes of a target: what is hidden, what is garbage, what deleting a point would free
    Inspect {
        #[command(flatten)]
        source: Source,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check that points are what was written; exit code 1 when one is not
    Verify {
        #[command(flatten)]
        source: Source,
        /// Read, unpack and hash every stored byte, not only tables and indexes.
        #[arg(long)]
        full: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Points, `<cluster>/<plan>/<backup>`; all of the target when absent.
        locations: Vec<Location>,
    },
    /// Write a point as plain QCOW2 images and YAML
    Export {
        #[command(flatten)]
        source: Source,
        /// The point, `<cluster>/<plan>/<backup>`.
        location: Location,
        /// Folder to write to; it must not exist.
        #[arg(long)]
        to: PathBuf,
    },
}

/// Runs a verb until it ends or is told to.
pub(crate) async fn run(verb: Verb, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        ended = work(verb, &stop) => ended,
        () = stop.cancelled() => bail!("stopped"),
    }
}

async fn work(verb: Verb, stop: &CancellationToken) -> anyhow::Result<()> {
    match verb {
        Verb::Inspect { source, json } => inspect::run(&*source.target().await?, json).await,
        Verb::Verify {
            source,
            full,
            json,
            locations,
        } => {
            let shelf = source.open().await?;
            verify::run(&shelf, &locations, full, json, stop).await
        }
        Verb::Export { source, location, to } => export::run(&source.open().await?, &location, &to).await,
    }
}

/// A target and what opens its points.
struct Shelf {
    target: Arc<dyn Target>,
    identity: Option<Identity>,
}

/// A point, open.
struct Opened {
    /// Its volumes have the chains that stand for them now.
    manifest: BackupManifest,
    /// Keys of everything it needs; `None` for a point in clear.
    ring: Option<Arc<KeyRing>>,
}

impl Source {
    async fn target(&self) -> anyhow::Result<Arc<dyn Target>> {
        if let Some(path) = &self.directory {
            return Ok(Arc::new(DirectoryTarget::adopt(path).await?));
        }
        let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        let ca = match &self.ca {
            Some(path) => Some(read(path)?),
            None => None,
        };
        let connection = Connection {
            url: self.url.clone(),
            region: self.region.clone(),
            bucket: self.bucket.clone().unwrap_or_default(),
            access_key: variable("AWS_ACCESS_KEY_ID")?,
            secret_key: SecretKey::new(variable("AWS_SECRET_ACCESS_KEY")?),
            ca,
            skip_cert_verification: false,
        };
        Ok(Arc::new(S3Target::connect(&connection)?))
    }

    fn identity(&self) -> anyhow::Result<Option<Identity>> {
        if let Some(path) = &self.plan_key {
            let key = PlanKey::parse(&read(path)?).with_context(|| path.display().to_string())?;
            return Ok(Some(Identity::Plan(key)));
        }
        if let Some(path) = &self.recovery_key {
            let key = RecoveryKey::parse(&read(path)?).with_context(|| path.display().to_string())?;
            eprintln!(
                "opened with a recovery key: nothing but the rights on the target proves who made these points"
            );
            return Ok(Some(Identity::Recovery(key)));
        }
        Ok(None)
    }

    async fn open(&self) -> anyhow::Result<Shelf> {
        Ok(Shelf {
            target: self.target().await?,
            identity: self.identity()?,
        })
    }
}

impl Shelf {
    /// Opens a point. A point in clear is taken as it is unless a key was given.
    async fn point(&self, location: &Location) -> anyhow::Result<Opened> {
        let target = &*self.target;
        let Some(found) = point::read(target, location).await? else {
            bail!("there is no point {location} on the target");
        };
        let (Location { cluster, plan, .. }, now) = (location, Timestamp::now());
        let Some(identity) = &self.identity else {
            let mut manifest = found.open(None)?;
            for volume in &mut manifest.volumes {
                volume.chain = chain::resolve(target, volume, None, now).await?.chain;
            }
            return Ok(Opened { manifest, ring: None });
        };
        let mut ids: BTreeSet<KeyId> = found.key().cloned().into_iter().collect();
        let own = keys::ring(target, cluster, plan, &ids, identity).await?;
        let mut manifest = found.open(Some(&own))?;
        for volume in &manifest.volumes {
            ids.extend(chain::keys_to_resolve(target, volume, now).await?);
        }
        let ring = keys::ring(target, cluster, plan, &ids, identity).await?;
        for volume in &mut manifest.volumes {
            volume.chain = chain::resolve(target, volume, Some(&ring), now).await?.chain;
        }
        Ok(Opened {
            manifest,
            ring: Some(Arc::new(ring)),
        })
    }

    /// Every point of the target.
    async fn points(&self) -> anyhow::Result<Vec<Location>> {
        let mut found = Vec::new();
        for cluster in point::clusters(&*self.target).await? {
            for plan in point::plans(&*self.target, &cluster).await? {
                found.extend(point::points(&*self.target, &cluster, &plan).await?);
            }
        }
        Ok(found)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_told_in_their_unit() {
        let told = [0, 1023, 1024, 1536, 5 << 30].map(super::size);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
    }
}
