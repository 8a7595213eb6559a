//! `holdfast verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use anyhow::bail;
use holdfast_mover::{Progress, VerifyJob, VerifyReport, VerifyScope, verify};
use holdfast_repository::{chain, keys};
use holdfast_seal::KeyId;
use holdfast_target::Key;
use holdfast_target::layout::{Digest, FileStem, ImageRecord, Location, VolumeHome};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Opened, Shelf};

/// What is told of a point.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PointVerdict {
    location: Location,
    /// Empty for a good point.
    problems: Vec<String>,
}

/// Images of a volume that some point needs.
#[derive(Default)]
struct Images {
    records: BTreeMap<FileStem, ImageRecord>,
}

pub(super) async fn run(
    shelf: &Shelf,
    locations: &[Location],
    full: bool,
    json: bool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let all = shelf.points().await?;
    let wanted = if locations.is_empty() { &all[..] } else { locations };
    let (mut verdicts, mut volumes, mut needs) = (Vec::new(), BTreeMap::new(), Vec::new());
    for location in wanted {
        let (problems, used) = match shelf.point(location).await {
            Ok(opened) => {
                let problems = check_objects(shelf, &opened).await;
                (problems, note(&opened, &mut volumes))
            }
            Err(error) => (vec![format!("{error:#}")], Vec::new()),
        };
        needs.push(used);
        verdicts.push(PointVerdict {
            location: location.clone(),
            problems,
        });
    }
    // Each image is checked once, however many points need it.
    for (home, images) in volumes {
        let found = check_images(shelf, &home, images, full, stop).await?;
        for (verdict, used) in verdicts.iter_mut().zip(&needs) {
            let of_point = |files: &FileStem| used.contains(&(home.clone(), files.clone()));
            let named = found.problems.iter().filter(|problem| of_point(&problem.files));
            verdict
                .problems
                .extend(named.map(|problem| format!("{}: {}", problem.key, problem.what)));
            let unnamed = |files: &&FileStem| {
                of_point(files) && !found.problems.iter().any(|problem| problem.files == **files)
            };
            let rest = found.damaged_images.iter().filter(unnamed);
            verdict
                .problems
                .extend(rest.map(|files| format!("image {files} is damaged")));
        }
    }
    tell(&verdicts, json)
}

fn tell(verdicts: &[PointVerdict], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, verdicts)?;
        writeln!(out)?;
    } else {
        for verdict in verdicts {
            let state = if verdict.problems.is_empty() {
                "good"
            } else {
                "DAMAGED"
            };
            writeln!(out, "{}  {state}", verdict.location)?;
            for problem in &verdict.problems {
                writeln!(out, "  {problem}")?;
            }
        }
    }
    out.flush()?;
    let bad = verdicts
        .iter()
        .filter(|verdict| !verdict.problems.is_empty())
        .count();
    if bad > 0 {
        bail!(
            "{bad} of {} points are damaged or cannot be opened",
            verdicts.len()
        );
    }
    Ok(())
}

/// Collects the images of a point; returns which they are.
fn note(opened: &Opened, volumes: &mut BTreeMap<VolumeHome, Images>) -> Vec<(VolumeHome, FileStem)> {
    let mut used = Vec::new();
    for volume in &opened.manifest.volumes {
        let images = volumes.entry(volume.home.clone()).or_default();
        for record in &volume.chain {
            let Some(files) = record.stem() else { continue };
            used.push((volume.home.clone(), files.clone()));
            images.records.insert(files, record.clone());
        }
    }
    used
}

/// The captured objects have the size and digest that the commit object says.
async fn check_objects(shelf: &Shelf, opened: &Opened) -> Vec<String> {
    let file = &opened.manifest.objects;
    let key = format!("{}{}", opened.manifest.location.prefix(), file.key);
    let key: Key = match key.parse() {
        Ok(key) => key,
        Err(error) => return vec![format!("{error}")],
    };
    match shelf.target.get(&key, file.size).await {
        Ok(object) if Digest::of(&object.body) == file.blake3 && object.meta.size == file.size => Vec::new(),
        Ok(_) => vec![format!(
            "{key} does not have the size and digest that its commit object says"
        )],
        Err(error) => vec![error.to_string()],
    }
}

async fn check_images(
    shelf: &Shelf,
    home: &VolumeHome,
    images: Images,
    full: bool,
    stop: &CancellationToken,
) -> anyhow::Result<VerifyReport> {
    let job = VerifyJob {
        home: home.clone(),
        images: images.records.into_values().collect(),
        scope: match full {
            true => VerifyScope::Full {
                from: None,
                budget: None,
            },
            false => VerifyScope::Quick,
        },
    };
    let keys = match &shelf.identity {
        Some(identity) => {
            let ids: BTreeSet<KeyId> = job.images.iter().flat_map(chain::keys_of).collect();
            Arc::new(keys::ring(&*shelf.target, &home.cluster, &home.plan, &ids, identity).await?)
        }
        None => Arc::default(),
    };
    let progress = Arc::new(Progress::new());
    Ok(verify(shelf.target.clone(), &job, keys, progress, stop.clone()).await?)
}
