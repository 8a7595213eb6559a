//! Builds the web console: compiles `holdfast-console` to WebAssembly, binds it with wasm-bindgen, names every file
//! after its content and writes `frontend/dist`, which the server embeds.
//!
//! May enter: cargo as a process, files of the checkout, the user's cache directory. Must not know what the console
//! shows or where it is served.

mod assets;
mod compiler;
mod inputs;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

/// Cached bundles kept; older ones are removed after a build.
const KEEP_BUNDLES: usize = 6;

/// Build the web console into frontend/dist.
#[derive(Parser)]
struct Args {
    /// Compile fast and without optimisation; for work on the console.
    #[arg(long)]
    dev: bool,
    /// Build although a bundle of the same sources is cached.
    #[arg(long)]
    force: bool,
}

/// Where things are read from and written to.
struct Places {
    /// The checkout's top directory.
    root: PathBuf,
    /// `${XDG_CACHE_HOME:-~/.cache}/holdfast`.
    cache: PathBuf,
}

impl Places {
    fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("the bundler does not lie in frontend/bundler of a checkout")?
            .to_path_buf();
        let cache = match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
                .join(".cache"),
        };
        Ok(Self {
            root,
            cache: cache.join("holdfast"),
        })
    }

    fn bundles(&self) -> PathBuf {
        self.cache.join("console")
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let places = Places::find()?;
    let started = Instant::now();
    let profile = if args.dev {
        compiler::Profile::Dev
    } else {
        compiler::Profile::Wasm
    };
    let key = inputs::hash(&places.root, profile)?;
    let bundle = places.bundles().join(&key);
    let dist = places.root.join("frontend/dist");
    if bundle.join("index.html").is_file() && !args.force {
        println!("console: bundle {key} is cached");
        publish(&bundle, &dist)?;
    } else {
        let draft = build(&places, profile, &bundle)?;
        publish(&draft, &dist)?;
        if inputs::hash(&places.root, profile)? == key {
            remove_dir(&bundle)?;
            fs::rename(&draft, &bundle)
                .with_context(|| format!("cannot move the bundle to {}", bundle.display()))?;
        } else {
            println!("console: sources changed during the build; the bundle is not cached, build again");
            remove_dir(&draft)?;
        }
        prune(&places.bundles(), &bundle)?;
    }
    println!(
        "console: {} ready in {:.1} s",
        dist.display(),
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Compiles and assembles a bundle in a directory beside its final place.
fn build(places: &Places, profile: compiler::Profile, bundle: &Path) -> Result<PathBuf> {
    let toolchain = compiler::Toolchain::choose()?;
    println!("console: compiling for wasm32 with {toolchain}");
    let target_dir = places.cache.join("target-wasm");
    let module = compiler::compile(&toolchain, profile, &places.root, &target_dir)?;
    let draft = bundle.with_extension(format!("draft-{}", std::process::id()));
    remove_dir(&draft)?;
    fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
    assets::assemble(&module, profile, &places.root.join("frontend"), &draft)?;
    Ok(draft)
}

/// Replaces `dist` by a copy of the bundle, unless it is one already: an unchanged directory lets cargo skip the
/// crate that embeds it.
fn publish(bundle: &Path, dist: &Path) -> Result<()> {
    let index = fs::read(bundle.join("index.html")).context("the bundle has no index.html")?;
    if fs::read(dist.join("index.html")).is_ok_and(|current| current == index) {
        return Ok(());
    }
    let draft = dist.with_extension(format!("draft-{}", std::process::id()));
    remove_dir(&draft)?;
    assets::copy_dir(bundle, &draft)?;
    remove_dir(dist)?;
    fs::rename(&draft, dist).with_context(|| format!("cannot move the bundle to {}", dist.display()))
}

/// Removes all but the newest bundles.
fn prune(bundles: &Path, keep: &Path) -> Result<()> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(bundles)? {
        let entry = entry?;
        dirs.push((entry.metadata()?.modified()?, entry.path()));
    }
    dirs.sort_by(|a, b| b.cmp(a));
    for (_, dir) in dirs.iter().skip(KEEP_BUNDLES).filter(|(_, dir)| dir != keep) {
        remove_dir(dir)?;
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
