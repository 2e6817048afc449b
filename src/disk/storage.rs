//! What a power cut leaves of a [`SimulatedDisk`](super::simulated): of everything not synced, any part.
//!
//! A file's writes since its last sync are each lost, whole, cut off, applied to some of its 512-byte blocks or to some of its
//! bytes, or partly turned into noise; truncations are lost or done. Names that were made, changed or removed since
//! their folder's last sync are as before or as after, each by itself. A file without a name is gone, and so is a folder's content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::folder_of;
use super::simulated::{Contents, FileId, Node, Step, move_names, moved_name};

/// Writes that are not aligned to these may be torn there.
const BLOCK: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Arc<[u8]>),
    Truncate(u64),
}

#[derive(Debug, Clone)]
enum Naming {
    Add(PathBuf, Node),
    /// Atomic, and possible without the first name ever having been durable.
    Move(PathBuf, PathBuf, Node),
    Remove(PathBuf),
}

impl Naming {
    /// The folder whose sync makes it durable.
    fn folder(&self) -> &Path {
        match self {
            Naming::Add(path, _) | Naming::Move(_, path, _) | Naming::Remove(path) => folder_of(path),
        }
    }

    /// What is named below the folder `from` is below `to` now.
    fn move_below(&mut self, from: &Path, to: &Path) {
        let below = |path: &mut PathBuf| {
            if path != from {
                *path = moved_name(path, from, to);
            }
        };
        match self {
            Naming::Add(path, _) | Naming::Remove(path) => below(path),
            Naming::Move(before, after, _) => {
                below(before);
                below(after);
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Naming::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Naming::Move(from, to, node) => {
                move_names(names, from, to);
                names.insert(to.clone(), *node);
            }
            Naming::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

/// What is durable for sure, and what may be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Storage {
    synced: Contents,
    changes: BTreeMap<FileId, Vec<Change>>,
    namings: Vec<Naming>,
    /// All names as the disk shows them.
    named: BTreeMap<PathBuf, Node>,
}

/// How much of a series of changes survives.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Nothing,
    Everything,
    /// The first ones, and a part of the next.
    First,
    /// Each one by itself.
    Any,
}

impl Fate {
    fn draw(rng: &mut ChaCha8Rng) -> Fate {
        [Fate::Nothing, Fate::Everything, Fate::First, Fate::Any, Fate::Any][rng.random_range(0..5)]
    }
}

impl Storage {
    /// Storage on which all of `contents` is safe.
    pub(crate) fn holding(contents: Contents) -> Storage {
        Storage { named: contents.names.clone(), synced: contents, ..Storage::default() }
    }

    /// Follows the disk. What a sync makes durable is durable afterwards; before, it is as any other change.
    pub(crate) fn follow(&mut self, step: &Step) {
        match step {
            Step::Folder(path) => {
                self.named.insert(path.clone(), Node::Folder);
                self.namings.push(Naming::Add(path.clone(), Node::Folder));
            }
            Step::Create(path, id) => {
                self.named.insert(path.clone(), Node::File(*id));
                self.synced.files.insert(*id, Arc::default());
                self.namings.push(Naming::Add(path.clone(), Node::File(*id)));
            }
            Step::Write(id, at, bytes) => self.changes.entry(*id).or_default().push(Change::Write(*at, bytes.clone())),
            Step::Truncate(id, len) => self.changes.entry(*id).or_default().push(Change::Truncate(*len)),
            Step::Sync(id) => {
                let file = Arc::make_mut(self.synced.files.entry(*id).or_default());
                for change in self.changes.remove(id).unwrap_or_default() {
                    whole(file, &change);
                }
            }
            Step::Rename(from, to) => {
                if let Some(node) = self.named.get(from).copied() {
                    move_names(&mut self.named, from, to);
                    // What is in a folder that moves, and not durable yet, moves along.
                    self.namings.iter_mut().for_each(|naming| naming.move_below(from, to));
                    self.namings.push(Naming::Move(from.clone(), to.clone(), node));
                }
            }
            Step::Remove(path) => {
                self.named.remove(path);
                self.namings.push(Naming::Remove(path.clone()));
            }
            Step::SyncFolder(folder) => {
                let (now, later): (Vec<_>, Vec<_>) = self.namings.drain(..).partition(|n| n.folder() == folder);
                self.namings = later;
                now.iter().for_each(|naming| naming.apply(&mut self.synced.names));
            }
            Step::Said(_) => {}
        }
    }

    /// What the disk shows: everything, whether it is durable or not.
    pub(crate) fn seen(&self) -> Contents {
        self.cut(0, 1)
    }
    /// A number that no file has had.
    pub(crate) fn next_file(&self) -> FileId {
        self.synced.files.keys().last().map_or(0, |last| last + 1)
    }

    /// What a power cut at this point, the `place`-th, leaves for one `seed`. 0 loses and 1 keeps all that is not synced.
    pub(crate) fn cut(&self, place: usize, seed: u64) -> Contents {
        let mut rng = ChaCha8Rng::seed_from_u64((place as u64) << 32 | seed);
        let draw = |rng: &mut ChaCha8Rng| match seed {
            0 => Fate::Nothing,
            1 => Fate::Everything,
            _ => Fate::draw(rng),
        };
        let mut names = self.synced.names.clone();
        let fate = draw(&mut rng);
        let first = rng.random_range(0..=self.namings.len());
        for (at, naming) in self.namings.iter().enumerate() {
            let survives = match fate {
                Fate::Nothing => false,
                Fate::Everything => true,
                Fate::First => at < first,
                Fate::Any => rng.random(),
            };
            if survives {
                naming.apply(&mut names);
            }
        }
        let there = names.clone();
        let reachable =
            |path: &Path| path.ancestors().skip(1).all(|p| p.as_os_str().is_empty() || there.contains_key(p));
        names.retain(|path, _| reachable(path));
        let mut files = BTreeMap::new();
        for node in names.values() {
            let Node::File(id) = node else { continue };
            let mut file = self.synced.files.get(id).cloned().unwrap_or_default();
            if let Some(changes) = self.changes.get(id) {
                damage(Arc::make_mut(&mut file), changes, draw(&mut rng), &mut rng);
            }
            files.insert(*id, file);
        }
        Contents { names, files }
    }
}

fn whole(file: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, bytes) => {
            let at = *at as usize;
            file.resize(file.len().max(at + bytes.len()), 0);
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Change::Truncate(len) => file.resize(*len as usize, 0),
    }
}

fn damage(file: &mut Vec<u8>, changes: &[Change], fate: Fate, rng: &mut ChaCha8Rng) {
    let first = rng.random_range(0..=changes.len());
    for (at, change) in changes.iter().enumerate() {
        match fate {
            Fate::Nothing => {}
            Fate::Everything => whole(file, change),
            Fate::First if at < first => whole(file, change),
            Fate::First if at == first => partly(file, change, rng),
            Fate::First => {}
            Fate::Any => partly(file, change, rng),
        }
    }
}

/// Some part of one change: none, all, its beginning, some blocks, some bytes, or noise in its place.
fn partly(file: &mut Vec<u8>, change: &Change, rng: &mut ChaCha8Rng) {
    let Change::Write(at, bytes) = change else {
        if rng.random() {
            whole(file, change);
        }
        return;
    };
    let (at, how) = (*at as usize, rng.random_range(0..6));
    let cut = rng.random_range(0..=bytes.len());
    let mut kept: Vec<bool> = match how {
        0 => return,
        1 | 5 => vec![true; bytes.len()],
        2 => (0..bytes.len()).map(|i| i < cut).collect(),
        3 => {
            let blocks: Vec<bool> = (0..=(bytes.len() / BLOCK + 1)).map(|_| rng.random()).collect();
            (0..bytes.len()).map(|i| blocks[(at % BLOCK + i) / BLOCK]).collect()
        }
        _ => (0..bytes.len()).map(|_| rng.random()).collect(),
    };
    // A growing file ends somewhere between its two lengths.
    let end = match kept.iter().rposition(|k| *k) {
        Some(last) if rng.random() => last + 1,
        _ => bytes.len(),
    };
    kept.truncate(end);
    file.resize(file.len().max(at + end), 0);
    for (i, _) in kept.iter().enumerate().filter(|(_, k)| **k) {
        file[at + i] = bytes[i];
    }
    if how == 5 && !bytes.is_empty() {
        let from = rng.random_range(0..bytes.len());
        let to = rng.random_range(from..=bytes.len()).min(end);
        file[at + from.min(to)..at + to].fill_with(|| rng.random());
    }
}
