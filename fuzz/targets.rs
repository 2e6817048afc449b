//! What reads files that somebody else may have made, as functions of bytes: `fuzz/fuzz_targets` gives them to libFuzzer,
//! `examples/fuzz.rs` to a mutator that runs everywhere, and `tests/hostile.rs` counts the memory that they take.
//!
//! Each may fail; none may panic, whatever the bytes.

use std::path::Path;
use std::sync::Arc;

use acclimate::adapter::file::{AdapterFile, read_header};
use acclimate::base::Base;
use acclimate::disk::RealDisk;
use acclimate::input::{ArrayData, NamedArray, TextEncoder, arrays, image, write_npz};
use acclimate::journal::salvage::{salvage, survey};
use acclimate::journal::{Journal, JournalWriter, Record};
use acclimate::store::Store;
use acclimate::{Error, ErrorKind, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[path = "forge.rs"]
mod forge;
#[path = "operations.rs"]
mod operations;
#[path = "texts.rs"]
mod texts;

/// One kind of input.
pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads `bytes` as it would a file of the user; what has to be a file is put into the folder.
    pub read: fn(&[u8], &Path) -> Result<()>,
    /// Puts checksums right, so that what lies behind them is reached, or forges what damage at random seldom reaches.
    pub mend: fn(&mut Vec<u8>),
    /// Bytes of memory that reading `n` bytes may take.
    pub memory: fn(usize) -> usize,
    /// How much of the work that cheap targets get is spent on it, as a divisor.
    pub cost: u64,
}

pub const ALL: [Target; 11] = [
    Target {
        name: "adapter",
        seeds: adapters,
        read: read_adapter,
        mend: |bytes| mend_adapter(bytes),
        memory: tight,
        cost: 1,
    },
    Target {
        name: "journal",
        seeds: journals,
        read: read_journal,
        mend: |bytes| mend_journal(bytes),
        memory: tight,
        cost: 1,
    },
    Target { name: "head", seeds: heads, read: read_head, mend: |bytes| mend_head(bytes), memory: tight, cost: 1 },
    Target {
        name: "operations",
        seeds: operations::seeds,
        read: operations::run,
        mend: nothing,
        memory: generous,
        cost: 20,
    },
    Target { name: "onnx", seeds: models, read: read_model, mend: forge::forge_model, memory: inflated, cost: 20 },
    Target {
        name: "inspect",
        seeds: models,
        read: inspect_model,
        mend: forge::forge_model,
        memory: inflated,
        cost: 50,
    },
    Target { name: "array", seeds: plain_arrays, read: read_array, mend: nothing, memory: tight, cost: 1 },
    Target { name: "archive", seeds: archives, read: read_archive, mend: nothing, memory: inflated, cost: 1 },
    Target { name: "picture", seeds: pictures, read: read_picture, mend: nothing, memory: inflated, cost: 1 },
    Target { name: "tokenizer", seeds: tokenizers, read: read_tokenizer, mend: nothing, memory: generous, cost: 1 },
    Target { name: "settings", seeds: settings, read: read_settings, mend: nothing, memory: tight, cost: 1 },
];

pub fn target(name: &str) -> Option<&'static Target> {
    const TARGETS: &[Target] = &ALL;
    TARGETS.iter().find(|t| t.name == name)
}

/// What the formats of this crate promise.
fn tight(n: usize) -> usize {
    4 * n + (1 << 20)
}

/// What a format of many small parts takes, or a script that makes files.
fn generous(n: usize) -> usize {
    256 * n + (32 << 20)
}

/// What compression allows: the limits that are set for arrays and pictures.
fn inflated(_: usize) -> usize {
    1 << 30
}

fn nothing(_: &mut Vec<u8>) {}

/// A folder for the files: in memory where the system has one, since nothing here is about storage.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// Damages `seed` in up to three places, as accidents and forgers do.
pub fn mutate(seed: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
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

/// The `n`-th input of a target: mostly mutations, half of them mended, some of them cut off, some noise.
pub fn input(target: &Target, seeds: &[Vec<u8>], n: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(n);
    let seed = &seeds[n as usize % seeds.len()];
    match n % 16 {
        15 => (0..rng.random_range(0..400)).map(|_| rng.random()).collect(),
        14 => seed[..rng.random_range(0..=seed.len())].to_vec(),
        _ => {
            let mut bytes = mutate(seed, &mut rng);
            if n.is_multiple_of(2) {
                (target.mend)(&mut bytes);
            }
            bytes
        }
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if root.ends_with("fuzz") { root.parent().unwrap_or(root) } else { root };
    std::fs::read(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|e| Error::io("cannot write", &path, e))?;
    Ok(path)
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

fn adapters() -> Vec<Vec<u8>> {
    vec![fixture("tests/fixtures/adapter-v1.bin"), fixture("tests/fixtures/adapter-v2.bin")]
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

fn read_adapter(bytes: &[u8], folder: &Path) -> Result<()> {
    let path = put(folder, "000001.adapter", bytes)?;
    let header = read_header(&RealDisk, &path);
    AdapterFile::open(&path, None).map(|adapter| {
        assert!(header.is_ok(), "what opens has a header");
        adapter.to_adapter().validate().expect("what opens is valid");
    })
}

/// The growing file alone, and a segment with the file that lists it behind it.
fn journals() -> Vec<Vec<u8>> {
    let segment = fixture("tests/fixtures/journal-v3/journal.segments/000001.log");
    let list = fixture("tests/fixtures/journal-v3/journal.log");
    let two = [&(segment.len() as u32).to_le_bytes()[..], &segment, &list].concat();
    vec![fixture("tests/fixtures/journal-v1.bin"), fixture("tests/fixtures/journal-v2.bin"), two, texts::journal()]
}

/// Where the growing file begins in an input.
fn growing(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"ACCLJRNL") { 0 } else { u32_at(bytes, 0).saturating_add(4).min(bytes.len()) }
}

fn mend_journal(bytes: &mut [u8]) {
    let start = growing(bytes);
    let (segment, growing) = bytes.split_at_mut(start);
    if let Some((_, segment)) = segment.split_at_mut_checked(4) {
        mend_file(segment);
    }
    mend_file(growing);
}

fn mend_file(bytes: &mut [u8]) {
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

fn read_journal(bytes: &[u8], folder: &Path) -> Result<()> {
    let start = growing(bytes);
    let segments = folder.join("journal.segments");
    let _ = std::fs::remove_dir_all(&segments);
    if start > 4 {
        std::fs::create_dir(&segments).map_err(|e| Error::io("cannot make", &segments, e))?;
        put(&segments, "000001.log", &bytes[4..start])?;
        put(&segments, "000002.log", &fixture("tests/fixtures/journal-v3/journal.segments/000002.log"))?;
    }
    let path = put(folder, "journal.log", &bytes[start..])?;
    let found = survey(&RealDisk, &path)?;
    let state = Journal::load_state(&RealDisk, &path);
    if let Ok(state) = &state {
        let read: Result<Vec<Record>> = Journal::read(&RealDisk, &path).and_then(Iterator::collect);
        let read = read.map(|records| records.len() as u64);
        assert!(!found.is_sound() || read.as_ref().is_ok_and(|n| *n == found.kept), "what is sound is read: {found:?}");
        for id in state.all_ids().unwrap_or_default().into_iter().take(20) {
            let _ = (state.interaction(id), state.feedback_on(id));
        }
        let _ = state.all_feedback().take(20).count();
        let _ = state.latest_unspoken(20);
    }
    let opened = JournalWriter::open(Arc::new(RealDisk), &path);
    salvage(&RealDisk, &path)?;
    assert!(survey(&RealDisk, &path)?.is_sound(), "what was repaired is sound");
    opened.map(drop).and(state.map(drop))
}

fn heads() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    Store::create(Arc::new(RealDisk), folder.path()).expect("a profile");
    vec![std::fs::read(folder.path().join("head")).expect("its head")]
}

fn mend_head(bytes: &mut [u8]) {
    put_crc(bytes, 0..60, 60);
    put_crc(bytes, 4096..4156, 4156);
}

fn read_head(bytes: &[u8], folder: &Path) -> Result<()> {
    let generations = folder.join("generations");
    std::fs::create_dir_all(&generations).map_err(|e| Error::io("cannot make", &generations, e))?;
    put(folder, "head", bytes)?;
    let store = Store::open(Arc::new(RealDisk), folder)?;
    store.begin()?;
    store.list().map(drop)
}

/// Scripts: a byte is an operation, the next one what it is about.
fn models() -> Vec<Vec<u8>> {
    let plain = ["conv_zoo", "effnet_tiny", "bert2"].map(|name| fixture(&format!("tests/goldens/{name}/model.onnx")));
    let zipped = ["zoo/gru", "zoo/crnn_bilstm", "zoo/unet_bilinear", "zoo/qwen2", "quantised/bert_int4"].into_iter();
    let zipped = zipped.chain(["quantised/ds_cnn_qoperator", "zoo/tf_upsample", "zoo/swin", "half/squeezenet_half"]);
    let zipped = zipped.map(|name| {
        let archive = fixture(&format!("tests/goldens/{name}.zip"));
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(archive)).expect("a zip archive");
        let mut bytes = vec![];
        let mut model = archive.by_name("model.onnx").expect("a model in it");
        std::io::Read::read_to_end(&mut model, &mut bytes).expect("a model");
        bytes
    });
    plain.into_iter().chain(zipped).collect()
}

fn read_model(bytes: &[u8], folder: &Path) -> Result<()> {
    Base::from_bytes(bytes, &folder.join("model.onnx")).map(drop)
}

/// What `acclimate inspect` asks of a model, too: its sites, and whether gradients build.
fn inspect_model(bytes: &[u8], folder: &Path) -> Result<()> {
    let path = put(folder, "model.onnx", bytes)?;
    let options = acclimate::tools::inspect::Options {
        task: None,
        rank: 4,
        sites: acclimate::sites::Pattern::new("all"),
        ..Default::default()
    };
    acclimate::tools::inspect::inspect(&path, &options).map(drop)
}

fn example_array() -> NamedArray {
    let data = ArrayData::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    NamedArray::new("x", vec![2, 3], data).expect("an array")
}

fn written(write: impl Fn(&Path) -> Result<()>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a");
    write(&path).expect("a file");
    std::fs::read(path).expect("a file")
}

fn plain_arrays() -> Vec<Vec<u8>> {
    vec![written(|path| arrays::write_npy(path, &example_array()))]
}

fn read_array(bytes: &[u8], folder: &Path) -> Result<()> {
    arrays::read(&put(folder, "a.npy", bytes)?)?.iter().try_for_each(NamedArray::check)
}

fn archives() -> Vec<Vec<u8>> {
    vec![written(|path| write_npz(path, &[example_array()]))]
}

fn read_archive(bytes: &[u8], folder: &Path) -> Result<()> {
    arrays::read(&put(folder, "a.npz", bytes)?)?.iter().try_for_each(NamedArray::check)
}

fn pictures() -> Vec<Vec<u8>> {
    let folder = folder();
    let file = put(folder.path(), "a.npz", &fixture("tests/fixtures/pictures.npz")).expect("a file");
    let forms = arrays::read(&file).expect("pictures");
    let form = |name: &str| match forms.iter().find(|a| a.name == name).map(|a| &a.data) {
        Some(ArrayData::U8(bytes)) => bytes.clone(),
        _ => panic!("no picture {name}"),
    };
    let names = ["png-palette", "webp-lossy", "webp-lossless", "jpeg-progressive-2x2", "jpeg-separate-2x2"];
    let names = names.into_iter().chain(["jpeg-cmyk-progressive", "jpeg-restart", "jpeg-baseline-1x1"]);
    names.map(form).collect()
}

fn read_picture(bytes: &[u8], folder: &Path) -> Result<()> {
    image::read(&put(folder, "a.png", bytes)?).map(drop)
}

fn tokenizers() -> Vec<Vec<u8>> {
    let words = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"[PAD]",
        "single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"Lowercase"},
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,"model":{"type":"WordLevel",
        "vocab":{"[PAD]":0,"[UNK]":1,"turn":2,"on":3},"unk_token":"[UNK]"}}"#;
    let pieces = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{"type":"NFC"},
        "pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+|[a-z]+"},"behavior":"Isolated","invert":false},
        "post_processor":null,"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,
        "continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
        "vocab":{"t":0,"u":1,"tu":2},"merges":["t u"]}}"###;
    vec![words.into(), pieces.into()]
}

fn read_tokenizer(bytes: &[u8], _: &Path) -> Result<()> {
    let encoder = TextEncoder::from_bytes(bytes, 16)?;
    encoder.encode("turn on the light in the kitchen").map(drop)
}

fn settings() -> Vec<Vec<u8>> {
    let all = "format = 1\nmodel = \"model.onnx\"\nsha = \"00\"\ntask = \"classification\"\nlabels = \"labels.txt\"\n\
               max_length = 128\nrank = 8\nsites = \"all\"\nnew_classes = \"ask\"\ndisagreement_limit = 0.1\nseed = 1\n";
    vec![all.into()]
}

fn read_settings(bytes: &[u8], folder: &Path) -> Result<()> {
    put(folder, "acclimate.toml", bytes)?;
    let health = acclimate::Home::verify(folder)?;
    let settings = health.findings.first().expect("a finding about the settings");
    match settings.state {
        acclimate::store::State::Sound => Ok(()),
        _ => Err(Error::new(ErrorKind::BadData, settings.what.clone())),
    }
}

/// Reads `bytes` once, in a folder of the process.
pub fn fuzz(name: &str, bytes: &[u8]) {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    static HOOK: std::sync::Once = std::sync::Once::new();
    let folder = FOLDER.get_or_init(folder);
    // libFuzzer's hook ends the process. What panics in a library and becomes an error is none of its finds.
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !acclimate::process::in_guarded_call() {
                usual(info);
            }
        }));
    });
    if let Some(target) = target(name) {
        let mut bytes = bytes.to_vec();
        (target.mend)(&mut bytes);
        let _ = (target.read)(&bytes, folder.path());
    }
}

/// Writes the seeds of every target below `folder`, as cargo-fuzz wants them: `corpus/TARGET/NAME`.
pub fn write_seeds(folder: &Path) -> std::io::Result<()> {
    let chosen = [
        ("array", "input", 0),
        ("archive", "input", 1),
        ("picture", "input", 2),
        ("tokenizer", "text", 0),
        ("settings", "text", 1),
    ];
    for target in &ALL {
        let (to, first) = chosen.iter().find(|c| c.0 == target.name).map_or((target.name, None), |c| (c.1, Some(c.2)));
        std::fs::create_dir_all(folder.join(to))?;
        for (n, seed) in (target.seeds)().into_iter().enumerate() {
            let bytes: Vec<u8> = first.into_iter().chain(seed).collect();
            std::fs::write(folder.join(to).join(format!("{}-{n}", target.name)), bytes)?;
        }
    }
    Ok(())
}
