//! Every target takes its seeds, and what becomes of them by some damage, without a fuzzer.
// The lint's exception for tests does not see helpers outside test functions.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_hostile::{TARGETS, Target, judge::judge};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds")
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| (path.display().to_string(), fs::read(path).unwrap());
    entries.map(read).collect()
}

#[test]
fn every_target_has_seeds_and_every_folder_a_target() {
    let folders: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders, targets);
    for target in TARGETS {
        let seeds = files(&folder().join(target.name));
        assert!(seeds.len() >= 2, "{}", target.name);
        for (name, input) in seeds {
            assert!(
                input.len() <= target.longest,
                "{name} is longer than what is tried"
            );
        }
    }
    let total: usize = TARGETS
        .iter()
        .flat_map(|target| files(&folder().join(target.name)))
        .map(|(_, input)| input.len())
        .sum();
    assert!(total < 256 << 10, "{total} bytes of seeds");
}

/// xorshift64*, the same on every machine.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

fn damage(input: &[u8], state: &mut u64) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=next(state) % 4 {
        if bytes.is_empty() {
            break;
        }
        let at = next(state) as usize % bytes.len();
        match next(state) % 8 {
            0 => bytes.truncate(at),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, next(state) as u8),
            3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][next(state) as usize % 5],
            _ => bytes[at] ^= 1 << (next(state) % 8),
        }
    }
    bytes
}

#[test]
fn targets_take_seeds_and_damaged_ones() {
    let check = |target: &Target| {
        let mut state = 42;
        for (name, input) in files(&folder().join(target.name)) {
            println!("{name}");
            target.check(&input);
            for _ in 0..50 {
                target.check(&damage(&input, &mut state));
            }
        }
        target.check(&[]);
    };
    TARGETS.iter().for_each(check);
}

/// Also shows that the seeds are images and make merges: what nobody accepts tests nothing.
#[test]
fn qemu_agrees_about_the_seeds() {
    let verdict = judge(&folder(), 100).unwrap();
    assert_eq!((verdict.damaged, &verdict.objections), (0, &Vec::new()));
    assert!(verdict.compared >= 8 && verdict.merged >= 4, "{verdict:?}");
}
