//! `RotaryEmbedding` of ONNX Runtime's own domain: the first numbers of each head turned in pairs, by angles of its
//! position. The runtime's reader wants to be told the number of heads, and takes a single position for a list.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, Slice, TypedConcat};
use tract_core::ops::math;

use super::{Form, Wiring};

/// Axis of the numbers of a head, and of the pairs in which they are turned.
const SIZE: usize = 3;
const PAIR: usize = 4;

pub(super) fn rotary_embedding(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (mut x, cos, sin) = (w.input(0)?, w.input(2)?, w.input(3)?);
    let shape = w.shape(x)?;
    ensure!(w.rank(cos)? == 2 && w.rank(sin)? == 2, "tables of angles that have other axes than 2");
    let half = w.shape(cos)?[1].to_usize().context("the width of its table of angles is open")?;
    let said = usize::try_from(form.int("rotary_embedding_dim", 0))?;
    ensure!(said == 0 || said == 2 * half, "its rotary_embedding_dim is {said}, and its tables are {half} wide");
    let flat = match shape.len() {
        3 => true,
        4 => false,
        rank => bail!("an input of {rank} axes"),
    };
    if flat {
        let wide = shape[2].to_usize().context("the width of its input is open")?;
        let heads = if said == 0 { wide / (2 * half).max(1) } else { usize::try_from(form.int("num_heads", 0))? };
        ensure!(heads > 0 && wide.is_multiple_of(heads), "{wide} features are not those of {heads} heads");
        x = w.wire(AxisOp::Reshape(2, tvec!(wide.to_dim()), tvec!(heads.to_dim(), (wide / heads).to_dim())), &[x])?;
    }
    let size = w.shape(x)?[SIZE].to_usize().context("the size of its heads is open")?;
    ensure!(half > 0 && 2 * half <= size, "heads of {size}, of which {} are turned", 2 * half);
    let (positions, heads) = if flat { (1, 2) } else { (2, 1) };
    let places = places(w, &shape[positions], cos)?;
    let [cos, sin] = [cos, sin].map(|table| {
        let rows = w.wire(Gather::new(0), &[table, places])?;
        w.wire(AxisOp::Add(heads), &[rows])
    });
    let (cos, sin) = (cos?, sin?);
    let turned = w.wire(Slice::new(SIZE, 0, 2 * half), &[x])?;
    let interleaved = form.int("interleaved", 0) != 0;
    let [first, second] = match interleaved {
        true => {
            let pairs = AxisOp::Reshape(SIZE, tvec!((2 * half).to_dim()), tvec!(half.to_dim(), 2.to_dim()));
            let pairs = w.wire(pairs, &[turned])?;
            [0, 1].map(|at| {
                let one = w.wire(Slice::new(PAIR, at, at + 1), &[pairs])?;
                w.wire(AxisOp::Rm(PAIR), &[one])
            })
        }
        false => [0, half].map(|from| w.wire(Slice::new(SIZE, from, from + half), &[turned])),
    };
    let (first, second) = (first?, second?);
    let parts = [(math::sub(), first, second), (math::add(), second, first)].map(|(op, a, b)| {
        let (a, b) = (w.wire(math::mul(), &[a, cos])?, w.wire(math::mul(), &[b, sin])?);
        w.wire(op, &[a, b])
    });
    let [low, high] = parts;
    let mut all = tvec!(low?, high?);
    if interleaved {
        let apart = all.iter().map(|part| w.wire(AxisOp::Add(PAIR), &[*part])).collect::<TractResult<TVec<_>>>()?;
        let pairs = w.wire(TypedConcat { axis: PAIR }, &apart)?;
        let together = AxisOp::Reshape(SIZE, tvec!(half.to_dim(), 2.to_dim()), tvec!((2 * half).to_dim()));
        all = tvec!(w.wire(together, &[pairs])?);
    }
    if 2 * half < size {
        all.push(w.wire(Slice::new(SIZE, 2 * half, size), &[x])?);
    }
    let mut y = if all.len() > 1 { w.wire(TypedConcat { axis: SIZE }, &all)? } else { all[0] };
    if flat {
        let parts: TVec<TDim> = w.shape(y)?[2..].into();
        y = w.wire(AxisOp::Reshape(2, parts, tvec!(shape[2].clone())), &[y])?;
    }
    Ok(tvec!(y))
}

/// Rows of the tables, `[batch or 1, positions]`: as they are listed, or from a single one on.
fn places(w: &mut Wiring, positions: &TDim, table: OutletId) -> TractResult<OutletId> {
    let given = w.input(1)?;
    let given = w.cast(given, i64::datum_type())?;
    match w.rank(given)? {
        2 => Ok(given),
        rank @ (0 | 1) => {
            let one = rank == 0 || w.shape(given)?[0] == 1.to_dim();
            ensure!(one, "a list of positions, where one number is read that the first position has");
            let rows = w.shape(table)?[0].to_usize().context("the number of rows of its table of angles is open")?;
            let all: Vec<i64> = (0i64..).take(rows).collect();
            let all = w.constant(Tensor::from_shape(&[1, rows], &all)?)?;
            let first = w.wire(Slice::new(1, 0, positions.clone()), &[all])?;
            let start = w.lead(given, 2)?;
            w.wire(math::add(), &[first, start])
        }
        rank => bail!("positions of {rank} axes"),
    }
}
