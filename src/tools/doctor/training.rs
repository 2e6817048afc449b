//! Whether a home's training fits this machine, and how long it takes: two real steps, times those that it needs.

use super::need::Need;
use super::{Check, Figures, duration};
use crate::adapt::fit::Recipe;
use crate::adapt::language::texts_trained;
use crate::adapt::select::{Choice, Chosen, Costs, Measured, TYPICAL_LENGTH, choose};
use crate::adapt::{FEWEST_EXAMPLES, folds_of, usual_epochs};
use crate::error::Result;
use crate::input::Example;
use crate::process::TrainLimits;
use crate::runtime::Home;
use crate::sites::Pattern;
use crate::tools::bench::{Learner, Options, Repeats, TextOptions, time_text, train_steps};

/// Answers with feedback of a usual first training.
const USUAL: usize = 50;
/// Steps that are timed.
const STEPS: usize = 2;
/// A training that takes longer wants a limit.
const LONG: f64 = 3600.0;

pub(super) fn checks(home: &Home, answers: usize, swap_free: Option<u64>, figures: &mut Figures) -> Vec<Check> {
    figures.answers_are_assumed = answers < FEWEST_EXAMPLES;
    figures.answers = if figures.answers_are_assumed { USUAL } else { answers };
    match of_home(home, swap_free, figures) {
        Ok(checks) => checks,
        Err(e) => vec![Check::refused("training memory", &e)],
    }
}

fn of_home(home: &Home, swap_free: Option<u64>, figures: &mut Figures) -> Result<Vec<Check>> {
    let config = home.config();
    let engine = &home.0.engine;
    let (base, task) = (&engine.base, engine.task);
    let choice = choose(base, task, &Pattern::new(&config.sites), config.rank, TYPICAL_LENGTH)?;
    // An input whose size the model leaves open is refused where a step is timed.
    let input = base.random_examples(&base.bucket(1, choice.bucket.sequence), 0);
    let bytes_each = input.map_or(0, |examples| examples.iter().map(Example::bytes).sum());
    figures.answers = figures.answers.min(home.most_taught(bytes_each, &config.limits));
    let chosen = within(home, &choice, &config.limits, None)?;
    let need =
        Need { bytes: chosen.memory_bytes, free: figures.free_memory_bytes, swap_free, reachable: choice.sites.len() };
    figures.train_memory_bytes = Some(need.bytes);
    let memory = need.check(|bytes| within(home, &choice, &TrainLimits::default().memory_bytes(bytes), None));
    let time = match () {
        () if chosen.sites.is_empty() => Check::ok("training time", "seconds: only a head is trained"),
        () if !need.fits() => Check::ok("training time", "not measured: a training does not fit the memory"),
        () => time(home, &choice, &chosen, figures)?,
    };
    Ok(vec![memory, time])
}

/// What a training of the home is within these limits.
fn within(home: &Home, choice: &Choice, limits: &TrainLimits, measured: Option<&Measured>) -> Result<Chosen> {
    let (config, engine) = (home.config(), &home.0.engine);
    let costs = Costs::of(&engine.base, engine.task, choice, limits, config.train_threads()).of_family(&config.lora);
    Ok(costs.choose(config.rank, measured)?.1)
}

fn time(home: &Home, choice: &Choice, chosen: &Chosen, figures: &mut Figures) -> Result<Check> {
    let seconds = match home.generates() {
        true => of_texts(home, choice, chosen, figures)?,
        false => of_classes(home, choice, chosen, figures)?,
    };
    home.0.engine.drop_train_plans();
    figures.train_seconds = seconds;
    let (Some(seconds), Some(step)) = (seconds, figures.step_seconds) else {
        return Ok(Check::unknown("training time"));
    };
    let assumed = if figures.answers_are_assumed { ", as a first training may have" } else { "" };
    let examples = figures.step_examples.unwrap_or(1);
    let value = format!(
        "about {} for {} answers with feedback{assumed}: an estimate from {STEPS} steps of {examples}, {} each",
        duration(seconds),
        figures.answers,
        duration(step)
    );
    let limited = home.config().limits.budget_seconds.is_some();
    Ok(match seconds > LONG && !limited {
        true => Check::warn(
            "training time",
            value,
            "train at night, or with `--budget-seconds 1800`, or let fewer layers adapt (`init --sites`)",
        ),
        false => Check::ok("training time", value),
    })
}

/// Steps on random inputs of the model's shape, on one thread: a training runs its folds side by side.
fn of_classes(home: &Home, choice: &Choice, chosen: &Chosen, figures: &mut Figures) -> Result<Option<f64>> {
    let engine = &home.0.engine;
    let base = &engine.base;
    let bucket = base.bucket(chosen.micro_batch, choice.bucket.sequence);
    let parts = [base.random_examples(&bucket, 0)?];
    let options =
        Options { repeats: STEPS, gradient_checkpointing: chosen.gradient_checkpointing, ..Options::default() };
    let learner = Learner {
        engine,
        sites: &choice.candidates.all_sites,
        parts: &parts,
        features: home.0.features,
        base_classes: home.0.base_classes,
        threads: 1,
    };
    let steps = train_steps(&learner, &options)?;
    let Some(first) = steps.first else { return Ok(None) };
    let recipe = Recipe { lora: home.config().lora.clone(), ..Recipe::default() };
    let epochs = usual_epochs(&recipe, figures.answers) as f64;
    // What lies before the first trained layer is computed in the first pass alone, where it is kept.
    let later = steps.later.as_ref().unwrap_or(&first);
    let step = (first.median + (epochs - 1.0) * later.median) / epochs / 1e3;
    figures.step_seconds = Some(step);
    figures.step_examples = Some(bucket.batch);
    let passes = epochs * f64::from(folds_of(figures.answers));
    let measured = Measured {
        gradients: vec![],
        seconds_per_example: step / bucket.batch as f64,
        training_examples: figures.answers as f64 * passes / home.config().train_threads() as f64,
        seconds: 0.0,
    };
    Ok(within(home, choice, &home.config().limits, Some(&measured))?.seconds)
}

/// Steps on a text, on all threads that train.
fn of_texts(home: &Home, choice: &Choice, chosen: &Chosen, figures: &mut Figures) -> Result<Option<f64>> {
    let how = TextOptions {
        length: choice.bucket.sequence.max(2),
        threads: home.config().train_threads(),
        repeats: Repeats::of(STEPS),
        gradient_checkpointing: chosen.gradient_checkpointing,
    };
    let report = time_text(&home.0.engine.base, &choice.candidates.all_sites, how)?;
    let Some(step) = report.train_step_ms else { return Ok(None) };
    figures.step_seconds = Some(step.median / 1e3);
    figures.step_examples = Some(1);
    Ok(Some(texts_trained(figures.answers) as f64 * step.median / 1e3))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::runtime::InitOptions;

    #[test]
    fn the_answers_reckoned_with_are_those_that_a_training_takes_within_the_memory_of_the_home() {
        let folder = tempfile::tempdir().unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx");
        // A quarter of it holds 21 windows of 3 KiB; 64 are taken in any case.
        let scarce = TrainLimits::default().memory_bytes(256 << 10);
        for (name, limits, expected) in [("scarce", scarce, 64), ("ample", TrainLimits::default(), 70)] {
            let home = Home::init(folder.path().join(name), &InitOptions::new(&model).limits(limits)).unwrap();
            let mut figures = Figures::default();
            checks(&home, 70, None, &mut figures);
            assert_eq!((figures.answers, figures.answers_are_assumed), (expected, false), "{name}");
        }
    }
}
