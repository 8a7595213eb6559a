//! [`Target`] on a folder: a mounted PersistentVolumeClaim or NFS export.
//!
//! Decisions:
//! - Objects are plain files under their keys. A file is written beside, made durable, then given its name by a link, which
//!   never overwrites; then the folders are made durable. So a name stands for a whole object, also after a power cut.
//! - Names with a dot first are not keys: `holdfast/.store.json` says which store this is, `holdfast/.work/` holds what
//!   is not finished. Nothing outside `holdfast/` is touched, and no symbolic link below the folder is followed.
//! - A folder that does not hold the expected store is refused: it is usually one whose volume is not mounted.
//! - Calls run on threads of their own with a bound, since a server that is gone holds them up without end.
//! - The root is held open, so an unmount in between cannot lead writes elsewhere; after a stale handle it is opened and
//!   checked again.

mod folder;
mod list;
mod objects;
mod operations;
mod place;
mod store;
mod trouble;
mod upload;
mod workers;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustix::io::Errno;

pub use self::store::StoreId;
use self::{
    folder::Folder,
    store::{Expect, Store},
    trouble::Outcome,
    workers::{Waiter, Workers},
};
use crate::{ErrorKind, Patience, TargetError};

/// Slowest rate at which an attempt may move its bytes before it counts as stuck.
const SLOWEST: u64 = 64 << 10;
/// Bound of a call that only looks.
pub(crate) const LOOK: Duration = Duration::from_secs(9);
/// Bound of a call that makes something durable: a busy disk has much to write before.
pub(crate) const CHANGE: Duration = Duration::from_secs(60);
/// Bound of finishing an upload, and of a copy inside the folder.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A folder that is mounted somewhere.
#[derive(Clone, Debug)]
pub struct DirectoryTarget {
    path: PathBuf,
    place: String,
    store: Arc<RwLock<Arc<Store>>>,
    workers: Workers,
    patience: Patience,
}

impl DirectoryTarget {
    /// Opens the folder that holds this very store.
    ///
    /// # Errors
    /// [`ErrorKind::NotMounted`] where it holds none or another one, [`ErrorKind::Unreachable`] where the folder does not
    /// answer, [`ErrorKind::Denied`] where we may not.
    pub async fn open(path: &Path, id: &StoreId) -> Result<Self, TargetError> {
        Self::attach(path, Expect::Store(id.clone())).await
    }

    /// Opens the folder with whatever store it holds; an empty one becomes a store if something is mounted there.
    ///
    /// # Errors
    /// As [`DirectoryTarget::open`]; [`ErrorKind::NotMounted`] for an empty folder without a mount.
    pub async fn adopt(path: &Path) -> Result<Self, TargetError> {
        Self::attach(path, Expect::AnyMount).await
    }

    /// Opens the folder with whatever store it holds; an empty one becomes a store, mounted or not. Only for a person who
    /// means this folder.
    ///
    /// # Errors
    /// As [`DirectoryTarget::open`].
    pub async fn create(path: &Path) -> Result<Self, TargetError> {
        Self::attach(path, Expect::AnyFolder).await
    }

    async fn attach(path: &Path, expect: Expect) -> Result<Self, TargetError> {
        let place = format!("folder {}", path.display());
        let workers = Workers::new();
        let late = || {
            let why = format!("no answer in {} s", LOOK.as_secs());
            TargetError::new(ErrorKind::Unreachable, "open", "", &place, why)
        };
        let opened = Patience::INTERACTIVE.retry(LOOK, late, |_| async {
            let (path, expect) = (path.to_owned(), expect.clone());
            let opened = workers.run(move |_| Store::open(&path, &expect)).await;
            opened.map_err(|trouble| trouble.explain("open", "", &place))
        });
        let store = Arc::new(RwLock::new(Arc::new(opened.await?)));
        Ok(Self {
            path: path.to_owned(),
            place,
            store,
            workers,
            patience: Patience::INTERACTIVE,
        })
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Which store it is, to expect it the next time; absent where the folder can only be read and does not say it.
    pub fn id(&self) -> Option<StoreId> {
        self.store().id.clone()
    }

    fn store(&self) -> Arc<Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs attempts until one succeeds, fails for good, or patience ends. `attempt` is told how many went before it.
    async fn retry<T, F>(
        &self,
        verb: &'static str,
        object: &str,
        bound: Duration,
        attempt: impl Fn(u32) -> F,
    ) -> Result<T, TargetError>
    where
        F: Future<Output = Outcome<T>>,
    {
        let late = || {
            let why = format!("no answer in {} s", bound.as_secs());
            TargetError::new(ErrorKind::Unreachable, verb, object, &self.place, why)
        };
        self.patience
            .retry(bound, late, |tries| {
                let attempt = attempt(tries);
                async move {
                    let outcome = attempt.await;
                    outcome.map_err(|trouble| trouble.explain(verb, object, &self.place))
                }
            })
            .await
    }

    /// Runs `work` on a thread, again and again as [`DirectoryTarget::retry`] says.
    async fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        object: &str,
        bound: Duration,
        work: impl Fn(&Folder, &Waiter<'_>) -> Outcome<T> + Send + Sync + 'static,
    ) -> Result<T, TargetError> {
        let work = Arc::new(work);
        self.retry(verb, object, bound, |_| {
            let work = work.clone();
            self.once(move |root, waiter| work(root, waiter))
        })
        .await
    }

    /// One attempt on a thread.
    async fn once<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder, &Waiter<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let store = self.store();
        let outcome = self.workers.run(move |waiter| work(&store.root, waiter)).await;
        if let Err(trouble) = &outcome
            && trouble.is(Errno::STALE)
        {
            self.reopen().await?;
        }
        outcome
    }

    /// Opens the folder anew, if it still holds the same store: what was open is of no use any more.
    async fn reopen(&self) -> Outcome<()> {
        let expect = self.id().map_or(Expect::AnyMount, Expect::Store);
        let path = self.path.clone();
        let opened = self.workers.run(move |_| Store::open(&path, &expect)).await?;
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(opened);
        Ok(())
    }
}

/// Bound of an attempt that moves this many bytes.
pub(crate) fn bound(short: Duration, bytes: u64) -> Duration {
    short + Duration::from_secs(bytes / SLOWEST)
}
