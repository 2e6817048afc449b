//! What this project set out to reach, where a suite measures it on the machine that it runs on.

use acclimate::tools::bench::Kind;

use super::results::{Key, Line, Results, Target};

/// One target, for every line that it is about.
struct Goal {
    name: &'static str,
    /// What it was set by.
    source: &'static str,
    measure: &'static str,
    unit: &'static str,
    limit: Limit,
    /// Its figure for a line of `measure`; none where the target is not about that line.
    of: fn(&Results, &Line) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

const MIB: f64 = 1_048_576.0;

const GOALS: [Goal; 8] = [
    Goal {
        name: "adapted prediction over plain",
        source: "1.2 to 1.5 in other runtimes",
        measure: "adapted_predict",
        unit: "times",
        limit: Limit::AtMost(1.08),
        of: |r, line| Some(line.median / r.beside(&line.key, "predict")?.median),
    },
    Goal {
        name: "merged prediction over plain",
        source: "a merged model has the base model's operators",
        measure: "merged_predict",
        unit: "times",
        limit: Limit::AtMost(1.02),
        of: |r, line| Some(line.median / r.beside(&line.key, "predict")?.median),
    },
    Goal {
        name: "swap of a mapped adapter",
        source: "54 ms in CTranslate2",
        measure: "swap",
        unit: "us",
        limit: Limit::AtMost(1000.0),
        of: |_, line| Some(line.median),
    },
    Goal {
        name: "training step over the machine's own product, 1 thread",
        source: "about 0.61 with ONNX Runtime and MiniLM",
        measure: "train_effective",
        unit: "share",
        limit: Limit::AtLeast(0.75),
        of: |r, line| {
            let is_meant = line.key.model == "minilm" && line.key.batch == 8 && line.key.threads == 1;
            Some(line.median / r.beside(&line.key, "gemm").filter(|_| is_meant)?.median)
        },
    },
    Goal {
        name: "training of MiniLM 8×64, peak of the process",
        source: "283 to 337 MB with ONNX Runtime training 1.19.2",
        measure: "train_peak_rss",
        unit: "bytes",
        limit: Limit::AtMost(200e6),
        of: |_, line| (line.key.model == "minilm" && line.key.batch == 8).then_some(line.median),
    },
    Goal {
        name: "training of SmolLM2-135M on 128 tokens, memory beside the mapped model",
        source: "136 MB for a model of 0.5B with MeSP",
        measure: "train_anonymous",
        unit: "bytes",
        limit: Limit::AtMost(64.0 * MIB),
        of: |_, line| {
            let is_meant = line.key.model.starts_with("smollm2") && line.key.sequence == 128;
            is_meant.then_some(line.median)
        },
    },
    Goal {
        name: "training over reading, time of a token",
        source: "4·N FLOP for a low-rank step, 2·N for reading: 0.4 of the reading's tokens a second",
        measure: "train_step",
        unit: "times",
        limit: Limit::AtMost(2.5),
        of: |r, line| Some(line.median / r.beside(&line.key, "prefill")?.median),
    },
    Goal {
        name: "p95 of predictions while training over p95 alone",
        source: "a good guest: nobody notices that it learns",
        measure: "predict_while_training",
        unit: "times",
        limit: Limit::AtMost(1.3),
        of: |r, line| Some(line.p95 / r.beside(&line.key, "predict_alone")?.p95),
    },
];

/// Every target that something was measured for.
pub fn of(results: &Results) -> Vec<Target> {
    let target = |goal: &Goal, key: Key, value: f64| {
        let (at_most, at_least) = match goal.limit {
            Limit::AtMost(most) => (Some(most), None),
            Limit::AtLeast(least) => (None, Some(least)),
        };
        let met = at_most.is_none_or(|most| value <= most) && at_least.is_none_or(|least| value >= least);
        let (name, source, unit) = (goal.name.into(), goal.source.into(), goal.unit.into());
        Target { name, source, key, value, unit, at_most, at_least, met }
    };
    let mut found = vec![];
    for goal in &GOALS {
        for line in results.figures.iter().filter(|l| l.key.measure == goal.measure) {
            let value = (goal.of)(results, line).filter(|v| v.is_finite());
            found.extend(value.map(|value| target(goal, line.key.clone(), value)));
        }
    }
    found
}

/// What a measure is called, and for which models it is worth a column.
pub fn title(measure: &str) -> &str {
    match measure {
        "predict" => "prediction",
        "adapted_predict" => "adapted prediction",
        "merged_predict" => "merged prediction",
        "prefill" => "reading (prefill)",
        "token" => "one token",
        "train_step" => "training step",
        "later_step" => "training step, later epochs",
        "train_effective" => "training, effective",
        "gemm" => "a plain product",
        "swap" => "swap of an adapter",
        "predict_anonymous" => "predicting, anonymous memory",
        "predict_peak_rss" => "predicting, peak memory",
        "train_anonymous" => "training, anonymous memory",
        "train_peak_rss" => "training, peak memory",
        "predict_alone" => "prediction now and then",
        "predict_while_training" => "the same while training",
        other => other,
    }
}

/// The kind of a model in words.
pub fn kind(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::LanguageModel) => "language model",
        Some(Kind::Sequences) => "texts",
        Some(Kind::Arrays) => "arrays or pictures",
        None => "",
    }
}
