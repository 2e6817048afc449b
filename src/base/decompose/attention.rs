//! `Attention` as opsets 23 to 25 define it: `softmax(cap(s·Q·Kᵀ) + bias)·V`, where heads of the query may share one of keys and values.

use tract_core::internal::*;
use tract_core::ops::array::{Pad, PadMode, TypedConcat};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::cast;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::logic::{comp_gte, comp_lt};
use tract_core::ops::math;
use tract_core::ops::nn::{Reduce, Reducer, Softmax, SoftmaxKind};

use super::{Form, Wiring};
use crate::ops::Reach;

pub(super) fn attention(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let flat = w.rank(w.input(0)?)? == 3;
    let q = heads(w, 0, form.int("q_num_heads", 0))?;
    let mut k = heads(w, 1, form.int("kv_num_heads", 0))?;
    let mut v = heads(w, 2, form.int("kv_num_heads", 0))?;
    let mut past = 0.to_dim();
    match (w.optional(4), w.optional(5)) {
        (Some(past_k), Some(past_v)) => {
            ensure!(w.rank(past_k)? == 4 && w.rank(past_v)? == 4, "its past keys and values have other axes than 4");
            past = w.shape(past_k)?[2].clone();
            k = w.wire(TypedConcat { axis: 2 }, &[past_k, k])?;
            v = w.wire(TypedConcat { axis: 2 }, &[past_v, v])?;
        }
        (None, None) => {}
        _ => bail!("past keys without past values, or the other way about"),
    }
    let (q_shape, k_shape) = (w.shape(q)?, w.shape(k)?);
    let groups = Groups::of(&q_shape[1], &k_shape[1])?;
    let size = q_shape[3].to_usize().context("the size of its heads is open")?;
    let scale = form.number("scale").unwrap_or_else(|| (size as f32).sqrt().recip());
    let q = w.with(math::mul(), q, scale)?;
    let q = groups.apart(w, q)?;
    let (products, sums) = groups.products();
    let product = w.wire(EinSum::new(products.parse()?, f32::datum_type()), &[q, k])?;
    let cap = form.number("softcap").unwrap_or(0.0);
    let capped = if cap > 0.0 {
        let share = w.with(math::mul(), product, cap.recip())?;
        let share = w.wire(math::tanh(), &[share])?;
        w.with(math::mul(), share, cap)?
    } else {
        product
    };
    let (mut biased, mut scores, mut masked) = (capped, capped, None);
    if let Some(bias) = bias(form, w, &q_shape[2], &k_shape[2], past)? {
        let bias = groups.apart(w, bias)?;
        biased = w.wire(math::add(), &[capped, bias])?;
        scores = biased;
        if may_empty(form, w) {
            let rows = emptied(w, bias)?;
            let zero = w.scalar(bias, 0.0)?;
            let kept = w.select(rows, zero, bias)?;
            scores = w.wire(math::add(), &[capped, kept])?;
            masked = Some(rows);
        }
    }
    let axes = tvec!(w.rank(scores)? - 1);
    let shares = w.wire(Softmax { axes, quant_output_dt: None, kind: SoftmaxKind::Softmax }, &[scores])?;
    let y = w.wire(EinSum::new(sums.parse()?, f32::datum_type()), &[shares, v])?;
    let y = cleared(w, masked, y)?;
    let mut y = groups.together(w, y)?;
    if flat {
        let shape = w.shape(y)?;
        y = w.wire(AxisOp::Move(1, 2), &[y])?;
        let both = tvec!(shape[1].clone(), shape[3].clone());
        y = w.wire(AxisOp::Reshape(2, both, tvec!(shape[1].clone() * &shape[3])), &[y])?;
    }
    let mut outputs = tvec!(y);
    for (slot, present) in [(1, k), (2, v)] {
        if form.has_output(slot) {
            outputs.push(present);
        }
    }
    if form.has_output(3) {
        let scores = match form.int("qk_matmul_output_mode", 0) {
            0 => product,
            1 => capped,
            2 => biased,
            3 => cleared(w, masked, shares)?,
            mode => bail!("its qk_matmul_output_mode is {mode}"),
        };
        outputs.push(groups.together(w, scores)?);
    }
    Ok(outputs)
}

/// Input `slot` as `[batch, heads, positions, size]`.
fn heads(w: &mut Wiring, slot: usize, heads: i64) -> TractResult<OutletId> {
    let x = w.input(slot)?;
    let fact = w.fact(x)?;
    ensure!(fact.datum_type == f32::datum_type(), "its input {slot} is of {:?}", fact.datum_type);
    let shape = w.shape(x)?;
    match shape.len() {
        4 => Ok(x),
        3 => {
            let wide = shape[2].to_usize().context("the size of its heads is open")?;
            let heads = usize::try_from(heads).ok().filter(|n| *n > 0 && wide % n == 0);
            let heads =
                heads.with_context(|| format!("an input of 3 axes whose {wide} features are not of whole heads"))?;
            let apart = AxisOp::Reshape(2, tvec!(wide.to_dim()), tvec!(heads.to_dim(), (wide / heads).to_dim()));
            let x = w.wire(apart, &[x])?;
            w.wire(AxisOp::Move(2, 1), &[x])
        }
        rank => bail!("its input {slot} has {rank} axes"),
    }
}

/// How many heads of the query share one of keys and values: `each` of them, if that is more than one.
struct Groups {
    shared: TDim,
    each: usize,
}

impl Groups {
    fn of(queries: &TDim, keys: &TDim) -> TractResult<Groups> {
        if queries == keys {
            return Ok(Groups { shared: keys.clone(), each: 1 });
        }
        let (q, k) = (queries.to_usize()?, keys.to_usize()?);
        ensure!(k > 0 && q % k == 0, "{q} heads of the query for {k} of keys");
        Ok(Groups { shared: keys.clone(), each: q / k })
    }

    /// The products of queries with keys, and of shares with values.
    fn products(&self) -> (&'static str, &'static str) {
        match self.each {
            1 => ("bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd"),
            _ => ("bhgqd,bhkd->bhgqk", "bhgqk,bhkd->bhgqd"),
        }
    }

    fn sizes(&self) -> (TVec<TDim>, TVec<TDim>) {
        (tvec!(self.shared.clone() * self.each), tvec!(self.shared.clone(), self.each.to_dim()))
    }

    /// Heads as groups of heads; an axis of length 1 is one for all.
    fn apart(&self, w: &mut Wiring, x: OutletId) -> TractResult<OutletId> {
        if self.each == 1 {
            return Ok(x);
        }
        if w.shape(x)?[1] == 1.to_dim() {
            return w.wire(AxisOp::Add(1), &[x]);
        }
        let (whole, parts) = self.sizes();
        w.wire(AxisOp::Reshape(1, whole, parts), &[x])
    }

    fn together(&self, w: &mut Wiring, x: OutletId) -> TractResult<OutletId> {
        if self.each == 1 {
            return Ok(x);
        }
        let (whole, parts) = self.sizes();
        w.wire(AxisOp::Reshape(1, parts, whole), &[x])
    }
}

/// Whether some query may be left without a key; without a mask, a window or lengths every query has the first key.
fn may_empty(form: &Form, w: &Wiring) -> bool {
    let windows = ["left_window_size", "right_window_size"].iter().any(|name| form.int(name, -1) >= 0);
    windows || w.optional(3).is_some() || w.optional(6).is_some()
}

/// What is added to the scores, `[batch or 1, heads or 1, queries or 1, keys]`: the mask, and -∞ where a query does not reach.
fn bias(form: &Form, w: &mut Wiring, queries: &TDim, keys: &TDim, past: TDim) -> TractResult<Option<OutletId>> {
    let side = |name: &str| match form.int(name, -1) {
        -1 => Ok(None),
        n if n >= 0 => Ok(Some(n)),
        n => bail!("its {name} is {n}"),
    };
    let (left, right) = (side("left_window_size")?, side("right_window_size")?);
    let right = if form.int("is_causal", 0) != 0 { Some(0) } else { right };
    let lengths = w.optional(6);
    ensure!(lengths.is_none() || w.optional(4).is_none(), "lengths of keys, and past keys");
    let mut sum = match w.optional(3) {
        Some(mask) => Some(mask_bias(form, w, mask, keys)?),
        None => None,
    };
    if left.is_some() || right.is_some() || lengths.is_some() {
        let lengths: TVec<OutletId> = match lengths {
            Some(lengths) => tvec!(w.wire(cast(i64::datum_type()), &[lengths])?),
            None => tvec!(),
        };
        let reach = Reach { queries: queries.clone(), keys: keys.clone(), before: past, left, right };
        let reach = w.wire(reach, &lengths)?;
        sum = Some(match sum {
            Some(mask) => w.wire(math::add(), &[mask, reach])?,
            None => reach,
        });
    }
    Ok(sum)
}

/// A mask as what is added to the scores: 0 or -∞ for one of truth values.
fn mask_bias(form: &Form, w: &mut Wiring, mask: OutletId, keys: &TDim) -> TractResult<OutletId> {
    let mut mask = w.lead(mask, 4)?;
    ensure!(w.rank(mask)? == 4, "its mask has {} axes", w.rank(mask)?);
    let kind = w.fact(mask)?.datum_type;
    if kind == bool::datum_type() {
        let all = |v: f32| tensor0(v).broadcast_into_rank(4);
        let (zero, none) = (w.constant(all(0.0)?)?, w.constant(all(f32::NEG_INFINITY)?)?);
        mask = w.select(mask, zero, none)?;
    } else {
        ensure!(kind == f32::datum_type(), "its mask is of {kind:?}");
    }
    let have = w.shape(mask)?[3].clone();
    // A mask of one column is one for all keys, until opset 24 filled short masks up.
    if have == *keys || (have == 1.to_dim() && form.opset < 24) {
        return Ok(mask);
    }
    let (have, keys) = (have.to_usize().ok(), keys.to_usize().ok());
    let short = have.zip(keys).and_then(|(have, keys)| keys.checked_sub(have));
    let short = short.context("its mask is of other keys, or open")?;
    let pads = vec![(0, 0), (0, 0), (0, 0), (0, short)];
    w.wire(Pad::new(pads, PadMode::Constant(rctensor0(f32::NEG_INFINITY))), &[mask])
}

/// Whether each row of a bias is -∞ throughout.
fn emptied(w: &mut Wiring, bias: OutletId) -> TractResult<OutletId> {
    // The runtime's largest value of a row of -∞ is the least finite number, so the rest is counted.
    let axes = tvec!(w.rank(bias)? - 1);
    let least = w.scalar(bias, f32::MIN)?;
    let finite = w.wire(TypedBinOp(comp_gte(), None), &[bias, least])?;
    let finite = w.wire(cast(f32::datum_type()), &[finite])?;
    let count = w.wire(Reduce::new(axes, Reducer::Sum), &[finite])?;
    let one = w.scalar(count, 0.5)?;
    w.wire(TypedBinOp(comp_lt(), None), &[count, one])
}

/// `x` with zeros in the rows of queries that have no key.
fn cleared(w: &mut Wiring, masked: Option<OutletId>, x: OutletId) -> TractResult<OutletId> {
    let Some(masked) = masked else { return Ok(x) };
    let zero = w.scalar(x, 0.0)?;
    w.select(masked, zero, x)
}
