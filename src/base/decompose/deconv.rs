//! Transposed convolutions to a given size. The runtime takes the padding for given, too, and adds what is missing at the end.

use tract_core::internal::*;
use tract_core::ops::cnn::{Deconv, KernelFormat, PaddingSpec, PoolSpec};
use tract_core::ops::nn::DataFormat;

use super::{Form, Wiring};

/// A transposed convolution whose result is of a given size: what it would be larger by is cut off, from both ends, and what it would be
/// smaller by is added to the end.
pub(super) fn to_size(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, kernel) = (w.input(0)?, w.input(1)?);
    let (shape, taps) = (w.shape(x)?, w.shape(kernel)?);
    let concrete = |dims: &[TDim]| dims.iter().map(|d| Ok(d.to_usize()?)).collect::<TractResult<TVec<usize>>>();
    let geometry =
        concrete(shape.get(2..).context("an image without sizes")?).context("the size of its input is open")?;
    let taps = concrete(&taps)?;
    ensure!(taps.len() == geometry.len() + 2, "a kernel of shape {taps:?} on an input of shape {shape:?}");
    let (rank, group) = (geometry.len(), usize::try_from(form.int("group", 1))?.max(1));
    let (strides, dilations) = (form.sizes("strides", rank)?, form.sizes("dilations", rank)?);
    let mut wanted: TVec<usize> = form.sizes("output_shape", rank).or_else(|_| form.sizes("output_shape", rank + 2))?;
    // Some exporters write the whole shape.
    wanted.drain(..wanted.len() - rank);
    let extra: TVec<usize> = match form.ints("output_padding") {
        Some(ints) if ints.len() == rank => {
            ints.iter().map(|v| Ok(usize::try_from(*v)?)).collect::<TractResult<_>>()?
        }
        _ => tvec!(0; rank),
    };
    let upper = form.text("auto_pad") == Some("SAME_UPPER");
    let (mut before, mut after, mut adjustments) = (tvec!(), tvec!(), tvec!());
    for axis in 0..rank {
        ensure!(geometry[axis] > 0 && taps[axis + 2] > 0, "an axis of length 0");
        let whole = strides[axis] * (geometry[axis] - 1) + (taps[axis + 2] - 1) * dilations[axis] + 1;
        let cut = (whole + extra[axis]).saturating_sub(wanted[axis]);
        let first = if upper { cut / 2 } else { cut - cut / 2 };
        before.push(first);
        after.push(cut - first);
        adjustments.push((wanted[axis] + cut).checked_sub(whole).context("its result is smaller than can be")?);
    }
    let mut split = tvec!(group.to_dim(), (taps[0] / group).to_dim());
    ensure!(taps[0] % group == 0, "{} channels in {group} groups", taps[0]);
    let mut k = w.wire(AxisOp::Reshape(0, tvec!(taps[0].to_dim()), split.clone()), &[kernel])?;
    k = w.wire(AxisOp::Move(1, 2), &[k])?;
    split[1] = taps[1].to_dim();
    k = w.wire(AxisOp::Reshape(0, split, tvec!((group * taps[1]).to_dim())), &[k])?;
    let bias = match w.optional(2) {
        Some(bias) => bias,
        None => w.constant(Tensor::zero_scalar_dt(w.fact(x)?.datum_type)?)?,
    };
    let padding = PaddingSpec::Explicit(before, after);
    let spec = PoolSpec::new(
        DataFormat::NCHW,
        taps[2..].into(),
        padding,
        Some(dilations),
        Some(strides),
        taps[0],
        group * taps[1],
    );
    let op = Deconv::new(spec, KernelFormat::OIHW, adjustments, group);
    // By the name of the node, its layer can adapt.
    w.model.wire_node(w.prefix, op, &[x, k, bias])
}
