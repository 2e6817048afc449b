//! A compiled graph with its run states, and where its time goes: with `ACCLIMATE_TIMING` set, every plan prints a table of its
//! operators to stderr when it is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tract_core::internal::*;

use super::engine::lock;
use super::late;
use crate::base::{Base, guarded};
use crate::error::{ErrorKind, Result};

/// A graph that tract has optimised and ordered; shared by threads.
pub(super) struct Compiled {
    plan: Arc<TypedSimplePlan>,
    times: Option<Times>,
}

/// A run state; one a thread.
pub(super) struct State {
    plan: Arc<Compiled>,
    state: TypedSimpleState,
}

impl Compiled {
    /// `what` names the plan to people: forward or backward.
    pub fn new(base: &Base, mut model: TypedModel, what: &'static str) -> Result<Arc<Compiled>> {
        let plan = guarded(ErrorKind::UnsupportedModel, format!("cannot compile the {what} plan"), || {
            late::improve(&mut model, base.weights())?;
            model.into_optimized()?.into_runnable()
        })?;
        Ok(Arc::new(Compiled { plan, times: wanted().then(|| Times { what, spent: Mutex::default() }) }))
    }

    pub fn state(self: &Arc<Self>) -> TractResult<State> {
        Ok(State { state: self.plan.spawn()?, plan: self.clone() })
    }
}

impl State {
    pub fn run(&mut self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Some(times) = &self.plan.times else { return self.state.run(inputs) };
        self.state.run_plan_with_eval(inputs, |ctx, state, node, inputs| {
            let start = Instant::now();
            let outputs = tract_core::plan::eval(ctx, state, node, inputs);
            times.add(node, start.elapsed());
            outputs
        })
    }
    /// Shape of input `ix`.
    #[cfg(feature = "train")]
    pub fn input_shape(&self, ix: usize) -> TractResult<Vec<usize>> {
        let fact = self.plan.plan.model().input_fact(ix)?;
        Ok(fact.shape.as_concrete().context("open shape")?.to_vec())
    }
}

fn wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var_os("ACCLIMATE_TIMING").is_some_and(|v| !v.is_empty() && v != "0"))
}

/// Time spent by operator and output shape.
struct Times {
    what: &'static str,
    spent: Mutex<HashMap<String, (usize, Duration)>>,
}

impl Times {
    fn add(&self, node: &TypedNode, spent: Duration) {
        let shape = node.outputs.first().map_or_else(String::new, |o| format!("{:?}", o.fact.shape));
        let mut all = lock(&self.spent);
        let entry = all.entry(format!("{:<24} {shape}", node.op.name())).or_default();
        *entry = (entry.0 + 1, entry.1 + spent);
    }
}

impl Drop for Times {
    fn drop(&mut self) {
        let spent = std::mem::take(&mut *lock(&self.spent));
        let total: Duration = spent.values().map(|(_, t)| *t).sum();
        let mut rows: Vec<_> = spent.into_iter().collect();
        rows.sort_by_key(|(_, (_, t))| std::cmp::Reverse(*t));
        eprintln!("{} plan: {:.1} ms", self.what, total.as_secs_f64() * 1e3);
        for (name, (calls, t)) in rows {
            let share = 100.0 * t.as_secs_f64() / total.as_secs_f64().max(1e-9);
            eprintln!("{share:5.1} % {:10.2} ms {calls:7} × {name}", t.as_secs_f64() * 1e3);
        }
    }
}
