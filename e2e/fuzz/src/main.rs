//! The loop of libFuzzer around one target of `holdfast-hostile`, named by `HOLDFAST_FUZZ`. Memory is counted.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::sync::OnceLock;

use holdfast_hostile::{Target, memory};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Tells how much memory Rust code has.
struct Counting;

// SAFETY: every call goes to the allocator of the system as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        memory::allocated(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        memory::allocated(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        memory::freed(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks may be there for a moment.
        memory::allocated(size);
        memory::freed(layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(|input: &[u8]| -> Corpus {
    let target = TARGET.get_or_init(|| {
        let name = env::var("HOLDFAST_FUZZ").unwrap_or_default();
        Target::find(&name).unwrap_or_else(|| panic!("HOLDFAST_FUZZ={name} names no target"))
    });
    if input.len() > target.longest {
        return Corpus::Reject;
    }
    target.check(input);
    Corpus::Keep
});
