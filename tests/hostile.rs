//! Files that somebody made up: mutations of sound ones, half of them with their checksums put right again, so that what lies
//! behind the checksums is reached. Each ends in an answer or an error, without a panic, and in bounded memory.
//! `ACCLIMATE_MUTATIONS` says how many a file (default 2000).

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use acclimate::adapter::file::{MappedAdapter, read_header};
use acclimate::disk::RealDisk;
use acclimate::input::{ArrayData, NamedArray, arrays, image, write_npz};
use acclimate::journal::salvage::survey;
use acclimate::journal::{Journal, JournalWriter};
use acclimate::store::Store;
use acclimate::{ErrorKind, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

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

/// What is done with one kind of file.
struct Kind {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    /// Where the file is put, below a folder of its own.
    place: &'static str,
    read: fn(&Path) -> Result<()>,
    /// Puts checksums right.
    mend: fn(&mut [u8]),
    /// Bytes that reading `n` bytes may take.
    memory: fn(usize) -> usize,
}

/// What the formats of this crate promise.
fn tight(n: usize) -> usize {
    4 * n + (1 << 20)
}

/// What compression allows: the limits that are set for arrays and pictures.
fn inflated(_: usize) -> usize {
    1 << 30
}

fn put_crc(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    let Some(crc) = bytes.get(covered).map(crc32fast::hash) else { return };
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

fn mend_adapter(bytes: &mut [u8]) {
    let header = u32_at(bytes, 12).min(bytes.len());
    put_crc(bytes, 64..64 + header, 40);
    put_crc(bytes, 0..60, 60);
    if let Some(end) = bytes.len().checked_sub(32) {
        let hash = *blake3::hash(&bytes[..end]).as_bytes();
        bytes[end..].copy_from_slice(&hash);
    }
}

fn mend_journal(bytes: &mut [u8]) {
    put_crc(bytes, 0..60, 60);
    let mut at = 64;
    while at + 21 <= bytes.len() {
        let payload = u32_at(bytes, at).min(bytes.len());
        put_crc(bytes, at + 20..at + 20 + payload, at + 12);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[16..32]);
        crc.update(&bytes[at..at + 16]);
        bytes[at + 16..at + 20].copy_from_slice(&crc.finalize().to_le_bytes());
        if let Some(end) = bytes.get_mut(at + 20 + payload) {
            *end = 0xA5;
        }
        at += 21 + payload;
    }
}

fn mend_head(bytes: &mut [u8]) {
    put_crc(bytes, 0..60, 60);
    put_crc(bytes, 4096..4156, 4156);
}

fn mutate(seed: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        match rng.random_range(0..7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if !bytes.is_empty() => bytes[at] = rng.random(),
            // Lengths and counts as a forger would have them.
            2 | 3 => {
                let odd = [0, 1, u64::MAX, u64::MAX / 2, 1 << 31, u64::from(u32::MAX), 1 << 40, 64 << 20];
                let value = odd[rng.random_range(0..odd.len())].to_le_bytes();
                let width = [2, 4, 8][rng.random_range(0..3)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            4 => bytes.truncate(at),
            5 => {
                let piece: Vec<u8> = bytes.iter().skip(at).take(rng.random_range(0..64)).copied().collect();
                bytes.splice(at..at, piece);
            }
            _ => bytes.extend((0..rng.random_range(0..40)).map(|_| rng.random::<u8>())),
        }
    }
    bytes
}

fn read_adapter(path: &Path) -> Result<()> {
    let header = read_header(&RealDisk, path);
    MappedAdapter::open(path, None).map(|adapter| {
        assert!(header.is_ok(), "what opens has a header");
        adapter.to_adapter().validate().expect("what opens is valid");
    })
}

fn read_journal(path: &Path) -> Result<()> {
    let found = survey(&RealDisk, path)?;
    let state = Journal::load_state(&RealDisk, path)?;
    assert!(found.is_sound() && found.kept >= state.feedback() as u64, "what opens is sound: {found:?}");
    JournalWriter::open(Arc::new(RealDisk), path)?;
    Ok(())
}

fn read_head(path: &Path) -> Result<()> {
    let folder = path.parent().expect("a folder");
    let store = Store::open(Arc::new(RealDisk), folder)?;
    store.begin()?;
    store.list().map(drop)
}

fn read_arrays(path: &Path) -> Result<()> {
    arrays::read(path)?.iter().try_for_each(NamedArray::check)
}

fn read_picture(path: &Path) -> Result<()> {
    image::read(path).map(drop)
}

fn kinds() -> Vec<Kind> {
    let fixture =
        |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    drop(Store::create(Arc::new(RealDisk), folder.path()).unwrap());
    let array = NamedArray::new("x", vec![2, 3], ArrayData::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
    arrays::write_npy(&at("a.npy"), &array).unwrap();
    write_npz(&at("a.npz"), &[array]).unwrap();
    let written = |name: &str| std::fs::read(at(name)).unwrap();
    let (adapter, journals) = (fixture("adapter-v1.bin"), vec![fixture("journal-v1.bin"), fixture("journal-v2.bin")]);
    let none: fn(&mut [u8]) = |_| ();
    let kind = |name, seeds, place, read, mend, memory| Kind { name, seeds, place, read, mend, memory };
    vec![
        kind(
            "adapter",
            vec![adapter],
            "000001.adapter",
            read_adapter,
            mend_adapter as fn(&mut [u8]),
            tight as fn(usize) -> usize,
        ),
        kind("journal", journals, "journal.log", read_journal as fn(&Path) -> Result<()>, mend_journal, tight),
        kind("head", vec![written("head")], "head", read_head, mend_head, tight),
        kind("array", vec![written("a.npy")], "a.npy", read_arrays, none, tight),
        kind("archive", vec![written("a.npz")], "a.npz", read_arrays, none, inflated),
        kind("picture", vec![fixture("pil_crop_32.png")], "a.png", read_picture, none, inflated),
    ]
}

#[test]
fn no_file_makes_a_reader_panic_or_take_more_memory_than_it_may() {
    let mutations: u64 = std::env::var("ACCLIMATE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    for kind in kinds() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("generations")).unwrap();
        let path = folder.path().join(kind.place);
        let (mut accepted, mut longest) = (0, Duration::ZERO);
        for n in 0..mutations {
            let mut rng = ChaCha8Rng::seed_from_u64(n);
            let mut bytes = mutate(&kind.seeds[n as usize % kind.seeds.len()], &mut rng);
            if n % 2 == 0 {
                (kind.mend)(&mut bytes);
            }
            std::fs::write(&path, &bytes).unwrap();
            let (before, started) = (LIVE.load(Relaxed), Instant::now());
            PEAK.store(before, Relaxed);
            match (kind.read)(&path) {
                Ok(()) => accepted += 1,
                Err(e) => assert!(matches!(e.kind(), ErrorKind::BadData | ErrorKind::Io), "{} {n}: {e:?}", kind.name),
            }
            let taken = PEAK.load(Relaxed).saturating_sub(before);
            assert!(taken <= (kind.memory)(bytes.len()), "{} {n}: {taken} bytes for {}", kind.name, bytes.len());
            longest = longest.max(started.elapsed());
        }
        println!("{}: {mutations} mutations, {accepted} accepted, the longest took {longest:?}", kind.name);
        assert!(longest < Duration::from_secs(10), "{}: {longest:?}", kind.name);
    }
}
