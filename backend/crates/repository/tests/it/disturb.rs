//! What goes wrong with a store and with those who use it.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_target::testing::{Fault, Faulty, LossyProxy, MemoryTarget, Operation, Owner};
use holdfast_target::{ErrorKind, Key, S3Target, Target};

use crate::operator::Failure;
use crate::rng::Rng;

/// Where bytes can be reached behind everybody's back.
pub(crate) enum Backdoor {
    Memory(Arc<MemoryTarget>),
    Folder(PathBuf),
    /// Whoever owns the store.
    Owner(S3Target),
    None,
}

/// A store, and what can be done to it.
pub(crate) struct Store {
    pub(crate) target: Arc<dyn Target>,
    pub(crate) backdoor: Backdoor,
    /// The network to it, where there is one.
    pub(crate) proxy: Option<LossyProxy>,
    /// Whether those who use it are cut off and its calls fail.
    pub(crate) troubled: bool,
}

/// How something ended.
#[derive(Debug)]
pub(crate) enum Ending<T> {
    Done(T),
    Refused(Failure),
    /// Its process was killed.
    Cut,
}

/// What somebody does with a store, as far as faults go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// What is read is checked before anything is done with it.
    Checks,
    /// Content is passed on as it is read.
    PassesOn,
}

#[derive(Debug)]
enum Trouble {
    None,
    Death(u64, bool),
    Faults(Vec<(Operation, u32, u32, Fault)>),
}

const OPERATIONS: [Operation; 13] = [
    Operation::Put,
    Operation::PutNew,
    Operation::Get,
    Operation::GetRange,
    Operation::Head,
    Operation::List,
    Operation::Delete,
    Operation::BeginUpload,
    Operation::UploadPart,
    Operation::CopyPart,
    Operation::CompleteUpload,
    Operation::AbortUpload,
    Operation::ListUploads,
];

fn fault(rng: &mut Rng, work: Work) -> (Operation, u32, u32, Fault) {
    let mut operation = OPERATIONS[rng.index(&OPERATIONS)];
    let skip = u32::try_from(rng.below(6)).unwrap();
    let flip = Fault::Flip(1 << rng.below(8));
    let fault = rng.weighted(&[
        (5, Fault::Fail(ErrorKind::Unreachable)),
        (2, Fault::Fail(ErrorKind::Throttled)),
        (1, Fault::Fail(ErrorKind::Full)),
        (6, Fault::LoseAnswer),
        (2, Fault::Truncate),
        (1, flip),
    ]);
    let writes = [
        Operation::Put,
        Operation::PutNew,
        Operation::UploadPart,
        Operation::CompleteUpload,
    ];
    match fault {
        Fault::Fail(ErrorKind::Full) => operation = writes[rng.index(&writes)],
        Fault::LoseAnswer if rng.percent(60) => operation = Operation::PutNew,
        Fault::Truncate => operation = Operation::GetRange,
        Fault::Flip(_) if work == Work::PassesOn => return (operation, skip, 1, Fault::LoseAnswer),
        Fault::Flip(_) => operation = Operation::GetRange,
        _ => {}
    }
    // Once, a few times, or for as long as anybody tries.
    let times = rng.weighted(&[(6, 1), (2, 3), (2, u32::MAX)]);
    (operation, skip, times, fault)
}

impl Store {
    /// Whoever owns a store that locks.
    pub(crate) fn owner(&self) -> Option<Owner<'_>> {
        match &self.backdoor {
            Backdoor::Owner(target) => Some(Owner(target)),
            _ => None,
        }
    }

    fn trouble(&self, rng: &mut Rng, work: Work) -> Trouble {
        if !self.troubled {
            return Trouble::None;
        }
        match rng.below(100) {
            0..35 => {
                let calls = rng.weighted(&[(3, 12), (3, 60), (1, 250)]);
                Trouble::Death(rng.below(calls), rng.percent(50))
            }
            35..60 => Trouble::Faults((0..=rng.below(3)).map(|_| fault(rng, work)).collect()),
            _ => Trouble::None,
        }
    }

    /// Does something, which may be cut off and whose calls may fail. Returns how that ended and how many calls failed.
    pub(crate) async fn disturbed<T>(
        &self,
        rng: &mut Rng,
        work: Work,
        act: impl AsyncFnOnce(Arc<dyn Target>) -> Result<T, Failure>,
    ) -> (Ending<T>, u64) {
        if let Some(proxy) = &self.proxy {
            let answers = 1 + u32::try_from(rng.below(2)).unwrap();
            match rng.below(6) {
                0 => proxy.lose(answers),
                1 => proxy.refuse(answers),
                2 => proxy.truncate(answers),
                _ => {}
            }
        }
        let before = self.proxy.as_ref().map_or(0, LossyProxy::left);
        let trouble = self.trouble(rng, work);
        let faulty = Arc::new(Faulty::new(self.target.clone()));
        match &trouble {
            Trouble::None => {}
            Trouble::Death(calls, made) => faulty.die_after(*calls, *made),
            Trouble::Faults(faults) => {
                for (operation, skip, times, fault) in faults {
                    faulty.plan(*operation, *skip, Fault::Delay(Duration::ZERO));
                    faulty.plan(*operation, *times, *fault);
                }
            }
        }
        let ending = tokio::select! {
            biased;
            () = faulty.died() => Ending::Cut,
            outcome = Box::pin(act(faulty.clone())) => match outcome {
                Ok(done) => Ending::Done(done),
                Err(failure) => Ending::Refused(failure),
            },
        };
        let lost = before - self.proxy.as_ref().map_or(0, LossyProxy::left);
        if let Some(proxy) = &self.proxy {
            proxy.lose(0);
        }
        let injected = faulty.injected() + u64::from(lost);
        if let Ending::Refused(failure) = &ending {
            let may = injected > 0 && (self.troubled || failure.target().is_some());
            let leftover = failure
                .target()
                .is_some_and(|error| error.kind() == ErrorKind::Exists);
            let locked = failure
                .target()
                .is_some_and(|error| error.kind() == ErrorKind::Locked && self.owner().is_some());
            assert!(
                may || leftover || locked,
                "without a fault ({trouble:?}): {failure}"
            );
        }
        (ending, injected)
    }

    /// Puts other bytes in the place of an object's, as a broken disk would. Returns what was there, or nothing where
    /// that is not possible.
    pub(crate) fn damage(&self, key: &Key, change: impl FnOnce(&mut Vec<u8>)) -> Option<Vec<u8>> {
        let mut before = Vec::new();
        match &self.backdoor {
            Backdoor::Memory(memory) => memory.damage(key, |bytes| {
                before = bytes.clone();
                change(bytes);
            }),
            Backdoor::Folder(folder) => {
                let path = folder.join(key.as_str());
                before = fs::read(&path).unwrap();
                let mut bytes = before.clone();
                change(&mut bytes);
                // Whatever else an entity tag is made of stays.
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                fs::write(&path, bytes).unwrap();
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.set_modified(modified).unwrap();
            }
            Backdoor::Owner(_) | Backdoor::None => return None,
        }
        Some(before)
    }
}
