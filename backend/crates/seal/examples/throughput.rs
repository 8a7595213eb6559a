//! How fast one core seals and opens: `cargo run --release -p holdfast-seal --example throughput`.
//!
//! Counted is the processor time of the one thread, so other load on the machine hardly matters.

use std::fs;
use std::time::Duration;

use holdfast_seal::{DataKey, KeyRing, RegionWriter, SEALED_SEGMENT, SEGMENT, Sealer, TAG};

/// Segments of a round: 16 MiB, a part of an upload.
const SEGMENTS: usize = 256;
const ROUNDS: usize = 64;
const PLAIN: usize = SEGMENTS * SEGMENT;

fn main() {
    let key = DataKey::generate("cluster/plan/backup".parse().expect("a location"));
    let mut buffer = vec![7; SEGMENTS * SEALED_SEGMENT];
    report("seal in place", || {
        let mut region = RegionWriter::new(&key);
        for segment in buffer.chunks_mut(SEALED_SEGMENT) {
            let ticket = region.next_segment().expect("the region is not full");
            ticket.seal(segment).expect("the chunk has the right length");
        }
    });
    let plain = vec![7; PLAIN];
    let mut sealed = Vec::with_capacity(PLAIN + (SEGMENTS + 1) * TAG);
    report("seal as a stream", || {
        sealed.clear();
        let mut sealer = Sealer::new(&key);
        for piece in plain.chunks(100_000) {
            sealer.push(piece, &mut sealed).expect("the region is not full");
        }
        sealer.finish(&mut sealed).expect("the region is not full");
    });
    sealed.clear();
    let mut sealer = Sealer::new(&key);
    sealer.push(&plain, &mut sealed).expect("the region is not full");
    let layout = sealer.finish(&mut sealed).expect("the region is not full");
    let all = 0..layout.plain_len();
    let unlocked = layout
        .unlock(&KeyRing::of([key]).expect("keys of one plan"))
        .expect("the key is there");
    // What is opened in place has to be copied there first, since opening uses it up.
    report("copy and open in place", || {
        buffer.copy_from_slice(&sealed);
        let segments = unlocked.layout().segments(&all).expect("the whole object");
        for (segment, bytes) in segments.zip(buffer.chunks_mut(SEALED_SEGMENT)) {
            unlocked
                .open_segment(&segment, bytes)
                .expect("nothing is damaged");
        }
    });
    let mut out = Vec::with_capacity(sealed.len());
    report("open as a stream", || {
        out.clear();
        let mut opener = unlocked.opener(all.clone()).expect("the whole object");
        for piece in sealed.chunks(100_000) {
            opener.push(piece, &mut out).expect("nothing is damaged");
        }
        opener.finish().expect("all of it was pushed");
    });
    report("open ranges of one cluster (64 KiB) each", || {
        for number in 0..SEGMENTS {
            let from = (number * SEGMENT) as u64;
            let bytes = sealed[number * SEALED_SEGMENT..(number + 1) * SEALED_SEGMENT].to_vec();
            let range = from..from + SEGMENT as u64;
            unlocked.open(&range, bytes).expect("nothing is damaged");
        }
    });
}

/// Runs on 16 MiB of plaintext many times and prints the rate.
fn report(what: &str, mut run: impl FnMut()) {
    run();
    let start = processor_time();
    for _ in 0..ROUNDS {
        run();
    }
    let rate = (ROUNDS * PLAIN) as f64 / (processor_time() - start).as_secs_f64() / 1e9;
    println!("{rate:6.2} GB/s  {what}");
}

/// What this thread has used; Linux counts it in nanoseconds.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with scheduler statistics");
    let nanoseconds = text.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number comes first"))
}
