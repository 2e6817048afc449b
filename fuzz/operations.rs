//! A script of records, feedback, forgetting and reopening on a journal, and on a list that it must agree with.

use std::path::Path;
use std::sync::Arc;

use acclimate::disk::RealDisk;
use acclimate::journal::salvage::survey;
use acclimate::journal::{FeedbackKind, InteractionId, Journal, JournalWriter, Record, SegmentSize, StoredInput};
use acclimate::{Error, Result};

pub fn seeds() -> Vec<Vec<u8>> {
    let usual = (0..60u8).flat_map(|n| [[0, n], [1, n * 3], [n % 7, n]]).flatten().collect();
    vec![usual, (0..200).collect(), vec![0, 9, 0, 8, 3, 0, 0, 1, 1, 0, 4, 1, 5, 0, 0, 1, 1, 1, 3, 0, 2, 0, 6, 3, 0, 1]]
}

/// Runs a script on a journal of small segments and on a list in memory, which must agree.
pub fn run(bytes: &[u8], folder: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(folder).map_err(|e| Error::io("cannot make a folder", folder, e))?;
    let path = folder.path().join("journal.log");
    JournalWriter::create(&RealDisk, &path, 1)?;
    let size = SegmentSize { bytes: 600, records: 8 };
    let mut writer = JournalWriter::open_sized(Arc::new(RealDisk), &path, size)?;
    let mut told: Vec<Record> = vec![];
    for pair in bytes.as_chunks::<2>().0.iter().take(120) {
        let about = u32::from(pair[1]) % 40;
        match pair[0] % 7 {
            0 | 1 => {
                let input = match about % 2 {
                    0 => StoredInput::Text("?".repeat(about as usize)),
                    _ => super::texts::answered(about as usize % 4),
                };
                let id = writer.state().next_id()?;
                let record = Record::Interaction { id, at_ms: 1, input, top: vec![], generation: 0 };
                writer.append(record.clone())?;
                told.push(record);
            }
            2 | 3 => {
                let kind = match about % 3 {
                    0 => FeedbackKind::Edit("!".repeat(about as usize)),
                    _ => FeedbackKind::Accept,
                };
                let record = Record::Feedback { id: InteractionId(about), at_ms: 2, kind };
                let of = |r: &&Record| r.interaction() == Some(InteractionId(about));
                let fits = told.iter().filter(of).count() == 1;
                let said = writer.append(record.clone());
                assert_eq!(said.is_ok(), fits, "{about}: {said:?}");
                told.extend(said.ok().map(|()| record));
            }
            4 if pair[1] % 3 == 0 => {
                let id = InteractionId(about);
                let was = writer.state().feedback_on(id)?.map(|f| f.kind);
                let kind =
                    if was == Some(FeedbackKind::Ignored) { FeedbackKind::Accept } else { FeedbackKind::Ignored };
                let fits = was.is_some();
                let record = Record::Revision { id, at_ms: 3, kind, was: was.unwrap_or(FeedbackKind::Accept) };
                let said = writer.append(record.clone());
                assert_eq!(said.is_ok(), fits, "{about}: {said:?}");
                told.extend(said.ok().map(|()| record));
            }
            4 => writer.seal()?,
            5 => {
                let ids = std::collections::HashSet::from([InteractionId(about), InteractionId(about + 5)]);
                writer.forget(&ids, false)?;
                told.retain(|r| r.interaction().is_none_or(|id| !ids.contains(&id)));
            }
            _ => {
                drop(writer);
                writer = JournalWriter::open_sized(Arc::new(RealDisk), &path, size)?;
            }
        }
        if writer.is_full() {
            writer.seal()?;
        }
    }
    let found: Result<Vec<Record>> = Journal::read(&RealDisk, &path).and_then(Iterator::collect);
    assert_eq!(found?, told);
    let spoken = told.iter().filter(|r| matches!(r, Record::Feedback { .. })).count();
    let feedback = told.iter().filter(|r| !matches!(r, Record::Interaction { .. })).count();
    let state = writer.state();
    assert_eq!((state.feedback(), state.interactions(), state.spoken()), (feedback, told.len() - feedback, spoken));
    let ignored = state.last_words(usize::MAX)?.iter().filter(|w| w.entry.kind == FeedbackKind::Ignored).count();
    assert_eq!(state.ignored(), ignored);
    assert!(survey(&RealDisk, &path)?.is_sound());
    Ok(())
}
