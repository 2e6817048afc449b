//! Which output of a model answers, and what is said where none does.

use super::kind::{Kind, kind_of};
use super::trial::Trial;
use super::{Ending, context};
use crate::base::{Base, Dim, Port};
use crate::error::{Error, Result, names};

/// Words by which exporters call the output that answers, the surest first.
const ANSWERS: &[&str] = &["logit", "prob", "score", "output"];

/// Position of the output called `name`.
pub(super) fn by_name(base: &Base, name: &str) -> Result<usize> {
    base.outputs.iter().position(|p| p.name == name).ok_or_else(|| {
        Error::usage(format!("the model has no output {name:?}")).at(base.path.display()).hint(known(
            "outputs",
            name,
            &base.outputs,
        ))
    })
}

/// The `ports`, which are inputs or outputs as `what` says, to whom called one of them `name`.
pub(in crate::base) fn known(what: &str, name: &str, ports: &[Port]) -> String {
    let known = format!("its {what} are {}", listed(ports));
    names::or_meant(known, name, ports.iter().map(|p| p.name.as_str()))
}

/// Ports with their types and shapes, for people.
fn listed(ports: &[Port]) -> String {
    let one = |p: &Port| {
        let dims: Vec<String> = p.dims.iter().map(Dim::to_string).collect();
        format!("{} {}[{}]", p.name, p.element.name(), dims.join(", "))
    };
    ports.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// What an output holds, and which of its axes counts the examples.
pub(super) fn look(base: &Base, trial: &Trial, output: usize) -> (Kind, Option<usize>) {
    let Some((port, outlet)) = base.outputs.get(output).zip(trial.model.outputs.get(output)) else {
        return (Kind::NoRows, None);
    };
    let axis = trial.batch_axis(base, output, port);
    (kind_of(&trial.model, *outlet, axis, &port.name, &context(base, trial)), axis)
}

/// Whether a home can be made for an output of this kind.
fn usable(kind: Kind) -> bool {
    matches!(kind, Kind::Classes | Kind::TwoClasses | Kind::Vector | Kind::Sequence | Kind::Tokens)
}

/// The output that answers: the one that was asked for, the one with as many scores as there are labels, or the
/// first, unless that is none or another one is called by the name of scores.
pub(super) fn choose(base: &Base, trial: &Trial) -> Result<usize> {
    let count = trial.model.outputs.len().min(base.outputs.len());
    if count == 0 {
        return Err(Error::unsupported("the model has no output").at(base.path.display()));
    }
    if let Some(output) = base.asked.output.filter(|o| *o < count) {
        return Ok(output);
    }
    if count == 1 {
        return Ok(0);
    }
    let kinds: Vec<Kind> = (0..count).map(|ix| look(base, trial, ix).0).collect();
    let rank = |ix: usize| {
        let name = base.outputs[ix].name.to_ascii_lowercase();
        ANSWERS.iter().position(|word| name.contains(word)).unwrap_or(ANSWERS.len())
    };
    if let Some(labels) = base.asked.labels {
        let fits = |ix: &usize| classes(base, trial, *ix, kinds[*ix]) == labels;
        if let Some(ix) = (0..count).filter(fits).min_by_key(|ix| (rank(*ix), *ix)) {
            return Ok(ix);
        }
    }
    let scores = |ix: usize| matches!(kinds[ix], Kind::Classes | Kind::TwoClasses);
    let named = |ix: usize| rank(ix) + 1 < ANSWERS.len();
    let better = |ix: usize| !named(0) && named(ix) && scores(ix);
    if usable(kinds[0]) && !(1..count).any(better) {
        return Ok(0);
    }
    let best = (0..count).filter(|ix| usable(kinds[*ix])).min_by_key(|ix| (!scores(*ix), rank(*ix), *ix));
    Ok(best.unwrap_or(0))
}

/// Classes of an output; 0 where it has none.
fn classes(base: &Base, trial: &Trial, output: usize, kind: Kind) -> usize {
    match kind {
        Kind::TwoClasses => 2,
        Kind::Classes => {
            let shape = super::walk::shape(&trial.model, trial.model.outputs[output]).unwrap_or_default();
            let examples = look(base, trial, output).1.and_then(|axis| shape.get(axis).copied());
            examples.map_or(0, |n| shape.iter().product::<usize>() / n.max(1))
        }
        _ => 0,
    }
}

/// What is said of a model whose answering output is neither scores nor vectors.
pub(super) fn refusal(base: &Base, ending: &Ending) -> Error {
    let port = base.outputs.get(ending.output);
    if let (Kind::NoRows, Some(name), Some(Dim::Fixed(1))) =
        (ending.kind, base.batch_name(), port.and_then(|p| p.dims.first()))
    {
        // A model that was traced with one example: its own row is all that it answers with.
        return Error::unsupported("the model leaves the number of examples open, and takes only one at a time")
            .at(base.path.display())
            .because(format!(
                "its output {} has one row, whatever the batch",
                listed(&base.outputs[ending.output..=ending.output])
            ))
            .hint(format!(
                "fix it: `acclimate pin MODEL --dim {name}=1 --output F.onnx`, and make the home of F.onnx"
            ));
    }
    let shown = port.map_or(String::new(), |p| listed(std::slice::from_ref(p)));
    let error = Error::unsupported(format!("the output {shown} holds {}", ending.kind.describe()))
        .at(base.path.display())
        .because("a home answers with one class of several, by scores or by a vector of each example");
    let others: Vec<String> = Trial::of(base).map_or(vec![], |trial| {
        let usable = |ix: &usize| *ix != ending.output && usable(look(base, &trial, *ix).0);
        (0..base.outputs.len()).filter(usable).map(|ix| format!("--model-output {}", base.outputs[ix].name)).collect()
    });
    if !others.is_empty() {
        return error.hint(format!("this one would work: {}", others.join(", ")));
    }
    error.hint(match ending.kind {
        Kind::MultiLabel => {
            "--task encoder sets its labels aside and trains a head of your own classes, of which one is right, on \
             what its last layer reads"
        }
        Kind::Regression => {
            "if it is the score of a yes or no, say so with two labels (--labels, no before yes) or with \
             --task classification"
        }
        Kind::Boxes => {
            "export the model with class scores, or with a vector an example, as an output: a \
                        detector has none"
        }
        Kind::Map => {
            "export the model with its pooled vector or its class scores as an output; --task encoder \
             takes the whole map for a vector"
        }
        Kind::Sequence | Kind::Tokens => "leave --task away: a head over the mean of the positions is trained",
        Kind::Integers => "export it with its scores (before any argmax) as an output",
        _ => "export it with a leading batch dimension, a row an example",
    })
}
