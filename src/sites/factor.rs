//! A low-rank factor that is read where it lies: in an adapter's file, or with the parameters of a fit.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use tract_core::internal::*;

use crate::adapter::file::AdapterFile;
use crate::ops::floats;

/// `scale` times values that are somebody else's: it takes no memory of its own.
#[derive(Clone, Debug)]
pub(crate) struct SharedFactor {
    values: Values,
    scale: f32,
}

#[derive(Clone, Debug)]
enum Values {
    /// Of an adapter file, the tensor of this place among its tensors.
    InFile(Arc<AdapterFile>, usize),
    InMemory(Arc<Vec<f32>>),
}

impl SharedFactor {
    /// A tensor of `shape` whose values lie in an adapter file; [`factor`] reads it.
    pub fn in_file(file: &Arc<AdapterFile>, index: usize, shape: &[usize], scale: f32) -> TractResult<Tensor> {
        SharedFactor { values: Values::InFile(file.clone(), index), scale }.into_tensor(shape)
    }

    /// One whose values are shared with others; [`factor`] reads it.
    pub fn in_memory(values: &Arc<Vec<f32>>, shape: &[usize], scale: f32) -> TractResult<Tensor> {
        SharedFactor { values: Values::InMemory(values.clone()), scale }.into_tensor(shape)
    }

    fn into_tensor(self, shape: &[usize]) -> TractResult<Tensor> {
        let len = self.unscaled().len();
        ensure!(len == shape.iter().product::<usize>(), "{len} values for a factor of shape {shape:?}");
        Ok(Tensor::from_storage(f32::datum_type(), shape, self))
    }

    fn unscaled(&self) -> &[f32] {
        match &self.values {
            Values::InFile(file, index) => file.tensor(*index),
            Values::InMemory(values) => values,
        }
    }

    fn values(&self) -> Cow<'_, [f32]> {
        match self.scale {
            1.0 => Cow::Borrowed(self.unscaled()),
            scale => self.unscaled().iter().map(|v| v * scale).collect(),
        }
    }

    /// Which values these are.
    fn place(&self) -> (usize, usize, u32) {
        let (owner, index) = match &self.values {
            Values::InFile(file, index) => (Arc::as_ptr(file) as usize, *index),
            Values::InMemory(values) => (Arc::as_ptr(values) as usize, 0),
        };
        (owner, index, self.scale.to_bits())
    }
}

/// The values of a factor, its own or shared.
pub(crate) fn factor(tensor: &Tensor) -> TractResult<Cow<'_, [f32]>> {
    match tensor.storage_as::<SharedFactor>() {
        Some(factor) => Ok(factor.values()),
        None => floats(tensor).map(Cow::Borrowed),
    }
}

impl PartialEq for SharedFactor {
    fn eq(&self, other: &SharedFactor) -> bool {
        self.place() == other.place()
    }
}

impl Eq for SharedFactor {}

impl fmt::Display for SharedFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.values {
            Values::InFile(file, index) => {
                write!(f, "tensor {index} of {}, times {}", file.path().display(), self.scale)
            }
            Values::InMemory(values) => write!(f, "{} values, times {}", values.len(), self.scale),
        }
    }
}

impl TensorStorage for SharedFactor {
    fn byte_len(&self) -> usize {
        size_of_val(self.unscaled())
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
        let (owner, index, scale) = self.place();
        state.write_usize(owner);
        state.write_usize(index);
        state.write_u32(scale);
    }
    fn exotic_fact(&self, _shape: &[usize]) -> TractResult<Option<Box<dyn ExoticFact>>> {
        Ok(None)
    }
    fn is_exotic(&self) -> bool {
        false
    }
}
