//! A new home that begins with what was said in an old one, whose base model may be another.
//!
//! `told` reads the old home, and writes nothing there. `again` has the new base answer each input, and records what
//! was said against that answer. `staged` is the new home while it is made: it has its name when all of it is there.

mod again;
mod staged;
mod told;

pub(super) use staged::Staged;
pub(super) use told::Told;

/// What was replayed of an old home.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Every profile of the old home, by name.
    pub profiles: Vec<ReplayedProfile>,
    /// Labels that were replayed and are no classes of the new base.
    pub new_classes: Vec<String>,
}

/// What was replayed of one profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayedProfile {
    /// Its name, in the old home and in the new one.
    pub profile: String,
    /// Feedback items that were replayed.
    pub replayed: usize,
    /// Those that were not.
    pub dropped: Dropped,
    /// Places of the old journal that cannot be read.
    pub damaged: usize,
    /// Whole records of it that speak of what is lost there.
    pub orphaned: usize,
    /// Why the first of the unfit inputs is.
    pub unfit: Option<String>,
}

/// Feedback that was not replayed, by why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// It was told to teach nothing.
    pub ignored: usize,
    /// Newer feedback on the identical input says otherwise.
    pub superseded: usize,
    /// It rejects an answer that the new base does not give.
    pub rejected: usize,
    /// Its input is not one that the new base takes.
    pub unfit: usize,
}

impl Dropped {
    /// All of it.
    pub fn count(self) -> usize {
        let Dropped { ignored, superseded, rejected, unfit } = self;
        [ignored, superseded, rejected, unfit].iter().sum()
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Dropped) -> Dropped {
        Dropped {
            ignored: self.ignored.saturating_add(other.ignored),
            superseded: self.superseded.saturating_add(other.superseded),
            rejected: self.rejected.saturating_add(other.rejected),
            unfit: self.unfit.saturating_add(other.unfit),
        }
    }
}
