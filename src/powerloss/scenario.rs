//! What a program does with a profile, told as facts that a power cut must not undo.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::{Adapter, samples};
use crate::cipher::Cipher;
use crate::disk::KeyedDisk;
use crate::disk::simulated::SimulatedDisk;
use crate::disk::{Disk, StagedFile, make_folder};
use crate::error::Result;
use crate::journal::{FeedbackKind, InteractionId, Journal, Record, SegmentSize, StoredInput};
use crate::store::{Cut, Run, Selection, Store, profile_folder};

/// What the interaction to be forgotten holds.
pub(super) const SECRET: &str = "the code of the safe is 31415926";

/// Something that the story is about to do, or has been told is done.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    /// The record is being appended.
    Appending(Record),
    /// All records so far are acknowledged.
    Acknowledged,
    /// A generation is being committed.
    Committing(u64, Box<Adapter>),
    /// Another generation is about to serve.
    Switching(u64),
    /// The generation that was switched to is acknowledged.
    Switched,
    /// The generation on probation is tried; the one before it.
    Trying(u64, u64),
    /// The try is counted.
    Loading,
    /// The try is ending well.
    Passing,
    /// This generation serves now: its try has ended well, or it was not on probation.
    Serves(u64),
    /// The secret is being forgotten; generations that learned from it, and the one that will serve.
    Forgetting(Vec<u64>, u64),
    /// The secret is forgotten.
    Forgot,
    /// The oldest of what has no feedback is being dropped, but never the latest of it, so many.
    Shrinking(usize),
    /// It is dropped, and these are left.
    Shrunk(Vec<Record>),
    /// All of the profile is being written to a bundle.
    #[cfg(feature = "bundles")]
    Exporting(super::carry::Carried),
    /// The bundle is written.
    #[cfg(feature = "bundles")]
    Exported,
    /// The bundle is another profile by now.
    #[cfg(feature = "bundles")]
    Imported,
    /// After a power cut, this is what is there, durable, and the active generation.
    Found(Vec<Record>, u64),
}

impl Fact {
    /// Whether it is something that a power cut right after it must not undo.
    pub(super) fn is_promise(&self) -> bool {
        #[cfg(feature = "bundles")]
        if matches!(self, Fact::Exported | Fact::Imported) {
            return true;
        }
        matches!(self, Fact::Acknowledged | Fact::Switched | Fact::Loading | Fact::Serves(_) | Fact::Forgot)
    }
}

/// A profile on a simulated disk, and what has been said about it.
pub(super) struct Story {
    pub(super) disk: SimulatedDisk,
    /// With which the profile is encrypted.
    cipher: Option<Cipher>,
    facts: RefCell<Vec<Fact>>,
}

pub(super) fn folder() -> PathBuf {
    profile_folder(Path::new("home"), "ada").unwrap_or_default()
}

impl Story {
    pub(super) fn on(disk: SimulatedDisk) -> Story {
        Story::with(None, disk)
    }
    /// An encrypted one, where there is a cipher.
    pub(super) fn with(cipher: Option<Cipher>, disk: SimulatedDisk) -> Story {
        Story { disk, cipher, facts: RefCell::default() }
    }
    /// The same profile on another disk.
    pub(super) fn again(&self, disk: SimulatedDisk) -> Story {
        Story::with(self.cipher.clone(), disk)
    }
    pub(super) fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }
    /// The disk as the profile sees it.
    pub(super) fn seen(&self) -> Arc<dyn Disk> {
        let disk = Arc::new(self.disk.clone());
        match &self.cipher {
            Some(cipher) => Arc::new(KeyedDisk::new(disk, cipher.clone())),
            None => disk,
        }
    }
    pub(super) fn say(&self, fact: Fact) {
        let mut facts = self.facts.borrow_mut();
        self.disk.say(facts.len());
        facts.push(fact);
    }
    pub(super) fn facts(&self) -> Vec<Fact> {
        self.facts.borrow().clone()
    }

    pub(super) fn store(&self) -> Result<Store> {
        make_folder(&self.disk, Path::new("home"))?;
        Ok(Store::create(self.seen(), &folder())?.keeping(2))
    }
    pub(super) fn journal(&self, store: &Store) -> Result<Journal> {
        let (path, lock) = (store.journal_path(), store.journal_lock_path());
        let mut journal = Journal::open(self.seen(), &path, &lock, Duration::ZERO, 1)?;
        journal.set_segment_size(SegmentSize { bytes: 5000, records: 1000 });
        Ok(journal)
    }

    /// One question, of a length of its own.
    pub(super) fn ask(&self, journal: &mut Journal, text: String) -> Result<InteractionId> {
        let (input, top) = (StoredInput::Text(text), vec![("on".to_owned(), 0.75), ("off".to_owned(), 0.25)]);
        let id = journal.state().next_id()?;
        let record = Record::Interaction { id, at_ms: 5, input: input.clone(), top: top.clone(), generation: 0 };
        self.say(Fact::Appending(record));
        journal.record_interaction(5, input, top, 0)
    }

    pub(super) fn correct(&self, journal: &mut Journal, id: InteractionId) -> Result<()> {
        let kind = FeedbackKind::Label(format!("label of {id}"));
        self.say(Fact::Appending(Record::Feedback { id, at_ms: 6, kind: kind.clone() }));
        journal.record_feedback(id, 6, kind)?;
        self.say(Fact::Acknowledged);
        Ok(())
    }

    /// Says something else about an interaction that was corrected.
    pub(super) fn revise(&self, journal: &mut Journal, id: InteractionId) -> Result<()> {
        let (kind, was) = (FeedbackKind::Ignored, FeedbackKind::Label(format!("label of {id}")));
        self.say(Fact::Appending(Record::Revision { id, at_ms: 8, kind: kind.clone(), was }));
        journal.revise_feedback(id, 8, kind)?;
        self.say(Fact::Acknowledged);
        Ok(())
    }

    /// A training that is promoted.
    pub(super) fn learn(&self, store: &Store, journal: &mut Journal) -> Result<u64> {
        let _held = store.lock_training(Duration::ZERO, "training")?;
        let head = store.head()?;
        let mut adapter = samples::adapter(head.current);
        adapter.lineage.examples = journal.state().feedback() as u64;
        // A file that a torn head may or may not have named keeps its number.
        let last = store.list()?.last().map_or(0, |g| g.number).max(head.highest);
        self.say(Fact::Committing(last + 1, Box::new(adapter.clone())));
        let number = store.commit(&adapter)?;
        self.say(Fact::Switched);
        let (generation, verdict, seen) = (Some(number), adapter.verdict, adapter.lineage.examples);
        let (at_ms, steps, seconds, unread) = (7, 3, 0.5, 0);
        let record = Record::Training { at_ms, generation, verdict: verdict.clone(), steps, seconds, unread };
        self.say(Fact::Appending(record));
        journal.record_training(at_ms, generation, verdict, steps, seconds, seen)?;
        self.say(Fact::Acknowledged);
        Ok(number)
    }

    /// A training that ends with the program, after it has kept where it stands.
    pub(super) fn begin_to_learn(&self, store: &Store, journal: &Journal) -> Result<()> {
        let _held = store.lock_training(Duration::ZERO, "training")?;
        store.choice().keep(&format!("a third of the gradient is that of {SECRET}"))?;
        store.doubts().keep(&format!("few would say {SECRET}"))?;
        let checkpoint = store.checkpoint();
        checkpoint.begin(&Run { name: [5; 32], cut: Cut::all(journal.state())? })?;
        checkpoint.keep(&[6; 32], format!("three steps on {SECRET}").as_bytes())
    }

    /// Begins with the active generation, as a program that starts does, and answers with it; the generation.
    pub(super) fn start(&self, store: &Store, predictions: u32) -> Result<u64> {
        let head = store.head()?;
        if head.probation_left > 0 {
            self.say(Fact::Trying(head.current, head.previous));
        }
        let (generation, probation) = store.begin()?;
        if let Some(probation) = probation {
            self.say(Fact::Loading);
            store.open_generation(generation, None)?;
            self.say(Fact::Passing);
            probation.passed(predictions)?;
        }
        self.say(Fact::Serves(generation));
        Ok(generation)
    }

    pub(super) fn roll_back(&self, store: &Store, to: u64) -> Result<()> {
        self.say(Fact::Switching(to));
        store.rollback(Some(to))?;
        self.say(Fact::Switched);
        Ok(())
    }

    /// Asks once more where the journal may not grow by that.
    pub(super) fn shrink(&self, store: &Store, journal: &mut Journal) -> Result<()> {
        let bytes = journal.writer().bytes();
        journal.set_limit(bytes - 4000);
        journal.set_always_kept(20);
        self.say(Fact::Shrinking(20));
        self.ask(journal, "one more".into())?;
        journal.flush()?;
        let left: Result<Vec<Record>> = Journal::read(&*self.seen(), &store.journal_path())?.collect();
        self.say(Fact::Shrunk(left?));
        Ok(())
    }

    pub(super) fn forget(&self, store: &Store, journal: &mut Journal, id: InteractionId) -> Result<()> {
        let _held = store.lock_training(Duration::ZERO, "forgetting")?;
        // Every generation of this story learned from it.
        let seen = store.list()?.iter().map(|g| g.number).collect();
        self.say(Fact::Forgetting(seen, 0));
        store.forget(journal, &Selection::Ids(vec![id]))?;
        self.say(Fact::Forgot);
        Ok(())
    }
}

/// A profile's life: 200 interactions, most of them corrected, in a journal of several segments, four promotions, trials, a crash of
/// the program while it tries a generation, a roll back, pruning, the limit of the journal's size, and the forgetting of one
/// interaction.
pub(super) fn live(story: &Story) -> Result<()> {
    let store = story.store()?;
    let mut journal = story.journal(&store)?;
    let mut secret = InteractionId(0);
    for n in 0..200usize {
        let text = if n == 10 { SECRET.to_owned() } else { format!("turn on light {n}{}", "!".repeat(n * 7 % 90)) };
        let id = story.ask(&mut journal, text)?;
        match n {
            10 => secret = id,
            // Once more than are synced together.
            20..60 => {}
            _ if n % 4 != 3 => story.correct(&mut journal, id)?,
            _ => {}
        }
        if n == 65 || n == 172 {
            story.revise(&mut journal, id)?;
        }
        match n {
            70 | 150 | 190 => {
                story.learn(&store, &mut journal)?;
                story.start(&store, 5)?;
            }
            80 => {
                story.start(&store, 50)?;
            }
            90 => {
                // The process ends while it tries the second generation; the next one is back at the first.
                story.learn(&store, &mut journal)?;
                story.say(Fact::Trying(2, 1));
                let (_, probation) = store.begin()?;
                story.say(Fact::Loading);
                drop(probation);
                story.start(&store, 1)?;
            }
            100 => story.roll_back(&store, 2)?,
            120 => {
                story.learn(&store, &mut journal)?;
                story.roll_back(&store, 0)?;
                story.roll_back(&store, 3)?;
            }
            // A training that is cut off; what it keeps holds what it has seen.
            165 => story.begin_to_learn(&store, &journal)?,
            170 => story.forget(&store, &mut journal, secret)?,
            175 => story.shrink(&store, &mut journal)?,
            60 | 130 | 180 => {
                // Another process.
                drop(journal);
                journal = story.journal(&story.store()?)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A program that finds the journal of an older one, opens it and goes on with it.
pub(super) fn move_in(story: &Story, old: &[u8]) -> Result<()> {
    let store = story.store()?;
    let staged = StagedFile::write(&story.disk, &folder(), old)?;
    let elsewhere = SimulatedDisk::default();
    make_folder(&elsewhere, &folder())?;
    StagedFile::write(&elsewhere, &folder(), old)?.publish(&store.journal_path())?;
    let records: Vec<Record> = Journal::read(&elsewhere, &store.journal_path())?.collect::<Result<_>>()?;
    records.iter().for_each(|record| story.say(Fact::Appending(record.clone())));
    staged.publish(&store.journal_path())?;
    story.say(Fact::Found(records, 0));
    let mut journal = story.journal(&store)?;
    for n in 0..3 {
        let id = story.ask(&mut journal, format!("question {n} to the newer one"))?;
        story.correct(&mut journal, id)?;
    }
    Ok(())
}
