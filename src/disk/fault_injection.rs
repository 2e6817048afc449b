//! Faults that tests plant into this crate, to show that the simulated power cuts would find them. No build but the tests' own
//! has them.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Feedback is acknowledged without a sync.
    JournalNotSynced,
    /// The journal says that it is durable before the sync.
    MarkedBeforeSync,
    /// A record's checksum is not compared.
    RecordCrcIgnored,
    /// A torn tail stays where it is when the next record is appended.
    TailNotCut,
    /// A file gets its name before its contents are durable.
    NamedBeforeSync,
    /// A file's new name is not made durable.
    NameNotSynced,
    /// A new folder's name is not made durable.
    FolderNotSynced,
    /// The head is flipped without a sync.
    HeadNotSynced,
    /// A head whose writer was killed before its sync is taken as it is.
    HeadNotFlushed,
    /// The head is written into the slot that is valid, not into the other.
    StaleSlotWritten,
    /// The first valid slot of the head wins, whatever its sequence number.
    HeadSequenceIgnored,
    /// A slot's checksum is not compared.
    HeadCrcIgnored,
    /// The head names a generation that has no file yet.
    FlippedBeforeNamed,
    /// Old generations go by their number alone.
    PrunedInUse,
    /// A number is given to a second generation.
    NumberReused,
    /// A try is counted when it is over.
    ProbationCountedLate,
    /// What is to be forgotten leaves the journal before what learned from it is off.
    ForgottenBeforeOff,
    /// Where a training stands that saw what is forgotten stays on the disk.
    CheckpointKept,
    /// What a process that was killed had removed is not made durable before forgetting is acknowledged.
    RemovalsNotFlushed,
    /// The names of segments that were rewritten are taken away without making that durable.
    SegmentsNotSwept,
    /// They are taken away before the list that does without them is in place.
    SweptBeforeListed,
    /// A segment loses what it held last.
    SegmentCutShort,
    /// The name of an imported profile is not made durable.
    ImportNotSynced,
    /// What a training found out about what is forgotten stays on the disk.
    ChoiceKept,
    /// What the gate measured on what is forgotten stays in the journal.
    VerdictKept,
}

impl Bug {
    #[cfg(test)]
    pub(crate) const ALL: [Bug; 25] = [
        Bug::JournalNotSynced,
        Bug::MarkedBeforeSync,
        Bug::RecordCrcIgnored,
        Bug::TailNotCut,
        Bug::NamedBeforeSync,
        Bug::NameNotSynced,
        Bug::FolderNotSynced,
        Bug::HeadNotSynced,
        Bug::HeadNotFlushed,
        Bug::StaleSlotWritten,
        Bug::HeadSequenceIgnored,
        Bug::HeadCrcIgnored,
        Bug::FlippedBeforeNamed,
        Bug::PrunedInUse,
        Bug::NumberReused,
        Bug::ProbationCountedLate,
        Bug::ForgottenBeforeOff,
        Bug::CheckpointKept,
        Bug::RemovalsNotFlushed,
        Bug::SegmentsNotSwept,
        Bug::SweptBeforeListed,
        Bug::SegmentCutShort,
        Bug::ImportNotSynced,
        Bug::ChoiceKept,
        Bug::VerdictKept,
    ];
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this thread runs with `bug`.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Never, outside of tests.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

/// Runs `work` with `bug` in this thread.
#[cfg(test)]
pub(crate) fn with<T>(bug: Option<Bug>, work: impl FnOnce() -> T) -> T {
    PLANTED.set(bug);
    let done = work();
    PLANTED.set(None);
    done
}
