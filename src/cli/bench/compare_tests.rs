//! `bench --compare` on made-up results.

use acclimate::ErrorKind;
use acclimate::tools::machine::{Heat, Machine};

use super::compare::{Compared, Verdict, compared, share, too_slow, warnings};
use super::results::{FORMAT, KIND, Key, Line, Model, Program, Results, Source};
use super::targets;

/// Numbers between -1 and 1 that are the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    }
}

const MEASURES: [(&str, &str, f64); 8] = [
    ("predict", "ms", 10.0),
    ("adapted_predict", "ms", 10.5),
    ("merged_predict", "ms", 10.1),
    ("train_step", "ms", 30.0),
    ("train_effective", "GFLOP/s", 80.0),
    ("gemm", "GFLOP/s", 120.0),
    ("swap", "us", 400.0),
    ("train_anonymous", "bytes", 5e7),
];

/// Results whose times are `factor` times the usual, and whose noise is another for every `seed`.
pub fn noisy(factor: f64, seed: u64) -> Results {
    let mut numbers = Numbers(seed);
    let mut figures = vec![];
    for (batch, sequence, threads) in [(1, 32, 1), (1, 32, 2), (8, 64, 1), (8, 64, 2)] {
        for (measure, unit, usual) in MEASURES {
            let key = Key { model: "minilm".into(), batch, sequence, threads, measure: measure.into() };
            let mut line = Line::new(key, unit);
            let factor = match unit {
                "ms" | "us" => factor,
                "GFLOP/s" if measure != "gemm" => 1.0 / factor,
                _ => 1.0,
            };
            for _ in 0..3 {
                let round = usual * batch as f64 * factor * (1.0 + 0.02 * numbers.next());
                line.add((0..10).map(|_| round * (1.0 + 0.04 * numbers.next().abs())).collect());
            }
            figures.push(line);
        }
    }
    let machine = Machine { cpu: vec!["Cortex-A76".into()], cores: 4, kernel: "6.12".into(), ..Machine::default() };
    let mut model = Model::new("minilm", Source::Fetched, 90_000_000);
    model.fingerprint = Some("ab".into());
    let mut results = Results {
        kind: KIND.into(),
        format: FORMAT,
        at: "2026-11-30T12:00:00.000Z".into(),
        quick: false,
        rounds: 3,
        seconds: 60.0,
        program: Program {
            version: "0.1.0".into(),
            commit: None,
            target: "aarch64-linux-gnu".into(),
            libc: "glibc 2.36".into(),
            file_bytes: 1,
        },
        machine,
        before: Heat::default(),
        after: Heat::default(),
        models: vec![model],
        figures,
        targets: vec![],
    };
    results.targets = targets::of(&results);
    results
}

pub fn made_up(factor: f64) -> Results {
    noisy(factor, 1)
}

fn verdicts(lines: &[Compared], of: Verdict) -> usize {
    lines.iter().filter(|l| l.verdict == of).count()
}

#[test]
fn the_same_results_have_not_changed() {
    let lines = compared(&made_up(1.0), &made_up(1.0));
    assert_eq!((lines.len(), verdicts(&lines, Verdict::NoChange)), (32, 32));
    assert!(lines.iter().all(|l| l.ratio.is_some_and(|r| (r.value - 1.0).abs() < 1e-12)));
    assert!(warnings(&made_up(1.0), &made_up(1.0)).is_empty());
}

#[test]
fn noise_is_no_change() {
    let mut changed = 0;
    for seed in 2..22 {
        let lines = compared(&noisy(1.0, 1), &noisy(1.0, seed));
        changed += lines.len() - verdicts(&lines, Verdict::NoChange);
    }
    assert!(changed <= 12, "{changed} of 640 lines changed where nothing did");
}

#[test]
fn a_fifth_slower_is_slower_and_back_again_is_faster() {
    let (a, b) = (noisy(1.0, 1), noisy(1.2, 2));
    let lines = compared(&a, &b);
    // 24 lines of times and of what is computed from them; gemm and memory stay as they were.
    assert!(verdicts(&lines, Verdict::Slower) >= 23, "{lines:?}");
    assert!(verdicts(&lines, Verdict::NoChange) >= 7, "{lines:?}");
    let effective = lines.iter().find(|l| l.key.measure == "train_effective").unwrap();
    let ratio = effective.ratio.unwrap();
    let (low, high) = ratio.interval.unwrap();
    assert!((1.1..1.3).contains(&ratio.value) && low < ratio.value && ratio.value < high, "a lower rate is slower");
    assert!(verdicts(&compared(&b, &a), Verdict::Faster) >= 23);
    assert!(too_slow(&lines, Some(0.1)).len() >= 23 && too_slow(&lines, Some(0.5)).is_empty());
    assert!(too_slow(&lines, None).is_empty());
    let mut fat = noisy(1.0, 3);
    for line in fat.figures.iter_mut().filter(|l| l.unit == "bytes") {
        line.runs.iter_mut().flatten().for_each(|v| *v *= 1.5);
    }
    let lines = compared(&a, &fat);
    assert_eq!((verdicts(&lines, Verdict::More), too_slow(&lines, Some(0.1)).len()), (4, 4), "{lines:?}");
}

#[test]
fn lines_of_one_file_are_said_to_be() {
    let (mut a, mut b) = (made_up(1.0), made_up(1.0));
    a.figures.retain(|l| l.key.measure != "swap");
    b.figures.retain(|l| l.key.measure != "gemm");
    let lines = compared(&a, &b);
    assert_eq!((verdicts(&lines, Verdict::OnlyInA), verdicts(&lines, Verdict::OnlyInB)), (4, 4));
    assert_eq!(lines.len(), 32);
    // One value on either side says nothing about noise.
    for results in [&mut a, &mut b] {
        results.figures.truncate(1);
        results.figures[0].runs = vec![vec![1.0]];
    }
    assert_eq!(compared(&a, &b)[0].verdict, Verdict::Unknown);
}

#[test]
fn other_machines_programs_and_models_are_warned_about() {
    let a = made_up(1.0);
    let mut b = made_up(1.0);
    b.machine.cpu = vec!["Cortex-A72".into()];
    b.machine.governor = Some("powersave".into());
    b.program.target = "x86_64-linux-musl".into();
    b.models[0].fingerprint = Some("cd".into());
    b.rounds = 1;
    for line in b.figures.iter_mut().filter(|l| l.key.measure == "gemm") {
        line.median *= 0.5;
    }
    let said = warnings(&a, &b).join("\n");
    for part in ["processor: Cortex-A76 and Cortex-A72", "governor", "equally free", "x86_64", "same file", "one round"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_file_that_is_none_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("results.json");
    made_up(1.0).write(&file).unwrap();
    let again = Results::read(&file).unwrap();
    assert_eq!(verdicts(&compared(&made_up(1.0), &again), Verdict::NoChange), 32, "it is read as it was written");
    let text = std::fs::read_to_string(&file).unwrap();
    let broken = [
        ("", "EOF"),
        ("{\"kind\":", "EOF"),
        ("[1, 2]", "invalid type"),
        ("{\"predict_ms\": {\"min\": 1}}", "kind"),
        ("{\"kind\": \"other\", \"format\": 1}", "\"other\""),
        ("{\"kind\": \"acclimate-bench\", \"format\": 7}", "format is 7"),
        ("{\"kind\": \"acclimate-bench\", \"format\": 1}", "missing field"),
        (&text.replacen("\"runs\":[[", "\"runs\":[[-1.0,", 1), "no measurements"),
        (&text.replacen("\"runs\":[[", "\"runs\":[[\"x\",", 1), "invalid type"),
        (&text[..text.len() / 2], "EOF"),
    ];
    for (content, why) in broken {
        std::fs::write(&file, content).unwrap();
        let e = Results::read(&file).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BadData);
        assert!(format!("{e}").contains(why) && e.next_step().is_some(), "{why}: {e}");
    }
    let e = Results::read(&dir.path().join("none.json")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
}

#[test]
fn shares() {
    assert_eq!(["10%", "0.1", "7.5 %", "0"].map(|t| share(t).unwrap()), [0.1, 0.1, 0.075, 0.0]);
    assert!(["", "%", "-1", "nan", "ten", "10", "1"].iter().all(|t| share(t).is_err()));
}

#[test]
fn targets_are_found_beside_their_figures() {
    let results = made_up(1.0);
    let of = |name: &str| results.targets.iter().filter(|t| t.name.starts_with(name)).collect::<Vec<_>>();
    let adapted = of("adapted prediction");
    assert_eq!(adapted.len(), 4);
    assert!(adapted.iter().all(|t| t.met && (1.0..1.08).contains(&t.value)), "{adapted:?}");
    let swap = of("swap");
    assert!(swap.iter().any(|t| t.met) && swap.iter().any(|t| !t.met), "8 × 400 µs is more than 1 ms: {swap:?}");
    let share = of("training step over the machine's own product");
    assert_eq!(share.len(), 1, "of MiniLM 8×64 on one thread alone");
    assert!(!share[0].met && (0.6..0.72).contains(&share[0].value), "{share:?}");
}
