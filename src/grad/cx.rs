//! What a rule works with: the forward values it asks for, and short names for the operators it emits.

use std::collections::HashMap;

use tract_core::internal::*;
use tract_core::ops::array::MultiBroadcastTo;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::logic::{Iff, comp_ne};
use tract_core::ops::math;
use tract_core::ops::nn::{Reduce, Reducer};

use crate::ops::{constant, copy_constant};

/// The backward graph under construction.
pub(crate) struct Cx<'a> {
    forward: &'a TypedModel,
    model: TypedModel,
    saved: Vec<OutletId>,
    values: HashMap<OutletId, OutletId>,
    serial: usize,
    /// Whether fused backward operators may be emitted.
    pub fused: bool,
    node: String,
    needed: Vec<bool>,
    cotangents: TVec<Option<OutletId>>,
    out_shape: ShapeFact,
}

impl<'a> Cx<'a> {
    pub fn new(forward: &'a TypedModel, fused: bool) -> Cx<'a> {
        let model = TypedModel { symbols: forward.symbols.clone(), ..TypedModel::default() };
        let out_shape = ShapeFact::scalar();
        let node = String::new();
        let (saved, values, needed, cotangents) = (vec![], HashMap::new(), vec![], tvec!());
        Cx { forward, model, saved, values, serial: 0, fused, node, needed, cotangents, out_shape }
    }

    /// Points the context at the forward node whose rule runs next.
    pub fn enter(&mut self, node: &TypedNode, needed: Vec<bool>, cotangents: TVec<Option<OutletId>>) {
        self.node = node.name.clone();
        self.needed = needed;
        self.cotangents = cotangents;
        self.out_shape = node.outputs[0].fact.shape.clone();
    }
    /// The graph and what it reads of the forward one; values that a rule asked for and did not use are dropped.
    pub fn finish(self) -> (TypedModel, Vec<OutletId>) {
        let Cx { mut model, saved, values, .. } = self;
        let used = |o: &OutletId| !model.nodes[o.node].outputs[o.slot].successors.is_empty();
        let (kept, unused): (Vec<OutletId>, Vec<OutletId>) = saved.into_iter().partition(|s| used(&values[s]));
        model.inputs.retain(|i| !unused.iter().any(|u| values[u] == *i));
        (model, kept)
    }

    /// Name of the current forward node.
    pub fn node_name(&self) -> &str {
        &self.node
    }
    /// Whether input `slot` of the current node leads to a site.
    pub fn needs(&self, slot: usize) -> bool {
        self.needed.get(slot).copied().unwrap_or(false)
    }
    /// Cotangent of output `slot` of the current node, where one arrived; a rule is called with that of output 0, or zeros.
    pub fn cotangent(&self, slot: usize) -> Option<OutletId> {
        self.cotangents.get(slot).copied().flatten()
    }
    /// Fact of a forward outlet.
    pub fn fact(&self, forward: OutletId) -> TractResult<&'a TypedFact> {
        self.forward.outlet_fact(forward)
    }
    /// The forward graph.
    pub fn forward(&self) -> &'a TypedModel {
        self.forward
    }
    /// Value of a forward outlet that is the same in every run.
    pub fn fixed(&self, forward: OutletId) -> TractResult<Option<Arc<Tensor>>> {
        constant(self.forward, forward)
    }
    /// Concrete shape of a forward outlet.
    pub fn dims(&self, forward: OutletId) -> TractResult<TVec<usize>> {
        let fact = self.fact(forward)?;
        fact.shape.as_concrete().map(TVec::from_slice).with_context(|| format!("{} has an open shape", self.node))
    }
    /// Shape of an outlet of the backward graph.
    pub fn shape(&self, outlet: OutletId) -> TractResult<ShapeFact> {
        Ok(self.model.outlet_fact(outlet)?.shape.clone())
    }

    pub fn source(&mut self, name: String, fact: &TypedFact) -> TractResult<OutletId> {
        self.model.add_source(name, fact.datum_type.fact(fact.shape.clone()))
    }

    /// Value of a forward outlet: a constant, or an input of the backward graph that the forward plan saves.
    pub fn value(&mut self, forward: OutletId) -> TractResult<OutletId> {
        if let Some(&known) = self.values.get(&forward) {
            return Ok(known);
        }
        let fact = self.forward.outlet_fact(forward)?;
        self.serial += 1;
        let name = format!("const.{}", self.serial);
        let value = match copy_constant(self.forward, forward, &mut self.model, &name)? {
            Some(constant) => constant,
            None => {
                self.saved.push(forward);
                let name = format!("saved.{}.{}", self.forward.node(forward.node).name, forward.slot);
                self.source(name, fact)?
            }
        };
        self.values.insert(forward, value);
        Ok(value)
    }

    pub fn constant(&mut self, value: Arc<Tensor>) -> TractResult<OutletId> {
        self.serial += 1;
        self.model.add_const(format!("const.{}", self.serial), value)
    }
    /// A scalar shaped to broadcast against the current node's output.
    pub fn scalar(&mut self, value: f32) -> TractResult<OutletId> {
        let rank = self.out_shape.rank();
        self.constant(tensor0(value).broadcast_into_rank(rank)?.into_arc_tensor())
    }
    pub fn zeros(&mut self, shape: &ShapeFact) -> TractResult<OutletId> {
        let dims = shape.as_concrete().context("open shape")?;
        self.constant(Tensor::zero::<f32>(dims)?.into_arc_tensor())
    }

    /// Emits an operator with one output.
    pub fn wire(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<OutletId> {
        Ok(self.wire_all(op, inputs)?[0])
    }
    pub fn wire_all(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        self.serial += 1;
        let name = format!("{}.grad.{}", self.node, self.serial);
        self.model.wire_node(name, op, inputs)
    }
    pub fn add(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.wire(math::add(), &[a, b])
    }
    pub fn sub(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.wire(math::sub(), &[a, b])
    }
    pub fn mul(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.wire(math::mul(), &[a, b])
    }
    pub fn div(&mut self, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.wire(math::div(), &[a, b])
    }
    pub fn neg(&mut self, a: OutletId) -> TractResult<OutletId> {
        self.wire(math::neg(), &[a])
    }
    /// `a·k` for a scalar `k`.
    pub fn scale(&mut self, a: OutletId, k: f32) -> TractResult<OutletId> {
        let k = self.scalar(k)?;
        self.mul(a, k)
    }
    /// `a + k` for a scalar `k`.
    pub fn shift(&mut self, a: OutletId, k: f32) -> TractResult<OutletId> {
        let k = self.scalar(k)?;
        self.add(a, k)
    }
    pub fn sum(&mut self, a: OutletId, axes: &[usize]) -> TractResult<OutletId> {
        self.wire(Reduce::new(axes.into(), Reducer::Sum), &[a])
    }
    /// `condition ? then : otherwise`, elementwise.
    pub fn select(&mut self, condition: OutletId, then: OutletId, otherwise: OutletId) -> TractResult<OutletId> {
        self.wire(Iff, &[condition, then, otherwise])
    }
    /// `slope` where `at` is not 0, else 0: what has no slope at 0 (a root, a norm) passes nothing back there, as torch's norms do.
    pub fn unless_zero(&mut self, at: OutletId, slope: OutletId) -> TractResult<OutletId> {
        let zero = self.scalar(0.0)?;
        let moves = self.wire(TypedBinOp(comp_ne(), None), &[at, zero])?;
        self.keep(moves, slope)
    }
    /// `g` where `condition`, else 0.
    pub fn keep(&mut self, condition: OutletId, g: OutletId) -> TractResult<OutletId> {
        let zero = self.scalar(0.0)?;
        self.select(condition, g, zero)
    }
    /// `g` with every axis spread to the shape of the current node's output.
    pub fn full(&mut self, g: OutletId) -> TractResult<OutletId> {
        let to = self.out_shape.clone();
        self.full_to(g, &to)
    }
    pub fn full_to(&mut self, g: OutletId, to: &ShapeFact) -> TractResult<OutletId> {
        if self.shape(g)? == *to {
            return Ok(g);
        }
        self.wire(MultiBroadcastTo { shape: to.clone() }, &[g])
    }
}
