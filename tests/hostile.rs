//! Hostile files: mutations of sound ones, half of them with their checksums put right again, so that what lies
//! behind the checksums is reached; beginnings of sound ones; noise; and bombs. Each ends in an answer or an error, without a
//! panic, in time, and in bounded memory. `ACCLIMATE_MUTATIONS` says how many a kind of file (default 2000).

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use acclimate::base::Base;
use acclimate::input::{arrays, image};
use acclimate::{ErrorKind, Result};
use prost::Message;
use tract_onnx::pb::{ModelProto, StringStringEntryProto};

#[path = "../fuzz/targets.rs"]
#[allow(dead_code)] // some of it is for the other users of this file
mod targets;

/// The system's allocator, and the most memory that was in use at once.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's own, with the same arguments; the counters touch no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the process's: one test at a time. What panics in a library and becomes an error says nothing, as in the
/// program: its trace would take more memory than the reader.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !acclimate::process::in_guarded_call() {
                usual(info);
            }
        }));
    });
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `read` returned, the most memory it took, and how long.
fn measured(read: impl FnOnce() -> Result<()>) -> (Result<()>, usize, Duration) {
    let (before, started) = (LIVE.load(Relaxed), Instant::now());
    PEAK.store(before, Relaxed);
    let outcome = read();
    (outcome, PEAK.load(Relaxed).saturating_sub(before), started.elapsed())
}

#[test]
fn no_file_makes_a_reader_panic_or_take_more_memory_than_it_may() {
    let _alone = alone();
    let mutations: u64 = std::env::var("ACCLIMATE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    for target in &targets::ALL {
        let (seeds, folder) = ((target.seeds)(), targets::folder());
        let (mut accepted, mut longest, mut most) = (0, Duration::ZERO, 0);
        let runs = mutations / target.cost;
        for n in 0..runs {
            let bytes = targets::input(target, &seeds, n);
            let (outcome, taken, time) = measured(|| (target.read)(&bytes, folder.path()));
            match outcome {
                Ok(()) => accepted += 1,
                Err(e) => assert_ne!(e.kind(), ErrorKind::Internal, "{} {n}: {e:?}", target.name),
            }
            assert!(taken <= (target.memory)(bytes.len()), "{} {n}: {taken} bytes for {}", target.name, bytes.len());
            (longest, most) = (longest.max(time), most.max(taken));
        }
        println!(
            "{}: {runs} files, {accepted} accepted, the longest took {longest:?}, the most {} KiB",
            target.name,
            most >> 10
        );
        assert!(longest < Duration::from_secs(10), "{}: {longest:?}", target.name);
    }
}

#[test]
fn every_beginning_of_a_sound_file_is_read_or_refused() {
    let _alone = alone();
    for name in ["journal", "adapter", "head", "array", "archive", "settings", "tokenizer"] {
        let (target, folder) = (targets::target(name).unwrap(), targets::folder());
        for seed in (target.seeds)() {
            for len in (0..seed.len()).step_by(if seed.len() > 2000 { 7 } else { 1 }) {
                let (outcome, taken, _) = measured(|| (target.read)(&seed[..len], folder.path()));
                assert!(taken <= (target.memory)(len), "{name} {len}: {taken}");
                assert!(outcome.is_err_and(|e| e.kind() != ErrorKind::Internal) || len > 0, "{name} {len}");
            }
        }
    }
}

/// Refused in time, with no more memory than `most`.
#[track_caller]
fn refused(name: &str, read: impl FnOnce() -> Result<()>, most: usize) {
    let (outcome, taken, time) = measured(read);
    let error = outcome.expect_err(name);
    assert!(matches!(error.kind(), ErrorKind::BadData | ErrorKind::UnsupportedModel), "{name}: {error:?}");
    assert!(taken <= most && time < Duration::from_secs(10), "{name}: {taken} bytes, {time:?}");
}

/// A PNG file of one grey line that declares to be `width` by `height`.
fn png_bomb(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        file.extend((data.len() as u32).to_be_bytes());
        let body = [kind, data].concat();
        file.extend(&body);
        file.extend(crc32fast::hash(&body).to_be_bytes());
    };
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat());
    chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01]);
    chunk(b"IEND", &[]);
    file
}

#[test]
fn pictures_that_declare_more_than_they_hold_are_refused_before_memory_is_taken() {
    let _alone = alone();
    for (width, height) in [(60_000, 60_000), (8192, 8192), (u32::MAX, 1), (8193, 10)] {
        let bomb = png_bomb(width, height);
        refused("png", || image::decode(&bomb).map(drop), 4 << 20);
    }
    // A JPEG file whose frame says 65,500 by 65,500.
    let mut jpeg = targets::target("picture").map(|t| (t.seeds)()).unwrap().pop().unwrap();
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    refused("jpeg", || image::decode(&jpeg).map(drop), 4 << 20);
    // A WebP file whose EXIF record says 255 MiB, with pixels that are damaged.
    let chunks = b"VP8X\x0a\0\0\0\x08\0\0\0\0\0\0\0\0\0VP8L\x06\0\0\0.\0\0\0\0\0EXIF\0\0\xf0\x0f";
    let webp = [b"RIFF\xff\xff\xff\x0fWEBP", &chunks[..]].concat();
    refused("webp", || image::decode(&webp).map(drop), 4 << 20);
}

#[test]
fn arrays_that_declare_or_inflate_to_more_than_is_allowed_are_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let declared = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4), }";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((declared.len() as u16).to_le_bytes());
    npy.extend(declared.as_bytes());
    let path = folder.path().join("a.npy");
    std::fs::write(&path, npy).unwrap();
    refused("npy", || arrays::read(&path).map(drop), 1 << 20);

    // Archives of a few KiB that do inflate: to more than is allowed altogether, and to more than an array declares.
    const MIB: usize = 1 << 20;
    let path = folder.path().join("bomb.npz");
    let bomb = |entries: &[(&str, usize, usize)]| {
        let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        for (name, declared, real) in entries {
            let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({declared},), }}");
            archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
            archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
            archive.write_all(header.as_bytes()).unwrap();
            archive.write_all(&vec![0; *real]).unwrap();
        }
        archive.finish().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 256 << 10);
    };
    bomb(&[("a.npy", 6 * MIB, 6 * MIB), ("b.npy", 6 * MIB, 6 * MIB), ("c.npy", 6 * MIB, 6 * MIB)]);
    refused("npz of many", || arrays::read_raw(&path, 16 << 20).map(drop), 17 << 20);
    assert!(arrays::read_raw(&path, 18 << 20).is_ok());
    bomb(&[("a.npy", 2 * MIB, 64 * MIB)]);
    refused("npz of more than it declares", || arrays::read_raw(&path, 256 << 20).map(drop), 3 << 20);
}

/// A model with a weight in another file: `location`, below `folder`.
fn external(location: &str, length: &str) -> Vec<u8> {
    let bytes = targets::target("onnx").map(|t| (t.seeds)()).unwrap().remove(0);
    let mut model = ModelProto::decode(&bytes[..]).unwrap();
    let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
    tensor.raw_data = vec![];
    (tensor.float_data, tensor.int64_data) = (vec![], vec![]);
    tensor.data_location = Some(1);
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    tensor.external_data = vec![entry("location", location), entry("offset", "0"), entry("length", length)];
    model.encode_to_vec()
}

#[test]
fn external_data_comes_from_the_model_s_own_folder_and_is_as_long_as_it_says() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("model"), folder.path().join("secret.bin"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(&outside, vec![7; 1 << 16]).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("link.bin")).unwrap();
    std::os::unix::fs::symlink(folder.path(), inside.join("up")).unwrap();
    std::fs::write(inside.join("short.bin"), [0; 3]).unwrap();
    std::fs::write(inside.join("real.bin"), vec![7; 1 << 16]).unwrap();
    std::os::unix::fs::symlink("real.bin", inside.join("near.bin")).unwrap();
    std::fs::hard_link(&outside, inside.join("twice.bin")).unwrap();
    let absolute = outside.to_str().unwrap().to_owned();
    let load = |bytes: Vec<u8>| Base::from_bytes(&bytes, &inside.join("model.onnx")).map(drop);
    for location in [
        "../secret.bin",
        "./../secret.bin",
        &absolute,
        "link.bin",
        "up/secret.bin",
        "near.bin",
        "twice.bin",
        "missing.bin",
        "",
        ".",
    ] {
        refused(location, || load(external(location, "64")), 4 << 20);
    }
    for length in ["64", "18446744073709551615", "-1", "x"] {
        refused(length, || load(external("short.bin", length)), 4 << 20);
    }
    // The file itself is read: with the right bytes in place the model loads.
    let bytes = targets::target("onnx").map(|t| (t.seeds)()).unwrap().remove(0);
    let tensor = ModelProto::decode(&bytes[..]).unwrap().graph.unwrap().initializer.remove(0);
    std::fs::write(inside.join("weights.bin"), &tensor.raw_data).unwrap();
    load(external("weights.bin", &tensor.raw_data.len().to_string())).unwrap();
    assert!(Path::new(&absolute).exists());
}
