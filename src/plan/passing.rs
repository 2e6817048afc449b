//! The plans of a training, and how values pass from one to the next.

/// Where an input of a backward plan comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Feed {
    Output(usize),
    Input(usize),
}

/// Plans for training at one bucket, `P` being their graphs or what these are compiled to.
///
/// The values that plans read and pass on are numbered: what enters the trained part first, then the factors, then
/// what each segment gives.
pub(super) struct Plans<P> {
    /// What no trained site changes, where that is worth a plan of its own.
    pub prefix: Option<P>,
    /// In evaluation order; one without gradient checkpointing.
    pub segments: Vec<Segment<P>>,
    /// Number of values that enter the trained part.
    pub entering: usize,
    /// Of each factor that is trained, its value.
    pub factors: Vec<usize>,
    /// Of each output of the model, its value.
    pub results: Vec<usize>,
}

/// A part of the model from its first operator to its last, forward and backward.
pub(super) struct Segment<P> {
    /// Gives the values from `first` on, and after those what is saved for the backward plan.
    pub forward: P,
    /// None where nothing of the segment is trained.
    pub backward: Option<P>,
    /// The values that the forward plan reads.
    pub reads: Vec<usize>,
    /// The first value that it gives, and how many.
    pub gives: (usize, usize),
    /// What the backward plan reads after the cotangents.
    pub saved: Vec<Feed>,
    /// Of each cotangent that the backward plan reads, its value.
    pub cotangents: Vec<usize>,
    /// Of each gradient that it gives, its value.
    pub gradients: Vec<usize>,
}
