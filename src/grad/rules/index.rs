//! Operators that read or write by index, repeat values, or sum along an axis.

use tract_core::internal::*;
use tract_core::ops::array::{
    CumSum, Gather, GatherElements, GatherNd, ScatterElements, ScatterNd, ScatterReduction, Tile, Topk, Trilu,
};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::cast;
use tract_core::ops::logic::comp_eq;
use tract_core::ops::nn::{Reduce, Reducer};

use super::{Answer, Rule, rule};
use crate::grad::Cx;
use crate::grad::fused::{GatherBackward, GatherNdBackward};

pub(super) const RULES: &[Rule] = &[
    rule("Gather", "dy added at the gathered places", gather),
    rule("GatherElements", "dy added at the gathered places", gather_elements),
    rule("GatherNd", "dy added at the gathered places", gather_nd),
    rule(
        "ScatterElements",
        "dy where nothing was written, and read at the written places for the updates; of a largest or smallest value, shared by those that are it",
        scatter_elements,
    ),
    rule("ScatterNd", "as that of ScatterElements", scatter_nd),
    rule("Topk", "dy added at the places of the chosen values", topk),
    rule("Onehot", "none: made from indices", |_, _, _| Ok(Answer::NoGradient)),
    rule("Tile", "dx = Σ dy over the copies", tile),
    rule("CumSum", "dx = the sum of dy from the other end", cumsum),
    rule("Trilu", "the same triangle of dy", trilu),
];

fn gather(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Gather>().context("not a gather")?;
    let shape = cx.dims(node.inputs[0])?;
    let index = cx.value(node.inputs[1])?;
    Answer::single(cx.wire(GatherBackward { axis: op.axis, shape }, &[index, dy])?)
}

/// Zeros of the shape of a forward outlet.
fn zeros_like(cx: &mut Cx, forward: OutletId) -> TractResult<OutletId> {
    let shape = cx.fact(forward)?.shape.clone();
    cx.zeros(&shape)
}

fn gather_elements(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<GatherElements>().context("not a gather of elements")?;
    let (zeros, index) = (zeros_like(cx, node.inputs[0])?, cx.value(node.inputs[1])?);
    let add = ScatterElements { axis: op.axis, reduction: ScatterReduction::Add };
    Answer::single(cx.wire(add, &[zeros, index, dy])?)
}

fn gather_nd(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<GatherNd>().context("not a gather")?;
    if op.batch_dims != 0 {
        let (shape, index) = (cx.dims(node.inputs[0])?, cx.value(node.inputs[1])?);
        return Answer::single(cx.wire(GatherNdBackward { batch_dims: op.batch_dims, shape }, &[index, dy])?);
    }
    let (zeros, index) = (zeros_like(cx, node.inputs[0])?, cx.value(node.inputs[1])?);
    Answer::single(cx.wire(ScatterNd { reduction: ScatterReduction::Add }, &[zeros, index, dy])?)
}

/// What a scatter leaves of `dy` for the data: all of it if updates are added, what lies beside them if they replace.
fn beside(cx: &mut Cx, node: &TypedNode, dy: OutletId, op: Box<dyn TypedOp>, adds: bool) -> TractResult<OutletId> {
    if adds {
        return Ok(dy);
    }
    let (index, zeros) = (cx.value(node.inputs[1])?, zeros_like(cx, node.inputs[2])?);
    cx.wire(op, &[dy, index, zeros])
}

fn scatter_elements(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<ScatterElements>().context("not a scatter of elements")?;
    let add = ScatterElements { reduction: ScatterReduction::Add, ..op.clone() };
    scatter(cx, node, dy, op.reduction, Box::new(op.clone()), Box::new(add), Box::new(GatherElements { axis: op.axis }))
}

fn scatter_nd(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<ScatterNd>().context("not a scatter")?;
    let add = ScatterNd { reduction: ScatterReduction::Add };
    scatter(cx, node, dy, op.reduction, Box::new(op.clone()), Box::new(add), Box::new(GatherNd { batch_dims: 0 }))
}

/// `add` is the scatter that adds, `read` the gather from the written places.
fn scatter(
    cx: &mut Cx,
    node: &TypedNode,
    dy: OutletId,
    reduction: ScatterReduction,
    op: Box<dyn TypedOp>,
    add: Box<dyn TypedOp>,
    read: Box<dyn TypedOp>,
) -> TractResult<Answer> {
    let index = cx.value(node.inputs[1])?;
    let adds = match reduction {
        ScatterReduction::None => false,
        ScatterReduction::Add => true,
        ScatterReduction::Max | ScatterReduction::Min => {
            // Shared by all that are as large as the result.
            let y = cx.value(OutletId::new(node.id, 0))?;
            let (data, updates) = (cx.value(node.inputs[0])?, cx.value(node.inputs[2])?);
            let chosen = cx.wire(read.clone(), &[y, index])?;
            let ties = [(data, y), (updates, chosen)].map(|(a, b)| {
                let tie = cx.wire(TypedBinOp(comp_eq(), None), &[a, b])?;
                cx.wire(cast(f32::datum_type()), &[tie])
            });
            let [data, updates] = ties;
            let (data, updates) = (data?, updates?);
            let count = cx.wire(add, &[data, index, updates])?;
            let share = cx.div(dy, count)?;
            let shares = cx.wire(read, &[share, index])?;
            return Ok(Answer::Gradient(tvec!((0, cx.mul(share, data)?), (2, cx.mul(shares, updates)?))));
        }
        ScatterReduction::Mul => return Answer::refused("it multiplies values"),
    };
    let data = beside(cx, node, dy, op, adds)?;
    let updates = cx.wire(read, &[dy, index])?;
    Ok(Answer::Gradient(tvec!((0, data), (2, updates))))
}

fn topk(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Topk>().context("not a choice of the largest")?;
    let (zeros, index) = (zeros_like(cx, node.inputs[0])?, cx.value(OutletId::new(node.id, 1))?);
    let add = ScatterElements { axis: op.axis, reduction: ScatterReduction::Add };
    Answer::single(cx.wire(add, &[zeros, index, dy])?)
}

fn tile(cx: &mut Cx, node: &TypedNode, mut dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Tile>().context("not a tile")?;
    let shape = cx.dims(node.inputs[0])?;
    for (axis, copies) in op.multipliers.iter().enumerate() {
        let copies = copies.to_usize()?;
        if copies != 1 {
            let apart = AxisOp::Reshape(
                axis,
                tvec!((copies * shape[axis]).to_dim()),
                tvec!(copies.to_dim(), shape[axis].to_dim()),
            );
            dy = cx.wire(apart, &[dy])?;
            dy = cx.wire(Reduce::new(tvec!(axis), Reducer::Sum), &[dy])?;
            dy = cx.wire(AxisOp::Rm(axis), &[dy])?;
        }
    }
    Answer::single(dy)
}

fn cumsum(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<CumSum>().context("not a cumulative sum")?;
    Answer::single(cx.wire(CumSum { reverse: !op.reverse, ..op.clone() }, &[dy])?)
}

fn trilu(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Trilu>().context("not a triangle")?;
    let k = cx.value(node.inputs[1])?;
    Answer::single(cx.wire(op.clone(), &[dy, k])?)
}
