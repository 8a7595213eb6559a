//! Measurements, each by a program of the crate that is measured, in the profile that is shipped.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use crate::run::Run;
use crate::{packages, paths};

/// A dense TiB is read twice and written once, on whatever cores there are.
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Peak memory of backups and restores of the largest disks; as root, which mounts file systems
    Memory {
        /// GiB of the dense disk
        #[arg(long, default_value_t = 1024)]
        dense: u64,
        /// GiB of the sparse disk
        #[arg(long, default_value_t = 1024)]
        sparse: u64,
        /// Images in the chain of the sparse disk
        #[arg(long, default_value_t = 50)]
        chain: usize,
        /// Folder with room for some GiB; that for temporary files where none is named
        #[arg(long)]
        folder: Option<PathBuf>,
    },
}

pub(crate) fn bench(what: &Bench) -> Result<()> {
    let Bench::Memory {
        dense,
        sparse,
        chain,
        folder,
    } = what;
    packages::ensure(packages::MEASURING)?;
    let folder: OsString = folder.clone().unwrap_or_else(env::temp_dir).into();
    Run::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--quiet", "--release", "--package", "holdfast-mover"])
        .args(["--example", "peak", "--", "bench"])
        .arg(format!("--dense={dense}"))
        .arg(format!("--sparse={sparse}"))
        .arg(format!("--chain={chain}"))
        .arg("--folder")
        .arg(folder)
        .dir(&paths::repo())
        .within(DAY)
        .heartbeat("measuring")
        .streamed()
}
