//! Which keys of an attention a query may look at.

use tract_core::internal::*;

/// Largest bias that is made, in values.
const MOST: usize = 1 << 28;

/// `→ [1, 1, queries, keys]`, or `lengths → [batch, 1, queries, keys]`: 0 where a query reaches a key, else -∞. Query `i` stands at
/// `p = i + before`, or, where lengths are given, at the end of the `length` keys that count, and reaches from `p - left` to
/// `p + right`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reach {
    pub queries: TDim,
    pub keys: TDim,
    pub before: TDim,
    pub left: Option<i64>,
    pub right: Option<i64>,
}

impl Reach {
    fn at(&self, lengths: Option<&[i64]>, symbols: &SymbolValues) -> TractResult<Tensor> {
        let size = |d: &TDim| d.eval(symbols).to_i64();
        let (queries, keys, before) = (size(&self.queries)?, size(&self.keys)?, size(&self.before)?);
        let batch = lengths.map_or(1, <[i64]>::len);
        let shape = [batch, 1, usize::try_from(queries)?, usize::try_from(keys)?];
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MOST);
        let mut bias = Vec::with_capacity(count.with_context(|| format!("a mask of shape {shape:?}"))?);
        for b in 0..batch {
            let length = lengths.map_or(keys, |l| l[b]);
            let before = if lengths.is_some() { length.saturating_sub(queries) } else { before };
            for i in 0..queries {
                let p = before.saturating_add(i);
                let first = self.left.map_or(i64::MIN, |left| p.saturating_sub(left));
                let last = self.right.map_or(i64::MAX, |right| p.saturating_add(right));
                let reached = |j: i64| j >= first && j <= last && j < length;
                bias.extend((0..keys).map(|j| if reached(j) { 0.0 } else { f32::NEG_INFINITY }));
            }
        }
        Tensor::from_shape(&shape, &bias)
    }

    fn eval_at(&self, inputs: &[TValue], symbols: &SymbolValues) -> TractResult<Tensor> {
        match inputs.first() {
            None => self.at(None, symbols),
            Some(lengths) => self.at(Some(lengths.try_as_plain_ram()?.as_slice::<i64>()?), symbols),
        }
    }
}

impl Op for Reach {
    fn name(&self) -> StaticName {
        "Reach".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Reach {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        if [&self.queries, &self.keys, &self.before].iter().any(|d| d.to_i64().is_err()) {
            return Ok(None);
        }
        Ok(Some(tvec!(self.eval_at(&inputs, &SymbolValues::default())?.into_tvalue())))
    }

    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.eval_at(&inputs, ctx.symbols)?.into_tvalue()))
    }
}

impl TypedOp for Reach {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let batch = match inputs.first() {
            None => 1.to_dim(),
            Some(lengths) => {
                ensure!(lengths.rank() == 1 && lengths.datum_type == i64::datum_type(), "lengths of keys are a vector");
                lengths.shape[0].clone()
            }
        };
        Ok(tvec!(f32::fact([batch, 1.to_dim(), self.queries.clone(), self.keys.clone()])))
    }

    fn set_symbols(
        &self,
        _source: &TypedModel,
        node: &TypedNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
        subs: &HashMap<Symbol, TDim>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs = node.inputs.iter().map(|i| mapping[i]).collect::<TVec<_>>();
        let op = Reach {
            queries: self.queries.substitute_all(subs)?,
            keys: self.keys.substitute_all(subs)?,
            before: self.before.substitute_all(subs)?,
            ..self.clone()
        };
        target.wire_node(&node.name, op, &inputs)
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::floats;

    #[test]
    fn reached_keys() {
        let reached = |left, right, before: usize, lengths: Option<&[i64]>| -> String {
            let op = Reach { queries: 3.to_dim(), keys: 5.to_dim(), before: before.to_dim(), left, right };
            let bias = op.at(lengths, &SymbolValues::default()).unwrap();
            let rows = floats(&bias).unwrap().chunks(5);
            let row = |r: &[f32]| r.iter().map(|v| if *v == 0.0 { 'x' } else { '.' }).collect::<String>();
            rows.map(row).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(reached(None, Some(0), 0, None), "x.... xx... xxx..");
        assert_eq!(reached(None, Some(0), 2, None), "xxx.. xxxx. xxxxx");
        assert_eq!(reached(Some(1), Some(0), 2, None), ".xx.. ..xx. ...xx");
        assert_eq!(reached(Some(0), Some(1), 0, None), "xx... .xx.. ..xx.");
        assert_eq!(reached(None, None, 0, Some(&[2, 5])), "xx... xx... xx... xxxxx xxxxx xxxxx");
        assert_eq!(reached(None, Some(0), 0, Some(&[4, 2])), "xx... xxx.. xxxx. ..... x.... xx...");
        assert_eq!(reached(None, Some(0), 0, Some(&[i64::MIN])), "..... ..... .....");
    }
}
