//! Whether two plans of one graph answer alike, tried on made-up values.

use tract_core::internal::*;

/// Values for the inputs of a graph: floats of both signs, and `whole` where it takes whole numbers.
fn made_up(model: &TypedModel, whole: i64) -> TractResult<TVec<TValue>> {
    let one = |(at, outlet): (usize, &OutletId)| {
        let fact = model.outlet_fact(*outlet)?;
        let shape = fact.shape.as_concrete().context("an input of no fixed shape")?;
        if fact.datum_type.is_float() {
            let len = shape.iter().product();
            let values: Vec<f32> =
                (0..len).map(|i: usize| ((i * 29 + at * 7 + i / 5) % 23) as f32 * 0.1 - 1.1).collect();
            return Ok(Tensor::from_shape(shape, &values)?.cast_to_dt(fact.datum_type)?.into_owned().into_tvalue());
        }
        let whole = tensor0(whole).cast_to_dt(fact.datum_type)?.into_owned();
        Ok(whole.broadcast_scalar_to_shape(shape)?.into_tvalue())
    };
    model.inputs.iter().enumerate().map(one).collect()
}

/// How far an answer on made-up values may be from the trusted one: that of another function is further, and that of
/// many convolutions in ten bits is nearer.
const ALIKE: f64 = 0.05;

/// Made-up values, and what a plan that is trusted answers them.
pub(super) struct Trial {
    pub inputs: TVec<TValue>,
    expected: TVec<TValue>,
}

impl Trial {
    /// Of the graph `model`, which `trusted` answers.
    ///
    /// # Errors
    /// Where none of the values that are tried get an answer with finite numbers.
    pub fn new(model: &TypedModel, trusted: impl Fn(TVec<TValue>) -> TractResult<TVec<TValue>>) -> TractResult<Trial> {
        let mut why = format_err!("all of it is not finite");
        // Whole numbers that are none of an index are refused by some graphs, so others are tried.
        for whole in [1, 0] {
            let inputs = made_up(model, whole)?;
            match trusted(inputs.clone()) {
                Ok(expected) if has_finite(&expected)? => return Ok(Trial { inputs, expected }),
                Ok(_) => {}
                Err(e) => why = e,
            }
        }
        Err(why.context("made-up values get no answer to compare"))
    }

    /// # Errors
    /// Where `found` is no answer like the trusted plan's.
    pub fn confirms(&self, found: &[TValue]) -> TractResult<()> {
        let distance = distance(found, &self.expected)?;
        ensure!(distance <= ALIKE, "the answer is {:.1} % from the processor's", 100.0 * distance);
        Ok(())
    }
}

fn has_finite(results: &[TValue]) -> TractResult<bool> {
    for result in results {
        if crate::ops::floats(&*result.cast_to::<f32>()?)?.iter().any(|v| v.is_finite()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How far `found` is from `expected`, as a share of its size: the largest of all results. Values that are not finite
/// in both, as in rows that are masked throughout, are left out.
///
/// # Errors
/// Where a result is missing, or has another shape.
fn distance(found: &[TValue], expected: &[TValue]) -> TractResult<f64> {
    ensure!(found.len() == expected.len(), "{} results for {}", found.len(), expected.len());
    let mut worst = 0.0f64;
    for (found, expected) in found.iter().zip(expected) {
        ensure!(found.shape() == expected.shape(), "{:?} for {:?}", found.shape(), expected.shape());
        let (found, expected) = (found.cast_to::<f32>()?, expected.cast_to::<f32>()?);
        let (mut difference, mut size) = (0.0f64, 0.0f64);
        for (a, b) in crate::ops::floats(&found)?.iter().zip(crate::ops::floats(&expected)?) {
            if a.is_finite() || b.is_finite() {
                difference += f64::from(a - b).powi(2);
                size += f64::from(*b).powi(2);
            }
        }
        // What is next to nothing has no digits to compare.
        if !difference.is_finite() || difference.sqrt() > 1e-6 {
            let share = (difference / size).sqrt();
            // `max` would pass over it.
            ensure!(!share.is_nan(), "a result that is not finite where it is to be");
            worst = worst.max(share);
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(values: &[f32]) -> [TValue; 1] {
        [tensor1(values).into_tvalue()]
    }

    #[test]
    fn results_are_compared_by_their_size() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for (a, b, expected) in [
            (&[3.0, 4.0][..], &[3.0, 4.0][..], 0.0),
            (&[3.0, 4.5], &[3.0, 4.0], 0.1),
            (&[3.0, 4.5, nan, inf], &[3.0, 4.0, nan, -inf], 0.1),
            (&[1e-9], &[0.0], 0.0),
            (&[1.0], &[0.0], f64::INFINITY),
        ] {
            let found = distance(&result(a), &result(b)).unwrap();
            assert!(found == expected || (found - expected).abs() < 1e-6, "{a:?} {b:?}: {found}");
        }
        assert!(distance(&result(&[nan]), &result(&[1.0])).is_err());
        assert!(distance(&result(&[1.0]), &result(&[1.0, 2.0])).is_err());
        assert!(distance(&[], &result(&[1.0])).is_err());
    }

    #[test]
    fn only_an_answer_that_was_compared_is_confirmed() {
        let mut model = TypedModel::default();
        let x = model.add_source("x", i64::fact([2])).unwrap();
        model.select_output_outlets(&[x]).unwrap();
        let answer = |values: &[f32]| Ok(TVec::from(result(values).to_vec()));
        let trial = Trial::new(&model, |_| answer(&[3.0, 4.0])).unwrap();
        trial.confirms(&result(&[3.0, 4.1])).unwrap();
        let refused = trial.confirms(&result(&[4.0, 3.0])).unwrap_err();
        assert_eq!(refused.to_string(), "the answer is 28.3 % from the processor's");
        // Zeros are tried where ones are refused.
        let first = |inputs: &[TValue]| inputs[0].try_as_plain_ram().unwrap().as_slice::<i64>().unwrap()[0];
        let zeros = |inputs: TVec<TValue>| if first(&inputs) == 0 { answer(&[1.0]) } else { bail!("no such row") };
        assert_eq!(first(&Trial::new(&model, zeros).unwrap().inputs), 0);
        let none = Trial::new(&model, |_| answer(&[f32::NAN])).err().unwrap();
        assert!(format!("{none:#}").contains("not finite"), "{none:#}");
        let none = Trial::new(&model, |_| bail!("no such row")).err().unwrap();
        assert!(format!("{none:#}").contains("no such row"), "{none:#}");
    }

    #[test]
    fn every_input_gets_a_value_of_its_type() {
        let mut model = TypedModel::default();
        let [_, _, c] = [("a", f32::fact([2, 3])), ("b", i64::fact([4])), ("c", bool::fact([1]))]
            .map(|(name, fact)| model.add_source(name, fact).unwrap());
        model.select_output_outlets(&[c]).unwrap();
        let made = made_up(&model, 1).unwrap();
        assert_eq!(
            made.iter().map(|v| v.datum_type()).collect::<Vec<_>>(),
            [f32::datum_type(), i64::datum_type(), bool::datum_type()]
        );
        assert_eq!(made[1].try_as_plain_ram().unwrap().as_slice::<i64>().unwrap(), [1; 4]);
        assert!(crate::ops::floats(&made[0]).unwrap().windows(2).all(|w| w[0] != w[1]));
    }
}
