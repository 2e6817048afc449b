//! A profile is carried away in a bundle, and taken in as another one: each is there as a whole or not at all, and
//! nothing is overwritten.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::oracle::records;
use super::scenario::{Fact, Story};
use crate::adapter::Fingerprint;
use crate::bundle::carried::Carrier;
use crate::error::{ErrorKind, Result};
use crate::journal::Record;
use crate::store::{Store, profile_folder};

const HOME: &str = "home";
const BUNDLE: &str = "home/ada.age";
const COPY: &str = "bob";

/// What is carried, and how far it has come.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    carrier: Arc<Carrier>,
    records: Vec<Record>,
    generation: u64,
    pub(super) exported: bool,
    pub(super) imported: bool,
}

fn copy() -> PathBuf {
    profile_folder(Path::new(HOME), COPY).unwrap_or_default()
}

/// A short life with one promotion, of which all is exported and imported.
pub(super) fn carry(story: &Story) -> Result<()> {
    let store = story.store()?;
    let mut journal = story.journal(&store)?;
    for n in 0..12usize {
        let id = story.ask(&mut journal, format!("turn on light {n}{}", "!".repeat(n * 70)))?;
        if n % 2 == 0 {
            story.correct(&mut journal, id)?;
        }
        if n == 8 {
            story.learn(&store, &mut journal)?;
            story.start(&store, 5)?;
        }
    }
    journal.flush()?;
    story.say(Fact::Acknowledged);
    let disk = story.seen();
    let carried = Carried {
        carrier: Arc::new(Carrier::new(Fingerprint::of(b"a model"))),
        records: store.records()?.collect::<Result<_>>()?,
        generation: store.current()?,
        exported: false,
        imported: false,
    };
    story.say(Fact::Exporting(carried.clone()));
    carried.carrier.export(&*disk, &store, journal.state().next_id()?.0, Path::new(BUNDLE))?;
    story.say(Fact::Exported);
    carried.carrier.import(&disk, Path::new(BUNDLE), Path::new(HOME), COPY)?;
    story.say(Fact::Imported);
    let id = story.ask(&mut journal, "life goes on".into())?;
    story.correct(&mut journal, id)
}

impl Carried {
    /// Looks at what is there after a power cut, and imports again.
    pub(super) fn check(&self, story: &Story) -> std::result::Result<(), String> {
        let disk = story.seen();
        let exists = |path: &Path| disk.exists(path).map_err(|e| e.to_string());
        if !exists(Path::new(BUNDLE))? {
            return if self.exported { Err("the bundle is lost".into()) } else { Ok(()) };
        }
        let there = exists(&copy())?;
        if there {
            self.check_copy(story)?;
        } else if self.imported {
            return Err("the imported profile is lost".into());
        }
        match self.carrier.import(&disk, Path::new(BUNDLE), Path::new(HOME), COPY) {
            Err(e) if there && e.kind() == ErrorKind::Usage => {}
            Ok(_) if !there => story.say(Fact::Imported),
            other => return Err(format!("imported again: {other:?}; it was there: {there}")),
        }
        self.check_copy(story)?;
        let names = disk.list(&Path::new(HOME).join("profiles")).map_err(|e| e.to_string())?;
        match names.iter().find(|name| name.starts_with('.')) {
            Some(left) => Err(format!("{left} is left over")),
            None => Ok(()),
        }
    }

    /// The imported profile, where there is one, is the one that was exported.
    fn check_copy(&self, story: &Story) -> std::result::Result<(), String> {
        let failed = |e: crate::Error| format!("the imported profile: {e:?}");
        let store = Store::open(story.seen(), &copy()).map_err(failed)?;
        let current = store.current().map_err(failed)?;
        store.open_generation(current, None).map_err(failed)?;
        if current != self.generation || records(&*story.seen(), &store)? != self.records {
            return Err(format!("the imported profile is another one: generation {current}"));
        }
        Ok(())
    }
}
