//! Tasks of the checkout: the sandbox cluster, the tests on it, the demonstration.
//!
//! What enters here: machines, packages, processes, images. It must not know the product's code; it talks to the
//! product as its users do, with `kubectl`, `helm` and HTTP.

mod apps;
mod bench;
mod cgroup;
mod cluster;
mod control_plane;
mod csi;
mod demo;
mod down;
mod facts;
mod firewall;
mod fuzz;
mod image;
mod images;
mod interrupt;
mod kubectl;
mod mounts;
mod net;
mod node;
mod packages;
mod paths;
mod pki;
mod process;
mod product;
mod report;
mod run;
mod s3;
mod status;
mod test;
mod tools;
mod ui;
mod up;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::apps::App;
use crate::tools::Tool;
use crate::ui::Steps;
use crate::up::Target;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The sandbox cluster, the tests on it, the demonstration",
    version
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring the sandbox cluster up; with KUBECONFIG set, use that cluster instead
    Up,
    /// Stop the sandbox and leave nothing of it on the machine but its data
    Down {
        /// Delete the cluster's data as well
        #[arg(long)]
        delete: bool,
    },
    /// Show what of the sandbox runs
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Show where the logs are, or one of them
    Logs {
        name: Option<String>,
        /// Go on showing what is added
        #[arg(short, long)]
        follow: bool,
    },
    /// Run kubectl on the sandbox
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run helm on the sandbox
    #[command(disable_help_flag = true)]
    Helm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build all images, the product's included, and import them into the sandbox
    Images,
    /// Start the sample applications, each in a namespace of its name
    Apps,
    /// Protect three applications, destroy them, bring them back, compare
    Demo {
        /// Write steps, seconds and the verdict to this file as well
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Measure
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
    /// Fuzz the parsers of everything that is read from a target
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        /// Targets; all of them where none is named
        targets: Vec<String>,
    },
    /// Run every test there is
    Test {
        /// Write steps, seconds and verdicts to this file as well
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match interrupt::install().and_then(|()| run(arguments.task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {}", ui::explain(&error));
            if interrupt::is_interrupt(&error) {
                ExitCode::from(130)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(task: Task) -> Result<()> {
    let mut steps = Steps::default();
    match task {
        Task::Up => {
            let target = up::up(&mut steps)?;
            steps.table();
            up::print_usage(&target);
            Ok(())
        }
        Task::Down { delete } => down::down(&mut steps, delete),
        Task::Status { json } => status::status(json),
        Task::Logs { name, follow } => status::logs(name.as_deref(), follow),
        Task::Kubectl { args } => on_cluster(Tool::Kubernetes, "kubectl", &args),
        Task::Helm { args } => on_cluster(Tool::Helm, "helm", &args),
        Task::Images => {
            let target = up::up(&mut steps)?;
            all_images(&mut steps, &target)
        }
        Task::Demo { json } => demo::demo(json.as_deref()),
        Task::Bench { what } => bench::bench(&what),
        Task::Fuzz { seconds, targets } => fuzz::fuzz(seconds, &targets),
        Task::Test { json } => test::test(json.as_deref()),
        Task::Apps => {
            let target = up::up(&mut steps)?;
            sample_applications(&mut steps, &target)?;
            steps.table();
            Ok(())
        }
    }
}

fn all_images(steps: &mut Steps, target: &Target) -> Result<()> {
    let cluster = target.sandbox()?;
    steps.run("images of the sample applications", || {
        images::ensure_applications(cluster)
    })?;
    steps
        .run("image of holdfast", || images::build_holdfast_image(cluster))
        .map(drop)
}

fn sample_applications(steps: &mut Steps, target: &Target) -> Result<()> {
    steps.run("images of the sample applications", || {
        images::ensure_applications(target.sandbox()?)
    })?;
    let (kubectl, facts) = (target.kubectl()?, target.facts()?);
    steps.run("start the sample applications", || {
        App::ALL
            .iter()
            .try_for_each(|app| app.apply(&kubectl, app.name(), &facts.images))?;
        App::ALL
            .iter()
            .try_for_each(|app| app.ready(&kubectl, app.name(), Duration::from_secs(300)))
    })?;
    for app in App::ALL {
        let sum = steps.run(&format!("checksum of {}", app.name()), || {
            app.checksum(&kubectl, app.name())
        })?;
        ui::note(sum);
    }
    Ok(())
}

fn on_cluster(tool: Tool, program: &str, args: &[OsString]) -> Result<()> {
    let program = tool.program(program)?;
    let kubeconfig = match up::given_kubeconfig()? {
        Some(path) => path,
        None => cluster::Cluster::load(cluster::DEFAULT_NAME)?
            .ok_or_else(|| anyhow::anyhow!("there is no sandbox; `cargo xtask up` makes one"))?
            .kubeconfig(),
    };
    process::become_program(&program, args, &[("KUBECONFIG", kubeconfig.into())])
}
