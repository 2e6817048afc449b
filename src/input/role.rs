//! What each input of a model stands for.

/// What an input stands for beside others of the same `[batch, sequence]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Numbers of tokens: the input that indexes the embedding table.
    Ids,
    /// 1 where there is a token and 0 where there is padding.
    Mask,
    /// Which of two texts a token belongs to.
    Types,
    /// Positions: 0, 1, 2, ...
    Positions,
    /// Anything else: data that only the caller has.
    Data,
}
