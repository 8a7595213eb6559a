//! Which bytes of the members' files are live, on a map whose size is bounded, and which stretches are worth copying.

use super::Sectors;
use crate::l2::SECTOR;

/// For each unit of each member's file, how many of its sectors hold live payload.
///
/// A unit is a multiple of what copies are aligned to; the part of a file behind its last whole unit is not on the map
/// and therefore never copied.
#[derive(Debug)]
pub(super) struct LiveMap {
    unit: u64,
    members: Vec<Vec<u16>>,
}

/// A stretch of a member's file that is worth copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) member: usize,
    /// Bytes of the member's file.
    pub(super) start: u64,
    pub(super) end: u64,
    /// How many of its bytes are live.
    pub(super) live: u64,
}

/// What stretches are to be like, sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) least: u64,
    /// The longest gap that is bridged.
    pub(super) max_gap: u64,
    /// What a dead byte costs, with a live one worth 1.
    pub(super) dead_weight: u32,
}

impl Stretch {
    pub(super) const fn len(&self) -> u64 {
        self.end - self.start
    }
}

impl LiveMap {
    /// A map of files of these sizes in units of `align` bytes, or larger ones where that takes more than `memory`.
    pub(super) fn new(sizes: &[u64], align: u64, memory: u64) -> Self {
        let mut unit = align;
        let units = |unit| {
            sizes
                .iter()
                .fold(0u64, |sum, size| sum.saturating_add(size / unit))
        };
        while units(unit).saturating_mul(2) > memory {
            unit *= 2;
        }
        Self {
            unit,
            members: sizes.iter().map(|size| vec![0; (size / unit) as usize]).collect(),
        }
    }

    /// Marks a payload live.
    pub(super) fn add(&mut self, member: usize, sectors: Sectors) {
        let units = &mut self.members[member];
        let mut at = sectors.start;
        while at < sectors.end {
            let unit = at / self.unit;
            let end = sectors.end.min((unit + 1) * self.unit);
            if let Some(live) = units.get_mut(unit as usize) {
                let more = ((end - at) / SECTOR).min(u16::MAX.into()) as u16;
                *live = live.saturating_add(more);
            }
            at = end;
        }
    }

    /// Calls `each` with the stretches that are worth copying, in ascending order of member and offset.
    ///
    /// Every live byte of a stretch counts for it, every dead one against it. A stretch begins with the first unit that
    /// is worth it and ends where its worth was highest, once it fell to nothing, or by a longer gap than is bridged.
    /// One that is too short goes on over any gap that is worth it: otherwise it would have to be packed.
    pub(super) fn for_each_stretch(&self, wish: Wish, mut each: impl FnMut(Stretch)) {
        for member in 0..self.members.len() {
            self.for_each_of(member, wish, &mut |stretch| {
                if stretch.len() >= wish.least {
                    each(stretch);
                }
            });
        }
    }

    fn for_each_of(&self, member: usize, wish: Wish, each: &mut impl FnMut(Stretch)) {
        let units = Units {
            live: &self.members[member],
            sectors: self.unit / SECTOR,
            dead_weight: i64::from(wish.dead_weight),
        };
        let drop = units.dead_weight.saturating_mul((wish.max_gap / SECTOR) as i64);
        let least = wish.least.div_ceil(self.unit) as usize;
        // Units before this one belong to the stretch before.
        let mut free = 0;
        let mut close = |part: Part| {
            let part = part.with_edges(&units, free);
            free = part.end;
            each(Stretch {
                member,
                start: part.start as u64 * self.unit,
                end: part.end as u64 * self.unit,
                live: part.live * SECTOR,
            });
        };
        let mut open: Option<Growing> = None;
        for position in 0..units.live.len() {
            if let Some(stretch) = &mut open {
                if stretch.grow(&units, drop, least) {
                    continue;
                }
                close(stretch.best);
                open = None;
            } else if units.worth(position) > 0 {
                open = Some(Growing::new(&units, position));
            }
        }
        if let Some(stretch) = open {
            close(stretch.best);
        }
    }
}

/// The map of one file.
#[derive(Debug)]
struct Units<'a> {
    live: &'a [u16],
    /// Sectors of a unit.
    sectors: u64,
    dead_weight: i64,
}

impl Units<'_> {
    /// Live sectors of a unit; 0 for those that are not on the map.
    fn live(&self, position: usize) -> u64 {
        let live = self.live.get(position).copied().unwrap_or_default();
        // Hostile tables may name the same bytes more than once.
        u64::from(live).min(self.sectors)
    }

    fn worth(&self, position: usize) -> i64 {
        let live = self.live(position);
        let dead = (self.sectors - live) as i64;
        (live as i64).saturating_sub(self.dead_weight.saturating_mul(dead))
    }
}

/// Some neighbouring units, with their live sectors and their worth.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    end: usize,
    live: u64,
    worth: i64,
}

impl Part {
    fn add(&mut self, units: &Units<'_>, position: usize) {
        self.start = self.start.min(position);
        self.end = self.end.max(position + 1);
        self.live += units.live(position);
        self.worth = self.worth.saturating_add(units.worth(position));
    }

    /// Takes the units at either end in that hold anything, if it can be afforded: otherwise the payload that crosses
    /// the end would have to be read, a request for each.
    fn with_edges(mut self, units: &Units<'_>, free: usize) -> Self {
        let before = self.start.checked_sub(1).filter(|before| *before >= free);
        for position in before.into_iter().chain([self.end]) {
            let affordable = self.worth.saturating_add(units.worth(position)) > 0;
            if units.live(position) > 0 && affordable {
                self.add(units, position);
            }
        }
        self
    }
}

/// A stretch that may still grow.
#[derive(Debug)]
struct Growing {
    all: Part,
    best: Part,
}

impl Growing {
    fn new(units: &Units<'_>, position: usize) -> Self {
        let mut part = Part {
            start: position,
            end: position,
            live: 0,
            worth: 0,
        };
        part.add(units, position);
        Self {
            all: part,
            best: part,
        }
    }

    /// Looks at the next unit. Returns `false` when the stretch ended before that.
    fn grow(&mut self, units: &Units<'_>, drop: i64, least: usize) -> bool {
        self.all.add(units, self.all.end);
        if self.all.worth > self.best.worth {
            self.best = self.all;
        }
        let too_short = self.best.end - self.best.start < least;
        let dropped = self.best.worth.saturating_sub(self.all.worth);
        self.all.worth > 0 && (too_short || dropped <= drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 4 * SECTOR;

    /// Stretches of one file whose units have this many live sectors of four.
    fn stretches(units: &[u64], max_gap: u64, dead_weight: u32) -> Vec<(u64, u64, u64)> {
        long_stretches(units, max_gap, dead_weight, 0)
    }

    fn long_stretches(units: &[u64], max_gap: u64, dead_weight: u32, least: u64) -> Vec<(u64, u64, u64)> {
        let mut map = LiveMap::new(&[units.len() as u64 * UNIT], UNIT, 1 << 20);
        for (unit, live) in (0..).zip(units) {
            let start = unit * UNIT;
            let sectors = Sectors {
                start,
                end: start + live * SECTOR,
            };
            map.add(0, sectors);
        }
        let mut found = Vec::new();
        let wish = Wish {
            least,
            max_gap,
            dead_weight,
        };
        map.for_each_stretch(wish, |stretch| {
            found.push((stretch.start / UNIT, stretch.end / UNIT, stretch.live / SECTOR));
        });
        found
    }

    #[test]
    fn short_gaps_are_bridged_and_long_ones_part() {
        let two_units = 2 * UNIT;
        assert_eq!(stretches(&[4, 4, 4, 0, 0, 4, 4, 4], two_units, 1), [(0, 8, 24)]);
        let parted = stretches(&[4, 4, 4, 4, 0, 0, 0, 4, 4], two_units, 1);
        assert_eq!(parted, [(0, 4, 16), (7, 9, 8)]);
        assert_eq!(stretches(&[0, 0, 4, 4, 0, 0], two_units, 1), [(2, 4, 8)]);
        assert_eq!(stretches(&[0; 9], two_units, 1), []);
    }

    #[test]
    fn short_stretches_bridge_longer_gaps_as_far_as_it_is_worth_it() {
        let units = [4, 4, 4, 0, 0, 4, 4, 4, 0, 0, 4, 4, 4];
        assert_eq!(long_stretches(&units, UNIT, 1, 3 * UNIT).len(), 3);
        assert_eq!(long_stretches(&units, UNIT, 1, 5 * UNIT), [(0, 8, 24)]);
        assert_eq!(long_stretches(&units, UNIT, 1, 9 * UNIT), [(0, 13, 36)]);
        assert_eq!(long_stretches(&units, UNIT, 2, 5 * UNIT), []);
    }

    #[test]
    fn ends_take_what_crosses_them_unless_it_is_too_dear_or_taken() {
        let gap = 10 * UNIT;
        assert_eq!(stretches(&[0, 1, 4, 4, 2, 0], 0, 1), [(1, 5, 11)]);
        assert_eq!(stretches(&[1, 3, 1], 0, 1), [(1, 2, 3)]);
        assert_eq!(stretches(&[1, 4, 1], 0, 1), [(0, 2, 5)]);
        assert_eq!(stretches(&[1, 4, 1], 0, 3), [(1, 2, 4)]);
        assert_eq!(stretches(&[4, 4, 1, 4, 4], 0, 1), [(0, 3, 9), (3, 5, 8)]);
        assert_eq!(stretches(&[4, 4, 1, 4, 4], gap, 1), [(0, 5, 17)]);
    }

    #[test]
    fn mostly_dead_stretches_are_left_out() {
        assert_eq!(stretches(&[1; 100], 1 << 20, 1), []);
        assert_eq!(stretches(&[3; 100], 1 << 20, 1), [(0, 100, 300)]);
        assert_eq!(stretches(&[3; 100], 1 << 20, 3), []);
        // A dense part is found between sparse ones, and takes what crosses its ends along.
        let mixed: Vec<u64> = (0..90)
            .map(|unit| if (30..60).contains(&unit) { 4 } else { 1 })
            .collect();
        assert_eq!(stretches(&mixed, 4 * UNIT, 1), [(29, 61, 122)]);
    }

    #[test]
    fn payload_that_crosses_units_counts_in_each_and_the_map_becomes_coarser() {
        let sizes = [100 * UNIT + 700, 50 * UNIT];
        let mut map = LiveMap::new(&sizes, UNIT, 100);
        assert_eq!(map.unit, 4 * UNIT);
        assert_eq!(map.members.iter().map(Vec::len).collect::<Vec<_>>(), [25, 12]);
        let sectors = Sectors {
            start: 3 * UNIT,
            end: 9 * UNIT,
        };
        map.add(1, sectors);
        assert_eq!(map.members[1][..4], [4, 16, 4, 0]);
        // Behind the last whole unit nothing is on the map; the same bytes twice do not count twice.
        let tail = Sectors {
            start: 100 * UNIT,
            end: 100 * UNIT + 512,
        };
        map.add(0, tail);
        map.add(1, sectors);
        let mut found = Vec::new();
        let wish = Wish {
            least: 0,
            max_gap: 0,
            dead_weight: 1,
        };
        map.for_each_stretch(wish, |stretch| found.push(stretch));
        let longer = Wish {
            least: 12 * UNIT + 1,
            ..wish
        };
        map.for_each_stretch(longer, |stretch| panic!("{stretch:?} is too short"));
        assert_eq!(
            (found[0].start, found[0].end, found[0].live),
            (0, 12 * UNIT, 8 * UNIT)
        );
    }
}
