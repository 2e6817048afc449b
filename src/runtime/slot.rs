//! The active generation, and its replacement while it is read. `loom/tests/swap.rs` compiles this file with loom's locks in the place of the
//! standard ones, and goes through every order in which threads can meet in it.

use super::sync::{Arc, PoisonError, RwLock};

/// A value that is only ever replaced as a whole: who has got it keeps it, unchanged, for as long as they need it.
pub(crate) struct Slot<T>(RwLock<Arc<T>>);

impl<T> Slot<T> {
    pub(crate) fn new(value: T) -> Slot<T> {
        Slot(RwLock::new(Arc::new(value)))
    }

    /// The active generation. A prediction asks once, and uses nothing else.
    pub(crate) fn get(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `next` the active generation from the next [`Slot::get`] on, and hands it back.
    pub(crate) fn put(&self, next: T) -> Arc<T> {
        let next = Arc::new(next);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        next
    }
}
