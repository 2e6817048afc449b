//! New keys and values are written into the cache where it lies.

use tract_core::internal::*;

/// `(cache, new, position) → cache` with the rows of `new` at `position` and after. Cache `[batch, heads, capacity,
/// width]`, new `[batch, heads, positions, width]`, position a whole number. In place where nobody else holds the
/// cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Append;

impl Op for Append {
    fn name(&self) -> StaticName {
        "Append".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Append {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (cache, new, position) = args_3!(inputs);
        let position = usize::try_from(position.cast_to_scalar::<i64>()?)?;
        // The only holder of a value gives it up: nothing is copied.
        let mut cache = cache.into_tensor();
        append(&mut cache, &new, position)?;
        Ok(tvec!(cache.into_tvalue()))
    }
}

/// Writes the rows of `new` into `cache` at `position` and after.
pub(crate) fn append(cache: &mut Tensor, new: &Tensor, position: usize) -> TractResult<()> {
    let (&[batch, heads, capacity, width], &[_, _, rows, _]) = (cache.shape(), new.shape()) else {
        bail!("a cache of {:?} takes no {:?}", cache.shape(), new.shape());
    };
    ensure!(new.shape() == [batch, heads, rows, width], "a cache of {:?} takes no {:?}", cache.shape(), new.shape());
    ensure!(position + rows <= capacity, "position {position} of a cache of {capacity}");
    let new = new.cast_to::<f32>()?;
    let new = new.try_as_plain_ram()?;
    let mut plain = cache.try_as_plain_ram_mut()?;
    let (to, from) = (plain.as_slice_mut::<f32>()?, new.as_slice::<f32>()?);
    for (to, from) in to.chunks_exact_mut((capacity * width).max(1)).zip(from.chunks_exact((rows * width).max(1))) {
        to[position * width..][..rows * width].copy_from_slice(from);
    }
    Ok(())
}

impl TypedOp for Append {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == 3, "Append takes three inputs");
        Ok(tvec!(inputs[0].datum_type.fact(inputs[0].shape.clone())))
    }
    as_op!();
}
