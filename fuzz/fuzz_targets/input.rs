//! The first byte chooses among arrays, archives and pictures.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../targets.rs"]
#[allow(dead_code)] // some of it is for the other users of this file
mod targets;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let names = ["array", "archive", "picture"];
    targets::fuzz(names[usize::from(*first) % names.len()], rest);
});
