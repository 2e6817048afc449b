//! See `targets.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets.rs"]
#[allow(dead_code)] // some of it is for the other users of this file
mod targets;

fuzz_target!(|bytes: &[u8]| {
    targets::fuzz("inspect", bytes);
});
