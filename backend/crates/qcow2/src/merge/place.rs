//! Where everything lies in the merged file.

use std::ops::Range;

use super::live::Stretch;
use super::{MergePiece, PieceContent, Sectors};

/// Stretches of the members with the place each is copied to.
#[derive(Debug)]
pub(super) struct Copies {
    /// In ascending order of member and offset, which is also the order in the merged file.
    stretches: Vec<(Stretch, u64)>,
    range: Range<u64>,
}

impl Copies {
    /// Places sorted stretches one after the other from `start`.
    pub(super) fn new(stretches: Vec<Stretch>, start: u64) -> Self {
        let mut at = start;
        let place = |stretch: Stretch| {
            let placed = (stretch, at);
            at += stretch.len();
            placed
        };
        Self {
            stretches: stretches.into_iter().map(place).collect(),
            range: start..at,
        }
    }

    /// Range of the merged file.
    pub(super) const fn range(&self) -> &Range<u64> {
        &self.range
    }

    pub(super) fn stretches(&self) -> &[(Stretch, u64)] {
        &self.stretches
    }

    /// How far a payload moves that lies wholly inside a stretch: to the offset it gets, from the one it has.
    pub(super) fn find(&self, member: usize, sectors: Sectors) -> Option<u64> {
        let after = self
            .stretches
            .partition_point(|(stretch, _)| (stretch.member, stretch.start) <= (member, sectors.start));
        let (stretch, at) = &self.stretches[after.checked_sub(1)?];
        let inside = stretch.member == member && sectors.end <= stretch.end;
        inside.then(|| at + (sectors.start - stretch.start))
    }

    /// The copies to make: stretches longer than `max_copy` are cut into equal parts, which lie side by side again.
    pub(super) fn pieces(&self, max_copy: u64, align: u64) -> Vec<MergePiece> {
        let mut pieces = Vec::new();
        for (stretch, at) in &self.stretches {
            let parts = stretch.len().div_ceil(max_copy);
            let units = stretch.len() / align;
            let cut = |part: u64| units * part / parts * align;
            for part in 0..parts {
                let source = stretch.start + cut(part)..stretch.start + cut(part + 1);
                pieces.push(MergePiece {
                    // Piece 1 is the head.
                    number: pieces.len() as u32 + 2,
                    at: at + cut(part),
                    content: PieceContent::Copy {
                        member: stretch.member,
                        source,
                    },
                });
            }
        }
        pieces
    }
}

/// Hands out the places of literals: between the head and the copies as long as they fit there, then behind the copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placer {
    position: u64,
    copies: Range<u64>,
}

impl Placer {
    /// Starts behind the head.
    pub(super) const fn new(head: u64, copies: Range<u64>) -> Self {
        Self {
            position: head,
            copies,
        }
    }

    /// Offset of the next `len` bytes, a multiple of `align`.
    pub(super) fn take(&mut self, len: u64, align: u64) -> u64 {
        let mut at = self.position.next_multiple_of(align);
        let copies = &self.copies;
        if !copies.is_empty() && at < copies.end && at + len > copies.start {
            at = copies.end;
        }
        self.position = at + len;
        at
    }

    /// Where the file would end now.
    pub(super) fn end(&self, cluster: u64) -> u64 {
        let end = self.position.next_multiple_of(cluster);
        if self.copies.is_empty() {
            end
        } else {
            end.max(self.copies.end)
        }
    }

    /// Offsets of as many refcount blocks as the file needs when they are its last tables.
    pub(super) fn take_blocks(&mut self, cluster: u64) -> Vec<u64> {
        // Refcounts have two bytes.
        let counted_by_block = cluster / 2;
        let mut count = (self.end(cluster) / cluster).div_ceil(counted_by_block);
        loop {
            let mut placer = self.clone();
            let blocks = (0..count).map(|_| placer.take(cluster, cluster)).collect();
            if placer.end(cluster) / cluster <= count * counted_by_block {
                *self = placer;
                return blocks;
            }
            count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 512;
    /// What a refcount block of that size counts.
    const COUNTED: u64 = 256;

    #[test]
    fn literals_keep_clear_of_the_copies() {
        let mut placer = Placer::new(1024, 4096..8192);
        assert_eq!(placer.end(CLUSTER), 8192);
        assert_eq!(placer.take(1000, 512), 1024);
        assert_eq!(placer.take(512, 512), 2048);
        assert_eq!(placer.take(1536, 512), 2560);
        assert_eq!(placer.end(CLUSTER), 8192);
        assert_eq!(placer.take(1, 512), 8192);
        assert_eq!(placer.take(512, 512), 8704);
        // What does not fit before goes behind, and so does all that follows.
        let mut placer = Placer::new(1024, 4096..8192);
        assert_eq!(placer.take(3584, 512), 8192);
        assert_eq!(placer.take(512, 512), 11_776);
        // Without copies nothing is in the way.
        let mut placer = Placer::new(1024, 4096..4096);
        assert_eq!(placer.take(8000, 512), 1024);
        assert_eq!(placer.end(CLUSTER), 9216);
    }

    /// Every length of a file around the boundaries of its first blocks, without copies, with some, and with nearly all
    /// of the file being copies: there are as many blocks as count the whole file, themselves included, and no more.
    #[test]
    fn blocks_count_themselves_at_every_position() {
        for clusters in 2..1200u64 {
            for copies in [2..2, 3..5, 4..clusters.max(4), 2..900] {
                let copies = copies.start * CLUSTER..copies.end * CLUSTER;
                let mut placer = Placer::new(CLUSTER, copies.clone());
                placer.take((clusters - 1) * CLUSTER, CLUSTER);
                let before = placer.clone();
                let blocks = placer.take_blocks(CLUSTER);
                let count = blocks.len() as u64;
                assert!(
                    placer.end(CLUSTER) <= count * COUNTED * CLUSTER,
                    "{clusters} {copies:?}"
                );
                assert!(blocks.iter().all(|block| !copies.contains(block)));
                assert!(blocks.windows(2).all(|pair| pair[0] < pair[1]));
                let mut fewer = before;
                for _ in 1..count {
                    fewer.take(CLUSTER, CLUSTER);
                }
                let end = fewer.end(CLUSTER);
                assert!(
                    count == 1 || end > (count - 1) * COUNTED * CLUSTER,
                    "{clusters} {copies:?}"
                );
            }
        }
    }
}
