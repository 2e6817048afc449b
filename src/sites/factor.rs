//! A low-rank factor that lies in an adapter's file.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use tract_core::internal::*;

use crate::adapter::file::AdapterFile;
use crate::ops::floats;

/// `scale` times one tensor of an adapter file, which is read where it lies: mapped, it takes no memory of its own.
#[derive(Clone, Debug)]
pub(crate) struct FileFactor {
    file: Arc<AdapterFile>,
    /// Place of the tensor among those of the file.
    index: usize,
    scale: f32,
}

impl FileFactor {
    /// As a tensor of `shape`; [`factor`] reads it.
    pub fn tensor(file: &Arc<AdapterFile>, index: usize, shape: &[usize], scale: f32) -> TractResult<Tensor> {
        let len = file.tensor(index).len();
        ensure!(len == shape.iter().product::<usize>(), "{len} values for a factor of shape {shape:?}");
        Ok(Tensor::from_storage(f32::datum_type(), shape, FileFactor { file: file.clone(), index, scale }))
    }

    fn values(&self) -> Cow<'_, [f32]> {
        let values = self.file.tensor(self.index);
        match self.scale {
            1.0 => Cow::Borrowed(values),
            scale => values.iter().map(|v| v * scale).collect(),
        }
    }
}

/// The values of a factor, in memory or in a file.
pub(crate) fn factor(tensor: &Tensor) -> TractResult<Cow<'_, [f32]>> {
    match tensor.storage_as::<FileFactor>() {
        Some(factor) => Ok(factor.values()),
        None => floats(tensor).map(Cow::Borrowed),
    }
}

impl PartialEq for FileFactor {
    fn eq(&self, other: &FileFactor) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            && (self.index, self.scale.to_bits()) == (other.index, other.scale.to_bits())
    }
}

impl Eq for FileFactor {}

impl fmt::Display for FileFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensor {} of {}, times {}", self.index, self.file.path().display(), self.scale)
    }
}

impl TensorStorage for FileFactor {
    fn byte_len(&self) -> usize {
        size_of_val(self.file.tensor(self.index))
    }
    fn is_empty(&self) -> bool {
        self.byte_len() == 0
    }
    fn deep_clone(&self) -> Box<dyn TensorStorage> {
        Box::new(self.clone())
    }
    fn as_plain_ram(&self) -> Option<&PlainStorage> {
        None
    }
    fn as_plain_ram_mut(&mut self) -> Option<&mut PlainStorage> {
        None
    }
    fn into_plain_ram(self: Box<Self>) -> Option<PlainStorage> {
        None
    }
    fn dyn_hash(&self, state: &mut dyn std::hash::Hasher) {
        state.write_usize(Arc::as_ptr(&self.file) as usize);
        state.write_usize(self.index);
        state.write_u32(self.scale.to_bits());
    }
    fn exotic_fact(&self, _shape: &[usize]) -> TractResult<Option<Box<dyn ExoticFact>>> {
        Ok(None)
    }
    fn is_exotic(&self) -> bool {
        false
    }
}
