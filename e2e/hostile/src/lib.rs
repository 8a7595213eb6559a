//! Bytes from a target that somebody made to hurt, and what must hold whatever they are.
//!
//! What enters here: the parsers of everything that is read from a target, and bytes. It must not know: networks, clusters,
//! fuzzers. Each [`TARGETS`] entry is a function that takes any bytes and panics where a promise is broken: a panic of a
//! parser, a read outside of a file, something printed that does not parse to the same, a result that contradicts a
//! simpler way to it, memory above a bound.
//!
//! `e2e/fuzz` calls these functions with what libFuzzer makes up (`cargo xtask fuzz`), the tests here with the seeds of
//! `e2e/fuzz/seeds` and with what was found before. The program of this crate makes the seeds and lets `qemu-img` judge
//! images ([`judge`]).
#![forbid(unsafe_code)]

mod carve;
mod codec;
mod documents;
mod image;
mod index;
pub mod judge;
pub mod memory;
mod merge;
mod names;
mod objects;
mod saved;
mod sealed;
mod seeds;
mod sparse;

pub use seeds::{Seed, seeds};

/// One kind of bytes, and what is done with them.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, as on the command line and of its folder of seeds.
    pub name: &'static str,
    /// Takes any bytes; panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Longest input that is worth trying, in bytes.
    pub longest: usize,
    /// What an input may take of memory.
    pub memory: Memory,
}

/// Most bytes of memory for an input.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Of any input.
    pub fixed: usize,
    /// And for each byte of it.
    pub per_byte: usize,
}

const MIB: usize = 1 << 20;

/// Everything that is fuzzed.
///
/// Images and indexes are given as sparse files, so that few bytes can stand for large ones. Their bounds are those of the
/// tables of the largest disk: an L1 table of 32 MiB, read and decoded.
pub const TARGETS: &[Target] = &[
    target("image", image::image, 64 << 10, 96 * MIB, 16),
    target("chain", image::chain, 96 << 10, 128 * MIB, 16),
    target("merge", merge::merge, 96 << 10, 128 * MIB, 16),
    target("saved-state", saved::saved_state, 32 << 10, 16 * MIB, 16),
    target("index", index::index, 32 << 10, 64 * MIB, 16),
    target("index-merge", index::index_merge, 64 << 10, 64 * MIB, 16),
    target("cluster", codec::cluster, 32 << 10, 16 * MIB, 16),
    target("layout", sealed::layout, 16 << 10, 8 * MIB, 64),
    target("document", sealed::document, 80 << 10, MIB, 16),
    target("wrapped-key", sealed::wrapped_key, 4 << 10, MIB, 64),
    target("commit-object", documents::commit_object, 32 << 10, MIB, 64),
    target("chain-file", documents::chain_file, 32 << 10, MIB, 64),
    target("objects", objects::objects, 16 << 10, 32 * MIB, 512),
    target("names", names::names, 2 << 10, MIB, 64),
];

const fn target(name: &'static str, run: fn(&[u8]), longest: usize, fixed: usize, per_byte: usize) -> Target {
    Target {
        name,
        run,
        longest,
        memory: Memory { fixed, per_byte },
    }
}

impl Target {
    /// The target of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        TARGETS.iter().find(|target| target.name == name).copied()
    }

    /// Runs an input, and holds it to its memory where that is counted ([`memory`]).
    ///
    /// # Panics
    /// Where a promise is broken.
    pub fn check(&self, input: &[u8]) {
        let ((), peak) = memory::peak_of(|| (self.run)(input));
        let limit = self.memory.fixed + self.memory.per_byte * input.len();
        assert!(
            peak <= limit,
            "{}: {} bytes of input took {peak} bytes of memory, allowed are {limit}",
            self.name,
            input.len()
        );
    }
}
