//! The adapter that answers is used where it lies in its file: `[storage]` in `acclimate.toml`,
//! docs/adapter-format.md.
#![cfg(feature = "train")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use acclimate::adapter::{Adapter, DenseTensor, SiteDelta, SiteKind};
use acclimate::disk::RealDisk;
use acclimate::store::{Store, profile_folder};
use acclimate::{ErrorKind, Home, Session};
use support::{home, inputs, learned, person};

const FILE: &str = "profiles/p/generations/000001.adapter";

/// The home again, with adapters held so.
fn held(home: &Home, adapters: &str) -> acclimate::error::Result<Home> {
    let settings = home.path().join("acclimate.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let before = text.split("\n[storage]").next().unwrap();
    std::fs::write(&settings, format!("{before}\n[storage]\nadapters = \"{adapters}\"\n")).unwrap();
    Home::open(home.path())
}

fn is_mapped(file: &Path) -> bool {
    let name = file.canonicalize().unwrap();
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(name.to_str().unwrap())
}

#[test]
fn a_mapped_adapter_answers_as_one_that_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    drop(learned(&home, "p"));
    let file = home.path().join(FILE);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o400);
    let windows = inputs(&person(23), 40);
    let answers = |session: &Session| session.evaluate(&windows, false, 1).unwrap().unwrap();
    let session = held(&home, "read").unwrap().session("p").unwrap();
    let read = answers(&session);
    assert!(!is_mapped(&file));
    drop(session);
    let session = held(&home, "mmap").unwrap().session("p").unwrap();
    assert!(is_mapped(&file));
    assert!(answers(&session) == read, "the same bits");
    assert_eq!(session.current_generation().unwrap(), 1);
    drop(session);
    assert!(!is_mapped(&file), "with the session goes the map");
    let e = held(&home, "maybe").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadData);
    assert!(e.to_string().contains("mmap") && e.to_string().contains("acclimate.toml"), "{e}");
}

#[test]
fn a_mapped_adapter_may_lose_its_name_and_another_file_take_it() {
    let folder = tempfile::tempdir().unwrap();
    let session = learned(&home(&folder), "p");
    let file = session.home().path().join(FILE);
    let input = person(23).input(50).unwrap();
    let expected = session.predict_top(&input, 99).unwrap();
    let same = || {
        let now = session.predict_top(&input, 99).unwrap();
        assert_eq!((now.generation, &now.top), (1, &expected.top));
    };
    let other = file.with_extension("other");
    std::fs::write(&other, b"not an adapter").unwrap();
    std::fs::rename(&other, &file).unwrap();
    same();
    std::fs::remove_file(&file).unwrap();
    same();
}

/// Memory of this process that no file is behind, in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A profile whose generation 1 is an adapter of `rank` beside the first convolution; its file.
fn with_large_adapter(home: &Home, template: &Adapter, profile: &str, rank: usize) -> PathBuf {
    let values = |n: usize| (0..n).map(|i| (i % 1009) as f32 * 1e-6).collect::<Vec<_>>();
    let tensor = |shape: &[usize]| DenseTensor { shape: shape.to_vec(), data: values(shape.iter().product()) };
    let (name, kind) = ("/0/Conv".to_string(), SiteKind::Conv);
    let (a, b) = (tensor(&[rank, 6, 5]), tensor(&[32, rank]));
    let site = SiteDelta { name, kind, rank: rank as u32, alpha: rank as f32, a, b };
    drop(home.session(profile).unwrap());
    let folder = profile_folder(home.path(), profile).unwrap();
    let store = Store::open(Arc::new(RealDisk), &folder).unwrap();
    store.commit(&Adapter { sites: vec![site], ..template.clone() }).unwrap();
    folder.join("generations/000001.adapter")
}

#[test]
fn resident_adapters_cost_page_cache_and_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let template = learned(&home, "p").adapter().unwrap().unwrap();
    let profiles: Vec<String> = (0..24).map(|n| format!("p{n}")).collect();
    let files: Vec<PathBuf> = profiles.iter().map(|p| with_large_adapter(&home, &template, p, 16_384)).collect();
    let size = std::fs::metadata(&files[0]).unwrap().len();
    assert!(size > 4_000_000);
    let whole = size * profiles.len() as u64;
    let input = person(23).input(50).unwrap();
    let mut answers = vec![];
    for (adapters, least, most) in [("mmap", 0, whole / 4), ("read", whole * 3 / 4, whole * 2)] {
        let home = held(&home, adapters).unwrap();
        let before = anonymous();
        let sessions: Vec<Session> = profiles.iter().map(|p| home.session(p).unwrap()).collect();
        let taken = anonymous().saturating_sub(before);
        println!("{adapters}: {taken} bytes for adapters of {whole}");
        assert!(files.iter().all(|file| is_mapped(file) == (adapters == "mmap")));
        assert!((least..=most).contains(&taken), "{adapters}: {taken} bytes for adapters of {whole}");
        answers.push(sessions[3].predict_top(&input, 99).unwrap().top);
    }
    assert_eq!(answers[0], answers[1]);
}

/// The base model of a home is used from its file: what becomes of the name does not matter, and what takes it is
/// refused.
#[test]
fn a_base_in_use_may_lose_its_name_and_another_file_take_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let model = home.path().join("base.onnx");
    assert_eq!(std::fs::metadata(&model).unwrap().permissions().mode() & 0o777, 0o400);
    assert!(is_mapped(&model));
    let windows = inputs(&person(23), 20);
    let answers = |home: &Home| {
        let session = home.session("p").unwrap();
        windows.iter().map(|w| session.predict_top(w, 99).unwrap().top).collect::<Vec<_>>()
    };
    let before = answers(&home);
    let whole = std::fs::read(&model).unwrap();
    support::replace(&model, &whole[..whole.len() / 2]);
    assert!(answers(&home) == before, "the same bits");
    let e = Home::open(home.path()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadData);
    std::fs::remove_file(&model).unwrap();
    assert!(answers(&home) == before);
    assert_eq!(Home::open(home.path()).unwrap_err().kind(), ErrorKind::Io);
    std::fs::write(&model, &whole).unwrap();
    assert!(answers(&Home::open(home.path()).unwrap()) == before);
}
