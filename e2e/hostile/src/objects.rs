//! The objects file, and the plan of a restore over what it holds.

use std::collections::BTreeSet;

use holdfast_core::capture::{Neighbours, reason_to_ignore, sanitise};
use holdfast_core::limit::MAX_MEMORY;
use holdfast_core::objects::{objects as take_apart, weigh};
use holdfast_core::restore::{ObjectKey, clean_for_restore, plan_objects};

use crate::carve::Carver;
use crate::memory;

/// Objects that are planned with; planning has tests of its own for many.
const PLANNED: usize = 1000;

/// A file as it is stored; or its text, which is compressed first.
pub(crate) fn objects(input: &[u8]) {
    let mut input = Carver::new(input);
    let (kind, said) = (input.byte(), input.byte());
    let rest = input.rest();
    if kind.is_multiple_of(2) {
        return decode(rest, said.into());
    }
    let packed = zstd::bulk::compress(rest, 1).expect("memory is enough");
    let lines = rest.split_inclusive(|byte| *byte == b'\n').count() as u64;
    decode(&packed, lines);
    decode(&packed, said.into());
    if let Some((_, cut)) = packed.split_last() {
        assert!(weigh(cut, lines).is_err(), "a file that was cut off");
    }
}

fn decode(file: &[u8], said: u64) {
    let Ok(weight) = weigh(file, said) else { return };
    assert!(weight.objects == said && weight.memory <= MAX_MEMORY);
    // The line being read, twice as it grows, and the reader's buffer come on top of what was counted.
    let (taken, peak) = memory::peak_of(|| take_apart(file));
    let longest = 2 * weight.text as usize + (64 << 10);
    assert!(
        peak <= weight.memory as usize + longest,
        "{peak} bytes of memory, counted were {}",
        weight.memory
    );
    let Ok(objects) = taken else { return };
    assert_eq!(objects.len() as u64, said);
    if objects.len() > PLANNED {
        return;
    }
    let mut neighbours = Neighbours::default();
    for object in &objects {
        neighbours.note(object);
    }
    for object in &objects {
        let _ = reason_to_ignore(object, &neighbours);
        sanitise(&mut object.clone());
        let cleaned = clean_for_restore(object.clone(), "new");
        if let (Some(before), Some(after)) = (ObjectKey::of(object), ObjectKey::of(&cleaned)) {
            assert_eq!(before, after);
        }
    }
    let plan = plan_objects(objects, "new", &BTreeSet::new());
    assert!((plan.len() + plan.skipped.len()) as u64 <= said);
}
