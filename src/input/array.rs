//! An array with a name, as a model eats it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Element types of [`ArrayData`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ElementType {
    /// 32-bit float.
    F32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit unsigned integer.
    U8,
}

impl ElementType {
    /// Short name, as in error messages: `f32`, `i64`, `i32`, `u8`.
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::I64 => "i64",
            ElementType::I32 => "i32",
            ElementType::U8 => "u8",
        }
    }
}

/// Elements of an array, C order (last dimension fastest). Floats are finite when they come from a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ArrayData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit signed integers.
    I64(Vec<i64>),
    /// 32-bit signed integers.
    I32(Vec<i32>),
    /// Bytes.
    U8(Vec<u8>),
}

impl ArrayData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            ArrayData::F32(v) => v.len(),
            ArrayData::I64(v) => v.len(),
            ArrayData::I32(v) => v.len(),
            ArrayData::U8(v) => v.len(),
        }
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in memory, bytes.
    pub fn byte_len(&self) -> usize {
        self.len()
            * match self.element_type() {
                ElementType::F32 | ElementType::I32 => 4,
                ElementType::I64 => 8,
                ElementType::U8 => 1,
            }
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        match self {
            ArrayData::F32(_) => ElementType::F32,
            ArrayData::I64(_) => ElementType::I64,
            ArrayData::I32(_) => ElementType::I32,
            ArrayData::U8(_) => ElementType::U8,
        }
    }

    /// The same values with another element type. Integers become the nearest f32; anything to an integer type must be whole and in range.
    ///
    /// Errors with the number of the first element that does not fit.
    pub fn cast(&self, to: ElementType) -> Result<ArrayData> {
        fn narrow<T: TryFrom<i64>>(values: Vec<i64>, to: ElementType) -> Result<Vec<T>> {
            let fits = |(i, v)| T::try_from(v).map_err(|_| misfit(i, v, to));
            values.into_iter().enumerate().map(fits).collect()
        }
        fn misfit(i: usize, v: impl std::fmt::Display, to: ElementType) -> Error {
            Error::bad_data(format!("value {v} (element {i}) does not fit the model's type {}", to.name()))
        }
        if self.element_type() == to {
            return Ok(self.clone());
        }
        if to == ElementType::F32 {
            return Ok(ArrayData::F32(self.to_f32()));
        }
        let wide: Vec<i64> = match self {
            ArrayData::I64(v) => v.clone(),
            ArrayData::I32(v) => v.iter().map(|&x| x.into()).collect(),
            ArrayData::U8(v) => v.iter().map(|&x| x.into()).collect(),
            ArrayData::F32(v) => {
                let whole = |(i, &x): (usize, &f32)| {
                    if x.fract() == 0.0 && x.abs() < 9.2e18 { Ok(x as i64) } else { Err(misfit(i, x, to)) }
                };
                v.iter().enumerate().map(whole).collect::<Result<_>>()?
            }
        };
        Ok(match to {
            ElementType::I32 => ArrayData::I32(narrow(wide, to)?),
            ElementType::U8 => ArrayData::U8(narrow(wide, to)?),
            ElementType::I64 | ElementType::F32 => ArrayData::I64(wide),
        })
    }

    /// The values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            ArrayData::F32(v) => v.clone(),
            ArrayData::I64(v) => v.iter().map(|&x| x as f32).collect(),
            ArrayData::I32(v) => v.iter().map(|&x| x as f32).collect(),
            ArrayData::U8(v) => v.iter().map(|&x| x.into()).collect(),
        }
    }
}

/// An array with a name and a shape. The name is that of a model input, or empty for "the only input".
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NamedArray {
    /// Name of the model input, or empty.
    pub name: String,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Elements, as many as the shape says.
    pub data: ArrayData,
}

impl NamedArray {
    /// An array whose shape and data agree. Error: they do not.
    pub fn new(name: impl Into<String>, shape: Vec<usize>, data: ArrayData) -> Result<NamedArray> {
        let array = NamedArray { name: name.into(), shape, data };
        array.check()?;
        Ok(array)
    }

    /// Checks an array that was deserialised: shape and data agree, floats are finite.
    pub fn check(&self) -> Result<()> {
        let wanted = element_count(&self.shape)?;
        if wanted != self.data.len() {
            return Err(Error::bad_data(format!(
                "shape {:?} needs {wanted} elements, {} are there",
                self.shape,
                self.data.len()
            )));
        }
        if let ArrayData::F32(v) = &self.data
            && let Some(i) = v.iter().position(|x| !x.is_finite())
        {
            return Err(Error::bad_data(format!("element {i} is not a finite number")));
        }
        Ok(())
    }
}

/// Product of the dimensions. Error: it overflows.
pub(crate) fn element_count(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n as u64 <= u64::MAX / 8)
        .ok_or_else(|| Error::bad_data(format!("the number of elements of shape {shape:?} overflows")))
}
