//! Takes an input apart. What is missing at its end is zero or empty, so that every input is one.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carver<'a>(&'a [u8]);

impl<'a> Carver<'a> {
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The next bytes, fewer at the end.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next `bytes` bytes as a number, the lowest first.
    pub(crate) fn number(&mut self, bytes: usize) -> u64 {
        let digits = self.take(bytes).iter().rev();
        digits.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
