//! What was said, said again to the new base.

use std::collections::{BTreeSet, HashMap};

use super::told::{Told, ToldProfile, stretched};
use super::{Replayed, ReplayedProfile};
use crate::error::{Error, ErrorKind, Result};
use crate::input::label::NONE_OF_THESE;
use crate::input::{Intake, Prepared};
use crate::journal::{FeedbackKind, InteractionId, Record, StoredInput, salvage};
use crate::plan::Variant;
use crate::runtime::answer::ranked;
use crate::runtime::intake::IntakeKind;
use crate::runtime::opinions::Meaning;
use crate::runtime::serving::Serving;
use crate::runtime::{Home, journal_io, now_ms};
use crate::store::{Contents, Incoming, profile_folder};

/// Classes that are recorded of an answer, as of a prediction.
const TOP: usize = 5;

impl Told {
    /// Records everything in the profiles of `home`, which nobody uses yet, as said about its base model's answers.
    /// Ids and times are those of the old home.
    ///
    /// # Errors
    /// `Busy` if the old home changed meanwhile, `UnsupportedModel`, `Io`.
    pub fn replay(&self, home: &Home) -> Result<Replayed> {
        let profiles = self.profiles.iter().map(|p| p.replay(home)).collect::<Result<_>>()?;
        let labels = self.profiles.iter().flat_map(|p| p.meanings.values()).filter_map(Meaning::class);
        let new: BTreeSet<&str> = labels.filter(|label| !home.labels().iter().any(|known| known == label)).collect();
        Ok(Replayed { profiles, new_classes: new.into_iter().map(String::from).collect() })
    }
}

impl ToldProfile {
    fn replay(&self, home: &Home) -> Result<ReplayedProfile> {
        let (profile, dropped) = (self.name.clone(), self.dropped);
        let (damaged, orphaned) = (self.damaged, self.orphaned);
        let mut done = ReplayedProfile { profile, dropped, damaged, orphaned, ..ReplayedProfile::default() };
        if self.meanings.is_empty() {
            return Ok(done);
        }
        let student = Student::new(home);
        let incoming = Incoming::begin(home.profile_disk(&self.name), &profile_folder(home.path(), &self.name)?)?;
        let mut met = 0usize;
        incoming.journal_of(self.next_id, now_ms(), |push| {
            let mut waiting: HashMap<InteractionId, FeedbackKind> = HashMap::new();
            salvage::read(&*self.disk, &self.journal, &mut |record| match record {
                Record::Interaction { id, at_ms, input, .. } => {
                    let Some(meaning) = self.meanings.get(id) else { return Ok(()) };
                    met = met.saturating_add(1);
                    let (input, top) = match student.answer(input) {
                        Ok(answered) => answered,
                        Err(e) if e.kind() == ErrorKind::BadData => {
                            done.dropped.unfit = done.dropped.unfit.saturating_add(1);
                            done.unfit.get_or_insert_with(|| e.at(format!("interaction {id}")).to_string());
                            return Ok(());
                        }
                        Err(e) => return Err(e),
                    };
                    let Some(kind) = said(meaning, top.first().map(|(label, _)| label.as_str())) else {
                        done.dropped.rejected = done.dropped.rejected.saturating_add(1);
                        return Ok(());
                    };
                    waiting.insert(*id, kind);
                    push(&Record::Interaction { id: *id, at_ms: *at_ms, input, top, generation: 0 })
                }
                Record::Feedback { id, at_ms, .. } => {
                    let Some(kind) = waiting.remove(id) else { return Ok(()) };
                    done.replayed = done.replayed.saturating_add(1);
                    push(&Record::Feedback { id: *id, at_ms: *at_ms, kind })
                }
                _ => Ok(()),
            })?;
            if waiting.is_empty() { Ok(()) } else { Err(self.changed()) }
        })?;
        if met != self.meanings.len() {
            return Err(self.changed());
        }
        if done.replayed > 0 {
            incoming.publish(&Contents::none())?;
        }
        Ok(done)
    }
}

/// What is said to a base that answers `answer`; `None` if nothing can be.
fn said(meaning: &Meaning, answer: Option<&str>) -> Option<FeedbackKind> {
    match meaning {
        Meaning::Is(class) if class == NONE_OF_THESE => Some(FeedbackKind::NoneOfThese),
        Meaning::Is(class) => Some(FeedbackKind::Label(class.clone())),
        Meaning::IsNot(class) => (answer == Some(class.as_str())).then_some(FeedbackKind::Reject),
    }
}

/// The new base, answering inputs of an old journal.
struct Student<'a> {
    home: &'a Home,
    serving: Serving,
    /// How pictures of another size come to this one's.
    pictures: Option<crate::input::Preprocessing>,
}

impl Student<'_> {
    fn new(home: &Home) -> Student<'_> {
        let pictures = match &home.0.intake {
            IntakeKind::Image(p) => Some(stretched(p)),
            IntakeKind::Text(_) | IntakeKind::Arrays => None,
        };
        Student { home, serving: Serving::base(home), pictures }
    }

    /// The input as the new journal keeps it, and the classes that are answered.
    fn answer(&self, input: &StoredInput) -> Result<(StoredInput, Vec<(String, f32)>)> {
        let intake = self.pictures.as_ref().map_or_else(|| self.home.intake(), Intake::Image);
        let Prepared { example, stored } = intake.prepare(&journal_io::load(input.clone())?)?;
        let rows = self.home.0.engine.one(&Variant::Base, &example)?;
        let logits = self.serving.logits(&rows)?;
        if logits.iter().flatten().any(|v| !v.is_finite()) {
            return Err(Error::bad_data("the new base answers with a value that is not a finite number"));
        }
        let top = logits.map_or_else(Vec::new, |z| ranked(z.row(0), 1.0, &self.serving.labels, TOP));
        Ok((journal_io::store(stored), top.iter().map(|s| (s.class().to_string(), s.p)).collect()))
    }
}
