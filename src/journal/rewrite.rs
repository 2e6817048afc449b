//! Writes a journal anew: sealed segments, and the file that grows behind them. One rename puts all of it in place.

use std::path::{Path, PathBuf};

use super::frame::{FILE_HEADER_LEN, FileHeader, JournalId, VERSION, encode_frame};
use super::id::random_id;
use super::reader::{FrameReader, damaged};
use super::record::{FeedbackKind, InteractionId, Record};
use super::segment::{
    BLOCK, Footer, Place, Revised, Sealed, SegmentInfo, SegmentSize, TrainingPlace, segment_names, segment_number,
    segment_path, segments_folder,
};
use crate::cipher::Cipher;
use crate::disk::fault_injection::{Bug, planted};
use crate::disk::{Disk, StagedFile, UNFINISHED, folder_of, make_folder};
use crate::error::{Error, Result};

/// Bytes written in one go.
const CHUNK: usize = 1 << 20;

/// What a rewrite changes.
pub(super) struct Change<'a> {
    /// Which segments are written anew; the others stay as they are.
    pub(super) touches: &'a dyn Fn(&Sealed) -> Result<bool>,
    /// Which records stay, of the segments that are touched and of the file that grows.
    pub(super) keep: &'a dyn Fn(&Record) -> bool,
    /// Whether the segments written anew hold nothing any more without feedback.
    pub(super) spoken_only: bool,
    /// Whether the file that grows is sealed, whatever its size.
    pub(super) seal: bool,
}

impl Change<'_> {
    /// The same records in the newest format.
    pub(super) const NONE: Change<'static> =
        Change { touches: &|_| Ok(false), keep: &|_| true, spoken_only: false, seal: false };
    /// All of it sealed.
    pub(super) const SEAL: Change<'static> = Change { seal: true, ..Change::NONE };
}

/// Puts a changed journal in the place of the one at `path`, atomically and durably. To be called with the profile's short lock
/// held. A torn tail is left out.
///
/// # Errors
/// `BadData` if the journal is damaged, `Io`; the old one is untouched then.
pub(super) fn rewrite(disk: &dyn Disk, path: &Path, size: SegmentSize, change: &Change<'_>) -> Result<()> {
    let mut reader = FrameReader::open(disk, path)?;
    let mut copy = Copy::begin(disk, path, size, reader.header().created_ms)?;
    copy.reserve(reader.header().next_id);
    let mut first = reader.next().transpose()?;
    if let Some(Record::Segments(segments)) = first.as_ref().map(|f| &f.record) {
        for info in segments {
            let sealed = Sealed::open(disk, path, info)?;
            if !(change.touches)(&sealed)? {
                copy.keep(&sealed)?;
                continue;
            }
            copy.spoken_only = change.spoken_only;
            for frame in FrameReader::open_sealed(disk, &sealed.path)? {
                let record = frame?.record;
                if (change.keep)(&record) {
                    copy.push(&record)?;
                }
            }
        }
        if copy.spoken_only {
            copy.seal()?;
        }
        first = None;
    } else if first.is_some() {
        // No list is durable yet. Without a whole first frame, segments beside the file would make it damaged.
        let file = disk.open_write(path).map_err(|e| Error::io("cannot open the journal", path, e))?;
        file.sync_data().map_err(|e| Error::io("cannot make the journal durable", path, e))?;
    }
    for frame in first.map(Ok).into_iter().chain(reader) {
        let record = frame?.record;
        copy.note(&record);
        if (change.keep)(&record) {
            copy.push(&record)?;
        }
    }
    if change.seal {
        copy.seal()?;
    }
    copy.finish()
}

/// Removes what an interrupted rewrite of the journal at `path` left: files that are not one of `segments`. To be called with
/// the profile's short lock held.
///
/// # Errors
/// `Io`.
pub(super) fn sweep(disk: &dyn Disk, path: &Path, segments: &[SegmentInfo]) -> Result<()> {
    let (folder, mut removed) = (segments_folder(path), false);
    for name in segment_names(disk, path)? {
        let number = segment_number(&name);
        let stray = number.map_or(name.ends_with(UNFINISHED), |n| segments.iter().all(|info| info.number != n));
        if stray {
            let file = folder.join(&name);
            disk.remove(&file).map_err(|e| Error::io("cannot remove a file", &file, e))?;
            removed = true;
        }
    }
    if removed && !planted(Bug::SegmentsNotSwept) {
        disk.sync_dir(&folder).map_err(|e| Error::io("cannot sync a folder", &folder, e))?;
    }
    Ok(())
}

/// A journal that is being written.
pub(super) struct Copy<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    size: SegmentSize,
    created_ms: u64,
    segments: Vec<SegmentInfo>,
    next_number: u32,
    next_id: u32,
    /// The last interaction so far.
    highest: Option<InteractionId>,
    part: Part,
    /// What [`SegmentInfo::spoken_only`] is of the segments that are sealed next.
    pub(super) spoken_only: bool,
    /// Segments that were written anew, until something may refer to them.
    published: Vec<PathBuf>,
}

/// A copy that is given up takes its segments along: on a full disk they would stay for good.
impl Drop for Copy<'_> {
    fn drop(&mut self) {
        for file in &self.published {
            let _ = self.disk.remove(file);
        }
    }
}

/// The records since the last segment, in memory.
struct Part {
    cipher: Option<Cipher>,
    id: JournalId,
    /// Where they start in a sealed file.
    start: u64,
    /// Frames, numbered from 2: the list of segments is the first.
    frames: Vec<u8>,
    sequence: u64,
    footer: Footer,
    revised: Revised,
    interactions: Vec<Place>,
    feedback: Vec<Place>,
}

impl<'a> Copy<'a> {
    /// Begins a journal that is to stand at `path`.
    pub(super) fn begin(disk: &'a dyn Disk, path: &Path, size: SegmentSize, created_ms: u64) -> Result<Copy<'a>> {
        let highest = segment_names(disk, path)?.iter().filter_map(|name| segment_number(name)).max().unwrap_or(0);
        let next_number = highest.checked_add(1).ok_or_else(|| Error::usage("the journal has no segments left"))?;
        let (segments, path, part) = (vec![], path.to_owned(), Part::begin(disk.cipher().cloned())?);
        let (next_id, highest, spoken_only) = (0, None, false);
        let published = vec![];
        Ok(Copy { disk, path, size, created_ms, segments, next_number, next_id, highest, part, spoken_only, published })
    }

    /// Makes sure that no id below `next_id` is given out again.
    pub(super) fn reserve(&mut self, next_id: u32) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Makes sure that the id of `record`, kept or not, is not given out again.
    pub(super) fn note(&mut self, record: &Record) {
        if let Record::Interaction { id, .. } = record {
            self.reserve(id.0.saturating_add(1));
        }
    }

    /// Takes over a segment of the old journal as it is.
    fn keep(&mut self, segment: &Sealed) -> Result<()> {
        self.seal()?;
        self.highest = segment.footer.last.or(self.highest);
        self.segments.push(segment.info.clone());
        Ok(())
    }

    /// Takes in a record; what tells only of the old file is left out.
    pub(super) fn push(&mut self, record: &Record) -> Result<()> {
        if record.is_told() {
            if self.part.frames.len() as u64 >= self.size.bytes || self.part.records() >= self.size.records {
                self.seal()?;
            }
            if let Record::Interaction { id, .. } = record {
                self.highest = Some(*id);
            }
            self.part.push(record)?;
        }
        Ok(())
    }

    /// Puts the records since the last segment into one of their own, durably. Nothing refers to it yet.
    pub(super) fn seal(&mut self) -> Result<()> {
        if !self.part.frames.is_empty() {
            let number = self.next_number;
            self.next_number = number.checked_add(1).ok_or_else(|| Error::usage("the journal has no segments left"))?;
            let mut part = std::mem::replace(&mut self.part, Part::begin(self.disk.cipher().cloned())?);
            if planted(Bug::SegmentCutShort) {
                part.interactions.pop();
            }
            let footer = part.index()?;
            make_folder(self.disk, &segments_folder(&self.path))?;
            let file = segment_path(&self.path, number);
            let bytes = part.publish(self, number, &file)?;
            self.published.push(file);
            self.segments.push(SegmentInfo { number, id: part.id, bytes, footer, spoken_only: self.spoken_only });
        }
        self.spoken_only = false;
        Ok(())
    }

    /// Completes it, and puts it in the place of what was there.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut part = std::mem::replace(&mut self.part, Part::begin(self.disk.cipher().cloned())?);
        if planted(Bug::SweptBeforeListed) {
            sweep(self.disk, &self.path, &self.segments)?;
        }
        let path = self.path.clone();
        part.publish(&mut self, 0, &path)?;
        sweep(self.disk, &self.path, &self.segments)
    }
}

impl Part {
    fn begin(cipher: Option<Cipher>) -> Result<Part> {
        let id = random_id()?;
        let start = (FILE_HEADER_LEN + encode_frame(cipher.as_ref(), &id, 1, &Record::Segments(vec![]))?.len()) as u64;
        let (footer, revised) = (Footer::default(), Revised::default());
        let (frames, interactions, feedback) = (vec![], vec![], vec![]);
        Ok(Part { cipher, id, start, frames, sequence: 2, footer, revised, interactions, feedback })
    }

    fn records(&self) -> u64 {
        self.footer.interactions.saturating_add(self.footer.feedback)
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.frames.len() as u64)
    }

    fn frame(&mut self, record: &Record) -> Result<()> {
        self.frames.extend(encode_frame(self.cipher.as_ref(), &self.id, self.sequence, record)?);
        self.sequence = self.sequence.saturating_add(1);
        Ok(())
    }

    fn push(&mut self, record: &Record) -> Result<()> {
        let (offset, footer) = (self.end(), &mut self.footer);
        match record {
            Record::Interaction { id, .. } => {
                footer.interactions = footer.interactions.saturating_add(1);
                footer.last = Some(*id);
                self.interactions.push(Place { id: *id, offset });
            }
            Record::Feedback { id, kind, .. } | Record::Revision { id, kind, .. } => {
                if let Record::Revision { was, .. } = record {
                    self.revised = self.revised.plus(&kind.in_place_of(was));
                }
                footer.feedback = footer.feedback.saturating_add(1);
                match kind {
                    FeedbackKind::Label(label) if !footer.labels.contains(label) => footer.labels.push(label.clone()),
                    kind if kind.rejects() => footer.rejected = footer.rejected.saturating_add(1),
                    _ => {}
                }
                self.feedback.push(Place { id: *id, offset });
            }
            Record::Training { .. } => {
                let (interactions, feedback, last) = (footer.interactions, footer.feedback, footer.last);
                footer.trainings.push(TrainingPlace { offset, interactions, feedback, last });
            }
            _ => {}
        }
        self.frame(record)
    }

    /// Appends the index and the footer; where the footer starts.
    fn index(&mut self) -> Result<u64> {
        self.feedback.sort_unstable();
        let (interactions, feedback) = (std::mem::take(&mut self.interactions), std::mem::take(&mut self.feedback));
        self.footer.blocks = self.blocks(&interactions)?;
        self.footer.last_feedback = feedback.last().map(|place| place.id);
        self.footer.feedback_blocks = self.blocks(&feedback)?;
        let (at, footer) = (self.end(), std::mem::take(&mut self.footer));
        let footer = Box::new(footer);
        match self.revised == Revised::default() {
            true => self.frame(&Record::Footer(footer))?,
            false => self.frame(&Record::RevisedFooter(footer, self.revised))?,
        }
        Ok(at)
    }

    fn blocks(&mut self, places: &[Place]) -> Result<Vec<Place>> {
        let mut blocks = vec![];
        for block in places.chunks(BLOCK) {
            blocks.extend(block.first().map(|first| Place { id: first.id, offset: self.end() }));
            self.frame(&Record::Index(block.to_vec()))?;
        }
        Ok(blocks)
    }

    /// Writes it to a file of its own, which is given the name `to` when it is durable; the file's bytes.
    fn publish(&mut self, copy: &mut Copy<'_>, segment: u32, to: &Path) -> Result<u64> {
        // True once the file has its name, and nobody reads it before.
        self.frame(&Record::Synced)?;
        let (id, created_ms) = (self.id, copy.created_ms);
        let next_id = if segment == 0 { copy.next_id } else { after(copy.highest) };
        let mut start = FileHeader { version: VERSION, id, created_ms, next_id, segment }.encode().to_vec();
        let before = if segment == 0 { copy.segments.clone() } else { vec![] };
        start.extend(encode_frame(self.cipher.as_ref(), &id, 1, &Record::Segments(before))?);
        if segment != 0 && start.len() as u64 != self.start {
            return Err(Error::internal("the list of a segment has an unexpected length"));
        }
        let mut file = StagedFile::create(copy.disk, folder_of(to))?;
        let mut at = 0u64;
        for piece in [&start, &self.frames].into_iter().flat_map(|bytes| bytes.chunks(CHUNK)) {
            file.write_at(piece, at)?;
            at = at.saturating_add(piece.len() as u64);
        }
        if segment == 0 {
            file.sync()?;
            // From here on they may be referred to.
            copy.published.clear();
            file.replace(to)?
        } else {
            file.publish(to)?
        }
        Ok(at)
    }
}

/// Refuses a list of segments that does not grow.
pub(super) fn check_list(path: &Path, offset: u64, segments: &[SegmentInfo]) -> Result<()> {
    let mut seen: Vec<u32> = segments.iter().map(|info| info.number).collect();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() == segments.len() { Ok(()) } else { Err(damaged(path, offset, "a segment is listed twice")) }
}

/// The last id of a part of a journal, and the one after it.
pub(super) fn after(last: Option<InteractionId>) -> u32 {
    last.map_or(0, |id| id.0.saturating_add(1))
}
