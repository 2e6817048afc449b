//! Bytes of a weight that all plans share: in memory, or in the map of the model's file.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) enum SharedBytes {
    Own(Arc<Vec<u8>>),
    /// These of the map; they lie within it.
    Mapped(Arc<memmap2::Mmap>, Range<usize>),
}

impl SharedBytes {
    /// The bytes of `map` at `place`, if they are there.
    pub fn mapped(map: Arc<memmap2::Mmap>, place: Range<usize>) -> Option<SharedBytes> {
        map.get(place.clone())?;
        Some(SharedBytes::Mapped(map, place))
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> SharedBytes {
        SharedBytes::Own(Arc::new(bytes))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            SharedBytes::Own(bytes) => bytes,
            SharedBytes::Mapped(map, place) => map.get(place.clone()).unwrap_or_default(),
        }
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &SharedBytes) -> bool {
        self.as_ptr() == other.as_ptr() && self.len() == other.len() || **self == **other
    }
}
