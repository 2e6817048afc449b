//! What was said in an old home. Its model is not needed, and nothing is written there.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Dropped;
use crate::base::Base;
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::input::Preprocessing;
use crate::input::image::Resize;
use crate::journal::{
    FeedbackEntry, InteractionEntry, InteractionId, LastWord, Record, StoredInput, answer_of, salvage,
};
use crate::runtime::config::Config;
use crate::runtime::home::{keyed, profiles};
use crate::runtime::intake::IntakeKind;
use crate::runtime::journal_io;
use crate::runtime::opinions::{self, Meaning};
use crate::store::profile_folder;

/// Sorts of inputs of which one is tried on the new base before anything is written.
const MOST_SORTS: usize = 16;

/// What was said in a home.
pub(in crate::runtime) struct Told {
    pub home: PathBuf,
    pub encrypted: bool,
    pub profiles: Vec<ToldProfile>,
}

/// What was said in a profile.
pub(in crate::runtime) struct ToldProfile {
    pub name: String,
    pub disk: Arc<dyn Disk>,
    pub journal: PathBuf,
    /// Every interaction has an id below this.
    pub next_id: u32,
    /// What holds of the feedback on each interaction.
    pub meanings: HashMap<InteractionId, Meaning>,
    pub dropped: Dropped,
    pub damaged: usize,
    pub orphaned: usize,
    /// One input of each sort.
    samples: Vec<(InteractionId, StoredInput)>,
}

impl Told {
    /// Reads what was said in the home in `path`. What is damaged of a journal is counted.
    ///
    /// # Errors
    /// `Usage` if it is no home, `NoKey`, `BadData` if its settings are damaged or a journal has lost its head, `Io`.
    pub fn read(path: &Path) -> Result<Told> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let config = Config::read(&*disk, path)?;
        let key = config.key(&*disk, path, None)?;
        let profile = |name: String| {
            let disk = keyed(disk.clone(), key.as_ref(), &name);
            let journal = profile_folder(path, &name)?.join("journal.log");
            ToldProfile::read(name, disk, journal)
        };
        let profiles = profiles(&*disk, path)?.into_iter().map(profile).collect::<Result<_>>()?;
        Ok(Told { home: path.to_owned(), encrypted: key.is_some(), profiles })
    }

    /// Whether the inputs are such as the new base takes; `classes` are what it answers. `tell` is told what its maker
    /// should know.
    ///
    /// # Errors
    /// `BadData` that says what differs, if it takes none of them.
    pub fn fits(&self, base: &Base, intake: &IntakeKind, classes: &[String], tell: &mut dyn FnMut(&str)) -> Result<()> {
        let mut sizes = BTreeSet::new();
        let (mut fits, mut refused) = (self.samples().next().is_none(), None);
        for (profile, id, input) in self.samples() {
            if let (IntakeKind::Image(p), StoredInput::Image { width, height, png: _ }) = (intake, input) {
                let [h, w] = p.size;
                sizes.extend(((*width, *height) != (w, h)).then_some((*width, *height, w, h)));
            }
            match example(base, intake, input) {
                Ok(()) => fits = true,
                Err(e) => {
                    refused = refused.or_else(|| Some(e.within(format!("interaction {id} of profile {profile}"))))
                }
            }
        }
        if let Some(e) = refused.filter(|_| !fits) {
            return Err(Error::bad_data("the inputs of the old home are not such as the new base takes")
                .at(self.home.display())
                .because(e.to_string())
                .hint("choose a base that takes the same inputs; one of texts needs its --tokenizer"));
        }
        for (width, height, w, h) in sizes {
            tell(&format!(
                "pictures of the old home were kept at {width} × {height} pixels; the new base takes {w} × {h}: they are resized"
            ));
        }
        let labels: BTreeSet<&str> = self.meanings().filter_map(Meaning::class).collect();
        if !classes.is_empty() && !labels.is_empty() && !classes.iter().any(|class| labels.contains(class.as_str())) {
            let shown = |all: &mut dyn Iterator<Item = &str>| all.take(3).collect::<Vec<_>>().join(", ");
            tell(&format!(
                "no label of the old feedback ({}, …) is a class of the new base ({}, …): all become new classes; --labels names the \
                 classes of the new base",
                shown(&mut labels.iter().copied()),
                shown(&mut classes.iter().map(String::as_str))
            ));
        }
        Ok(())
    }

    fn samples(&self) -> impl Iterator<Item = (&str, InteractionId, &StoredInput)> {
        self.profiles.iter().flat_map(|p| p.samples.iter().map(|(id, input)| (p.name.as_str(), *id, input)))
    }

    fn meanings(&self) -> impl Iterator<Item = &Meaning> {
        self.profiles.iter().flat_map(|p| p.meanings.values())
    }
}

/// Whether the new base takes this input.
fn example(base: &Base, intake: &IntakeKind, input: &StoredInput) -> Result<()> {
    let input = journal_io::load(input.clone())?;
    let example = match intake {
        IntakeKind::Image(p) => crate::input::Intake::Image(&stretched(p)).example(&input)?,
        other => other.borrowed().example(&input)?,
    };
    crate::plan::check(base, &example)
}

/// The preprocessing of pictures that were cut to a model's proportions already.
pub(super) fn stretched(p: &Preprocessing) -> Preprocessing {
    Preprocessing { resize: Resize::Stretch, ..p.clone() }
}

impl ToldProfile {
    fn read(name: String, disk: Arc<dyn Disk>, journal: PathBuf) -> Result<ToldProfile> {
        let mut told = ToldProfile {
            name,
            disk,
            journal,
            next_id: 0,
            meanings: HashMap::new(),
            dropped: Dropped::default(),
            damaged: 0,
            orphaned: 0,
            samples: vec![],
        };
        if !told.has_journal()? {
            return Ok(told);
        }
        let words = told.words()?;
        told.settle(words)?;
        Ok(told)
    }

    fn has_journal(&self) -> Result<bool> {
        let there = self.disk.exists(&self.journal);
        if there.map_err(|e| Error::io("cannot look for the journal", &self.journal, e))? {
            return Ok(true);
        }
        match salvage::is_headless(&*self.disk, &self.journal)? {
            true => Err(Error::bad_data("the file that lists the journal's segments is gone")
                .at(self.journal.display())
                .hint("`acclimate repair` on the old home makes a new one of what is there")),
            false => Ok(false),
        }
    }

    /// The last word on each interaction, in the order of their first feedback.
    fn words(&mut self) -> Result<Vec<LastWord>> {
        let (mut words, mut places): (Vec<LastWord>, HashMap<InteractionId, usize>) = Default::default();
        let mut at = 0usize;
        let survey = salvage::read(&*self.disk, &self.journal, &mut |record| {
            let entry = match record {
                Record::Feedback { id, at_ms, kind } => {
                    FeedbackEntry { id: *id, at_ms: *at_ms, kind: kind.clone(), was: None }
                }
                Record::Revision { id, at_ms, kind, was } => {
                    FeedbackEntry { id: *id, at_ms: *at_ms, kind: kind.clone(), was: Some(was.clone()) }
                }
                _ => return Ok(()),
            };
            match places.get(&entry.id).and_then(|place| words.get_mut(*place)) {
                Some(word) => (word.last, word.entry) = (at, entry),
                None => {
                    places.insert(entry.id, words.len());
                    words.push(LastWord { first_ms: entry.at_ms, entry, first: at, last: at });
                }
            }
            at = at.saturating_add(1);
            Ok(())
        })?;
        self.damaged = survey.damaged.len().saturating_add(usize::from(!survey.header && survey.damaged.is_empty()));
        self.orphaned = usize::try_from(survey.orphaned).unwrap_or(usize::MAX);
        Ok(words)
    }

    /// What holds of `words`, and one input of each sort among that.
    fn settle(&mut self, words: Vec<LastWord>) -> Result<()> {
        let places: HashMap<InteractionId, usize> = words.iter().enumerate().map(|(n, w)| (w.entry.id, n)).collect();
        let mut asked: Vec<Option<(InteractionEntry, [u8; 32])>> = vec![None; words.len()];
        let mut sorts: HashMap<String, (Vec<InteractionId>, StoredInput)> = HashMap::new();
        let mut next_id = 0;
        salvage::read(&*self.disk, &self.journal, &mut |record| {
            let Record::Interaction { id, at_ms, input, top, generation } = record else { return Ok(()) };
            next_id = id.0.saturating_add(1);
            let Some(place) = places.get(id).and_then(|n| asked.get_mut(*n)) else { return Ok(()) };
            let (best, novel) = answer_of(top);
            let answer = best.map(|(label, p)| (label.into(), p));
            let entry = InteractionEntry { id: *id, at_ms: *at_ms, offset: 0, answer, generation: *generation, novel };
            *place = Some((entry, input.digest()));
            let sort = sort(input);
            if sorts.len() < MOST_SORTS || sorts.contains_key(&sort) {
                sorts.entry(sort).or_insert_with(|| (vec![], input.clone())).0.push(*id);
            }
            Ok(())
        })?;
        self.next_id = next_id;
        let said = words.into_iter().zip(asked).filter_map(|(word, asked)| asked.map(|(i, d)| (word, i, d))).collect();
        for opinion in opinions::settled(said) {
            match opinion.teaches() {
                Some(meaning) => drop(self.meanings.insert(opinion.interaction.id, meaning.clone())),
                None if opinion.superseded_by.is_some() => self.dropped.superseded += 1,
                None => self.dropped.ignored += 1,
            }
        }
        for (ids, input) in sorts.into_values() {
            self.samples.extend(ids.iter().find(|id| self.meanings.contains_key(id)).map(|id| (*id, input)));
        }
        self.samples.sort_by_key(|(id, _)| *id);
        Ok(())
    }

    /// The journal is not what it was when it was read first.
    pub fn changed(&self) -> Error {
        Error::new(ErrorKind::Busy, "the old home changed while its feedback was replayed")
            .at(self.journal.display())
            .hint("try again while nobody uses it; no home was made")
    }
}

/// Names a sort of inputs: those of one kind, with the same arrays or the same size.
fn sort(input: &StoredInput) -> String {
    match input {
        StoredInput::Text(_) => "text".into(),
        StoredInput::Conversation(_) => "conversation".into(),
        StoredInput::Image { width, height, png: _ } => format!("{width} x {height}"),
        StoredInput::Arrays(arrays) => {
            arrays.iter().map(|a| format!("{:?} {} {:?};", a.name, a.dtype.name(), a.shape)).collect()
        }
    }
}
