//! What a new home makes of its model's outputs and of the labels that it was given.

use crate::base::{Base, Kind, Task};
use crate::error::Result;

/// What was decided.
pub(super) struct Outcome {
    /// The task of the home.
    pub task: Task,
    /// The output that answers, where it is not the model's first.
    pub output: Option<String>,
    /// What its maker should know.
    pub warnings: Vec<String>,
}

/// Decides the task of a home for `base` by `task`, in which the model has `classes`, and the number of `labels`.
///
/// # Errors
/// As [`Base::output_kind`].
pub(super) fn decide(base: &Base, task: Task, classes: usize, labels: Option<usize>) -> Result<Outcome> {
    let report = base.end_report()?;
    let first = base.outputs().first().map(|p| p.name.as_str());
    let mut outcome = Outcome { task, output: None, warnings: vec![] };
    if base.asked_output().is_none() && first != Some(&report.output) {
        outcome.warnings.push(format!(
            "the output {:?} answers, not the first, {:?}; --model-output chooses another",
            report.output,
            first.unwrap_or_default()
        ));
        outcome.output = Some(report.output.clone());
    }
    if report.kind == Kind::Tokens && task == Task::Encoder {
        outcome.warnings.push(format!(
            "the output {:?} holds {}: a head reads their mean over the positions; an output with a vector a position \
             tells it more",
            report.output,
            report.kind.describe()
        ));
    }
    let misfit = labels.filter(|labels| task == Task::Classification && *labels != classes);
    if let Some(labels) = misfit {
        outcome.task = Task::Encoder;
        outcome.warnings.push(format!(
            "{labels} labels for a model of {classes} classes: the model's own classes are set aside, and a new head \
             starts without knowing the {labels} that are listed; to keep what the model knows, list its {classes} \
             classes in order"
        ));
    } else if task == Task::Encoder && report.kind.has_classes() {
        outcome.warnings.push(format!(
            "the model's own classes ({}) are set aside: a head of its own classes starts without knowing any",
            report.kind.describe()
        ));
    }
    Ok(outcome)
}
