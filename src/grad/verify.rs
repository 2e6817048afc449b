//! The set of operators that a backward graph may contain is closed, and checked after the graph is built.

use tract_core::internal::*;

const ALLOWED: &[&str] = &[
    "Source",
    "Const",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Pow",
    "Neg",
    "Exp",
    "Erf",
    "Rsqrt",
    "Sqrt",
    "Recip",
    "Square",
    "Ln",
    "Sigmoid",
    "Tanh",
    "Sin",
    "Cos",
    "Sinh",
    "Sign",
    "Abs",
    "GT",
    "LT",
    "GTE",
    "LTE",
    "Eq",
    "NE",
    "Iff",
    "Reduce<Sum>",
    "Reduce<MeanOfSquares>",
    "EinSum",
    "Conv",
    "Deconv",
    "AddAxis",
    "RmAxis",
    "MoveAxis",
    "Reshape",
    "MultiBroadcastTo",
    "Slice",
    "Pad",
    "Concat",
    "Cast",
    "CumSum",
    "Trilu",
    "GatherElements",
    "GatherNd",
    "ScatterElements",
    "ScatterNd",
    "LowRankBackward",
    "SoftmaxBackward",
    "LogSoftmaxBackward",
    "RmsNormBackward",
    "GeluBackward",
    "ClipBackward",
    "UpsampleZeros",
    "MaxPoolBackward",
    "SumPoolBackward",
    "GatherBackward",
    "ScanBackward",
];

/// Fails when the graph holds an operator outside the closed set: a fault of a rule, found at build time.
pub(super) fn only_known_ops(model: &TypedModel) -> TractResult<()> {
    for node in model.nodes() {
        let name = node.op.name();
        ensure!(ALLOWED.contains(&&*name), "the backward graph holds {name} at {}, which no rule may emit", node.name);
    }
    Ok(())
}
