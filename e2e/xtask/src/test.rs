//! All tests, in the order in which they are cheapest to fail.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::facts::{self, Facts};
use crate::run::Run;
use crate::tools::Tool;
use crate::ui::{self, Steps};
use crate::up::{self, Target};
use crate::{images, packages, paths, product, report};

/// Everything but the console, which is WebAssembly. Every cargo command takes the same packages: another choice would
/// resolve other features and compile the dependencies again.
pub(crate) const HOST: [&str; 3] = ["--workspace", "--exclude", "holdfast-console"];

/// TLS and crypto providers beside the chosen one: there is to be exactly one.
const UNWANTED: [&str; 2] = ["aws-lc-sys", "openssl-sys"];

const HOUR: Duration = Duration::from_secs(3600);

/// Runs all tests, goes on after a failure, and ends with the counts.
pub(crate) fn test(json: Option<&Path>) -> Result<()> {
    let mut steps = Steps::default();
    let outcome = run(&mut steps);
    steps.table();
    let passed = steps.done().iter().filter(|s| s.passed).count();
    let failed = steps.done().len() - passed;
    if let Some(path) = json {
        let results: Vec<_> = steps
            .done()
            .iter()
            .map(|s| json!({"name": s.name, "seconds": s.seconds, "passed": s.passed}))
            .collect();
        report::write(
            path,
            &json!({"steps": results, "passed": passed, "failed": failed}),
        )?;
    }
    println!("{passed} passed, {failed} failed");
    outcome?;
    if failed > 0 {
        bail!("{failed} of {} steps failed", passed + failed);
    }
    Ok(())
}

fn run(steps: &mut Steps) -> Result<()> {
    static_checks(steps)?;
    // Without the programs, the cluster and its S3 server the rest would only fail for their lack.
    let target = match up::up(steps) {
        Ok(target) => target,
        Err(error) if crate::interrupt::is_interrupt(&error) => return Err(error),
        Err(error) => {
            eprintln!("{}", ui::explain(&error));
            return Ok(());
        }
    };
    steps.attempt("unit, property and oracle tests", || {
        // Integration tests of a crate are called `it`; those of the product, which need it installed, `e2e`.
        cargo(&["test"])
            .args(HOST)
            .args(["--lib", "--bins", "--test", "it"])
            .within(HOUR)
            .streamed()
    })?;
    steps.attempt("examples in the documentation", || {
        cargo(&["test", "--doc"]).args(HOST).within(HOUR).streamed()
    })?;
    storage_driver(steps)?;
    on_cluster(steps, &target)
}

fn static_checks(steps: &mut Steps) -> Result<()> {
    steps.attempt("packages for build and test", || {
        packages::ensure(packages::BUILD_AND_TEST)
    })?;
    steps.attempt("format", || cargo(&["fmt", "--all", "--", "--check"]).streamed())?;
    steps.attempt("one TLS provider", || {
        UNWANTED.iter().try_for_each(|name| absent(name))
    })?;
    steps.attempt("console", bundle_console)?;
    steps.attempt("console: clippy and unit tests", console_on_host)?;
    steps.attempt("clippy", || {
        cargo(&["clippy", "--all-targets", "--quiet"])
            .args(HOST)
            .args(["--", "--deny", "warnings"])
            .within(HOUR)
            .heartbeat("clippy")
            .streamed()
    })?;
    steps.attempt("helm lint", product::lint)?;
    Ok(())
}

/// The console is embedded into the server, so it is built before anything that compiles the server.
pub(crate) fn bundle_console() -> Result<()> {
    cargo(&["run", "--quiet", "--package", "holdfast-bundler"])
        .within(HOUR)
        .heartbeat("building the console")
        .streamed()
}

/// What of the console needs no browser is pure and tested here. Its packages are chosen apart from the others: they
/// would otherwise bring the browser's features into the whole workspace.
fn console_on_host() -> Result<()> {
    cargo(&[
        "clippy",
        "--package",
        "holdfast-console",
        "--all-targets",
        "--quiet",
    ])
    .args(["--", "--deny", "warnings"])
    .within(HOUR)
    .heartbeat("clippy of the console")
    .streamed()?;
    cargo(&["test", "--package", "holdfast-console", "--lib"])
        .within(HOUR)
        .streamed()
}

/// Fails when a crate is anywhere in the dependency tree.
fn absent(name: &str) -> Result<()> {
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--target",
        "all",
        "--edges",
        "all",
        "--prefix",
        "none",
    ])
    .output()?;
    let found: Vec<&str> = tree
        .lines()
        .filter(|line| line.split(' ').next() == Some(name))
        .collect();
    ensure!(
        found.is_empty(),
        "{name} has entered the dependency tree: cargo tree -i {name}"
    );
    Ok(())
}

/// The official conformance suite and the driver's own tests.
fn storage_driver(steps: &mut Steps) -> Result<()> {
    let sources = paths::sandbox_sources().join("csi-driver");
    steps.attempt("csi-sanity", || {
        Run::new("sh")
            .arg(sources.join("sanity.sh"))
            .env("CSI_SANITY", Tool::CsiSanity.program("csi-sanity")?)
            .within(Duration::from_secs(900))
            .heartbeat("csi-sanity")
            .streamed()
    })?;
    steps.attempt("tests of the storage driver", || {
        Run::new("go")
            .args(["test", "./..."])
            .dir(&sources)
            .env("CGO_ENABLED", "0")
            .within(Duration::from_secs(900))
            .heartbeat("go test")
            .streamed()
    })?;
    Ok(())
}

fn on_cluster(steps: &mut Steps, target: &Target) -> Result<()> {
    let facts = target.facts()?;
    let mut content = "given".to_owned();
    if let Target::Sandbox(cluster) = target {
        let built = steps.attempt("images", || {
            images::ensure_applications(cluster)?;
            content = images::build_holdfast_image(cluster)?;
            Ok(())
        })?;
        if !built {
            return Ok(());
        }
    }
    // One volume at a time and a leader of their own: marked `ignored` because a plain `cargo test` has no cluster.
    steps.attempt("volume transfers on the cluster", || {
        with_facts(cargo(&["test"]), target)?
            .args(HOST)
            .args(["--lib", "--", "--ignored", "transfer::live", "--test-threads=1"])
            .within(HOUR)
            .streamed()
    })?;
    let kubectl = target.kubectl()?;
    if !steps.attempt("install by helm", || product::install(&facts, &kubectl, &content))? {
        return Ok(());
    }
    steps.attempt("end-to-end tests", || {
        with_facts(cargo(&["test"]), target)?
            .args(HOST)
            .args(["--test", "e2e", "--", "--test-threads=1"])
            .within(HOUR)
            .streamed()
    })?;
    steps.attempt("console in Chromium", || playwright(target, &facts))?;
    Ok(())
}

fn playwright(target: &Target, facts: &Facts) -> Result<()> {
    let dir = paths::repo().join("e2e/console");
    if !dir.join("node_modules").is_dir() {
        Run::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .dir(&dir)
            .within(HOUR)
            .heartbeat("npm ci")
            .ok()?;
    }
    let kubectl = target.kubectl()?;
    with_facts(Run::new("npx"), target)?
        .args(["playwright", "test"])
        .dir(&dir)
        .env("KUBECONFIG", &facts.kubeconfig)
        .env("HOLDFAST_CONSOLE", product::console_address(&kubectl)?)
        .env("HOLDFAST_TOKEN", product::administrator_token(&kubectl)?)
        .within(HOUR)
        .streamed()
}

fn with_facts(command: Run, target: &Target) -> Result<Run> {
    Ok(command.env(facts::VARIABLE, target.facts_file()?))
}

fn cargo(args: &[&str]) -> Run {
    Run::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(args)
        .dir(&paths::repo())
}
