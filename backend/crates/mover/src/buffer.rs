//! Memory for data: aligned for O_DIRECT, and pooled so that uploads neither grow nor fragment the heap.
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// What O_DIRECT asks of addresses, offsets and lengths on every common device.
pub(crate) const ALIGNMENT: u64 = 4096;

/// Zeroed memory whose address is a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    pub(crate) fn new(len: u64) -> Self {
        let len = usize::try_from(len).expect("buffers are small");
        let memory = vec![0; len + ALIGNMENT as usize];
        // The vector is never resized, so its address stays.
        let start = memory.as_ptr().align_offset(ALIGNMENT as usize);
        Self { memory, start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// A fixed number of buffers for parts of uploads. Taking one waits until one is free: that is the backpressure.
#[derive(Debug)]
pub(crate) struct Pool {
    part: usize,
    limit: usize,
    state: Mutex<PoolState>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    free: Vec<Vec<u8>>,
    made: usize,
}

impl Pool {
    /// `limit` buffers of `part` bytes.
    pub(crate) fn new(part: usize, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            part,
            limit,
            state: Mutex::default(),
            returned: Condvar::new(),
        })
    }

    /// Bytes of a buffer.
    pub(crate) fn part(&self) -> usize {
        self.part
    }

    /// An empty buffer; `None` when cancelled. Blocks.
    pub(crate) fn take(self: &Arc<Self>, cancel: &CancellationToken) -> Option<PartBuffer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            let bytes = match state.free.pop() {
                Some(bytes) => bytes,
                None if state.made < self.limit => {
                    state.made += 1;
                    Vec::with_capacity(self.part)
                }
                None => {
                    let wait = self.returned.wait_timeout(state, Duration::from_millis(100));
                    state = wait.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
            };
            return Some(PartBuffer {
                bytes,
                pool: self.clone(),
            });
        }
    }
}

/// One buffer of a [`Pool`]; goes back when dropped.
#[derive(Debug)]
pub(crate) struct PartBuffer {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl PartBuffer {
    /// Copies as much of `bytes` as fits below `limit` bytes in all; returns how much that was.
    pub(crate) fn fill(&mut self, bytes: &[u8], limit: usize) -> usize {
        let fits = limit.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..fits]);
        fits
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Puts bytes before those that are there.
    pub(crate) fn prepend(&mut self, head: &[u8]) {
        self.bytes.splice(0..0, head.iter().copied());
    }

    /// The content to send; the buffer goes back to its pool when the last clone is gone.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PartBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PartBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.pool
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free
            .push(bytes);
        self.pool.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        for len in [1, 4096, 1 << 20] {
            let buffer = AlignedBuffer::new(len);
            assert!(
                (buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT as usize) && buffer.len() as u64 == len
            );
        }
        let (pool, cancel) = (Pool::new(8, 2), CancellationToken::new());
        let mut first = pool.take(&cancel).unwrap();
        assert_eq!(first.fill(b"0123456789", 8), 8);
        let sent = first.into_bytes();
        let second = pool.take(&cancel).unwrap();
        let waiting = std::thread::spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || pool.take(&cancel).map(|buffer| buffer.len())
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "both are out");
        drop(sent);
        assert_eq!(waiting.join().unwrap(), Some(0), "the first came back, empty");
        drop(second);
        cancel.cancel();
        assert!(pool.take(&cancel).is_none());
    }
}
