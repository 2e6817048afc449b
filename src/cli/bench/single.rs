//! What `bench MODEL` shows.

use acclimate::base::PlacedPlan;
use acclimate::stats::ratio::quantile;
use acclimate::tools::bench::{Options, Place, Placed, Profile, Report, Spent, Timing};
use serde_json::{Value, json};

use super::super::output::{bytes, table};

fn timing(t: &Timing) -> Value {
    json!({ "min": t.min, "median": t.median, "p95": quantile(&t.runs, 0.95), "cpu": t.cpu })
}

pub fn as_json(r: &Report, options: &Options) -> Value {
    json!({
        "batch": options.batch,
        "seq": options.sequence,
        "rank": options.rank,
        "threads": options.threads,
        "sites": r.sites,
        "predict_ms": timing(&r.predict_ms),
        "adapted_predict_ms": timing(&r.adapted_predict_ms),
        "merged_predict_ms": timing(&r.merged_predict_ms),
        "text": r.text.as_ref().map(|t| json!({
            "tokens": t.tokens,
            "prefill_ms": timing(&t.prefill_ms),
            "token_ms": timing(&t.token_ms),
            "train_step_ms": t.train_step_ms.as_ref().map(timing),
            "train_anonymous_bytes": t.train_anonymous_bytes,
        })),
        "train_step_ms": r.train_step_ms.as_ref().map(timing),
        "later_step_ms": r.later_step_ms.as_ref().map(timing),
        "gflops_effective": r.gflops_effective,
        "gflops_gemm": r.gflops_gemm,
        "swap_us": timing(&r.swap_us),
        "train_peak_rss_bytes": r.train_peak_rss_bytes,
        "peak_rss_bytes": r.peak_rss_bytes,
        "anonymous_bytes": r.anonymous_bytes,
        "device": device(&r.device),
        "profile": r.profile.as_ref().map(|p| json!({
            "runs": p.runs,
            "prediction": p.prediction.iter().map(|row| place(row, p.runs)).collect::<Vec<_>>(),
            "training_step": p.training_step.iter().map(|row| place(row, p.runs)).collect::<Vec<_>>(),
        })),
    })
}

fn device(d: &Placed) -> Value {
    let plan = |p: &PlacedPlan| {
        json!({
            "plan": p.plan,
            "on_gpu": p.on_gpu,
            "on_cpu": p.on_cpu,
            "copies": p.copies,
            "refused": p.refused,
        })
    };
    json!({
        "asked": d.asked,
        "used": d.used,
        "why_not": d.why_not,
        "plans": d.plans.iter().map(plan).collect::<Vec<_>>(),
    })
}

/// A row of a profile, a run each.
fn place((place, spent): &(Place, Spent), runs: usize) -> Value {
    let runs = runs as f64;
    json!({
        "pass": place.pass,
        "device": place.device,
        "operator": place.operator,
        "shape": place.shape,
        "calls": spent.calls as f64 / runs,
        "ms": milliseconds(spent) / runs,
        "flop": spent.flop / runs,
        "moved_bytes": spent.moved as f64 / runs,
        "allocated_bytes": spent.allocated as f64 / runs,
        "shared_calls": spent.shared as f64 / runs,
    })
}

fn milliseconds(spent: &Spent) -> f64 {
    spent.time.as_secs_f64() * 1e3
}

/// One table of a profile: operators of any shape, those that take most time first.
fn profiled(what: &str, rows: &[(Place, Spent)], runs: usize) -> String {
    let mut sums: Vec<([&str; 3], Spent)> = vec![];
    for (place, spent) in rows {
        let key = [place.pass, place.device, place.operator.as_str()];
        match sums.iter_mut().find(|(k, _)| *k == key) {
            Some((_, sum)) => sum.add(spent),
            None => sums.push((key, *spent)),
        }
    }
    sums.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.time));
    let total =
        |of: &dyn Fn(&Spent) -> bool| -> f64 { sums.iter().filter(|(_, s)| of(s)).map(|(_, s)| milliseconds(s)).sum() };
    let (all, runs) = (total(&|_| true).max(1e-9), runs as f64);
    let a_second = |n: f64, spent: &Spent| match n > 0.0 {
        true => format!("{:.1}", n / spent.time.as_secs_f64().max(1e-9) / 1e9),
        false => String::new(),
    };
    let row = |([pass, device, operator], s): &([&str; 3], Spent)| {
        [
            pass.to_string(),
            device.to_string(),
            operator.to_string(),
            format!("{:.0}", s.calls as f64 / runs),
            format!("{:.3}", milliseconds(s) / runs),
            format!("{:.1} %", 100.0 * milliseconds(s) / all),
            a_second(s.flop, s),
            a_second(s.moved as f64, s),
            format!("{:.2}", s.allocated as f64 / runs / 1e6),
            format!("{:.0} %", 100.0 * s.shared as f64 / s.calls.max(1) as f64),
        ]
    };
    // What takes less than a thousandth is left to --json.
    let shown = sums.iter().filter(|(_, s)| milliseconds(s) >= all / 1e3).map(row);
    let head = ["pass", "device", "operator", "calls", "ms", "share", "GFLOP/s", "GB/s", "MB new", "shared"];
    let unshared = |s: &Spent| 1.0 - s.shared as f64 / s.calls.max(1) as f64;
    let alone = sums.iter().map(|(_, s)| milliseconds(s) * unshared(s)).sum();
    let percent = |part: f64| 100.0 * part / all;
    format!(
        "\n{what}: {:.2} ms, {:.0} % of it neither products nor convolutions, {:.0} % in calls that handed nothing to \
         other cores\n{}",
        all / runs,
        percent(total(&|s| s.flop == 0.0)),
        percent(alone),
        table(head, shown, 3),
    )
}

fn profile(p: &Profile) -> String {
    let mut text = profiled("a prediction", &p.prediction, p.runs);
    if !p.training_step.is_empty() {
        text += &profiled("a training step", &p.training_step, p.runs);
    }
    text
}

/// What computed, where something else than the processor was asked for.
fn placed(d: &Placed) -> String {
    if d.asked == d.used && d.plans.is_empty() {
        return String::new();
    }
    let mut text = match &d.why_not {
        Some(why) => format!("\ndevice {}, no GPU is used: {why}", d.used),
        None => format!("\ndevice {}", d.used),
    };
    for p in &d.plans {
        text += &match &p.refused {
            Some(why) => format!("\n{}: all on the processor, {why}", p.plan),
            None => format!("\n{}: {} operators on the GPU, {} copies", p.plan, p.on_gpu, p.copies),
        };
        if !p.on_cpu.is_empty() {
            let named = p.on_cpu.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>();
            text += &format!("; on the processor {}", named.join(", "));
        }
    }
    text
}

pub fn for_people(r: &Report, options: &Options) -> String {
    let row = |name: &str, unit: &str, t: &Timing| {
        let shown = |v: f64| format!("{v:.2} {unit}");
        [name.to_string(), shown(t.median), shown(t.min), shown(t.cpu)]
    };
    let mut rows = vec![
        row("prediction, base", "ms", &r.predict_ms),
        row("prediction, adapted", "ms", &r.adapted_predict_ms),
        row("prediction, merged", "ms", &r.merged_predict_ms),
    ];
    let mut rates = String::new();
    if let Some(t) = &r.text {
        let rate = |t: &Timing, tokens: usize| 1e3 * tokens as f64 / t.median.max(1e-6);
        rows.push(row(&format!("prefill, {} tokens", t.tokens), "ms", &t.prefill_ms));
        rows.push(row("one token", "ms", &t.token_ms));
        rows.extend(t.train_step_ms.as_ref().map(|s| row(&format!("training step, {} tokens", t.tokens), "ms", s)));
        rates = format!("prefill {:.0}, generation {:.1}", rate(&t.prefill_ms, t.tokens), rate(&t.token_ms, 1));
        if let Some(step) = &t.train_step_ms {
            rates += &format!(
                ", training {:.0} tokens/s; training takes {} that no file backs",
                rate(step, t.tokens),
                bytes(t.train_anonymous_bytes)
            );
        }
        rates.push('\n');
    }
    rows.extend(r.train_step_ms.as_ref().map(|t| row("training step", "ms", t)));
    rows.extend(r.later_step_ms.as_ref().map(|t| row("the same, later epochs", "ms", t)));
    rows.push(row("swap of an adapter", "µs", &r.swap_us));
    let effective = r.gflops_effective.map_or(String::new(), |g| format!("training at {g:.0} GFLOP/s, "));
    format!(
        "batch {}, {} layers at rank {}, {} threads\n{}\n{rates}{effective}a plain product at {:.0} GFLOP/s\n\
         memory {} at most, {} to the end of training; {} of it not backed by a file{}{}",
        options.batch,
        r.sites,
        options.rank,
        options.threads,
        table(["", "median", "fastest", "processor"], rows, 1),
        r.gflops_gemm,
        bytes(r.peak_rss_bytes),
        bytes(r.train_peak_rss_bytes),
        bytes(r.anonymous_bytes),
        placed(&r.device),
        r.profile.as_ref().map_or(String::new(), profile)
    )
}
