//! Numbers of an example as the tensor that a model's input takes. Nothing wraps: what a type does not hold is refused by [`misfit`] before.

use std::borrow::Cow;

use tract_core::internal::*;

use crate::base::{Element, Port};
use crate::error::{Error, Result};
use crate::input::{ArrayData, ElementType, NamedArray, place};

/// Checks that `port` takes every number of `array`: whole and within its type where it holds integers, finite where it holds floats.
///
/// # Errors
/// `BadData` that names the input, the number and its place.
pub(super) fn check(port: &Port, array: &NamedArray) -> Result<()> {
    if port.element == Element::Other {
        return Err(Error::bad_data(format!("the model's input {:?} is of a type that cannot be given", port.name)));
    }
    let Some((at, value)) = misfit(&array.data, port.element) else { return Ok(()) };
    let (place, takes) = (place(at, &array.shape), port.element.name());
    Err(Error::bad_data(format!("the value {value} at {place:?} of the input {:?} is no {takes}", port.name))
        .hint(hint(port.element)))
}

fn hint(element: Element) -> String {
    match element.range() {
        Some((least, most)) => format!("give whole numbers from {least} to {most}"),
        None => "give finite numbers".into(),
    }
}

/// The first number that `element` does not hold.
fn misfit(data: &ArrayData, element: Element) -> Option<(usize, String)> {
    fn first<T: Copy + std::fmt::Display>(values: &[T], fits: impl Fn(T) -> bool) -> Option<(usize, String)> {
        values.iter().position(|v| !fits(*v)).map(|at| (at, values[at].to_string()))
    }
    let (least, most) = match (element.range(), data) {
        (Some(range), _) => range,
        (None, ArrayData::F32(v)) => return first(v, f32::is_finite),
        (None, _) => return None,
    };
    let holds = |v: i64| (least..=most).contains(&v);
    match data {
        // Beyond 2^63 a float is no i64, and between there are no fractions to lose.
        ArrayData::F32(v) => first(v, |x| x.fract() == 0.0 && x.abs() < 9.2e18 && holds(x as i64)),
        ArrayData::I64(v) => first(v, holds),
        ArrayData::I32(v) => first(v, |x| holds(x.into())),
        ArrayData::U8(v) => first(v, |x| holds(x.into())),
    }
}

/// The numbers as the type in which rows of `element` are put together: f32 for floats, i64 for everything else.
pub(super) fn carried(data: &ArrayData, element: Element) -> Result<Cow<'_, ArrayData>> {
    let carrier = if element.is_float() { ElementType::F32 } else { ElementType::I64 };
    Ok(if data.element_type() == carrier { Cow::Borrowed(data) } else { Cow::Owned(data.cast(carrier)?) })
}

/// The tensor of `shape` for an input of `element`.
pub(super) fn tensor(shape: &[usize], data: ArrayData, element: Element) -> Result<Tensor> {
    fn narrow<T: Datum + Copy + TryFrom<i64>>(shape: &[usize], values: Vec<i64>) -> TractResult<Tensor> {
        let one = |v: i64| T::try_from(v).ok().with_context(|| format!("{v} is no {:?}", T::datum_type()));
        Tensor::from_shape(shape, &values.into_iter().map(one).collect::<TractResult<Vec<T>>>()?)
    }
    let tensor = match (data, element) {
        (ArrayData::F32(v), Element::F32) => Tensor::from_shape(shape, &v),
        (ArrayData::F32(v), Element::F64) => {
            Tensor::from_shape(shape, &v.into_iter().map(f64::from).collect::<Vec<_>>())
        }
        (ArrayData::I64(v), Element::I64) => Tensor::from_shape(shape, &v),
        (ArrayData::I64(v), Element::I32) => narrow::<i32>(shape, v),
        (ArrayData::I64(v), Element::I16) => narrow::<i16>(shape, v),
        (ArrayData::I64(v), Element::I8) => narrow::<i8>(shape, v),
        (ArrayData::I64(v), Element::U64) => narrow::<u64>(shape, v),
        (ArrayData::I64(v), Element::U32) => narrow::<u32>(shape, v),
        (ArrayData::I64(v), Element::U16) => narrow::<u16>(shape, v),
        (ArrayData::I64(v), Element::U8) => narrow::<u8>(shape, v),
        (ArrayData::I64(v), Element::Bool) => {
            Tensor::from_shape(shape, &v.into_iter().map(|v| v != 0).collect::<Vec<_>>())
        }
        (data, _) => {
            return Err(Error::internal(format!("{} for an input of {}", data.element_type().name(), element.name())));
        }
    };
    tensor.map_err(|e| Error::internal("cannot build an input tensor").because(format!("{e:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Dim;

    fn port(element: Element) -> Port {
        Port { name: "x".into(), element, dims: vec![Dim::Batch, Dim::Fixed(2)] }
    }

    fn refused(element: Element, data: ArrayData) -> Option<String> {
        let array = NamedArray::new("", vec![data.len()], data).unwrap();
        check(&port(element), &array).err().map(|e| e.to_string())
    }

    #[test]
    fn nothing_wraps() {
        let outside = [
            (Element::U8, -1i64),
            (Element::U8, 256),
            (Element::I8, 128),
            (Element::I16, 1 << 15),
            (Element::U16, 1 << 16),
            (Element::I32, (1 << 32) + 5),
            (Element::U32, 1 << 32),
            (Element::U64, -1),
        ];
        for (element, value) in outside {
            let said = refused(element, ArrayData::I64(vec![0, value])).unwrap();
            assert_eq!(said, format!("the value {value} at [1] of the input \"x\" is no {}", element.name()));
            assert!(refused(element, ArrayData::F32(vec![0.0, value as f32])).is_some());
            assert!(tensor(&[1], ArrayData::I64(vec![value]), element).is_err());
            let (least, most) = element.range().unwrap();
            assert_eq!(refused(element, ArrayData::I64(vec![least, most])), None);
        }
        assert!(refused(Element::I64, ArrayData::F32(vec![0.5])).unwrap().contains("the value 0.5 at [0]"));
        assert!(refused(Element::I64, ArrayData::F32(vec![1e19])).is_some());
        let nan = NamedArray { name: String::new(), shape: vec![1], data: ArrayData::F32(vec![f32::NAN]) };
        assert!(check(&port(Element::F64), &nan).unwrap_err().to_string().contains("NaN at [0]"));
    }

    #[test]
    fn every_type_gets_its_own_tensor() {
        use Element::*;
        let kinds = [
            (F32, f32::datum_type()),
            (F64, f64::datum_type()),
            (I64, i64::datum_type()),
            (I32, i32::datum_type()),
            (I16, i16::datum_type()),
            (I8, i8::datum_type()),
            (U64, u64::datum_type()),
            (U32, u32::datum_type()),
            (U16, u16::datum_type()),
            (U8, u8::datum_type()),
            (Bool, bool::datum_type()),
        ];
        for (element, kind) in kinds {
            assert_eq!(Element::of(kind), element);
            for data in [ArrayData::U8(vec![1, 0]), ArrayData::I32(vec![1, 0]), ArrayData::F32(vec![1.0, 0.0])] {
                let carried = carried(&data, element).unwrap().into_owned();
                let tensor = tensor(&[1, 2], carried, element).unwrap();
                assert_eq!(tensor.datum_type(), kind);
                let back = tensor.cast_to::<i64>().unwrap();
                assert_eq!(back.try_as_plain_ram().unwrap().as_slice::<i64>().unwrap(), [1, 0]);
            }
        }
    }
}
