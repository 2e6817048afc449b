//! Who waits for whom: predictions and feedback go on while a training reads what it learns from.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Feedback, Home, InitOptions, TrainOptions};
use crate::adapter::Depth;
use crate::disk::{Bytes, Disk, DiskFile, LockFile, RealDisk};
use crate::input::LabelledSet;
use crate::sync::lock;

/// The thread that is stopped, and an input that was recorded early: its frame's payload stands here, and is this long.
const TRAINING: &str = "training";
const EARLY: u64 = 20_000;
const LENGTH: std::ops::Range<usize> = 2500..4000;
const LONGEST: Duration = Duration::from_secs(30);

/// Where it is stopped: it says that it is there, and waits until it may go on.
type Stop = (Sender<()>, Receiver<()>);

/// The real disk, on which the training stops once in the middle of reading an input.
#[derive(Debug, Clone)]
struct Gate(Arc<Mutex<Option<Stop>>>);

impl Gate {
    fn pass(&self, offset: u64, length: usize) {
        let wanted = std::thread::current().name() == Some(TRAINING) && offset < EARLY && LENGTH.contains(&length);
        if let Some((reached, open)) = wanted.then(|| lock(&self.0).take()).flatten() {
            reached.send(()).unwrap();
            open.recv_timeout(LONGEST).unwrap();
        }
    }
    fn wrap(&self, inner: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(GatedFile { inner: inner?, gate: self.clone() }))
    }
}

impl Disk for Gate {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create_new(path)
    }
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.wrap(RealDisk.open_write(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.wrap(RealDisk.open_read(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename_new(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn remove_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }
    fn load(&self, path: &Path, max_len: u64) -> io::Result<Bytes> {
        RealDisk.load(path, max_len)
    }
    fn open_lock(&self, path: &Path) -> io::Result<Box<dyn LockFile>> {
        RealDisk.open_lock(path)
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Box<dyn DiskFile>,
    gate: Gate,
}

impl DiskFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.gate.pass(offset, buffer.len());
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
}

#[test]
fn predictions_and_feedback_go_on_while_a_training_reads_its_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let windows = LabelledSet::read(models.join("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
    Home::init(folder.path().join("home"), &InitOptions::new(models.join("har_cnn.onnx"))).unwrap();
    let gate = Gate(Arc::default());
    let home = Home::open_on(Arc::new(gate.clone()), &folder.path().join("home"), None).unwrap();
    let session = home.session("p").unwrap();
    let use_it = |i: usize| {
        let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, Feedback::NewLabel("mine".into())).unwrap();
    };
    (0..20).for_each(use_it);

    let ((reached, is_reached), (open, is_open)) = (channel(), channel());
    *lock(&gate.0) = Some((reached, is_open));
    std::thread::scope(|scope| {
        let train = || {
            let settings = crate::adapt::Settings { deepest: Depth::HeadOnly, threads: 1, ..session.settings() };
            session.train(&TrainOptions { settings: Some(settings), ..TrainOptions::default() })
        };
        let training = std::thread::Builder::new().name(TRAINING.into()).spawn_scoped(scope, train).unwrap();
        is_reached.recv_timeout(LONGEST).unwrap();
        let (done, is_done) = channel();
        scope.spawn(move || {
            use_it(20);
            done.send(()).unwrap();
        });
        is_done.recv_timeout(LONGEST / 2).expect("a prediction waits for the training");
        open.send(()).unwrap();
        training.join().unwrap().unwrap();
    });
    let status = session.status().unwrap();
    assert_eq!((status.feedback, status.waiting), (21, 1), "the last one came after the training had begun");
}

/// What is said between a training's reading and its end is not in what it learned: it waits for the next one.
#[test]
fn feedback_given_while_a_training_runs_waits_for_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let windows = LabelledSet::read(models.join("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
    let home = Home::init(folder.path().join("home"), &InitOptions::new(models.join("har_cnn.onnx"))).unwrap();
    let session = home.session("p").unwrap();
    let use_it = |i: usize| {
        let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(id, Feedback::NewLabel("mine".into())).unwrap().waiting
    };
    assert_eq!((0..20).map(use_it).last(), Some(20));
    let settings = crate::adapt::Settings { deepest: Depth::HeadOnly, threads: 1, ..session.settings() };
    let later = std::sync::Once::new();
    let said = |_| later.call_once(|| assert_eq!((20..23).map(use_it).last(), Some(23)));
    let options = TrainOptions { settings: Some(settings), progress: Some(&said), ..TrainOptions::default() };
    let report = session.train(&options).unwrap();
    assert!(later.is_completed(), "the training told of no progress");

    let waiting = || {
        let again = Home::open(folder.path().join("home")).unwrap().session("p").unwrap();
        (session.status().unwrap().waiting, again.status().unwrap().waiting)
    };
    assert_eq!((waiting(), session.history().unwrap()[0].feedback_before), ((3, 3), 20));
    assert!(report.promoted, "{}", report.verdict.reason);
    // To the generation that was trained from the first twenty, the three are new.
    let second = session.train(&TrainOptions { progress: None, ..options }).unwrap();
    assert!(!second.verdict.reason.contains("there is no feedback since"), "{}", second.verdict.reason);
    assert_eq!((waiting(), session.history().unwrap()[1].feedback_before), ((0, 0), 23));
    assert_eq!(use_it(23), 1);
}
