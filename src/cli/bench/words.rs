//! Tables of a suite for people, and how figures are written.

use super::results::{Key, Line, Model, Results, Source, State, Target};
use super::targets::title;
use crate::cli::output::{bytes, table};

/// Columns of times and of memory, in order; a column is shown if some model has it.
const COLUMNS: [&str; 12] = [
    "predict",
    "adapted_predict",
    "merged_predict",
    "prefill",
    "token",
    "train_step",
    "later_step",
    "swap",
    "predict_anonymous",
    "predict_peak_rss",
    "train_anonymous",
    "train_peak_rss",
];

/// A value with its unit, three digits of it.
pub fn value(value: f64, unit: &str) -> String {
    let digits = |v: f64| match v.abs() {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    };
    match unit {
        "bytes" => bytes(value as u64),
        "us" => format!("{} µs", digits(value)),
        "times" => format!("{value:.2}"),
        "share" => format!("{:.0} %", 100.0 * value),
        unit => format!("{} {unit}", digits(value)),
    }
}

/// What a target asks for.
pub fn limit(target: &Target) -> String {
    match (target.at_most, target.at_least) {
        (Some(most), _) => format!("≤ {}", value(most, &target.unit)),
        (_, Some(least)) => format!("≥ {}", value(least, &target.unit)),
        _ => String::new(),
    }
}

/// Lines of one model, shape and number of threads, in the order in which they were measured.
pub fn rows(results: &Results) -> Vec<Key> {
    let mut keys: Vec<Key> = vec![];
    let order = |model: &str| results.models.iter().position(|m| m.name == model);
    for line in results.figures.iter().filter(|l| COLUMNS.contains(&l.key.measure.as_str())) {
        let key = Key { measure: String::new(), ..line.key.clone() };
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.sort_by_key(|k| (order(&k.model), k.batch, k.sequence, k.threads));
    keys
}

fn cell(line: Option<&Line>) -> String {
    line.map_or_else(String::new, |l| value(l.median, &l.unit))
}

/// One table of a row for each shape and number of threads.
fn figures(results: &Results) -> String {
    let part = |measures: &[&str]| -> Vec<[String; 7]> {
        let rows = rows(results).into_iter().map(|key| {
            let mut row = [key.model.clone(), key.shape(), key.threads.to_string()].to_vec();
            row.extend(measures.iter().map(|m| cell(results.beside(&key, m))));
            row.resize(7, String::new());
            row
        });
        rows.filter(|r| r[3..].iter().any(|c| !c.is_empty())).filter_map(|r| r.try_into().ok()).collect()
    };
    let parts: [(&[&str], [&str; 7]); 3] = [
        (
            &["predict", "adapted_predict", "merged_predict", "train_step"],
            ["model", "shape", "threads", "prediction", "adapted", "merged", "training step"],
        ),
        (
            &["prefill", "token", "later_step", "swap"],
            ["model", "shape", "threads", "reading", "one token", "later step", "swap"],
        ),
        (
            &["predict_anonymous", "predict_peak_rss", "train_anonymous", "train_peak_rss"],
            ["model", "shape", "threads", "predicting", "its peak", "training", "its peak"],
        ),
    ];
    let shown = parts.map(|(measures, head)| table(head, part(measures), 2));
    format!("{}\n\n{}\n\nmemory that no file backs, and peak of the process\n{}", shown[0], shown[1], shown[2])
}

/// One line a target: the worst of its figures.
pub fn worst(results: &Results) -> Vec<(&Target, usize, usize)> {
    let mut found: Vec<(&Target, usize, usize)> = vec![];
    for target in &results.targets {
        let far = |t: &Target| t.at_most.map_or(-t.value, |_| t.value);
        match found.iter_mut().find(|(t, ..)| t.name == target.name) {
            Some((worst, met, all)) => {
                (*met, *all) = (*met + usize::from(target.met), *all + 1);
                if far(target) > far(worst) {
                    *worst = target;
                }
            }
            None => found.push((target, usize::from(target.met), 1)),
        }
    }
    found
}

/// A model in words, for what was not measured of it.
pub fn left_out(model: &Model) -> Option<String> {
    let state = match model.state {
        State::Measured => return None,
        State::Partly => "measured in part",
        State::Failed => "failed",
        State::Skipped => "skipped",
    };
    let next = model.next.as_ref().map_or(String::new(), |next| format!("\n  next: {next}"));
    Some(format!("{} {state}: {}{next}", model.name, model.reason.as_deref().unwrap_or("no reason")))
}

/// All results.
pub fn results(results: &Results) -> String {
    let head = ["target", "limit", "worst", "of", "state"];
    let targets = worst(results).into_iter().map(|(t, met, all)| {
        let state = if met == all { "met".to_string() } else { format!("{met} of {all} met") };
        let of = format!("{} {}, {} thr.", t.key.model, t.key.shape(), t.key.threads);
        [t.name.clone(), limit(t), value(t.value, &t.unit), of, state]
    });
    let left_out: Vec<String> = results.models.iter().filter_map(left_out).collect();
    let left_out = if left_out.is_empty() { String::new() } else { format!("\n\n{}", left_out.join("\n")) };
    format!("{}\n\n{}{left_out}\n\n{}", figures(results), table(head, targets, 5), machine(results))
}

/// What it was measured on, in a line.
pub fn machine(results: &Results) -> String {
    let m = &results.machine;
    let board = m.board.as_ref().map_or(String::new(), |board| format!("{board}, "));
    let governor = m.governor.as_ref().map_or(String::new(), |g| format!(", governor {g}"));
    format!(
        "{board}{}, {} cores{governor}, {} of memory, Linux {}; acclimate {} for {}; {}; {:.0} s",
        m.cpu.join(" and "),
        m.cores,
        bytes(m.memory_bytes),
        m.kernel,
        results.program.version,
        results.program.target,
        results.at,
        results.seconds
    )
}

/// Where a model is from.
pub fn source(source: Source) -> &'static str {
    match source {
        Source::Bundled => "bundled",
        Source::Fetched => "fetched",
        Source::Own => "own",
    }
}

/// `minilm 8×64, 2 threads, training step`.
pub fn what(key: &Key) -> String {
    let threads = if key.threads == 1 { "1 thread".into() } else { format!("{} threads", key.threads) };
    format!("{} {}, {threads}, {}", key.model, key.shape(), title(&key.measure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(value(1234.5, "ms"), "1234 ms");
        assert_eq!(value(12.345, "ms"), "12.3 ms");
        assert_eq!(value(0.012_34, "ms"), "0.012 ms");
        assert_eq!(value(67_108_864.0, "bytes"), "64.0 MiB");
        assert_eq!(value(0.754, "share"), "75 %");
        assert_eq!(value(512.0, "us"), "512 µs");
    }
}
