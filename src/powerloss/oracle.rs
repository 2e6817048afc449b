//! What must be found after a power cut, given what had been said.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(feature = "bundles")]
use super::carry::Carried;
use super::scenario::{Fact, SECRET, Story, folder};
use crate::adapter::Adapter;
use crate::disk::Disk;
use crate::journal::salvage::survey;
use crate::journal::{InteractionId, Journal, JournalState, Record, StoredInput};
use crate::store::Store;

/// A try of a generation on probation.
#[derive(Debug, Clone, Copy)]
struct Try {
    generation: u64,
    before: u64,
    /// Whether it surely is counted, and surely not ended.
    counted: bool,
}

/// What the facts so far ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    /// What was appended, of which the first `acknowledged` must be there.
    records: Vec<Record>,
    acknowledged: usize,
    current: u64,
    going_to: Option<u64>,
    trying: Option<Try>,
    adapters: BTreeMap<u64, Box<Adapter>>,
    used: BTreeSet<u64>,
    forgetting: Option<(Vec<u64>, u64)>,
    forgotten: bool,
    /// See [`Fact::Shrinking`].
    shrinking: Option<usize>,
    /// What is carried to another profile.
    #[cfg(feature = "bundles")]
    carried: Option<Carried>,
}

fn is_secret(record: &Record) -> bool {
    matches!(record, Record::Interaction { input: StoredInput::Text(text), .. } if text == SECRET)
}

/// The records without the secret, what was said about it, and what trainings that had seen it found out.
fn without_secret(records: &[Record]) -> Vec<Record> {
    let Some(at) = records.iter().position(is_secret) else { return records.to_vec() };
    let secret = records.get(at).and_then(Record::interaction);
    let goes = |n: usize, r: &Record| match r {
        Record::Training { .. } => n > at,
        other => other.interaction() == secret,
    };
    records.iter().enumerate().filter(|(n, r)| !goes(*n, r)).map(|(_, r)| r.clone()).collect()
}

impl Expected {
    pub(super) fn hear(&mut self, fact: &Fact) {
        match fact {
            Fact::Appending(record) => self.records.push(record.clone()),
            Fact::Acknowledged => self.acknowledged = self.records.len(),
            Fact::Committing(number, adapter) => {
                self.adapters.insert(*number, adapter.clone());
                self.going_to = Some(*number);
            }
            Fact::Switching(to) => self.going_to = Some(*to),
            Fact::Switched => {
                self.current = self.going_to.take().unwrap_or(self.current);
                self.used.insert(self.current);
            }
            Fact::Trying(generation, before) => {
                // One that is counted already is being rolled back automatically.
                let again = self.trying.is_some_and(|t| t.counted);
                self.trying = Some(Try { generation: *generation, before: *before, counted: again });
            }
            Fact::Loading => self.trying.iter_mut().for_each(|t| t.counted = true),
            Fact::Passing => self.trying.iter_mut().for_each(|t| t.counted = false),
            Fact::Serves(generation) => (self.current, self.trying) = (*generation, None),
            Fact::Forgetting(seen, to) => self.forgetting = Some((seen.clone(), *to)),
            Fact::Forgot => {
                let (_, to) = self.forgetting.take().unwrap_or_default();
                self.records = without_secret(&self.records);
                (self.acknowledged, self.current, self.forgotten) = (self.records.len(), to, true);
            }
            Fact::Shrinking(kept) => self.shrinking = Some(*kept),
            Fact::Shrunk(records) => {
                (self.records, self.acknowledged, self.shrinking) = (records.clone(), records.len(), None);
            }
            #[cfg(feature = "bundles")]
            Fact::Exporting(carried) => self.carried = Some(carried.clone()),
            #[cfg(feature = "bundles")]
            Fact::Exported => self.carried.iter_mut().for_each(|carried| carried.exported = true),
            #[cfg(feature = "bundles")]
            Fact::Imported => self.carried.iter_mut().for_each(|carried| carried.imported = true),
            Fact::Found(records, generation) => {
                (self.records, self.acknowledged, self.current) = (records.clone(), records.len(), *generation);
                (self.going_to, self.forgetting, self.shrinking) = (None, None, None);
            }
        }
    }

    /// Looks at a profile after a power cut as a program that starts does, and goes on with it.
    pub(super) fn check(&self, story: &Story) -> Result<(), String> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |e: crate::Error| format!("{what}: {e:?}")
        };
        if (self.forgotten || story.is_encrypted()) && story.disk.holds(SECRET.as_bytes()) {
            return Err("a file holds what was forgotten, or is to be encrypted".into());
        }
        let store = story.store().map_err(failed("the profile does not open"))?;
        let named = store.current().map_err(failed("no head"))?;
        let generation = story.start(&store, 1).map_err(failed("the active generation does not start"))?;
        self.check_generation(&store, named, generation)?;
        let mut journal = story.journal(&store).map_err(failed("the journal does not open"))?;
        let found = records(&*story.seen(), &store)?;
        self.check_records(&found)?;
        self.check_forgetting(story, &store, generation, journal.state(), &found)?;

        let secret = self.forgetting.as_ref().and_then(|_| found.iter().find(|r| is_secret(r)));
        story.say(Fact::Found(found.clone(), generation));
        let again = failed("life does not go on");
        if let Some(Record::Interaction { id, .. }) = secret {
            story.forget(&store, &mut journal, *id).map_err(failed("forgetting again fails"))?;
            if story.disk.holds(SECRET.as_bytes()) {
                return Err("a file still holds what was forgotten again".into());
            }
        }
        let id = story.ask(&mut journal, "and another".into()).map_err(&again)?;
        story.correct(&mut journal, id).map_err(&again)?;
        let number = story.learn(&store, &mut journal).map_err(&again)?;
        if self.used.contains(&number) {
            return Err(format!("generation number {number} is used twice"));
        }
        #[cfg(feature = "bundles")]
        self.carried.iter().try_for_each(|carried| carried.check(story))?;
        self.no_leftovers(story)
    }

    fn check_generation(&self, store: &Store, named: u64, generation: u64) -> Result<(), String> {
        let mut allowed = BTreeSet::from([self.current]);
        allowed.extend(self.going_to);
        allowed.extend(self.forgetting.as_ref().map(|f| f.1));
        if let Some(t) = self.trying {
            allowed.insert(t.before);
            if t.counted {
                allowed.remove(&t.generation);
            }
        }
        if !allowed.contains(&generation) {
            return Err(format!("generation {generation} serves ({named} was named), not one of {allowed:?}"));
        }
        let previous = store.head().map_err(|e| format!("{e:?}"))?.previous;
        for number in [generation, previous].into_iter().filter(|n| *n != 0) {
            let found = store.open_generation(number, None).map_err(|e| format!("generation {number}: {e:?}"))?;
            if self.adapters.get(&number).is_none_or(|expected| **expected != found.to_adapter()) {
                return Err(format!("generation {number} is another one than was committed"));
            }
        }
        Ok(())
    }

    fn check_records(&self, found: &[Record]) -> Result<(), String> {
        let fits = |all: &[Record], least: usize| all.starts_with(found) && found.len() >= least;
        let forgotten = || without_secret(&self.records);
        if fits(&self.records, self.acknowledged) || (self.forgetting.is_some() && *found == *forgotten()) {
            return Ok(());
        }
        if let Some(kept) = self.shrinking {
            let (left, least) = without_oldest(&self.records, found, kept, self.acknowledged)?;
            if fits(&left, least) {
                return Ok(());
            }
        }
        let differs = found.iter().zip(&self.records).position(|(a, b)| a != b);
        Err(format!(
            "{} records of {}, {} acknowledged; the first that differs: {differs:?}",
            found.len(),
            self.records.len(),
            self.acknowledged
        ))
    }

    /// While the secret is being forgotten: where the record is gone, so is what learned from it.
    fn check_forgetting(
        &self,
        story: &Story,
        store: &Store,
        generation: u64,
        state: &JournalState,
        found: &[Record],
    ) -> Result<(), String> {
        let Some((seen, _)) = &self.forgetting else { return Ok(()) };
        let next: Option<InteractionId> = state.next_id().ok();
        if found.iter().any(is_secret) {
            return Ok(());
        }
        if story.disk.holds(SECRET.as_bytes()) {
            return Err("the record is gone, but a file still holds it".into());
        }
        if next.is_none_or(|next| next.0 < 171) {
            return Err(format!("{next:?} is given out again"));
        }
        let left: Vec<u64> = store.list().map_err(|e| format!("{e:?}"))?.iter().map(|g| g.number).collect();
        match seen.iter().find(|n| **n == generation || left.contains(n)) {
            Some(n) => Err(format!("the record is gone, but generation {n} that learned from it is there")),
            None => Ok(()),
        }
    }

    fn no_leftovers(&self, story: &Story) -> Result<(), String> {
        for inside in ["", "generations", "journal.segments", "checkpoint"].map(|name| folder().join(name)) {
            if !story.disk.exists(&inside).map_err(|e| e.to_string())? {
                continue;
            }
            let names = story.disk.list(&inside).map_err(|e| e.to_string())?;
            if let Some(left) = names.iter().find(|n| n.ends_with(crate::disk::UNFINISHED)) {
                return Err(format!("{left} is left over"));
            }
        }
        let path = profile_journal();
        let found = survey(&*story.seen(), &path).map_err(|e| format!("{e:?}"))?;
        if !found.is_sound() || !found.stray.is_empty() || found.torn > 0 {
            return Err(format!("the journal is not as it should be: {found:?}"));
        }
        Ok(())
    }
}

fn profile_journal() -> std::path::PathBuf {
    folder().join("journal.log")
}

/// `records` without those interactions without feedback that are missing in `found`, which must be the oldest of them and
/// not the latest `kept`; and how many of the first `acknowledged` are left.
fn without_oldest(
    records: &[Record],
    found: &[Record],
    kept: usize,
    acknowledged: usize,
) -> Result<(Vec<Record>, usize), String> {
    let spoken: BTreeSet<InteractionId> =
        records.iter().filter(|r| matches!(r, Record::Feedback { .. })).filter_map(Record::interaction).collect();
    let silent = |r: &Record| matches!(r, Record::Interaction { id, .. } if !spoken.contains(id));
    let all: Vec<InteractionId> = records.iter().filter(|r| silent(r)).filter_map(Record::interaction).collect();
    let left: Vec<InteractionId> = found.iter().filter(|r| silent(r)).filter_map(Record::interaction).collect();
    let first = left.first().copied().ok_or("all without feedback is gone")?;
    let gone = all.iter().filter(|id| **id < first).count();
    if gone > all.len().saturating_sub(kept) {
        return Err(format!("{gone} of {} without feedback are gone", all.len()));
    }
    let stays = |r: &&Record| !silent(r) || r.interaction() >= Some(first);
    let least = records.iter().take(acknowledged).filter(stays).count();
    Ok((records.iter().filter(stays).cloned().collect(), least))
}

pub(super) fn records(disk: &dyn Disk, store: &Store) -> Result<Vec<Record>, String> {
    let failed = |e: crate::Error| format!("the journal cannot be read: {e:?}");
    Journal::read(disk, &store.journal_path()).and_then(Iterator::collect).map_err(failed)
}
