//! Makes seeds, repeats inputs, and asks the judge.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use holdfast_hostile::{Target, judge, seeds};

#[derive(Parser)]
#[command(about = "Seeds for fuzzing, single inputs, and what qemu-img says")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write the seeds of every target into a folder
    Seeds { folder: PathBuf },
    /// Run inputs, for example one that crashed
    Run {
        target: String,
        #[arg(required = true)]
        inputs: Vec<PathBuf>,
    },
    /// Show a sample of a corpus to qemu-img
    Judge {
        corpus: PathBuf,
        /// Most images of each kind
        #[arg(long, default_value_t = 200)]
        sample: usize,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Seeds { folder } => {
            for seed in seeds()? {
                let folder = folder.join(seed.target);
                std::fs::create_dir_all(&folder)?;
                std::fs::write(folder.join(seed.name), seed.input)?;
            }
        }
        Verb::Run { target, inputs } => {
            let target = Target::find(&target).with_context(|| format!("there is no target {target}"))?;
            for input in inputs {
                let bytes = std::fs::read(&input).with_context(|| input.display().to_string())?;
                target.check(&bytes);
                println!("{}: no objection", input.display());
            }
        }
        Verb::Judge { corpus, sample } => {
            let verdict = judge::judge(&corpus, sample)?;
            for (path, objection) in &verdict.objections {
                println!("{}: {objection}", path.display());
            }
            println!(
                "qemu-img: {} images checked, {} of them compared ({} with damaged frames), {} merged images checked, {} objections",
                verdict.images,
                verdict.compared,
                verdict.damaged,
                verdict.merged,
                verdict.objections.len()
            );
            if !verdict.objections.is_empty() {
                bail!("qemu-img does not agree with us");
            }
        }
    }
    Ok(())
}
