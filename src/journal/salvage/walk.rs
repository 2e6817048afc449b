//! The way through all files of a journal, and what makes sense of what stands in them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::super::frame::FILE_HEADER_LEN;
use super::super::record::{FeedbackKind, InteractionId, Record};
use super::super::rewrite::check_list;
use super::super::segment::{Footer, Place, Revised, SegmentInfo, segment_names, segment_number, segment_path};
use super::super::state::check_input;
use super::source::{Ids, Part, Source};
use super::{Damage, Survey};
use crate::disk::Disk;
use crate::error::{Error, Result};

/// What may follow the records seen so far, in 4 bytes an interaction.
#[derive(Debug, Default)]
struct Seen {
    ids: Vec<InteractionId>,
    /// The last word on each.
    spoken: HashMap<InteractionId, FeedbackKind>,
    /// When trainings ended, and in which generation.
    trainings: HashSet<(u64, Option<u64>)>,
}

impl Seen {
    /// `record` as it makes sense here, if it does; it then counts as seen.
    fn take<'r>(&mut self, record: &'r Record) -> Option<Cow<'r, Record>> {
        let fits = match record {
            Record::Interaction { id, input, .. } => {
                let fits = self.ids.last().is_none_or(|last| last < id) && check_input(input).is_ok();
                self.ids.extend(fits.then_some(*id));
                fits
            }
            Record::Feedback { id, kind, .. } => {
                let fits = self.knows(id) && !self.spoken.contains_key(id) && *kind != FeedbackKind::Ignored;
                self.spoken.extend(fits.then(|| (*id, kind.clone())));
                fits
            }
            Record::Revision { id, at_ms, kind, was } => return self.revision(record, (*id, *at_ms), kind, was),
            Record::Training { at_ms, generation, .. } => self.trainings.insert((*at_ms, *generation)),
            _ => true,
        };
        fits.then_some(Cow::Borrowed(record))
    }

    fn knows(&self, id: &InteractionId) -> bool {
        self.ids.binary_search(id).is_ok()
    }

    /// A revision of what is lost is kept as one of what is left.
    fn revision<'r>(
        &mut self,
        record: &'r Record,
        (id, at_ms): (InteractionId, u64),
        kind: &FeedbackKind,
        was: &FeedbackKind,
    ) -> Option<Cow<'r, Record>> {
        let mended = match self.spoken.get(&id) {
            Some(said) if said == was => Cow::Borrowed(record),
            Some(said) => Cow::Owned(Record::Revision { id, at_ms, kind: kind.clone(), was: said.clone() }),
            None if self.knows(&id) && *kind != FeedbackKind::Ignored => {
                Cow::Owned(Record::Feedback { id, at_ms, kind: kind.clone() })
            }
            None => return None,
        };
        self.spoken.insert(id, kind.clone());
        Some(mended)
    }
}

/// The segments of a journal.
struct Segments {
    /// In their order.
    numbers: Vec<u32>,
    /// What the journal's own file says of them; none where that cannot be read.
    list: Option<Vec<SegmentInfo>>,
}

impl Segments {
    /// Those that the journal's own file lists; where that cannot be read, those that are there.
    fn of(disk: &dyn Disk, path: &Path, source: &Source) -> Result<Segments> {
        let first = source.frame(FILE_HEADER_LEN as u64).map_err(|e| Error::io("cannot read the journal", path, e))?;
        Ok(match first {
            Some((Record::Segments(list), _, _)) => {
                Segments { numbers: list.iter().map(|info| info.number).collect(), list: Some(list) }
            }
            // A sound journal whose first record is another one has no segments.
            Some(_) if source.header.is_some() => Segments { numbers: vec![], list: None },
            _ => Segments { numbers: there(disk, path)?, list: None },
        })
    }

    fn info(&self, number: u32) -> Option<&SegmentInfo> {
        self.list.iter().flatten().find(|info| info.number == number)
    }

    /// Whether the list is lost or says what cannot be.
    fn is_damaged(&self, path: &Path) -> bool {
        match &self.list {
            Some(list) => check_list(path, 0, list).is_err(),
            None => !self.numbers.is_empty(),
        }
    }

    /// All of them, opened; none for one that is missing.
    fn open(&self, disk: &dyn Disk, path: &Path) -> Result<Vec<(u32, PathBuf, Option<Source>)>> {
        let open = |number: &u32| {
            let file = segment_path(path, *number);
            match Source::open(disk, &file) {
                Ok(segment) => Ok((*number, file, Some(segment))),
                Err(_) if !disk.exists(&file).map_err(|e| Error::io("cannot look for a segment", &file, e))? => {
                    Ok((*number, file, None))
                }
                Err(e) => Err(e),
            }
        };
        self.numbers.iter().map(open).collect()
    }
}

/// The segments whose files are there, in the order of what they hold.
fn there(disk: &dyn Disk, path: &Path) -> Result<Vec<u32>> {
    let mut numbers: Vec<u32> = segment_names(disk, path)?.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let mut parts: Vec<(u32, u32, Option<Ids>)> = vec![];
    for number in numbers {
        let file = segment_path(path, number);
        let segment = Source::open(disk, &file)?;
        let ids = segment.ids().map_err(|e| Error::io("cannot read the journal", &file, e))?;
        let next_id = segment.header.as_ref().map_or(u32::MAX, |header| header.next_id);
        // A rewrite puts a later segment in the place of one of the same interactions. One without any, with what was said
        // about earlier ones, stands beside it.
        parts.retain(|(before, _, other)| *before != next_id || !overlap(*other, ids));
        parts.push((next_id, number, ids));
    }
    parts.sort_by_key(|(next_id, number, _)| (*next_id, *number));
    Ok(parts.into_iter().map(|(_, number, _)| number).collect())
}

fn overlap(one: Option<Ids>, other: Option<Ids>) -> bool {
    one.zip(other).is_some_and(|((from, to), (first, last))| from <= last && first <= to)
}

/// What a segment's frames are, against what its index and its footer say that they are.
#[derive(Default)]
struct Contents {
    asked: Vec<Place>,
    spoken: Vec<Place>,
    trainings: Vec<u64>,
    indexed: Vec<Place>,
    revised: Revised,
    footer: Option<(u64, Footer, Revised)>,
}

impl Contents {
    fn note(&mut self, record: &Record, offset: u64) {
        match record {
            Record::Interaction { id, .. } => self.asked.push(Place { id: *id, offset }),
            Record::Feedback { id, .. } => self.spoken.push(Place { id: *id, offset }),
            Record::Revision { id, kind, was, .. } => {
                self.spoken.push(Place { id: *id, offset });
                self.revised = self.revised.plus(&kind.in_place_of(was));
            }
            Record::Training { .. } => self.trainings.push(offset),
            Record::Index(block) => self.indexed.extend(block.iter().copied()),
            Record::Footer(found) => self.footer = Some((offset, (**found).clone(), Revised::default())),
            Record::RevisedFooter(found, revised) => self.footer = Some((offset, (**found).clone(), *revised)),
            Record::Synced | Record::Segments(_) | Record::TrainingOfAll { .. } => {}
        }
    }

    fn agree(&mut self, info: Option<&SegmentInfo>) -> bool {
        self.spoken.sort_unstable();
        let Some((offset, footer, revised)) = &self.footer else { return false };
        let (asked, spoken) = (&self.asked, &self.spoken);
        let last = |places: &[Place]| places.last().map(|place| place.id);
        info.is_none_or(|info| *offset == info.footer)
            && *revised == self.revised
            && (footer.interactions, footer.feedback) == (asked.len() as u64, spoken.len() as u64)
            && (footer.last, footer.last_feedback) == (last(asked), last(spoken))
            && footer.trainings.iter().map(|place| &place.offset).eq(&self.trainings)
            && self.indexed.iter().eq(asked.iter().chain(spoken))
    }
}

/// One way through a journal.
pub(super) struct Walk<'a> {
    survey: Survey,
    seen: Seen,
    /// What is done with the records that can be kept.
    keep: Option<Keep<'a>>,
}

/// What is done with a record.
pub(super) type Keep<'a> = &'a mut dyn FnMut(&Record) -> Result<()>;

impl<'a> Walk<'a> {
    /// Goes through the journal at `path`. None, with nothing kept yet, when another file took its place meanwhile.
    pub fn all(disk: &dyn Disk, path: &Path, keep: Option<Keep<'a>>) -> Result<Option<Survey>> {
        let source = Source::open(disk, path)?;
        let mut walk = Walk { survey: Survey::default(), seen: Seen::default(), keep };
        walk.survey.header = source.header.as_ref().is_some_and(|header| header.segment == 0);
        let segments = Segments::of(disk, path, &source)?;
        if segments.is_damaged(path) {
            walk.damaged(path, FILE_HEADER_LEN as u64, 0);
        }
        // All are opened before the first is read: what a rewrite takes away meanwhile stays readable.
        let opened = segments.open(disk, path)?;
        if Source::open(disk, path)?.id() != source.id() {
            return Ok(None);
        }
        for (number, file, segment) in &opened {
            walk.segment(segment.as_ref(), file, segments.info(*number))?;
        }
        let stray = segment_names(disk, path)?.into_iter().filter_map(|name| segment_number(&name));
        let stray = stray.filter(|n| !segments.numbers.contains(n));
        walk.survey.stray = stray.map(|n| segment_path(path, n)).collect();
        walk.file(&source, path, None)?;
        Ok(Some(walk.survey))
    }

    fn damaged(&mut self, file: &Path, offset: u64, bytes: u64) {
        self.survey.damaged.push(Damage { file: file.to_owned(), offset, bytes });
    }

    fn segment(&mut self, segment: Option<&Source>, file: &Path, info: Option<&SegmentInfo>) -> Result<()> {
        let Some(source) = segment else {
            self.damaged(file, 0, 0);
            return Ok(());
        };
        if source.id().zip(info).is_some_and(|(id, info)| *id != info.id) {
            // An older copy would bring back what was forgotten.
            self.damaged(file, 0, source.len);
            return Ok(());
        }
        self.contents(source, file, info)
    }

    /// Goes through one segment: as the growing file, and its index must say where its records stand.
    fn contents(&mut self, source: &Source, file: &Path, info: Option<&SegmentInfo>) -> Result<()> {
        let whole = source.header.as_ref().is_some_and(|header| header.segment != 0)
            && info.is_none_or(|info| source.id() == Some(&info.id) && source.len == info.bytes);
        self.survey.header &= source.header.is_some();
        let before = self.survey.damaged.len();
        let mut contents = Contents::default();
        self.file(source, file, Some(&mut contents))?;
        let agree = contents.agree(info);
        if self.survey.damaged.len() == before && !(whole && agree) {
            self.damaged(file, contents.footer.map_or(source.len, |(offset, ..)| offset), 0);
        }
        Ok(())
    }

    /// Goes through one file, and notes its `contents`.
    fn file(&mut self, source: &Source, file: &Path, mut contents: Option<&mut Contents>) -> Result<()> {
        for part in source.parts() {
            match part.map_err(|e| Error::io("cannot read the journal", file, e))? {
                Part::Frame { record, offset, in_place } => {
                    if !in_place {
                        self.damaged(file, offset, 0);
                    }
                    if let Some(contents) = &mut contents {
                        contents.note(&record, offset);
                    }
                    self.record(&record, file)?;
                }
                Part::Damaged { offset, bytes } => self.damaged(file, offset, bytes),
                Part::Torn { bytes } => self.survey.torn = bytes,
            }
        }
        Ok(())
    }

    /// Keeps a record that makes sense after those before it.
    fn record(&mut self, record: &Record, file: &Path) -> Result<()> {
        if !record.is_told() {
            return Ok(());
        }
        let taken = self.seen.take(record);
        if !matches!(taken, Some(Cow::Borrowed(_))) {
            match taken {
                Some(_) => self.survey.mended = self.survey.mended.saturating_add(1),
                None => self.survey.orphaned = self.survey.orphaned.saturating_add(1),
            }
            if self.survey.orphans.last().is_none_or(|last| last != file) {
                self.survey.orphans.push(file.to_owned());
            }
        }
        let Some(record) = taken.as_deref() else { return Ok(()) };
        if let Some(keep) = &mut self.keep {
            keep(record)?;
        }
        self.survey.kept = self.survey.kept.saturating_add(1);
        Ok(())
    }
}
