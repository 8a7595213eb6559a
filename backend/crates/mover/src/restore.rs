//! From images on the target to a device.

mod fetch;
mod front;
mod plan;
mod write;

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, stream};
use holdfast_seal::KeyRing;
use holdfast_target::{Target, layout::ImageRecord};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use self::{
    fetch::fetch,
    plan::{Piece, plan},
    write::{Counters, Failure, Work, Writers, write},
};
use crate::{
    MoverError, Progress, RestoreJob, RestoreSummary,
    device::Device,
    job::{Zeroing, check_chain, cluster_size},
    limits,
    remote::Remote,
    threads::{join, join_all},
};

/// Writes the newest image of the chain of `job` to its device, every cluster of it.
///
/// Content is written after its hash was found right, empty ranges are zeroed, and all of it is flushed before this
/// returns. Whatever fails, the device then holds a mixture and must not be used; another attempt may go on with what was
/// flushed ([`RestoreJob::from`]). (Where the kernel zeroes ranges and
/// samples show that the device only pretends, everything is done again with written zeroes.)
///
/// # Errors
/// [`MoverError::DeviceTooSmall`] and [`MoverError::NoKey`] before anything was written, [`MoverError::Damaged`] and
/// [`MoverError::DamagedCluster`] naming object and cluster, and the others.
pub async fn restore(
    target: Arc<dyn Target>,
    job: &RestoreJob,
    keys: Arc<KeyRing>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> Result<RestoreSummary, MoverError> {
    let inner = cancel.child_token();
    // A dropped future must stop the threads too.
    let _stop = inner.clone().drop_guard();
    let remote = Remote {
        target,
        home: job.home.clone(),
        runtime: Handle::current(),
        cancel: inner,
        keys,
    };
    let outcome = run(&remote, job, &progress).await;
    match outcome {
        // Whatever a thread tripped over after the token was cancelled is the cancellation.
        Err(_) if cancel.is_cancelled() => Err(MoverError::Cancelled),
        other => other,
    }
}

async fn run(
    remote: &Remote,
    job: &RestoreJob,
    progress: &Arc<Progress>,
) -> Result<RestoreSummary, MoverError> {
    let begun = Instant::now();
    check_chain(&job.chain)?;
    remote.check_keys(&job.chain)?;
    let newest: &ImageRecord = &job.chain[0];
    let path = job.device.clone();
    let device = Arc::new(join(
        spawn_blocking(move || Device::open_for_writing(&path)).await,
    )?);
    if device.size() < newest.virtual_size {
        return Err(MoverError::DeviceTooSmall {
            device: job.device.clone(),
            found: device.size(),
            needed: newest.virtual_size,
        });
    }
    progress.total(newest.virtual_size);
    let chain: Arc<[ImageRecord]> = remote.located(&job.chain).await?.into();
    let from = job.from.min(newest.virtual_size);
    progress.done(from);
    progress.durable(from);
    let mut begun_at = from;
    let counters = match pass(remote, &chain, &device, progress, Zeroing::Punched, from).await {
        Err(Failure::PunchLied) => {
            tracing::warn!(device = %job.device.display(), "restore: the device does not zero what it is told to; again, with written zeroes");
            progress.restart();
            // An earlier attempt may have believed it.
            begun_at = 0;
            pass(remote, &chain, &device, progress, Zeroing::Written, 0).await
        }
        other => other,
    };
    let counters = counters.map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::PunchLied => MoverError::Internal("zeroes were written and reported as punched".to_owned()),
    })?;
    let flushed = device.clone();
    join(spawn_blocking(move || flushed.sync()).await)?;
    let Counters {
        data,
        zeroed,
        zeroing,
    } = counters;
    progress.durable(newest.virtual_size);
    if begun_at + data + zeroed != newest.virtual_size {
        let what = format!(
            "{data} bytes written and {zeroed} zeroed from byte {begun_at} on do not make {}",
            newest.virtual_size
        );
        return Err(MoverError::Internal(what));
    }
    Ok(RestoreSummary {
        virtual_size: newest.virtual_size,
        data,
        zeroed,
        zeroing,
        took: begun.elapsed(),
    })
}

/// One pass over the volume from this byte on: plan → fetch (ahead, in order) → decompress, check and write.
async fn pass(
    remote: &Remote,
    chain: &Arc<[ImageRecord]>,
    device: &Arc<Device>,
    progress: &Arc<Progress>,
    zeroing: Zeroing,
    from: u64,
) -> Result<Counters, Failure> {
    // A pass has a token of its own: its threads end with it, whatever ended it.
    let remote = Remote {
        cancel: remote.cancel.child_token(),
        ..remote.clone()
    };
    let stop = remote.cancel.clone();
    let _stop = stop.clone().drop_guard();
    let (plan_to, planned) = mpsc::channel::<Piece>(2);
    let (work_to, work) = mpsc::channel::<Work>(1);
    let mut threads: JoinSet<Result<(), Failure>> = JoinSet::new();
    {
        let (remote, chain) = (remote.clone(), chain.clone());
        threads.spawn_blocking(move || plan(&remote, &chain, from, &plan_to).map_err(Failure::Error));
    }
    let writers = Writers::new(
        device.clone(),
        cluster_size(chain[0].cluster_size)?,
        zeroing,
        from,
        work,
    );
    for _ in 0..limits::workers() {
        let (writers, remote, progress) = (writers.clone(), remote.clone(), progress.clone());
        threads.spawn_blocking(move || write(&writers, &remote, &progress));
    }
    {
        let progress = progress.clone();
        threads.spawn(async move {
            fetch_all(&remote, planned, &work_to, &progress)
                .await
                .map_err(Failure::Error)
        });
    }
    let is_echo = |failure: &Failure| matches!(failure, Failure::Error(MoverError::Cancelled));
    join_all(threads, &stop, is_echo).await?;
    Ok(writers.counters())
}

/// Fetches pieces ahead, hands them on in order.
async fn fetch_all(
    remote: &Remote,
    planned: mpsc::Receiver<Piece>,
    work: &mpsc::Sender<Work>,
    progress: &Progress,
) -> Result<(), MoverError> {
    let pieces = stream::unfold(planned, async |mut planned| {
        planned.recv().await.map(|piece| (piece, planned))
    });
    let mut fetched = std::pin::pin!(
        pieces
            .map(|piece| fetch(remote, piece, progress))
            .buffered(limits::FETCHES)
    );
    let hand_on = async {
        while let Some(piece) = fetched.next().await {
            // The receiver lives as long as the pass.
            let _ = work.send(piece?).await;
        }
        Ok(())
    };
    tokio::select! {
        () = remote.cancel.cancelled() => Err(MoverError::Cancelled),
        outcome = hand_on => outcome,
    }
}
