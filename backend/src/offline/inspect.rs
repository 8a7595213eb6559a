//! `holdfast inspect`.

use std::io::Write;

use holdfast_repository::inspect::{PlanReport, PointState, inspect};
use holdfast_repository::point;
use holdfast_target::Target;

use super::size;

pub(super) async fn run(target: &dyn Target, json: bool) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for cluster in point::clusters(target).await? {
        for plan in point::plans(target, &cluster).await? {
            reports.push(inspect(target, &cluster, &plan).await?);
        }
    }
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &reports)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "{}", target.describe())?;
    if reports.is_empty() {
        writeln!(out, "no points")?;
    }
    for report in &reports {
        print(&mut out, report)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, report: &PlanReport) -> std::io::Result<()> {
    writeln!(out, "\nplan {} of cluster {}", report.plan, report.cluster)?;
    for point in &report.points {
        let state = match point.state {
            PointState::Clear => "in clear",
            PointState::Encrypted => "encrypted",
            PointState::Damaged => "DAMAGED",
            PointState::Uncommitted => "not committed",
        };
        let name = point.backup.as_deref().unwrap_or("-");
        let completed = point.completed.as_deref().unwrap_or("-");
        let locked = point
            .locked_until
            .map_or_else(String::new, |until| format!(", locked until {until}"));
        writeln!(
            out,
            "  point {}  {name}  {completed}  {state}{locked}, deleting it frees {}",
            point.location,
            size(point.frees)
        )?;
        if let Some(problem) = &point.problem {
            writeln!(out, "    {problem}")?;
        }
    }
    for volume in &report.volumes {
        let generation = volume
            .generation
            .map_or_else(|| "none".to_owned(), |g| g.to_string());
        writeln!(
            out,
            "  volume {}  generation {generation}, hidden {}, waiting for removal {}, garbage {}",
            volume.home,
            size(volume.hidden),
            size(volume.unlinked),
            size(volume.garbage)
        )?;
        if let Some(problem) = &volume.problem {
            writeln!(out, "    {problem}")?;
        }
        for image in &volume.images {
            let over = match &image.parent {
                Some(parent) => format!("on {parent}"),
                None => "full".to_owned(),
            };
            let hidden = if image.is_point { "" } else { ", hidden" };
            writeln!(
                out,
                "    image {}  {over}, {}{hidden}",
                image.id,
                size(image.stored)
            )?;
        }
    }
    Ok(())
}
