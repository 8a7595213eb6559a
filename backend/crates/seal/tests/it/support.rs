//! Sealed objects whose plaintext a model knows.

use std::ops::Range;

use holdfast_seal::{DataKey, Layout, SEGMENT, Sealer};

/// xorshift64*, the same on every machine: content that does not repeat, so that no segment looks like another.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = vec![0; len];
    for chunk in out.chunks_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    out
}

pub(crate) fn data_key(id: &str) -> DataKey {
    DataKey::generate(format!("c-1/p-1/{id}").parse().unwrap())
}

/// The same key again: they cannot be cloned.
pub(crate) fn copy(key: &DataKey) -> DataKey {
    use secrecy::ExposeSecret as _;
    DataKey::from_hex(key.location().clone(), key.to_hex().expose_secret()).unwrap()
}

/// An object as stored, with what it should read as.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) plain: Vec<u8>,
    pub(crate) sealed: Vec<u8>,
    pub(crate) layout: Layout,
}

impl Object {
    /// One region with this content.
    pub(crate) fn seal(key: &DataKey, plain: Vec<u8>) -> Self {
        let mut sealer = Sealer::new(key);
        let mut sealed = Vec::new();
        sealer.push(&plain, &mut sealed).unwrap();
        let layout = sealer.finish(&mut sealed).unwrap();
        Self {
            plain,
            sealed,
            layout,
        }
    }

    /// What a store makes that copies these ranges of these objects, one behind the other.
    pub(crate) fn copied<'o>(ranges: impl IntoIterator<Item = (&'o Self, Range<u64>)>) -> Self {
        let (mut plain, mut sealed, mut layouts) = (Vec::new(), Vec::new(), Vec::new());
        for (object, range) in ranges {
            let cut = object.layout.cut(&range).unwrap();
            plain.extend_from_slice(&object.plain[range.start as usize..range.end as usize]);
            sealed.extend_from_slice(&object.sealed[cut.sealed.start as usize..cut.sealed.end as usize]);
            layouts.push(cut.layout);
        }
        Self {
            plain,
            sealed,
            layout: Layout::concat(&layouts).unwrap(),
        }
    }

    /// All places where it can be cut.
    pub(crate) fn boundaries(&self) -> Vec<u64> {
        let all = 0..self.layout.plain_len();
        let segments = self.layout.segments(&all).unwrap();
        std::iter::once(0)
            .chain(segments.map(|segment| segment.plain.end))
            .collect()
    }

    /// The stored bytes that a range needs.
    pub(crate) fn fetch(&self, plain: &Range<u64>) -> Vec<u8> {
        let sealed = self.layout.locate(plain).unwrap();
        self.sealed[sealed.start as usize..sealed.end as usize].to_vec()
    }
}

/// A length around whole segments, where the edges are.
pub(crate) fn len_of(segments: usize, offset: i64) -> usize {
    (segments * SEGMENT).saturating_add_signed(offset as isize)
}
