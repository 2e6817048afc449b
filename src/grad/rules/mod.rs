//! One rule a forward operator: a short function with its equation. `dy` is the cotangent of the node's output.

mod activation;
mod binary;
mod clip;
mod conv;
mod einsum;
mod fourier;
mod index;
mod layout;
mod lowrank;
mod norm;
mod pool;
mod recurrent;
mod reduce;
mod resize;
mod unary;

use tract_core::internal::*;

use super::Cx;

/// What a rule says about a node.
pub(crate) enum Answer {
    /// Gradients of some inputs, by slot.
    Gradient(TVec<(usize, OutletId)>),
    /// The operator has no derivative there (a comparison, a cast to an integer): nothing flows, rightly.
    NoGradient,
    /// A derivative exists, and this rule does not cover this form of the operator.
    Refused(String),
}

impl Answer {
    /// The gradient of input 0.
    pub fn single(gradient: OutletId) -> TractResult<Answer> {
        Ok(Answer::Gradient(tvec!((0, gradient))))
    }
    pub fn refused(reason: impl Into<String>) -> TractResult<Answer> {
        Ok(Answer::Refused(reason.into()))
    }
}

/// An entry of the registry.
pub(crate) struct Rule {
    /// Operator name in the runtime's decluttered graph.
    pub op: &'static str,
    /// Its gradient, for people.
    pub equation: &'static str,
    /// The rule works on a cotangent that is still collapsed to 1 along broadcast axes.
    pub lazy: bool,
    pub apply: fn(&mut Cx, &TypedNode, OutletId) -> TractResult<Answer>,
}

/// A rule that wants the cotangent whole.
const fn rule(
    op: &'static str,
    equation: &'static str,
    apply: fn(&mut Cx, &TypedNode, OutletId) -> TractResult<Answer>,
) -> Rule {
    Rule { op, equation, lazy: false, apply }
}

/// A rule that also works on a cotangent that is still collapsed.
const fn lazy_rule(
    op: &'static str,
    equation: &'static str,
    apply: fn(&mut Cx, &TypedNode, OutletId) -> TractResult<Answer>,
) -> Rule {
    Rule { lazy: true, ..rule(op, equation, apply) }
}

/// A rule as listed in `docs/supported-ops.md`.
#[derive(Debug, Clone, Copy)]
pub struct RuleInfo {
    /// Operator name in the runtime's decluttered graph.
    pub op: &'static str,
    /// Its gradient.
    pub equation: &'static str,
}

const FAMILIES: &[&[Rule]] = &[
    lowrank::RULES,
    einsum::RULES,
    conv::RULES,
    binary::RULES,
    clip::RULES,
    unary::RULES,
    activation::RULES,
    norm::RULES,
    reduce::RULES,
    pool::RULES,
    layout::RULES,
    index::RULES,
    resize::RULES,
    fourier::RULES,
    recurrent::RULES,
];

pub(super) fn lookup(op: &str) -> Option<&'static Rule> {
    FAMILIES.iter().flat_map(|f| f.iter()).find(|r| r.op == op)
}

/// Every operator that a gradient can be taken through.
pub fn supported_ops() -> impl Iterator<Item = RuleInfo> {
    FAMILIES.iter().flat_map(|f| f.iter()).map(|r| RuleInfo { op: r.op, equation: r.equation })
}
