//! A target that fails on demand.
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::{
    Creation, ErrorKind, Immutability, Key, ListRequest, Listing, Object, ObjectMeta, OpenUpload, Part,
    PartNumber, Pin, Prefix, ProbeReport, Target, TargetError, Upload, Version,
};

/// A method of [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Put,
    PutNew,
    Get,
    GetRange,
    Head,
    List,
    Delete,
    BeginUpload,
    UploadPart,
    CopyPart,
    ListParts,
    Immutability,
    Lock,
    LockedUntil,
    CompleteUpload,
    AbortUpload,
    ListUploads,
    Probe,
}

/// What happens instead of, before or after the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call is not made and fails so.
    Fail(ErrorKind),
    /// The call is made later.
    Delay(Duration),
    /// The call is made; its caller is told that the store was unreachable.
    LoseAnswer,
    /// What is read has its last byte missing.
    Truncate,
    /// What is read has this bit pattern laid over its middle byte.
    Flip(u8),
}

/// Longest time that a death waits for calls that are under way.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Wraps a target; faults are used up in the order they were planned, for the operation they were planned for.
///
/// It can also stand for the end of a process ([`Faulty::die_after`]): what a process leaves behind when it is killed is
/// what its calls have done until then.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Target>,
    plan: Mutex<Vec<(Operation, u32, Fault)>>,
    injected: AtomicU64,
    life: Mutex<Life>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Life {
    /// Calls until the last one, and whether that is made.
    left: Option<(u64, bool)>,
    /// Calls under way.
    running: u32,
    dying: bool,
    dead: bool,
}

/// What becomes of a call.
enum Begun<'a> {
    Alive(Running<'a>),
    Last { made: bool },
    TooLate,
}

/// A call under way.
struct Running<'a>(&'a Faulty);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.life().running -= 1;
        self.0.changed.notify_waiters();
    }
}

impl Faulty {
    /// Fails nothing yet.
    pub fn new(inner: Arc<dyn Target>) -> Self {
        Self {
            inner,
            plan: Mutex::default(),
            injected: AtomicU64::new(0),
            life: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The process ends with the call after so many more: that one is made or not, and neither it nor any later one is
    /// answered. Who waits for [`Faulty::died`] then drops what made the calls.
    pub fn die_after(&self, calls: u64, made: bool) {
        self.life().left = Some((calls, made));
    }

    /// Waits for the death that was planned; calls that were under way have ended then.
    pub async fn died(&self) {
        loop {
            let changed = self.changed.notified();
            if self.life().dead {
                return;
            }
            changed.await;
        }
    }

    /// How many faults have happened; delays do not count.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Begun<'_> {
        let mut life = self.life();
        if life.dying {
            return Begun::TooLate;
        }
        match &mut life.left {
            Some((0, made)) => {
                let made = *made;
                life.dying = true;
                Begun::Last { made }
            }
            left => {
                if let Some((calls, _)) = left {
                    *calls -= 1;
                }
                life.running += 1;
                drop(life);
                Begun::Alive(Running(self))
            }
        }
    }

    /// Waits for what is under way, then says that the process is dead.
    async fn die(&self) {
        let silence = async {
            loop {
                let changed = self.changed.notified();
                if self.life().running == 0 {
                    return;
                }
                changed.await;
            }
        };
        // A call that nobody polls any more does nothing either.
        let _ = tokio::time::timeout(LAST_CALLS, silence).await;
        self.life().dead = true;
        self.changed.notify_waiters();
    }

    /// The next `times` calls of `operation` that no earlier plan takes get this fault.
    pub fn plan(&self, operation: Operation, times: u32, fault: Fault) {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((operation, times, fault));
    }

    fn take(&self, operation: Operation) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, times, fault) = plan
            .iter_mut()
            .find(|(op, times, _)| *op == operation && *times > 0)?;
        *times -= 1;
        if !matches!(fault, Fault::Delay(_)) {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        Some(*fault)
    }

    fn fail(&self, kind: ErrorKind) -> TargetError {
        TargetError::new(kind, "reach", "", &self.inner.describe(), "a planned fault")
    }

    async fn with<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, TargetError>>,
        change: impl FnOnce(T, Fault) -> T,
    ) -> Result<T, TargetError> {
        let _running = match self.begin() {
            Begun::Alive(running) => running,
            Begun::Last { made } => {
                if made {
                    // Nobody gets to know how it ended.
                    drop(call.await);
                }
                self.die().await;
                return std::future::pending().await;
            }
            Begun::TooLate => return std::future::pending().await,
        };
        match self.take(operation) {
            None => call.await,
            Some(Fault::Fail(kind)) => Err(self.fail(kind)),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                call.await
            }
            Some(Fault::LoseAnswer) => {
                call.await?;
                Err(self.fail(ErrorKind::Unreachable))
            }
            Some(fault) => Ok(change(call.await?, fault)),
        }
    }
}

fn change_bytes(bytes: &Bytes, fault: Fault) -> Bytes {
    let mut changed = bytes.to_vec();
    match fault {
        Fault::Truncate => {
            changed.pop();
        }
        Fault::Flip(pattern) if !changed.is_empty() => {
            let middle = changed.len() / 2;
            changed[middle] ^= pattern;
        }
        _ => {}
    }
    changed.into()
}

fn same<T>(value: T, _: Fault) -> T {
    value
}

#[async_trait]
impl Target for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<ObjectMeta, TargetError> {
        self.with(Operation::Put, self.inner.put(key, body), same).await
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<Creation, TargetError> {
        self.with(Operation::PutNew, self.inner.put_new(key, body), same)
            .await
    }

    async fn get(&self, key: &Key, max: u64) -> Result<Object, TargetError> {
        let change = |object: Object, fault| Object {
            body: change_bytes(&object.body, fault),
            ..object
        };
        self.with(Operation::Get, self.inner.get(key, max), change).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>, pin: Option<&Pin>) -> Result<Bytes, TargetError> {
        let change = |bytes: Bytes, fault| change_bytes(&bytes, fault);
        self.with(Operation::GetRange, self.inner.get_range(key, range, pin), change)
            .await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, TargetError> {
        self.with(Operation::Head, self.inner.head(key), same).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Listing, TargetError> {
        self.with(Operation::List, self.inner.list(request), same).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), TargetError> {
        self.with(Operation::Delete, self.inner.delete(keys), same).await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, TargetError> {
        self.with(Operation::BeginUpload, self.inner.begin_upload(key), same)
            .await
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        body: Bytes,
    ) -> Result<Part, TargetError> {
        self.with(
            Operation::UploadPart,
            self.inner.upload_part(upload, number, offset, body),
            same,
        )
        .await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        offset: u64,
        source: &Key,
        range: Range<u64>,
        pin: &Pin,
    ) -> Result<Part, TargetError> {
        let copy = self.inner.copy_part(upload, number, offset, source, range, pin);
        self.with(Operation::CopyPart, copy, same).await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>, TargetError> {
        self.with(Operation::ListParts, self.inner.list_parts(upload), same)
            .await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        if_absent: bool,
    ) -> Result<ObjectMeta, TargetError> {
        self.with(
            Operation::CompleteUpload,
            self.inner.complete_upload(upload, parts, if_absent),
            same,
        )
        .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), TargetError> {
        self.with(Operation::AbortUpload, self.inner.abort_upload(upload), same)
            .await
    }

    async fn list_uploads(&self, prefix: &Prefix) -> Result<Vec<OpenUpload>, TargetError> {
        self.with(Operation::ListUploads, self.inner.list_uploads(prefix), same)
            .await
    }

    async fn immutability(&self) -> Result<Immutability, TargetError> {
        self.with(Operation::Immutability, self.inner.immutability(), same)
            .await
    }

    async fn lock(&self, key: &Key, version: &Version, until: Timestamp) -> Result<(), TargetError> {
        let lock = self.inner.lock(key, version, until);
        self.with(Operation::Lock, lock, same).await
    }

    async fn locked_until(&self, key: &Key, version: &Version) -> Result<Option<Timestamp>, TargetError> {
        let look = self.inner.locked_until(key, version);
        self.with(Operation::LockedUntil, look, same).await
    }

    async fn probe(&self) -> Result<ProbeReport, TargetError> {
        self.with(Operation::Probe, self.inner.probe(), same).await
    }
}
