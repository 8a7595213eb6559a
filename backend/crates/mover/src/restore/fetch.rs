//! Brings the stored bytes of a piece with few requests.
use std::{ops::Range, sync::Arc};

use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use tokio::task::spawn_blocking;

use super::{plan::Piece, write::Work};
use crate::{
    MoverError, Progress,
    content::{Shard, Stored},
    limits,
    remote::Remote,
    threads::join,
};

/// Fetches what a piece needs.
pub(super) async fn fetch(remote: &Remote, piece: Piece, progress: &Progress) -> Result<Work, MoverError> {
    let (shard, contents) = match piece {
        Piece::Zero(range) => return Ok(Work::Zero(range)),
        Piece::Data(shard, contents) => (shard, contents),
    };
    let requests: Vec<BoxFuture<'_, _>> = shard
        .requests(&contents)
        .into_iter()
        .map(|(image, range)| Box::pin(get(remote, shard.clone(), image, range, progress)) as _)
        .collect();
    let stored = stream::iter(requests)
        .buffered(limits::RANGES)
        .try_collect()
        .await?;
    Ok(Work::Data(shard, contents, stored))
}

async fn get(
    remote: &Remote,
    shard: Arc<Shard>,
    image: usize,
    range: Range<u64>,
    progress: &Progress,
) -> Result<Stored, MoverError> {
    let start = range.start;
    let mut bytes = shard.fetch(remote, image, &range, progress).await?;
    if shard.openings[image].is_sealed() {
        let opened = spawn_blocking(move || {
            let opened = shard.openings[image].open(&range, bytes);
            opened.map_err(|error| MoverError::sealed(&shard.keys[image], error))
        });
        bytes = join(opened.await)?;
    }
    Ok(Stored { image, start, bytes })
}
