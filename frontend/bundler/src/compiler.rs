//! Which compiler builds for wasm32, and running it.
//!
//! Distributions and minimal toolchains often come without a standard library for wasm32. The order is: a compiler
//! that has one, then a compiler with the sources of its standard library, which is built along.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The target triple of the console.
const TARGET: &str = "wasm32-unknown-unknown";
/// Without it the types of whole pages reach the compiler and building takes several times as long.
const RUSTFLAGS: &str = "--cfg erase_components";
/// Variables that `cargo run` or a wrapper sets for its own toolchain and that would mislead another one.
const FOREIGN_VARIABLES: &[&str] = &[
    "CARGO",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
];

/// How the console is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// The workspace's `dev` profile.
    Dev,
    /// The workspace's `wasm` profile: small.
    Wasm,
}

impl Profile {
    /// Name of the profile for cargo.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Wasm => "wasm",
        }
    }

    /// Directory that cargo uses for the profile.
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Wasm => "wasm",
        }
    }
}

/// A rustc and the cargo that belongs to it.
#[derive(Clone, Debug)]
struct Pair {
    rustc: PathBuf,
    cargo: PathBuf,
}

/// A compiler that can build for wasm32.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pair: Pair,
    version: String,
    build_std: bool,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = if self.build_std {
            ", building the standard library along"
        } else {
            ""
        };
        write!(f, "{} ({}){with}", self.version, self.pair.rustc.display())
    }
}

impl Toolchain {
    /// Finds a compiler: the one in use, then the distribution's.
    pub(crate) fn choose() -> Result<Self> {
        let pairs: Vec<Pair> = [("rustc", "cargo"), ("/usr/bin/rustc", "/usr/bin/cargo")]
            .into_iter()
            .map(|(rustc, cargo)| Pair {
                rustc: rustc.into(),
                cargo: cargo.into(),
            })
            .collect();
        for build_std in [false, true] {
            for pair in &pairs {
                let usable = if build_std {
                    has_std_sources(pair)
                } else {
                    has_wasm_std(pair)
                };
                if usable {
                    let version = ask(pair, &["--version"]).context("rustc does not tell its version")?;
                    return Ok(Self {
                        pair: pair.clone(),
                        version,
                        build_std,
                    });
                }
            }
        }
        bail!(
            "no compiler for {TARGET}: neither the rustc in use nor /usr/bin/rustc has its standard library or the \
             sources of it. With rustup: `rustup target add {TARGET}`. On Debian: `apt-get install rustc-web \
             cargo-web rust-web-src lld-22`."
        )
    }
}

/// What rustc answers to these arguments, or nothing when it cannot be run or refuses them.
fn ask(pair: &Pair, args: &[&str]) -> Option<String> {
    let output = without_foreign(&mut Command::new(&pair.rustc))
        .args(args)
        .output()
        .ok()?;
    let text = output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim().to_owned())
}

fn has_wasm_std(pair: &Pair) -> bool {
    let Some(dir) = ask(pair, &["--print", "target-libdir", "--target", TARGET]) else {
        return false;
    };
    let Ok(entries) = std::fs::read_dir(dir) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

fn has_std_sources(pair: &Pair) -> bool {
    ask(pair, &["--print", "sysroot"]).is_some_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library/Cargo.lock")
            .is_file()
    })
}

fn without_foreign(command: &mut Command) -> &mut Command {
    FOREIGN_VARIABLES
        .iter()
        .fold(command, |command, variable| command.env_remove(variable))
}

/// Compiles the console and returns the path of the module. Cargo's messages go to the terminal.
pub(crate) fn compile(
    toolchain: &Toolchain,
    profile: Profile,
    root: &Path,
    target_dir: &Path,
) -> Result<PathBuf> {
    let mut command = Command::new(&toolchain.pair.cargo);
    without_foreign(&mut command)
        .current_dir(root)
        .args([
            "build",
            "--locked",
            "--package",
            "holdfast-console",
            "--bin",
            "holdfast-console",
        ])
        .args(["--target", TARGET, "--profile", profile.name()])
        .env("CARGO_TARGET_DIR", target_dir)
        .env("RUSTC", &toolchain.pair.rustc)
        .env("RUSTFLAGS", RUSTFLAGS);
    if toolchain.build_std {
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .arg("-Zbuild-std=std,panic_abort");
        if let Some(linker) = linker() {
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", toolchain.pair.cargo.display()))?;
    if !status.success() {
        bail!("compiling the console failed ({status}); the compiler's messages are above");
    }
    let module = target_dir
        .join(TARGET)
        .join(profile.directory())
        .join("holdfast-console.wasm");
    if !module.is_file() {
        bail!("cargo succeeded but {} is not there", module.display());
    }
    Ok(module)
}

/// The WebAssembly linker of the distribution: its rustc expects the one that rustup brings, and its packages put
/// theirs under a versioned name or outside the search path.
fn linker() -> Option<PathBuf> {
    let mut llvm: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            Some((version, entry.path().join("bin/wasm-ld")))
        })
        .filter(|(_, linker)| linker.is_file())
        .collect();
    llvm.sort();
    llvm.pop().map(|(_, linker)| linker)
}
