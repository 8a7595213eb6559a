//! The demonstration: protect three applications, destroy them, bring them back, compare.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use holdfast_seal::PlanKey;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::apps::App;
use crate::facts::Facts;
use crate::kubectl::Kubectl;
use crate::product;
use crate::ui::{self, Steps};
use crate::up::{self, Target};
use crate::{images, report};

const DEADLINE: Duration = Duration::from_secs(300);
const TARGET: &str = "sandbox";
/// Secret with a plan's key, in the namespace of each application.
const KEY: &str = "backup-key";
/// Secret with the recovery key, made when the namespaces and their keys are gone.
const RECOVERY: &str = "recovery-key";

/// Runs everything; the table and the JSON are written also when a step fails.
pub(crate) fn demo(json: Option<&Path>) -> Result<()> {
    let mut steps = Steps::default();
    let result = run(&mut steps);
    steps.table();
    let equal = result.as_ref().is_ok_and(|sums| sums.equal());
    if let Some(path) = json {
        report::write(path, &json!({"steps": steps.done(), "checksums_equal": equal}))?;
    }
    let outcome = result?;
    outcome.print();
    if !equal {
        bail!("data differ after the restore: see the checksums above");
    }
    Ok(())
}

/// What the demonstration found.
struct Outcome {
    before: BTreeMap<&'static str, String>,
    after: BTreeMap<&'static str, String>,
    console: String,
    token: String,
}

impl Outcome {
    fn equal(&self) -> bool {
        self.before.len() == App::ALL.len() && self.before == self.after
    }

    fn print(&self) {
        println!("\nChecksums (SHA-256 of the applications' data)");
        for (name, before) in &self.before {
            let after = self.after.get(name).map_or("missing", String::as_str);
            let verdict = if before == after { "equal" } else { "DIFFERENT" };
            println!(
                "  {name:<12} before  {before}\n  {:<12} after   {after}  {verdict}",
                ""
            );
        }
        println!(
            "\nConsole  {}\nSign in with this token (12 h):\n{}",
            self.console, self.token
        );
    }
}

/// The cluster, and a suffix that makes this run's names new.
struct Stage {
    kubectl: Kubectl,
    facts: Facts,
    run: u64,
}

fn run(steps: &mut Steps) -> Result<Outcome> {
    let target = up::up(steps)?;
    let facts = target.facts()?;
    let kubectl = target.kubectl()?;
    let content = build_images(steps, &target)?;
    steps.run("install by helm", || product::install(&facts, &kubectl, &content))?;
    let run = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let stage = Stage { kubectl, facts, run };
    steps.run("clear an earlier demonstration", || stage.clear())?;
    steps.run("start the applications with their data", || stage.start())?;
    steps.run("create target and plans", || stage.plan())?;
    for app in App::ALL {
        steps.run(&format!("full backup of {}", described(app)), || {
            stage.back_up(app, "Full").map(drop)
        })?;
    }
    steps.run("change the data", || {
        App::ALL
            .iter()
            .try_for_each(|app| app.change(&stage.kubectl, &namespace(*app)))
    })?;
    let before = steps.run("checksums before", || stage.checksums())?;
    let mut locations = BTreeMap::new();
    for app in App::ALL {
        let name = format!("incremental backup of {}", described(app));
        locations.insert(
            app.name(),
            steps.run(&name, || stage.back_up(app, "Incremental"))?,
        );
    }
    steps.run("delete the namespaces", || stage.clear())?;
    for app in App::ALL {
        steps.run(
            &format!("restore of {} until its pods are ready", described(app)),
            || stage.restore(app, &locations[app.name()]),
        )?;
    }
    let after = steps.run("checksums after", || stage.checksums())?;
    let (console, token) = steps.run("sign-in for the console", || {
        Ok((
            product::console_address(&stage.kubectl)?,
            product::administrator_token(&stage.kubectl)?,
        ))
    })?;
    Ok(Outcome {
        before,
        after,
        console,
        token,
    })
}

/// Builds what the sandbox needs; a cluster of somebody else must be able to pull its images by itself.
fn build_images(steps: &mut Steps, target: &Target) -> Result<String> {
    let Target::Sandbox(cluster) = target else {
        return Ok("given".to_owned());
    };
    steps.run("images of the applications", || {
        images::ensure_applications(cluster)
    })?;
    steps.run("image of holdfast", || images::build_holdfast_image(cluster))
}

fn namespace(app: App) -> String {
    format!("demo-{}", app.name())
}

fn described(app: App) -> &'static str {
    match app {
        App::Postgres => "postgres (file system volume, 1 GiB)",
        App::Blockwriter => "blockwriter (raw volume, 1 GiB)",
        App::Webapp => "webapp (no volume)",
    }
}

impl Stage {
    /// Deletes the applications with everything in their namespaces, our resources included.
    fn clear(&self) -> Result<()> {
        let namespaces = App::ALL.map(namespace);
        self.kubectl
            .command()
            .args(["delete", "namespace", "--ignore-not-found", "--timeout=180s"])
            .args(&namespaces)
            .within(Duration::from_secs(200))
            .heartbeat("deleting the namespaces")
            .ok()
    }

    fn start(&self) -> Result<()> {
        for app in App::ALL {
            app.apply(&self.kubectl, &namespace(app), &self.facts.images)?;
        }
        App::ALL
            .iter()
            .try_for_each(|app| app.ready(&self.kubectl, &namespace(*app), DEADLINE))
    }

    fn plan(&self) -> Result<()> {
        let s3 = &self.facts.s3;
        let install = product::NAMESPACE;
        let objects = [
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": TARGET, "namespace": install},
                "stringData": {"accessKey": s3.access_key_id, "secretKey": s3.secret_access_key},
            }),
            json!({
                "apiVersion": "holdfast.dev/v1", "kind": "Target",
                "metadata": {"name": TARGET, "namespace": install},
                "spec": {
                    "type": "ObjectStore", "vendor": "Other", "allowedNamespaces": ["*"],
                    "objectStoreCredentials": {
                        "url": s3.endpoint, "region": s3.region, "bucketName": s3.bucket,
                        "credentialSecret": {"name": TARGET},
                    },
                },
            }),
        ];
        objects
            .iter()
            .try_for_each(|object| self.kubectl.apply(&object.to_string()))?;
        for app in App::ALL {
            let key = json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": KEY, "namespace": namespace(app)},
                "stringData": {"planKey": PlanKey::generate().to_text().expose_secret()},
            });
            let plan = json!({
                "apiVersion": "holdfast.dev/v1", "kind": "BackupPlan",
                "metadata": {"name": app.name(), "namespace": namespace(app)},
                "spec": {
                    "backupConfig": {"target": {"name": TARGET, "namespace": install}},
                    "encryption": {"encryptionSecret": {"name": KEY}},
                },
            });
            self.kubectl.apply(&key.to_string())?;
            self.kubectl.apply(&plan.to_string())?;
        }
        self.kubectl
            .accepted(install, &format!("target.holdfast.dev/{TARGET}"), DEADLINE)
    }

    /// Runs a backup to its end; returns where the point is.
    fn back_up(&self, app: App, kind: &str) -> Result<String> {
        let (space, name) = (namespace(app), format!("{}-{}", kind.to_lowercase(), self.run));
        let backup = json!({
            "apiVersion": "holdfast.dev/v1", "kind": "Backup",
            "metadata": {"name": name, "namespace": space},
            "spec": {"type": kind, "backupPlan": {"name": app.name()}},
        });
        self.kubectl.apply(&backup.to_string())?;
        let done = self
            .kubectl
            .complete(&space, &format!("backup.holdfast.dev/{name}"), DEADLINE)?;
        let became = done["status"]["type"].as_str().unwrap_or("-");
        ui::note(format!("type {became}, {} bytes stored", done["status"]["size"]));
        done["status"]["location"]
            .as_str()
            .map(str::to_owned)
            .context("a Complete backup has no location")
    }

    /// Restores a point into a new namespace of the old name and waits for the pods.
    fn restore(&self, app: App, location: &str) -> Result<()> {
        let (space, name) = (product::NAMESPACE, format!("{}-{}", namespace(app), self.run));
        let key = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": RECOVERY, "namespace": space},
            "stringData": {"recoveryKey": self.facts.recovery_key},
        });
        self.kubectl.apply(&key.to_string())?;
        let restore = json!({
            "apiVersion": "holdfast.dev/v1", "kind": "Restore",
            "metadata": {"name": name, "namespace": space},
            "spec": {
                "restoreNamespace": namespace(app),
                "encryption": {"encryptionSecret": {"name": RECOVERY}},
                "source": {"type": "Location", "location": location, "target": {"name": TARGET, "namespace": space}},
            },
        });
        self.kubectl.apply(&restore.to_string())?;
        self.kubectl
            .complete(space, &format!("restore.holdfast.dev/{name}"), DEADLINE)?;
        app.ready(&self.kubectl, &namespace(app), DEADLINE)
    }

    fn checksums(&self) -> Result<BTreeMap<&'static str, String>> {
        App::ALL
            .iter()
            .map(|app| Ok((app.name(), app.checksum(&self.kubectl, &namespace(*app))?)))
            .collect()
    }
}
