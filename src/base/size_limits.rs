//! Operators that the runtime evaluates while it reads a graph, with bounds on what they may count through or make: the runtime
//! has none, and a damaged model would keep it busy for ever or take all memory.

use std::sync::LazyLock;

use tract_core::internal::*;
use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::{
    Expansion, InferenceModel, InferenceNode, InferenceOp, InferenceResult, Solver, TensorProxy, expand,
};

use super::check::MAX_MADE_BYTES;
use super::wrapped::described_by;

/// Makes a tensor out of sizes that are given as numbers.
const MAKERS: &[&str] = &["ConstantOfShape", "Range", "Expand", "Tile", "OneHot"];
/// Looks for the axis that an attribute names, by counting.
const NORMALISATIONS: &[&str] = &["LayerNormalization", "RMSNormalization"];

/// Puts the bounds around the readers of these operators.
pub(super) fn bound(framework: &mut Onnx) {
    for name in MAKERS.iter().chain(NORMALISATIONS) {
        framework.op_register.insert(name, load);
    }
}

/// The runtime's own reader of the operator, with the bounds around what it read.
fn load(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    static USUAL: LazyLock<Onnx> = LazyLock::new(tract_onnx::onnx);
    let read = USUAL.op_register.0.get(&node.op_type).with_context(|| format!("{} is not known", node.op_type))?;
    let (op, closures) = read(context, node)?;
    let axis = node.attribute.iter().find(|a| a.name == "axis").map_or(-1, |a| a.i);
    let axis = NORMALISATIONS.contains(&node.op_type.as_str()).then_some(axis);
    Ok(match op.as_op().downcast_ref::<Box<dyn Expansion>>() {
        Some(inner) => (expand(Bounded { inner: inner.clone(), op_type: node.op_type.clone(), axis }), closures),
        None => (op, closures),
    })
}

#[derive(Debug, Clone)]
struct Bounded {
    inner: Box<dyn Expansion>,
    op_type: String,
    /// An axis of the first input.
    axis: Option<i64>,
}

impl Bounded {
    /// Values of what is made of `inputs`, as far as they are known.
    fn makes(&self, inputs: &[&TypedFact]) -> Option<u64> {
        let numbers = |slot: usize| -> Option<Vec<f64>> {
            let stored = inputs.get(slot)?.konst.as_ref()?.cast_to::<f64>().ok()?;
            Some(stored.try_as_plain_ram().ok()?.as_slice::<f64>().ok()?.to_vec())
        };
        let dims = || -> Option<Vec<f64>> {
            inputs.first()?.shape.iter().map(|d| d.to_i64().ok().map(|d| d as f64)).collect()
        };
        let product = |of: Vec<f64>| of.into_iter().product::<f64>();
        let made = match self.op_type.as_str() {
            "ConstantOfShape" => product(numbers(0)?),
            "Range" => {
                let number = |slot| numbers(slot)?.first().copied();
                ((number(1)? - number(0)?) / number(2)?).max(0.0)
            }
            "Expand" => {
                let (given, wanted) = (dims()?, numbers(1)?);
                let aligned = given.iter().rev().chain(std::iter::repeat(&1.0)).zip(wanted.iter().rev());
                aligned.map(|(g, w)| g.max(*w)).product()
            }
            "Tile" => product(dims()?) * product(numbers(1)?),
            "OneHot" => product(dims()?) * numbers(1)?.first()?,
            _ => return None,
        };
        Some(made as u64)
    }

    fn check(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<()> {
        let facts = inputs.iter().map(|i| model.outlet_fact(*i)).collect::<TractResult<TVec<_>>>()?;
        let made = self.makes(&facts).unwrap_or(0);
        ensure!(
            made.saturating_mul(4) <= MAX_MADE_BYTES,
            "{} makes {made} values; a tensor that is not stored in the model may take up to {MAX_MADE_BYTES} bytes",
            self.op_type
        );
        Ok(())
    }
}

impl Expansion for Bounded {
    described_by!(inner);

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        if let Some((axis, input)) = self.axis.zip(inputs.first()) {
            s.given(&input.rank, move |_, rank| {
                ensure!((-rank..rank).contains(&axis), "axis {axis} of an input of {rank} axes");
                Ok(())
            })?;
        }
        self.inner.rules(s, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        self.check(model, inputs)?;
        self.inner.wire(prefix, model, inputs)
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        model: &InferenceModel,
        node: &InferenceNode,
        typed_model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        self.check(typed_model, inputs)?;
        self.inner.wire_with_inference_model_and_node(prefix, model, node, typed_model, inputs)
    }

    fn runs_out_of_plan(&self) -> bool {
        self.inner.runs_out_of_plan()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::tensor_proto::DataType;
    use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto};

    use super::*;

    /// The error of a model of one operator whose operands are stored.
    fn refusal(op: &str, operands: &[(&[i64], &[i64])], axis: Option<i64>) -> String {
        let tensor = |(i, (dims, values)): (usize, &(&[i64], &[i64]))| TensorProto {
            name: format!("c{i}"),
            dims: dims.to_vec(),
            data_type: DataType::Int64 as i32,
            int64_data: values.to_vec(),
            ..TensorProto::default()
        };
        let attribute = axis.map(|i| AttributeProto { name: "axis".into(), r#type: 2, i, ..AttributeProto::default() });
        let node = NodeProto {
            name: "n".into(),
            op_type: op.into(),
            input: (0..operands.len()).map(|i| format!("c{i}")).collect(),
            output: vec!["y".into()],
            attribute: attribute.into_iter().collect(),
            ..NodeProto::default()
        };
        let graph = GraphProto {
            node: vec![node],
            initializer: operands.iter().enumerate().map(tensor).collect(),
            output: vec![ValueInfoProto { name: "y".into(), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
        let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() };
        super::super::typed(&model).map(|_| String::new()).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn what_makes_more_than_there_may_be_is_refused() {
        let large = 1 << 29;
        let one: (&[i64], &[i64]) = (&[1], &[7]);
        for (op, operands) in [
            ("ConstantOfShape", vec![(&[1][..], &[large][..])]),
            ("Range", vec![(&[][..], &[0][..]), (&[], &[large]), (&[], &[1])]),
            ("Expand", vec![one, (&[2], &[3, large])]),
            ("Tile", vec![one, (&[1], &[large])]),
        ] {
            let error = refusal(op, &operands, None);
            assert!(error.contains(&format!("{op} makes")) && error.contains("1073741824 bytes"), "{op}: {error}");
        }
        // Small ones are made.
        assert_eq!(refusal("ConstantOfShape", &[(&[1], &[4])], None), "");
        assert_eq!(refusal("Range", &[(&[], &[0]), (&[], &[9]), (&[], &[2])], None), "");
        assert_eq!(refusal("Expand", &[one, (&[2], &[3, 4])], None), "");
        assert_eq!(refusal("Tile", &[one, (&[1], &[4])], None), "");
    }

    #[test]
    fn an_axis_outside_the_input_is_refused_in_time() {
        let operands: [(&[i64], &[i64]); 2] = [(&[1, 2], &[3, 4]), (&[2], &[1, 1])];
        for axis in [-3, 2, i64::MAX, i64::MIN] {
            let error = refusal("LayerNormalization", &operands, Some(axis));
            assert!(error.contains("of an input of 2 axes"), "{axis}: {error}");
        }
    }
}
