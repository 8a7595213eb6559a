//! A target, a plan with its volumes, what has to be on the target, and everything that may happen to them.

use std::sync::Arc;
use std::time::Duration;

use holdfast_mover::VerifyScope;
use holdfast_repository::keys::Holders;
use holdfast_repository::lock::{self, Terms};
use holdfast_repository::{chain, lease, point};
use holdfast_seal::{PlanKey, RecoveryKey};
use holdfast_target::layout::{Attempt, Uid};
use holdfast_target::{ErrorKind, Prefix, Target, list_all};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::disturb::{Ending, Store, Work};
use crate::model::{Point, Points, Reader};
use crate::operator::{Merged, Operator, Run};
use crate::report::Report;
use crate::rng::Rng;
use crate::volume::Volume;

/// More points than these are deleted soon.
const MANY: usize = 9;
/// Longest time between the death of an object's name and its own.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Attempts of a backup that is cut off again and again.
const ATTEMPTS: u32 = 4;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write,
    Zero,
    Trim,
    Grow,
    Incremental,
    Full,
    Restore,
    Delete,
    Sweep,
    SweepAtOnce,
    Merge,
    MergeLazily,
    Rotate,
    VerifyQuick,
    VerifyFull,
    SwitchEncryption,
    BeginReading,
    EndReading,
    DamageChain,
    FlipBit,
    BackupBesideSweep,
    BackupBesideMerge,
    Attack,
}

impl Action {
    /// Whether it has to do with the target.
    pub(crate) fn touches_target(self) -> bool {
        !matches!(
            self,
            Self::Write | Self::Zero | Self::Trim | Self::Grow | Self::SwitchEncryption
        )
    }
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) store: Store,
    pub(crate) operator: Arc<Operator>,
    pub(crate) recovery: RecoveryKey,
    pub(crate) points: Points,
    pub(crate) readers: Vec<Reader>,
    pub(crate) report: Report,
    pub(crate) folder: TempDir,
    named: u32,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        store: Store,
        volumes: Vec<Volume>,
        folder: TempDir,
        report: Report,
        terms: Option<Terms>,
    ) -> Self {
        let recovery = RecoveryKey::generate();
        let holders = Holders {
            plan: PlanKey::generate(),
            recovery: vec![recovery.recipient()],
        };
        Self {
            rng: Rng::new(seed),
            store,
            operator: Arc::new(Operator::new(volumes, holders, false).locking(terms)),
            recovery,
            points: Points::new(),
            readers: Vec::new(),
            report,
            folder,
            named: 0,
        }
    }

    fn name(&mut self, kind: &str) -> Uid {
        self.named += 1;
        format!("{kind}-{}", self.named).parse().unwrap()
    }

    /// An action that makes sense now.
    pub(crate) fn choose(&mut self) -> Action {
        let points = self.points.len() as u64;
        let many = points > MANY as u64;
        let some = |weight| if points > 0 { weight } else { 0 };
        let reading = self.readers.len() as u64;
        self.rng.weighted(&[
            (14, Action::Write),
            (4, Action::Zero),
            (5, Action::Trim),
            (1, Action::Grow),
            (16, Action::Incremental),
            (3, Action::Full),
            (some(4), Action::Restore),
            (
                if many && self.operator.terms.is_none() {
                    40
                } else {
                    some(7)
                },
                Action::Delete,
            ),
            (5, Action::Sweep),
            (6, Action::SweepAtOnce),
            (6, Action::Merge),
            (5, Action::MergeLazily),
            (3, Action::Rotate),
            (2, Action::VerifyQuick),
            (3, Action::VerifyFull),
            (1, Action::SwitchEncryption),
            (if reading < 3 { some(4) } else { 0 }, Action::BeginReading),
            (4 * reading.min(1), Action::EndReading),
            (some(2), Action::DamageChain),
            (some(3), Action::FlipBit),
            (3, Action::BackupBesideSweep),
            (3, Action::BackupBesideMerge),
            (self.store.owner().map_or(0, |_| some(20)), Action::Attack),
        ])
    }

    pub(crate) async fn act(&mut self, action: Action) {
        match action {
            Action::Write | Action::Zero | Action::Trim | Action::Grow => self.change_volume(action),
            Action::Incremental => Box::pin(self.back_up(true)).await,
            Action::Full => Box::pin(self.back_up(false)).await,
            Action::Restore => Box::pin(self.restore_some()).await,
            Action::Delete => self.delete().await,
            Action::Sweep => self.sweep(GRACE).await,
            Action::SweepAtOnce => self.sweep(Duration::ZERO).await,
            Action::Merge => Box::pin(self.merge(false)).await,
            Action::MergeLazily => Box::pin(self.merge(true)).await,
            Action::Rotate => self.rotate().await,
            Action::VerifyQuick => Box::pin(self.verify(VerifyScope::Quick)).await,
            Action::VerifyFull => {
                let budget = self.rng.percent(60).then(|| self.rng.below(1 << 20));
                let scope = VerifyScope::Full { from: None, budget };
                Box::pin(self.verify(scope)).await;
            }
            Action::SwitchEncryption => self.switch_encryption(),
            Action::BeginReading => self.begin_reading().await,
            Action::EndReading => Box::pin(self.end_reading()).await,
            Action::DamageChain => Box::pin(self.damage_chain()).await,
            Action::FlipBit => Box::pin(self.flip_bit()).await,
            Action::BackupBesideSweep => Box::pin(self.back_up_beside(true)).await,
            Action::BackupBesideMerge => Box::pin(self.back_up_beside(false)).await,
            Action::Attack => self.attack().await,
        }
    }

    fn change_volume(&mut self, action: Action) {
        let operator = self.operator.clone();
        let volume = &operator.volumes[self.rng.index(&operator.volumes)];
        let what = match action {
            Action::Zero => volume.zero(&mut self.rng),
            Action::Trim => volume.trim(&mut self.rng),
            Action::Grow => volume.grow(&mut self.rng),
            _ => volume.write(&mut self.rng, 400 << 10),
        };
        self.report.note(what);
        self.report.count("volume changes", 1);
    }

    /// The same operator, but with other keys or another wish for encryption.
    fn become_operator(&mut self, plan: PlanKey, encrypts: bool) {
        let holders = Holders {
            plan,
            recovery: vec![self.recovery.recipient()],
        };
        let (volumes, terms) = (self.operator.volumes.clone(), self.operator.terms.clone());
        self.operator = Arc::new(Operator::new(volumes, holders, encrypts).locking(terms));
    }

    pub(crate) fn switch_encryption(&mut self) {
        let encrypts = !self.operator.encrypts;
        self.become_operator(self.operator.holders.plan.clone(), encrypts);
        self.report.note(format_args!("encrypts: {encrypts}"));
        self.report.count("switches of encryption", 1);
    }

    fn new_run(&mut self, incremental: bool) -> (Run, Point) {
        let len = 1 + self.rng.below(3000);
        let objects: bytes::Bytes = self.rng.bytes(usize::try_from(len).unwrap()).into();
        let run = Run {
            backup: self.name("b"),
            attempt: Attempt(1),
            incremental,
            objects: objects.clone(),
        };
        let newest = self.points.values().max_by_key(|point| point.number);
        let before = |at: usize| newest.and_then(|point| point.volumes.get(at));
        let volumes = self.operator.volumes.iter().enumerate();
        let point = Point {
            number: self.named,
            sealed: self.operator.encrypts,
            objects,
            volumes: volumes.map(|(at, volume)| volume.content(before(at))).collect(),
        };
        (run, point)
    }

    fn committed(&mut self, run: &Run, point: Point) {
        self.report.note(format_args!("{} is a point", run.backup));
        self.report.count("points made", 1);
        self.points.insert(run.backup.clone(), point);
    }

    /// Takes a backup; one that was cut off is tried again, or given up.
    async fn back_up(&mut self, incremental: bool) {
        if incremental {
            self.check_incremental().await;
        }
        let (mut run, point) = self.new_run(incremental);
        for attempt in 1..=ATTEMPTS {
            run.attempt = Attempt(attempt);
            let (operator, this) = (self.operator.clone(), run.clone());
            let backup = async move |target| operator.backup(&target, &this).await;
            let (ending, faults) = self.store.disturbed(&mut self.rng, Work::Checks, backup).await;
            self.report.count("faults", faults);
            self.report
                .end(if incremental { "incremental" } else { "full" }, &ending);
            let location = self.operator.location(&run.backup);
            let there = point::is_committed(&*self.store.target, &location).await.unwrap();
            assert!(
                there || !matches!(ending, Ending::Done(_)),
                "{location} was committed"
            );
            if there {
                return self.committed(&run, point);
            }
            if self.rng.percent(40) {
                return;
            }
        }
    }

    async fn restore_some(&mut self) {
        let names: Vec<Uid> = self.points.keys().cloned().collect();
        let name = names[self.rng.index(&names)].clone();
        let (operator, point) = (self.operator.clone(), self.points[&name].clone());
        let device = self.folder.path().join(format!("restored-{}", self.named));
        let restore = async |target: Arc<dyn Target>| {
            let keys = match point.sealed {
                true => Some(operator.all_keys(&*target, &operator.identity()).await?),
                false => None,
            };
            let opened = operator
                .open(&*target, &operator.location(&name), keys.as_ref())
                .await?;
            let opened = opened.expect("the point is there");
            for (volume, content) in opened.volumes.iter().zip(&point.volumes) {
                let restored = operator.restore(&target, volume, &device).await?;
                assert!(restored == **content, "{} of {name}", volume.home);
            }
            Ok(())
        };
        let (ending, faults) = self.store.disturbed(&mut self.rng, Work::Checks, restore).await;
        self.report.count("faults", faults);
        self.report.end("restore", &ending);
    }

    async fn delete(&mut self) {
        let names: Vec<Uid> = self.points.keys().cloned().collect();
        let name = names[self.rng.index(&names)].clone();
        let location = self.operator.location(&name);
        let erased = location.clone();
        let erase = async move |target: Arc<dyn Target>| Ok(point::erase(&*target, &erased).await?);
        let (ending, faults) = self.store.disturbed(&mut self.rng, Work::Checks, erase).await;
        self.report.count("faults", faults);
        self.report.end("delete", &ending);
        let there = point::is_committed(&*self.store.target, &location).await.unwrap();
        assert!(
            !there || !matches!(ending, Ending::Done(())),
            "{location} was deleted"
        );
        self.report
            .note(format_args!("{name} is {}", if there { "there" } else { "gone" }));
        if !there {
            self.points.remove(&name);
            self.report.count("points deleted", 1);
        }
    }

    /// Sweeps now, or as it would be some time from now.
    async fn sweep(&mut self, grace: Duration) {
        let (operator, mut now) = (self.operator.clone(), Timestamp::now());
        if self.rng.percent(30) {
            let later = Duration::from_secs(self.rng.below(2 * GRACE.as_secs()));
            now += later;
            // The store's clock does not go with it: signs of readers are too old then.
            if later + Duration::from_secs(60) >= lease::LIFE {
                self.readers.clear();
            }
        }
        let sweep = async move |target: Arc<dyn Target>| {
            let look = operator.look(&*target).await?;
            let swept = operator.sweep(&*target, &look, true, grace, now).await?;
            // What a run that was cut off had committed and not locked.
            lock::complete_all(&*target, &operator.cluster, &operator.plan, Timestamp::now()).await?;
            Ok(swept)
        };
        let (ending, faults) = self.store.disturbed(&mut self.rng, Work::Checks, sweep).await;
        self.report.count("faults", faults);
        self.report.end("sweep", &ending);
        if let Ending::Done(gone) = ending {
            self.report.count("objects swept", gone as u64);
        }
    }

    /// The owner of the store overwrites, deletes and shortens what he finds.
    async fn attack(&mut self) {
        let Some(owner) = self.store.owner() else { return };
        let objects = list_all(owner.0, &Prefix::root(), 100_000).await.unwrap();
        let (mut locked, mut refused) = (0, 0);
        for _ in 0..8 {
            let object = &objects[self.rng.index(&objects)];
            let version = object.version.as_ref().unwrap();
            let until = owner.0.locked_until(&object.key, version).await.unwrap();
            owner.overwrite(&object.key, b"nothing").await;
            owner.delete(&object.key).await;
            if until.is_some() {
                locked += 1;
                refused += u64::from(!owner.delete_version(object).await && !owner.shorten(object).await);
            }
        }
        assert_eq!(locked, refused, "what is locked was deleted or can be");
        self.report.count("objects attacked", 8);
        self.report.count("deletions of locked objects refused", refused);
    }

    fn count_merges(&mut self, merged: Merged) {
        self.report.count("merges", merged.merges);
        self.report.count("bytes merged", merged.gain.moved);
        self.report.count("bytes freed", merged.gain.freed);
    }

    async fn merge(&mut self, lazily: bool) {
        let operator = self.operator.clone();
        let merge = async move |target| operator.merge(&target, lazily).await;
        let (ending, faults) = self.store.disturbed(&mut self.rng, Work::PassesOn, merge).await;
        self.report.count("faults", faults);
        self.report.end("merge", &ending);
        if let Ending::Done(merged) = ending {
            self.count_merges(merged);
        }
    }

    /// Exchanges the plan's key, the recovery key or both. What was cut off is repeated until it is done.
    async fn rotate(&mut self) {
        let old = self.operator.holders.plan.clone();
        let (plan, recovery) = (self.rng.percent(80), self.rng.percent(40));
        if recovery {
            self.recovery = RecoveryKey::generate();
        }
        let new = if plan { PlanKey::generate() } else { old.clone() };
        self.become_operator(new, self.operator.encrypts);
        let troubled = self.store.troubled;
        for last in [false, false, true] {
            self.store.troubled = troubled && !last;
            let (operator, old) = (self.operator.clone(), old.clone());
            let rotate = async move |target: Arc<dyn Target>| operator.rotate(&*target, &old).await;
            let (ending, faults) = self.store.disturbed(&mut self.rng, Work::Checks, rotate).await;
            self.report.count("faults", faults);
            self.report.end("rotate", &ending);
            self.store.troubled = troubled;
            if let Ending::Done(_) = ending {
                return;
            }
        }
    }

    async fn verify(&mut self, scope: VerifyScope) {
        let used = self.used().await;
        let operator = self.operator.clone();
        let verify = async move |target| {
            let mut read = 0;
            for (home, images, ring) in used {
                let report = operator
                    .verify(&target, &home, images, ring, scope.clone())
                    .await?;
                read += report.bytes_read;
            }
            Ok(read)
        };
        let (ending, faults) = self.store.disturbed(&mut self.rng, Work::Checks, verify).await;
        self.report.count("faults", faults);
        self.report.end("verify", &ending);
        if let Ending::Done(read) = ending {
            self.report.count("bytes verified", read);
        }
    }

    /// Resolves a point and leaves signs that it is read.
    async fn begin_reading(&mut self) {
        let names: Vec<Uid> = self.points.keys().cloned().collect();
        let point = names[self.rng.index(&names)].clone();
        let name = self.name("r");
        let opened = self.open(&point).await;
        for volume in &opened.volumes {
            let generation = volume.resolved.generation;
            lease::hold(&*self.store.target, &volume.home, &name, generation, 0)
                .await
                .unwrap();
        }
        self.report.note(format_args!("{name} reads {point}"));
        self.readers.push(Reader {
            name,
            point: self.points[&point].clone(),
            volumes: opened.volumes,
        });
    }

    /// Restores what was resolved before.
    async fn end_reading(&mut self) {
        let at = self.rng.index(&self.readers);
        let reader = self.readers.swap_remove(at);
        self.report.note(&reader.name);
        for (volume, content) in reader.volumes.iter().zip(&reader.point.volumes) {
            self.compare(volume, content).await;
            lease::release(&*self.store.target, &volume.home, &reader.name)
                .await
                .unwrap();
        }
        self.report.count("leased restores", 1);
    }

    /// A backup that begins and ends between the look of a sweep and its end, or while images are merged.
    async fn back_up_beside(&mut self, sweep: bool) {
        let (run, point) = self.new_run(true);
        let (operator, target) = (self.operator.clone(), self.store.target.clone());
        let backup = Box::pin(operator.backup(&target, &run));
        let backed_up = if sweep {
            let look = operator.look(&*target).await.unwrap();
            let now = Timestamp::now();
            let sweep = Box::pin(operator.sweep(&*target, &look, true, Duration::ZERO, now));
            let (swept, backed_up) = tokio::join!(sweep, backup);
            swept.unwrap();
            backed_up
        } else {
            let (merged, backed_up) = tokio::join!(Box::pin(operator.merge(&target, false)), backup);
            match merged {
                Ok(merged) => self.count_merges(merged),
                Err(failure) => {
                    let target = failure.target().map(|error| error.kind());
                    assert_eq!(target, Some(ErrorKind::Exists), "{failure}");
                }
            }
            backed_up
        };
        let ending = match backed_up {
            Ok(done) => Ending::Done(done),
            // The sweep took away what the backup had chosen to lie upon. Then it is no point, and the next one is full.
            Err(failure) if sweep && failure.has_lost_its_base() => Ending::Refused(failure),
            Err(failure) => panic!("beside another: {failure}"),
        };
        self.report.end("backup beside", &ending);
        if let Ending::Done(_) = ending {
            self.committed(&run, point);
        }
    }

    /// Truncates the newest chain file of a volume for good, where points can be read without it.
    async fn damage_chain(&mut self) {
        let operator = self.operator.clone();
        let home = operator.home(&operator.volumes[self.rng.index(&operator.volumes)]);
        let chain = chain::newest(&*self.store.target, &home).await.unwrap();
        let (Some(file), None) = (&chain.file, &chain.damage) else {
            return;
        };
        let key = home.chain_key(file.generation);
        let Some(before) = self.store.damage(&key, |bytes| bytes.truncate(bytes.len() / 2)) else {
            return;
        };
        // The lives of readers hang on the generation that they hold.
        self.readers.clear();
        match self.unsound().await {
            None => {
                self.report.note(format_args!("{key} is damaged"));
                self.report.count("chain files damaged", 1);
            }
            Some(why) => {
                self.store.damage(&key, |bytes| *bytes = before);
                self.report.note(format_args!("{key} is needed: {why}"));
                self.report.count("chain files that nothing stands for", 1);
            }
        }
    }
}
