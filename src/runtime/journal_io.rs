//! Inputs to and from the journal.

use crate::error::{Error, Result};
use crate::input::{self, ArrayData, NamedArray, RawInput};
use crate::journal::{Dtype, StoredArray, StoredInput};

/// What the journal keeps of an input.
pub(crate) fn store(stored: input::StoredInput) -> StoredInput {
    match stored {
        input::StoredInput::Text(text) => StoredInput::Text(text),
        input::StoredInput::Image { width, height, png } => StoredInput::Image { width, height, png },
        input::StoredInput::Arrays(arrays) => StoredInput::Arrays(arrays.into_iter().map(store_array).collect()),
    }
}

fn store_array(array: NamedArray) -> StoredArray {
    let (dtype, data) = match array.data {
        ArrayData::F32(v) => (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ArrayData::I64(v) => (Dtype::I64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ArrayData::I32(v) => (Dtype::I64, v.iter().flat_map(|x| i64::from(*x).to_le_bytes()).collect()),
        ArrayData::U8(v) => (Dtype::U8, v),
    };
    StoredArray { name: array.name, dtype, shape: array.shape.iter().map(|&d| d as u64).collect(), data }
}

/// The input that the journal kept.
pub(crate) fn load(stored: StoredInput) -> Result<RawInput> {
    let stored = match stored {
        StoredInput::Text(text) => input::StoredInput::Text(text),
        StoredInput::Conversation(_) => {
            return Err(Error::bad_data("a conversation, in the journal of a model that generates no text"));
        }
        StoredInput::Image { width, height, png } => input::StoredInput::Image { width, height, png },
        StoredInput::Arrays(arrays) => {
            input::StoredInput::Arrays(arrays.into_iter().map(load_array).collect::<Result<_>>()?)
        }
    };
    RawInput::from_stored(stored)
}

fn load_array(array: StoredArray) -> Result<NamedArray> {
    let odd = || Error::bad_data("an array in the journal has the wrong size").at(&array.name);
    if !array.is_sound() {
        return Err(odd());
    }
    let shape = array.shape.iter().map(|&d| usize::try_from(d).map_err(|_| odd())).collect::<Result<Vec<_>>>()?;
    let data = match array.dtype {
        Dtype::F32 => ArrayData::F32(array.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::I64 => ArrayData::I64(array.data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        Dtype::U8 => ArrayData::U8(array.data),
    };
    NamedArray::new(array.name, shape, data)
}
