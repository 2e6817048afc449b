//! Operators around the runtime's own ones.

/// What an `Expansion` of tract around the one in the field `$inner` says of itself: what that one says. Its rules and its
/// wiring stay to be written.
macro_rules! described_by {
    ($inner:ident) => {
        fn name(&self) -> StaticName {
            self.$inner.name()
        }

        fn validation(&self) -> Validation {
            self.$inner.validation()
        }

        fn info(&self) -> TractResult<Vec<String>> {
            self.$inner.info()
        }

        fn nboutputs(&self) -> TractResult<usize> {
            self.$inner.nboutputs()
        }
    };
}
pub(super) use described_by;
