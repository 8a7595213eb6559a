//! What holds after every action.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_mover::VerifyScope;
use holdfast_repository::keys::{self, Identity};
use holdfast_repository::{chain, lease, lock, point};
use holdfast_seal::KeyRing;
use holdfast_target::layout::{FileStem, ImageRecord, Uid, VolumeHome};
use holdfast_target::{Prefix, list_all};
use jiff::Timestamp;

use crate::operator::{Failure, Opened, OpenedVolume};
use crate::world::World;

/// Images that points use, of one volume and in clear or sealed.
pub(crate) type Used = Vec<(VolumeHome, Vec<ImageRecord>, Arc<KeyRing>)>;

impl World {
    async fn try_open(&self, keys: &Arc<KeyRing>, name: &Uid) -> Result<Opened, Failure> {
        let keys = self.points[name].sealed.then_some(keys);
        let location = self.operator.location(name);
        let opened = self.operator.open(&*self.store.target, &location, keys).await?;
        Ok(opened.expect("the point is there"))
    }

    async fn keys(&self) -> Result<Arc<KeyRing>, Failure> {
        self.operator
            .all_keys(&*self.store.target, &self.operator.identity())
            .await
    }

    /// A point that must open.
    pub(crate) async fn open(&self, name: &Uid) -> Opened {
        let keys = self.keys().await.unwrap();
        let opened = self.try_open(&keys, name).await;
        opened.unwrap_or_else(|failure| panic!("{name}: {failure}"))
    }

    /// The points that are listed are those there are.
    pub(crate) async fn check_list(&self) {
        let (target, operator) = (&*self.store.target, &self.operator);
        let mut listed = BTreeSet::new();
        for location in point::points(target, &operator.cluster, &operator.plan)
            .await
            .unwrap()
        {
            if point::is_committed(target, &location).await.unwrap() {
                listed.insert(location.backup);
            }
        }
        let expected: BTreeSet<Uid> = self.points.keys().cloned().collect();
        assert_eq!(listed, expected, "points");
    }

    /// Every image that points use.
    async fn try_used(&self) -> Result<Used, Failure> {
        let keys = self.keys().await?;
        let mut used: BTreeMap<(VolumeHome, bool), BTreeMap<Option<FileStem>, ImageRecord>> = BTreeMap::new();
        for (name, point) in &self.points {
            let opened = self.try_open(&keys, name).await?;
            assert_eq!(opened.objects, point.objects, "objects of {name}");
            for volume in opened.volumes {
                let images = used.entry((volume.home, point.sealed)).or_default();
                images.extend(
                    volume
                        .resolved
                        .chain
                        .into_iter()
                        .map(|image| (image.stem(), image)),
                );
            }
        }
        let used = used.into_iter().map(|((home, sealed), images)| {
            let ring = if sealed { keys.clone() } else { Arc::default() };
            (home, images.into_values().collect(), ring)
        });
        Ok(used.collect())
    }

    pub(crate) async fn used(&self) -> Used {
        self.try_used()
            .await
            .unwrap_or_else(|failure| panic!("points do not open: {failure}"))
    }

    /// What is wrong with the images that points use, if anything.
    pub(crate) async fn unsound(&self) -> Option<String> {
        let used = match self.try_used().await {
            Ok(used) => used,
            Err(failure) => return Some(failure.to_string()),
        };
        for (home, images, ring) in used {
            let target = &self.store.target;
            let scope = VerifyScope::Quick;
            match self.operator.verify(target, &home, images, ring, scope).await {
                Ok(report) if report.is_sound() => {}
                Ok(report) => return Some(format!("{home}: {:?}", report.problems)),
                Err(failure) => return Some(format!("{home}: {failure}")),
            }
        }
        None
    }

    /// Restores a volume and compares it byte for byte.
    pub(crate) async fn compare(&mut self, volume: &OpenedVolume, content: &[u8]) {
        let device = self.folder.path().join("restored");
        let restored = self.operator.restore(&self.store.target, volume, &device).await;
        let restored = restored.unwrap_or_else(|failure| panic!("{}: {failure}", volume.home));
        assert!(
            restored == content,
            "{} was restored with other bytes",
            volume.home
        );
        self.report.count("volumes restored and compared", 1);
    }

    async fn compare_point(&mut self, name: &Uid) {
        let opened = self.open(name).await;
        let point = self.points[name].clone();
        assert_eq!(opened.volumes.len(), point.volumes.len());
        for (volume, content) in opened.volumes.iter().zip(&point.volumes) {
            self.compare(volume, content).await;
        }
    }

    /// Everything, where `all`; otherwise the newest point and two others.
    pub(crate) async fn check(&mut self, all: bool) {
        self.check_list().await;
        if let Some(why) = self.unsound().await {
            panic!("points are damaged: {why}");
        }
        let mut names: Vec<Uid> = self.points.keys().cloned().collect();
        names.sort_by_key(|name| self.points[name].number);
        if !all && names.len() > 3 {
            let newest = names.pop();
            let others = [
                names.swap_remove(self.rng.index(&names)),
                names.swap_remove(self.rng.index(&names)),
            ];
            names = newest.into_iter().chain(others).collect();
        }
        for name in names {
            Box::pin(self.compare_point(&name)).await;
        }
        if all {
            self.check_recovery().await;
        }
    }

    /// The recovery key opens every data key.
    async fn check_recovery(&self) {
        let (target, operator) = (&*self.store.target, &self.operator);
        let all = keys::all(target, &operator.cluster, &operator.plan)
            .await
            .unwrap();
        let recovery = Identity::Recovery(self.recovery.clone());
        let ring = operator.ring(target, &all, &recovery).await.unwrap();
        assert!(all.iter().all(|id| ring.get(id).is_some()));
    }

    /// What fits a volume's newest image is continued.
    pub(crate) async fn check_incremental(&self) {
        let (target, operator) = (&*self.store.target, &self.operator);
        let keys = self.keys().await.unwrap();
        for volume in &operator.volumes {
            let home = operator.home(volume);
            let chain = chain::newest(target, &home).await.unwrap();
            let Some(newest) = chain.images().last().filter(|_| chain.damage.is_none()) else {
                continue;
            };
            let file = chain.file.as_ref().expect("its images are there");
            let ring = newest.is_sealed().then_some(&*keys);
            let below: Vec<_> = file.chain_of(&newest.id).unwrap().into_iter().cloned().collect();
            let missing = chain::missing_files(target, &home, &below).await.unwrap();
            let fits = newest.open(&home, ring).unwrap().virtual_size >= volume.size()
                && newest.is_sealed() == operator.encrypts
                && missing.values().all(Vec::is_empty)
                && below.len() < holdfast_core::chain::MAX_CHAIN
                && operator.terms.is_none();
            if fits {
                let base = operator.base_for(target, volume).await.unwrap();
                assert!(base.is_ok(), "{home}: {:?}", base.unwrap_err());
            }
        }
    }

    /// What is locked cannot be removed, and what is not locked is gone.
    async fn end_locked(&mut self) {
        let (target, operator) = (self.store.target.clone(), self.operator.clone());
        let now = Timestamp::now();
        let look = operator.look(&*target).await.unwrap();
        let swept = operator
            .sweep(&*target, &look, true, Duration::ZERO, now + 2 * lease::LIFE)
            .await;
        swept.unwrap();
        let done = lock::complete_all(&*target, &operator.cluster, &operator.plan, now).await;
        assert!(done.unwrap().doubtful.is_empty());
        for name in self.points.keys() {
            let location = operator.location(name);
            let held = lock::held_until(&*target, &location, now).await.unwrap();
            assert!(held.is_some(), "{location} is not locked");
            let error = point::erase(&*target, &location).await.unwrap_err();
            assert!(error.to_string().contains("locked until"), "{error}");
        }
        self.check(true).await;
        for object in list_all(&*target, &Prefix::root(), 100_000).await.unwrap() {
            let version = object.version.as_ref().unwrap();
            let until = target.locked_until(&object.key, version).await.unwrap();
            let image = object.key.as_str().contains("qcow2") || object.key.as_str().ends_with(".index");
            assert!(until.is_some() || !image, "{} is left behind", object.key);
        }
    }

    /// Flips a bit of any object: what is restored then is right, or nothing is. The bit is put back.
    pub(crate) async fn flip_bit(&mut self) {
        let objects = list_all(&*self.store.target, &Prefix::root(), 100_000)
            .await
            .unwrap();
        let object = &objects[self.rng.index(&objects)];
        let (place, pattern) = (self.rng.next(), 1u8 << self.rng.below(8));
        let flip = |bytes: &mut Vec<u8>| {
            let at = usize::try_from(place).unwrap_or(usize::MAX) % bytes.len();
            bytes[at] ^= pattern;
        };
        let Some(before) = self.store.damage(&object.key, flip) else {
            return;
        };
        self.report.note(format_args!("a bit of {}", object.key));
        let names: Vec<Uid> = self.points.keys().cloned().collect();
        let name = names[self.rng.index(&names)].clone();
        let outcome = self.try_restore(&name).await;
        match outcome {
            Ok(()) => self.report.count("restores beside a flipped bit", 1),
            Err(failure) => {
                self.report.note(failure);
                self.report.count("flipped bits noticed", 1);
            }
        }
        self.store.damage(&object.key, |bytes| *bytes = before);
    }

    async fn try_restore(&self, name: &Uid) -> Result<(), Failure> {
        let keys = self.keys().await?;
        let opened = self.try_open(&keys, name).await?;
        let device = self.folder.path().join("restored-with-damage");
        for (volume, content) in opened.volumes.iter().zip(&self.points[name].volumes) {
            let restored = self.operator.restore(&self.store.target, volume, &device).await?;
            assert!(restored == **content, "{}: damage was restored", volume.home);
        }
        Ok(())
    }

    /// Deletes all points: nothing stays.
    pub(crate) async fn end(&mut self) {
        self.check(true).await;
        if self.operator.terms.is_some() {
            return self.end_locked().await;
        }
        let (target, operator) = (self.store.target.clone(), self.operator.clone());
        for name in std::mem::take(&mut self.points).into_keys() {
            point::erase(&*target, &operator.location(&name)).await.unwrap();
        }
        // Signs of readers that died are too old now.
        let now = Timestamp::now() + 2 * lease::LIFE;
        for _ in 0..2 {
            let look = operator.look(&*target).await.unwrap();
            let swept = operator.sweep(&*target, &look, false, Duration::ZERO, now).await;
            swept.unwrap();
        }
        let rest = list_all(&*target, &Prefix::root(), 100_000).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
        let open = target.list_uploads(&Prefix::root()).await.unwrap();
        assert!(open.is_empty(), "{open:?}");
    }
}
