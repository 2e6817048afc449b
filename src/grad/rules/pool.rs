//! Pooling.

use tract_core::internal::*;
use tract_core::ops::cnn::{MaxPool, PaddingSpec, PoolSpec, SumPool};

use super::{Answer, Rule, rule};
use crate::grad::{
    Cx,
    fused::{MaxPoolBackward, SumPoolBackward, Windows},
};

pub(super) const RULES: &[Rule] = &[
    rule("MaxPool", "dy to the first largest of each window", max_pool),
    rule("SumPool", "dy (over the window's size, if averaged) to the whole window", sum_pool),
];

fn windows(cx: &Cx, node: &TypedNode, spec: &PoolSpec) -> TractResult<Result<Windows, String>> {
    if spec.data_format.c_is_last() || spec.rank() > 3 {
        return Ok(Err(format!("its layout is {:?}", spec.data_format)));
    }
    let shape = cx.dims(node.inputs[0])?;
    let h = spec.data_format.h_axis();
    let padding = spec.computed_padding(&shape[h..]);
    let three = |fill: usize, values: TVec<usize>| {
        let mut out = [fill; 3];
        out[3 - values.len()..].copy_from_slice(&values);
        out
    };
    Ok(Ok(Windows {
        planes: shape[..h].iter().product(),
        in_size: three(1, shape[h..].into()),
        out_size: three(1, padding.iter().map(|p| p.convoluted).collect()),
        kernel: three(1, spec.kernel_shape.clone()),
        stride: three(1, spec.strides().iter().copied().collect()),
        dilation: three(1, spec.dilations().iter().copied().collect()),
        pad_before: three(0, padding.iter().map(|p| p.pad_before).collect()),
        counted: match &spec.padding {
            PaddingSpec::ExplicitOnnxPool(before, after, true) => {
                three(usize::MAX, (0..before.len()).map(|ax| before[ax] + shape[h + ax] + after[ax]).collect())
            }
            _ => [usize::MAX; 3],
        },
    }))
}

fn max_pool(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<MaxPool>().context("not a max pool")?;
    let windows = match windows(cx, node, &op.pool_spec)? {
        Ok(w) => w,
        Err(reason) => return Ok(Answer::Refused(reason)),
    };
    let x = cx.value(node.inputs[0])?;
    Answer::single(cx.wire(MaxPoolBackward { windows }, &[x, dy])?)
}

fn sum_pool(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<SumPool>().context("not a sum pool")?;
    let windows = match windows(cx, node, &op.pool_spec)? {
        Ok(w) => w,
        Err(reason) => return Ok(Answer::Refused(reason)),
    };
    let input: TVec<usize> = cx.dims(node.inputs[0])?;
    let op = SumPoolBackward { windows, input, normalize: op.normalize, count_include_pad: op.count_include_pad };
    Answer::single(cx.wire(op, &[dy])?)
}
