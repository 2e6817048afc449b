//! Quantised tensors as floats that hold whole numbers, and what they stand for.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto};

use super::super::integers::{dequantised, numbers, range};
use super::super::narrow::{integer, quantised_weight};
use super::{DETACH, DYNAMIC, EDGE, Lowering, QUANTISE, Quant, Quantised, ROUND, int, int_or};

impl Lowering<'_> {
    /// A parameter of a quantisation as floats along `axis` of a tensor of `rank`; a computed one is a scalar.
    fn parameter(&mut self, name: &str, axis: i64, rank: Option<usize>) -> Option<String> {
        let Some(tensor) = self.constants.get(name) else { return Some(self.as_float(name)) };
        let values = numbers(tensor)?;
        if values.len() == 1 {
            return Some(self.floats(&values, &[]));
        }
        let rank = rank? as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        let behind = usize::try_from(rank - 1 - axis).ok()?;
        let mut dims = vec![1; behind + 1];
        dims[0] = values.len() as i64;
        Some(self.floats(&values, &dims))
    }

    pub(super) fn quant(&mut self, scale: &str, zero: Option<&str>, axis: i64, rank: Option<usize>) -> Option<Quant> {
        let kind = zero.and_then(|z| self.constants.get(z)).map_or(DataType::Uint8 as i32, |t| t.data_type);
        let number = |name: &str| match numbers(self.constants.get(name)?)?[..] {
            [number] => Some(number),
            _ => None,
        };
        let stored = number(scale).zip(zero.map_or(Some(0.0), number));
        let scale = self.parameter(scale, axis, rank)?;
        let zero = match zero {
            Some(z) => self.parameter(z, axis, rank)?,
            None => self.floats(&[0.0], &[]),
        };
        Some(Quant { scale, zero, range: range(kind)?, stored })
    }

    /// `clip(round(x/s) + z)`, clipped before it is rounded: the gradient then passes at the ends of the range, too.
    pub(super) fn quantise(&mut self, x: &str, q: &Quant, output: &str) -> Option<()> {
        if let Some((scale, zero)) = q.stored {
            let bounds = (q.range.0 - EDGE - zero, q.range.1 + EDGE - zero);
            let made = Quantised { x: x.to_string(), scale, zero, bounds, at: self.nodes.len() };
            self.emit_quantise(&made, 1.0, zero, output);
            self.quantised.insert(output.to_string(), made);
            return Some(());
        }
        let scaled = self.emit("Div", &[x, &q.scale]);
        let (low, high) = (self.floats(&[q.range.0 - EDGE], &[]), self.floats(&[q.range.1 + EDGE], &[]));
        let (low, high) = (self.emit("Sub", &[&low, &q.zero]), self.emit("Sub", &[&high, &q.zero]));
        let above = self.emit("Max", &[&scaled, &low]);
        let inside = self.emit("Min", &[&above, &high]);
        let whole = self.emit(ROUND, &[&inside]);
        self.emit_to("Add", &[&whole, &q.zero], output);
        Some(())
    }

    /// `round(clip(x/scale))·unit + zero`.
    fn emit_quantise(&mut self, q: &Quantised, unit: f32, zero: f32, output: &str) {
        let (low, high) = q.bounds;
        let attributes = [("scale", q.scale), ("unit", unit), ("zero", zero), ("low", low), ("high", high)];
        let attributes = attributes.map(|(name, f)| AttributeProto {
            name: name.into(),
            r#type: AttributeType::Float as i32,
            f,
            ..AttributeProto::default()
        });
        let name = self.fresh();
        self.push(name, QUANTISE, &[&q.x], output, attributes.to_vec());
    }

    /// What was quantised and is dequantised by the same numbers is rounded, and that is all.
    fn round(&mut self, q: &str, scale: &str, zero: Option<&str>) -> Option<String> {
        let number = |name: &str| match numbers(self.constants.get(name)?)?[..] {
            [number] => Some(number),
            _ => None,
        };
        let (scale, zero) = (number(scale)?, zero.map_or(Some(0.0), number)?);
        let made = self.quantised.get(q).filter(|m| m.scale == scale && m.zero == zero)?.clone();
        if let Some((known, _)) = self.rounded.get(q) {
            return Some(known.clone());
        }
        let output = self.fresh();
        self.rounded.insert(q.to_string(), (output.clone(), self.nodes.len()));
        self.emit_quantise(&made, scale, 0.0, &output);
        Some(output)
    }

    /// The same for what was quantised by its own range.
    fn round_dynamic(&mut self, q: &str, scale: &str, zero: Option<&str>) -> Option<String> {
        let [x, by, offset] = self.dynamic.get(q)?;
        if by != scale || Some(offset.as_str()) != zero {
            return None;
        }
        if let Some((known, _)) = self.rounded.get(q) {
            return Some(known.clone());
        }
        let x = x.clone();
        let output = self.fresh();
        self.rounded.insert(q.to_string(), (output.clone(), self.nodes.len()));
        self.push(output.clone(), DYNAMIC, &[&x], &output, vec![]);
        Some(output)
    }

    pub(super) fn quantise_by(&mut self, x: &str, scale: &str, zero: Option<&str>, output: &str) -> Option<()> {
        let q = self.quant(scale, zero, 1, None)?;
        self.quantise(x, &q, output)
    }

    /// `(q - z)·s`: of a stored weight here, of a computed value by operators.
    pub(super) fn dequantise(&mut self, q: &str, scale: &str, zero: Option<&str>, axis: i64) -> Option<String> {
        if let Some(weight) = self.stored(q, scale, zero, axis, 0) {
            return Some(weight);
        }
        if let Some(rounded) = self.round(q, scale, zero) {
            return Some(rounded);
        }
        if let Some(rounded) = self.round_dynamic(q, scale, zero) {
            return Some(rounded);
        }
        let rank = self.rank(q);
        let scale = self.parameter(scale, axis, rank)?;
        let mut x = self.as_float(q);
        if let Some(z) = zero {
            let zero = self.parameter(z, axis, rank)?;
            x = self.emit("Sub", &[&x, &zero]);
        }
        Some(self.emit("Mul", &[&x, &scale]))
    }

    /// A stored weight with stored parameters: large ones stay narrow, others are dequantised.
    fn stored(&mut self, q: &str, scale: &str, zero: Option<&str>, axis: i64, block: i64) -> Option<String> {
        let tensor = *self.constants.get(q)?;
        let zero = match zero {
            Some(z) => Some(*self.constants.get(z)?),
            None => None,
        };
        let scale = *self.constants.get(scale)?;
        let name = self.fresh();
        if let Some(weight) = quantised_weight(&name, tensor, scale, zero, axis, block) {
            self.nodes.push(weight);
            return Some(name);
        }
        let values = dequantised(tensor, scale, zero, axis, block)?;
        Some(self.floats(&values, &tensor.dims))
    }

    /// `DequantizeLinear`; blocks are of stored weights only.
    pub(super) fn dequantise_to(
        &mut self,
        node: &NodeProto,
        q: &str,
        scale: &str,
        zero: Option<&str>,
        output: &str,
    ) -> Option<()> {
        let (axis, block) = (int_or(node, "axis", 1), int(node, "block_size"));
        let x =
            if block > 0 { self.stored(q, scale, zero, axis, block)? } else { self.dequantise(q, scale, zero, axis)? };
        self.rename(&x, output)
    }

    /// A bias in units of the product of two scales.
    pub(super) fn bias(&mut self, bias: &str, x_scale: &str, w_scale: &str) -> Option<String> {
        let values = numbers(self.constants.get(bias)?)?;
        let x = *numbers(self.constants.get(x_scale)?)?.first()?;
        let w = numbers(self.constants.get(w_scale)?)?;
        let scaled = |(i, v): (usize, &f32)| Some(v * x * w.get(if w.len() == 1 { 0 } else { i })?);
        let scaled: Vec<f32> = values.iter().enumerate().map(scaled).collect::<Option<_>>()?;
        Some(self.floats(&scaled, &[scaled.len() as i64]))
    }

    /// To eight bits without a sign, by the range of the data with 0 in it.
    pub(super) fn dynamic_quantise(&mut self, x: &str, outputs: &[String]) -> Option<()> {
        let [y, scale, zero] = outputs else { return None };
        let given = self.emit(DETACH, &[x]);
        let none = self.floats(&[0.0], &[]);
        let reduce = |to: &mut Lowering, op: &str, with: &str| {
            let output = to.fresh();
            to.push(output.clone(), op, &[&given], &output, vec![integer("keepdims", 0)]);
            to.emit(with, &[&output, &none])
        };
        let (low, high) = (reduce(self, "ReduceMin", "Min"), reduce(self, "ReduceMax", "Max"));
        let span = self.emit("Sub", &[&high, &low]);
        let (least, most) = (self.floats(&[0.0], &[]), self.floats(&[255.0], &[]));
        self.emit_to("Div", &[&span, &most], scale);
        let offset = self.emit("Div", &[&low, scale]);
        let offset = self.emit("Neg", &[&offset]);
        let offset = self.emit("Max", &[&offset, &least]);
        let offset = self.emit("Min", &[&offset, &most]);
        self.emit_to(ROUND, &[&offset], zero);
        let q = Quant { scale: scale.clone(), zero: zero.clone(), range: (0.0, 255.0), stored: None };
        self.quantise(x, &q, y)?;
        self.dynamic.insert(y.clone(), [x.to_string(), scale.clone(), zero.clone()]);
        Some(())
    }
}
