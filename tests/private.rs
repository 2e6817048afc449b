//! Nobody else reads a profile: encryption at rest, and bundles.
#![cfg(all(feature = "train", feature = "bundles"))]

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use acclimate::adapter::Adapter;
use acclimate::bundle::{self, Lock, Unlock};
use acclimate::cipher::Key;
use acclimate::disk::KeySource;
use acclimate::input::RawInput;
use acclimate::journal::InteractionId;
use acclimate::runtime::{Checkpoints, TrainLimits, TrainOptions};
use acclimate::store::Selection;
use acclimate::{ErrorKind, Feedback, Home, InitOptions, Session};
use support::{apart, asset, copy, inputs, learned, person, teach};
use tempfile::TempDir;

fn encrypted(folder: &TempDir, name: &str) -> (Home, PathBuf) {
    let key = folder.path().join(format!("{name}.key"));
    let options = InitOptions::new(asset("har_cnn.onnx")).key(KeySource::KeyFile(key.clone()));
    (Home::init(folder.path().join(name), &options).unwrap(), key)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

/// Files of a profile in which `needle` stands.
fn that_hold(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let holds = |file: &PathBuf| std::fs::read(file).unwrap().windows(needle.len()).any(|w| w == needle);
    files(folder).into_iter().filter(holds).collect()
}

#[test]
fn an_encrypted_home_works_as_any_other_and_shows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (home, key) = encrypted(&folder, "home");
    let plain = support::home(&folder_of(&folder, "plain"));
    let (session, beside) = (learned(&home, "ada"), learned(&plain, "ada"));
    let questions = inputs(&person(23), 8);
    let answers = session.evaluate(&questions, false, 1).unwrap().unwrap();
    assert_eq!(apart(&answers, &beside.evaluate(&questions, false, 1).unwrap().unwrap()), 0.0);
    // What the person said, what they showed, and what was learned.
    let RawInput::Arrays(shown) = person(23).input(0).unwrap() else { panic!("arrays") };
    let acclimate::input::ArrayData::F32(values) = &shown[0].data else { panic!("floats") };
    let shown: Vec<u8> = values[..16].iter().flat_map(|v| v.to_le_bytes()).collect();
    // Needles so long that no encrypted byte sequence holds one by chance.
    let profile = |home: &Home| home.path().join("profiles/ada");
    let site = beside.adapter().unwrap().unwrap().sites[0].name.clone();
    for needle in [support::RESTING.as_bytes(), &shown, site.as_bytes()] {
        assert!(needle.len() >= 6, "{needle:?}");
        assert!(that_hold(&profile(&home), needle).is_empty(), "{:?}", that_hold(&profile(&home), needle));
        assert!(!that_hold(&profile(&plain), needle).is_empty(), "{needle:?} is in no plain file either");
    }

    // Again from the disk; verified, forgotten from, repaired.
    drop(session);
    let home = Home::open(home.path()).unwrap();
    let session = home.session("ada").unwrap();
    assert_eq!(session.evaluate(&questions, false, 1).unwrap().unwrap(), answers);
    let health = Home::verify(home.path()).unwrap();
    assert!(health.is_sound(), "{:?}", health.findings);
    session.forget(&Selection::Ids(vec![InteractionId(0)])).unwrap();
    assert_eq!(session.status().unwrap().generation, 0);
    assert!(Home::repair(home.path()).unwrap().is_empty());
    assert_eq!(session.status().unwrap().feedback + 1, beside.status().unwrap().feedback);

    // Without its key, and with another one.
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let e = Home::open(home.path()).err().unwrap();
    assert!(e.kind() == ErrorKind::NoKey && e.to_string().contains("home.key"), "{e}");
    assert_eq!(Home::verify(home.path()).unwrap_err().kind(), ErrorKind::NoKey);
    assert_eq!(Home::repair(home.path()).unwrap_err().kind(), ErrorKind::NoKey);
    std::fs::write(&key, "0".repeat(64)).unwrap();
    let e = Home::open(home.path()).err().unwrap();
    assert!(e.kind() == ErrorKind::NoKey && e.to_string().contains("wrong key"), "{e}");
    let right = Key::of(hex(&kept));
    assert!(Home::open_with_key(home.path(), right).is_ok());
    assert_eq!(Home::open_with_key(home.path(), Key::random().unwrap()).err().unwrap().kind(), ErrorKind::NoKey);
}

const SECRET: &str = "what nobody is to know";

/// A profile after real use, of whose files none is missing: feedback, one item of it secret, two trainings within
/// limits, of which a repair puts the first one's adapter aside, and a third one that is cut off. The secret's
/// interaction.
fn used(home: &Home) -> InteractionId {
    let session = home.session("ada").unwrap();
    teach(&session, &person(23), 9);
    let secret = session.predict(&person(24).input(0).unwrap()).unwrap().id.unwrap();
    session.feedback(secret, Feedback::NewLabel(SECRET.into())).unwrap();
    let limits = TrainLimits::default().memory_bytes(16 << 30).budget_seconds(600.0);
    let train = |stop: &AtomicBool, progress: &(dyn Fn(acclimate::adapt::Progress) + Sync)| {
        let options = TrainOptions::default().checkpoints(Checkpoints::Every(Duration::from_millis(1)));
        session.train(&options.limits(limits).stop(stop).progress(progress))
    };
    let on = AtomicBool::new(false);
    for generation in [1, 2] {
        let report = train(&on, &|_| ()).unwrap();
        assert_eq!((report.promoted, report.generation), (true, generation), "{:?}", report.tried);
        assert_eq!(session.choice().unwrap().as_ref(), report.choice());
        if generation == 1 {
            let adapter = home.path().join("profiles/ada/generations/000001.adapter");
            let mut bytes = std::fs::read(&adapter).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            support::replace(&adapter, bytes);
            assert!(!Home::repair(home.path()).unwrap().is_empty());
            assert_eq!(session.status().unwrap().generation, 0);
        }
    }
    let told = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    let stopped = train(&stop, &|_| stop.store(told.fetch_add(1, Ordering::Relaxed) >= 5, Ordering::Relaxed));
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    secret
}

/// The names of a profile's files, without the random part of those of fits.
fn names(profile: &Path) -> Vec<String> {
    let name = |file: PathBuf| file.strip_prefix(profile).unwrap().display().to_string();
    let plain = |name: String| match name.strip_prefix("checkpoint/").filter(|n| n.ends_with(".fit")) {
        Some(_) => "checkpoint/*.fit".to_string(),
        None => name.split_inclusive(".adapter").next().unwrap_or_default().to_string(),
    };
    let mut all: Vec<String> = files(profile).into_iter().map(name).map(plain).collect();
    all.dedup();
    all
}

/// Files that say nothing about anybody: numbers of generations, who holds a lock, and bytes written a day.
fn says_nothing(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "lock")
        || file.file_name().is_some_and(|n| n == "head" || n == "written.toml")
}

/// Runs of at least 10 printable characters.
fn strings(bytes: &[u8]) -> Vec<&str> {
    let runs = bytes.split(|b| !(b' '..=b'~').contains(b)).filter(|run| run.len() >= 10);
    runs.filter_map(|run| std::str::from_utf8(run).ok()).collect()
}

/// Whether every record of a journal file is sealed, but for the marks of what is durable, which say nothing.
fn is_sealed_journal(bytes: &[u8]) -> bool {
    let (mut at, mut records) = (64, 0);
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let payload = &bytes[at + 20..at + 20 + length];
        if payload[0] != 0xEE && payload != [3] {
            return false;
        }
        records += 1;
        at += 20 + length + 1;
    }
    records > 1
}

#[test]
fn no_file_of_an_encrypted_profile_shows_records_or_what_is_derived_from_them() {
    let folder = tempfile::tempdir().unwrap();
    let (home, _) = encrypted(&folder, "home");
    let plain = support::home(&folder_of(&folder, "plain"));
    used(&home);
    used(&plain);
    let (profile, twin) = (home.path().join("profiles/ada"), plain.path().join("profiles/ada"));
    let all = names(&profile);
    assert_eq!(all, names(&twin));
    for file in [
        "choice.toml",
        "doubts.toml",
        "written.toml",
        "checkpoint/run",
        "checkpoint/*.fit",
        "generations/000002.adapter",
        "journal.log",
    ] {
        assert!(all.iter().any(|name| name == file), "{file} is not in {all:?}");
    }
    assert!(all.iter().any(|name| name.starts_with("quarantine/000001.adapter")), "{all:?}");

    let bytes: Vec<(PathBuf, Vec<u8>)> = files(&profile)
        .into_iter()
        .filter(|f| !says_nothing(f))
        .map(|f| (f.clone(), std::fs::read(f).unwrap()))
        .collect();
    for (file, bytes) in &bytes {
        let journal = bytes.starts_with(b"ACCLJRNL") && is_sealed_journal(bytes);
        assert!(journal || bytes.starts_with(b"ACCLSEAL"), "{} is not encrypted", file.display());
    }
    // Whatever can be read in the files of the same life without a key.
    let shown: Vec<&str> = bytes.iter().flat_map(|(_, bytes)| strings(bytes)).collect();
    let mut needles = vec![];
    for file in files(&twin).into_iter().filter(|f| !says_nothing(f)) {
        let bytes = std::fs::read(&file).unwrap();
        for needle in strings(&bytes) {
            assert!(!shown.iter().any(|run| run.contains(needle)), "{needle:?} of {}", file.display());
            needles.push(needle.to_owned());
        }
    }
    for part in [SECRET, "micro_batch"] {
        assert!(needles.iter().any(|needle| needle.contains(part)), "{part:?} is not in {needles:?}");
    }
    assert!(needles.len() > 20, "{needles:?}");
    assert!(Home::verify(home.path()).unwrap().is_sound());
}

#[test]
fn after_forgetting_nothing_is_left_that_was_derived_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let (locked, _) = encrypted(&folder, "home");
    let home = support::home(&folder_of(&folder, "plain"));
    for home in [&locked, &home] {
        let secret = used(home);
        let session = home.session("ada").unwrap();
        let profile = home.path().join("profiles/ada");
        let history = session.history().unwrap();
        assert_eq!(history.len(), 2);
        let sites: Vec<String> = session.choice().unwrap().unwrap().sites.into_iter().map(|s| s.name).collect();
        let before = session.status().unwrap();

        let forgotten = session.forget(&Selection::Ids(vec![secret])).unwrap();
        assert_eq!((forgotten.generations.as_slice(), forgotten.generation), (&[2][..], 0));
        let left = names(&profile);
        let stays = |name: &String| name == "journal.log" || says_nothing(Path::new(name));
        assert!(left.iter().all(stays), "{left:?}");
        assert_eq!((session.choice().unwrap(), session.history().unwrap()), (None, vec![]));
        let RawInput::Arrays(shown) = person(24).input(0).unwrap() else { panic!("arrays") };
        let shown: Vec<u8> = shown[0].data.to_f32().iter().take(16).flat_map(|v| v.to_le_bytes()).collect();
        let figures = history.iter().map(|t| t.verdict.reason.as_bytes());
        let derived = sites.iter().map(|s| s.as_bytes()).chain(figures);
        for needle in derived.chain([SECRET.as_bytes(), &shown]) {
            assert!(that_hold(&profile, needle).is_empty(), "{:?}", String::from_utf8_lossy(needle));
        }
        // What was said about everything else waits to be learned again.
        let after = session.status().unwrap();
        assert_eq!((after.feedback, after.waiting), (before.feedback - 1, before.feedback - 1));
        assert!(Home::verify(home.path()).unwrap().is_sound());
    }
}

fn hex(text: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| u8::from_str_radix(std::str::from_utf8(&text[2 * i..2 * i + 2]).unwrap(), 16).unwrap())
}

/// A folder of its own in another one, which lives as long.
fn folder_of(folder: &TempDir, name: &str) -> TempDir {
    tempfile::Builder::new().prefix(name).disable_cleanup(true).tempdir_in(folder.path()).unwrap()
}

#[test]
fn encrypted_files_stay_in_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let (home, _) = encrypted(&folder, "home");
    for name in ["ada", "bob"] {
        let session = home.session(name).unwrap();
        teach(&session, &person(23), 9);
        assert!(session.train(&TrainOptions::default().checkpoints(Checkpoints::Never)).unwrap().promoted);
    }
    let profile = |name: &str| home.path().join("profiles").join(name);
    let damaged = |what: &str| {
        let health = Home::verify(home.path()).unwrap();
        assert!(!health.is_sound(), "{what} is not seen");
    };
    let swapped = |first: PathBuf, second: PathBuf, what: &str| {
        let (a, b) = (std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
        support::replace(&first, &b);
        damaged(what);
        support::replace(&first, &a);
    };
    assert!(Home::verify(home.path()).unwrap().is_sound());
    let adapter = "generations/000001.adapter";
    swapped(profile("ada").join(adapter), profile("bob").join(adapter), "another profile's adapter");
    swapped(profile("ada").join("journal.log"), profile("bob").join("journal.log"), "another profile's journal");
    // A plain adapter that somebody put there.
    let plain = Home::init(folder.path().join("plain"), &InitOptions::new(asset("har_cnn.onnx"))).unwrap();
    learned(&plain, "ada");
    swapped(profile("ada").join(adapter), plain.path().join("profiles/ada").join(adapter), "a plain adapter");
    std::fs::copy(profile("ada").join(adapter), profile("ada").join("generations/000002.adapter")).unwrap();
    let session = home.session("ada").unwrap();
    assert_eq!(session.rollback(Some(2)).unwrap_err().kind(), ErrorKind::BadData, "a copy under another number");
    let bits = std::fs::read(profile("ada").join(adapter)).unwrap().len() * 8;
    for bit in (0..bits).step_by(bits / 64) {
        let path = profile("bob").join(adapter);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        support::replace(&path, bytes);
        damaged("a flipped bit");
        support::replace(&path, whole);
    }
}

#[test]
fn a_key_in_the_home_it_encrypts_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let options = InitOptions::new(asset("har_cnn.onnx")).key(KeySource::KeyFile(home.join("key")));
    assert_eq!(Home::init(&home, &options).err().unwrap().kind(), ErrorKind::Usage);
    assert!(!home.exists());
}

fn serving(session: &Session) -> Adapter {
    session.adapter().unwrap().unwrap()
}

#[test]
fn a_bundle_carries_a_profile_to_another_home() {
    let folder = tempfile::tempdir().unwrap();
    let here = support::home(&folder);
    let session = learned(&here, "ada");
    let (out, secret, wrong) =
        (folder.path().join("ada.age"), folder.path().join("secret"), folder.path().join("wrong"));
    std::fs::write(&secret, "correct horse battery staple\n").unwrap();
    std::fs::write(&wrong, "hunter2\n").unwrap();
    let (lock, unlock) = (Lock::passphrase_file(&secret).unwrap(), Unlock::passphrase_file(&secret).unwrap());
    let written = bundle::export(&session, &out, &lock).unwrap();
    assert_eq!((written.generations.as_slice(), written.bytes), (&[1][..], std::fs::metadata(&out).unwrap().len()));
    assert_eq!(bundle::export(&session, &out, &lock).unwrap_err().kind(), ErrorKind::Usage, "nothing is overwritten");
    assert!(that_hold(folder.path(), support::RESTING.as_bytes()).iter().all(|f| *f != out));
    assert!(std::fs::read(&out).unwrap().starts_with(b"age-encryption.org/v1"));

    // Into an encrypted home, under another name.
    let (there, _) = encrypted(&folder, "there");
    let wrong = Unlock::passphrase_file(&wrong).unwrap();
    assert_eq!(bundle::import(&there, &out, &wrong, None).unwrap_err().kind(), ErrorKind::NoKey);
    let taken = bundle::import(&there, &out, &unlock, Some("lovelace")).unwrap();
    assert_eq!((taken.profile.as_str(), taken.records, taken.generation), ("lovelace", written.records, 1));
    let moved = there.session("lovelace").unwrap();
    assert_eq!(serving(&moved), serving(&session));
    let (now, before) = (moved.status().unwrap(), session.status().unwrap());
    assert_eq!((now.interactions, now.feedback, now.waiting), (before.interactions, before.feedback, before.waiting));
    assert_eq!(moved.history().unwrap().len(), session.history().unwrap().len());
    assert!(that_hold(there.path(), support::RESTING.as_bytes()).is_empty(), "sealed again with the other home's key");
    assert!(Home::verify(there.path()).unwrap().is_sound());
    // Life goes on.
    let id = moved.predict(&person(24).input(0).unwrap()).unwrap().id.unwrap();
    moved.feedback(id, Feedback::Label("1".into())).unwrap();
    assert!(id.0 as usize >= before.interactions);

    let e = bundle::import(&there, &out, &unlock, Some("lovelace")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage, "nothing is overwritten");
    let e = bundle::import(&there, &out, &unlock, Some("../ada")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage, "no profile leaves the home");
    assert_eq!(there.profiles().unwrap(), ["lovelace"]);
}

#[test]
fn a_bundle_of_another_base_or_a_damaged_one_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let here = support::home(&folder);
    let session = here.session("ada").unwrap();
    teach(&session, &person(23), 60);
    let identity = age::x25519::Identity::generate();
    let (file, out) = (folder.path().join("identity"), folder.path().join("ada.age"));
    std::fs::write(&file, format!("# a key\n{}\n", age::secrecy::ExposeSecret::expose_secret(&identity.to_string())))
        .unwrap();
    let unlock = Unlock::identity_file(&file).unwrap();
    let lock = Lock::recipient(&identity.to_public().to_string()).unwrap();
    assert_eq!(Lock::recipient("age1nonsense").unwrap_err().kind(), ErrorKind::Usage);
    bundle::export(&session, &out, &lock).unwrap();

    let other = Home::init(folder.path().join("other"), &InitOptions::new(other_model(&folder))).unwrap();
    let e = bundle::import(&other, &out, &unlock, None).unwrap_err();
    let (theirs, ours) = (here.base().fingerprint().to_string(), other.base().fingerprint().to_string());
    assert!(e.kind() == ErrorKind::BadData && e.to_string().contains(&theirs) && e.to_string().contains(&ours), "{e}");

    let there = Home::init(folder.path().join("there"), &InitOptions::new(asset("har_cnn.onnx"))).unwrap();
    let whole = std::fs::read(&out).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        for damage in [true, false] {
            let mut bytes = whole.clone();
            if damage {
                bytes[at] ^= 4
            } else {
                bytes.truncate(at)
            }
            std::fs::write(&out, bytes).unwrap();
            let e = bundle::import(&there, &out, &unlock, None).unwrap_err();
            assert!(matches!(e.kind(), ErrorKind::BadData | ErrorKind::NoKey), "{e}");
            assert!(there.profiles().unwrap().is_empty());
        }
    }
    std::fs::write(&out, whole).unwrap();
    assert_eq!(bundle::import(&there, &out, &unlock, None).unwrap().generation, 0);
    assert!(Home::verify(there.path()).unwrap().is_sound());
    let left = std::fs::read_dir(there.path().join("profiles")).unwrap().map(|e| e.unwrap().file_name());
    assert!(left.into_iter().all(|name| name == "ada" || name == ".incoming.lock"));
    copy(&there.path().join("profiles/ada"), &folder.path().join("copied"));
}

/// The same model, but for a name in it: another file, and so another base.
fn other_model(folder: &TempDir) -> PathBuf {
    let mut bytes = std::fs::read(asset("har_cnn.onnx")).unwrap();
    // A field that no reader knows, behind all others: field 100, a number.
    bytes.extend([0xa0, 0x06, 0x01]);
    let path = folder.path().join("other.onnx");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Through the program: its exit code and its data.
#[cfg(feature = "cli")]
#[track_caller]
fn run(args: &[&str]) -> (Option<i32>, serde_json::Value) {
    let output = std::process::Command::new(assert_cmd::cargo::cargo_bin("acclimate"))
        .args(args)
        .arg("--json")
        .output()
        .unwrap();
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    let data =
        serde_json::from_slice(said).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", String::from_utf8_lossy(said)));
    (output.status.code(), data)
}

#[test]
#[cfg(feature = "cli")]
fn the_program_encrypts_and_carries_away() {
    use acclimate::input::{ArrayData, NamedArray, arrays};
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (home, other, key, model) =
        (at("home"), at("other"), at("key"), asset("har_cnn.onnx").to_str().unwrap().to_string());
    let window = NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap();
    arrays::write_npy(at("input.npy").as_ref(), &window).unwrap();
    std::fs::write(at("secret"), "correct horse battery staple\n").unwrap();

    let (code, made) = run(&["init", &home, "--model", &model, "--encrypt", "--key-file", &key]);
    assert_eq!((code, &made["encrypted"]), (Some(0), &serde_json::Value::Bool(true)));
    assert_eq!(std::fs::read_to_string(&key).unwrap().trim().len(), 64, "the key was made");
    run(&["init", &other, "--model", &model]);
    let (code, answers) = run(&["predict", &home, &at("input.npy"), "--profile", "ada"]);
    assert_eq!(code, Some(0));
    let id = answers[0]["id"].as_str().unwrap();
    assert_eq!(run(&["feedback", &home, id, "--label", "3", "--profile", "ada"]).0, Some(0));

    let (bundle, secret) = (at("ada.age"), at("secret"));
    let (code, written) =
        run(&["export", &home, "--profile", "ada", "--bundle", &bundle, "--passphrase-file", &secret]);
    assert_eq!((code, written["records"].as_u64()), (Some(0), Some(2)), "{written}");
    let (code, taken) = run(&["import", &other, &bundle, "--passphrase-file", &secret, "--profile", "ada2"]);
    assert_eq!(
        (code, taken["profile"].as_str(), taken["records"].as_u64()),
        (Some(0), Some("ada2"), Some(2)),
        "{taken}"
    );
    assert_eq!(run(&["status", &other, "--profile", "ada2"]).1["feedback"], 1);
    let again = run(&["import", &other, &bundle, "--passphrase-file", &secret, "--profile", "ada2"]);
    assert_eq!(again.0, Some(2), "{}", again.1);
    assert_eq!(run(&["export", &home, "--bundle", &bundle]).0, Some(2), "a bundle is never plain");

    std::fs::write(at("secret"), "hunter2\n").unwrap();
    assert_eq!(run(&["import", &other, &bundle, "--passphrase-file", &secret]).0, Some(77));
    std::fs::write(&key, "0".repeat(64)).unwrap();
    for command in
        [&["status", &home][..], &["predict", &home, &at("input.npy")], &["verify", &home], &["repair", &home]]
    {
        let (code, error) = run(command);
        assert_eq!(code, Some(77), "{command:?}: {error}");
        assert!(error["error"].as_str().unwrap().contains("wrong key"), "{error}");
        assert_eq!(error["exit"], 77);
    }
    std::fs::remove_file(&key).unwrap();
    let (code, error) = run(&["status", &home]);
    assert!(code == Some(77) && error["next"].as_str().unwrap().contains("acclimate.toml"), "{error}");
}
