use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::candidate::Candidate;
use super::config::GenerationConfig;
use super::processors::{LogitsProcessors, argmax};
use super::select::{largest, rank};
use crate::error::ErrorKind;

fn config(value: &Value) -> GenerationConfig {
    let mut config = GenerationConfig { do_sample: true, ..GenerationConfig::default() };
    for (key, value) in value.as_object().unwrap() {
        match key.as_str() {
            "temperature" => config.temperature = value.as_f64().unwrap(),
            "top_k" => config.top_k = value.as_u64().unwrap() as usize,
            "top_p" => config.top_p = value.as_f64().unwrap(),
            "min_p" => config.min_p = value.as_f64(),
            "repetition_penalty" => config.repetition_penalty = value.as_f64().unwrap(),
            other => panic!("{other}"),
        }
    }
    config
}

/// Expected: transformers, by `tests/generate/make.py`.
#[test]
fn candidates_are_those_of_transformers() {
    let stored: Value = serde_json::from_str(include_str!("../../tests/generate/processors.json")).unwrap();
    let number = |v: &Value| v.as_f64().map_or(f32::NEG_INFINITY, |v| v as f32);
    let vector = |v: &Value| v.as_array().unwrap().iter().map(number).collect::<Vec<f32>>();
    let mut greatest_gap = 0.0f64;
    let cases = stored["cases"].as_array().unwrap();
    for case in cases {
        let named = format!("{} {}", case["logits"], case["config"]);
        let mut logits = vector(&stored["logits"][case["logits"].as_str().unwrap()]);
        let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let mut processors = LogitsProcessors::new(&config(&case["config"])).unwrap();
        let mut got = processors.candidates(&mut logits, &ids).unwrap().to_vec();
        got.sort_by_key(|c| c.token);
        let tokens: Vec<u64> = got.iter().map(|c| c.token.into()).collect();
        let expected: Vec<u64> = case["tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
        assert_eq!(tokens, expected, "{named}");
        for (candidate, expected) in got.iter().zip(case["probabilities"].as_array().unwrap()) {
            let gap = (candidate.probability - expected.as_f64().unwrap()).abs();
            assert!(gap <= 1e-6, "{named}: {candidate:?} {expected}");
            greatest_gap = greatest_gap.max(gap);
        }
    }
    assert!(cases.len() > 200, "{}", cases.len());
    println!("{} cases, greatest difference of a probability {greatest_gap:.1e}", cases.len());
}

#[test]
fn the_penalty_counts_each_token_once_and_ignores_others() {
    let config = GenerationConfig { repetition_penalty: 2.0, ..GenerationConfig::default() };
    let mut processors = LogitsProcessors::new(&config).unwrap();
    for _ in 0..2 {
        let mut logits = [4.0, -4.0, 0.0, 1.0, f32::NEG_INFINITY, 3.0];
        processors.penalise(&mut logits, &[0, 1, 0, 0, 1, 2, 4, 6, u32::MAX, 0]).unwrap();
        assert_eq!(logits, [2.0, -8.0, 0.0, 1.0, f32::NEG_INFINITY, 3.0]);
    }
    // A vocabulary of another size.
    let mut logits = [4.0; 9];
    processors.penalise(&mut logits, &[8, 8]).unwrap();
    assert_eq!((logits[7], logits[8]), (4.0, 2.0));
    let mut logits = [4.0; 2];
    processors.penalise(&mut logits, &[8, 1]).unwrap();
    assert_eq!(logits, [4.0, 2.0]);
}

#[test]
fn the_first_of_equal_logits_is_the_greedy_choice() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
    assert_eq!(argmax(&[-0.0, 0.0]).unwrap(), 0);
    assert_eq!(argmax(&[f32::NEG_INFINITY, f32::MIN]).unwrap(), 1);
}

#[test]
fn logits_from_which_nothing_follows_are_refused() {
    let none: [&[f32]; 5] =
        [&[], &[f32::NEG_INFINITY; 3], &[1.0, f32::NAN], &[f32::INFINITY, 1.0], &[-f32::NAN, f32::NEG_INFINITY]];
    for logits in none {
        let mut processors = LogitsProcessors::new(&GenerationConfig::default()).unwrap();
        assert_eq!(processors.candidates(&mut logits.to_vec(), &[0]).unwrap_err().kind(), ErrorKind::BadData);
        assert_eq!(processors.penalise(&mut logits.to_vec(), &[0]).unwrap_err().kind(), ErrorKind::BadData);
        assert_eq!(argmax(logits).unwrap_err().kind(), ErrorKind::BadData);
    }
    let mut processors = LogitsProcessors::new(&GenerationConfig::default()).unwrap();
    assert!(processors.candidates(&mut [0.0, 1.0, f32::NAN], &[]).unwrap_err().to_string().contains("token 2"));
}

#[test]
fn parameters_that_overflow_are_named() {
    let cold = GenerationConfig { do_sample: true, temperature: 1e-40, ..GenerationConfig::default() };
    for logits in [[5.0, 1.0], [-5.0, -1.0]] {
        let e = LogitsProcessors::new(&cold).unwrap().candidates(&mut logits.clone(), &[]).unwrap_err();
        assert!(e.kind() == ErrorKind::Usage && e.to_string().contains("temperature"), "{e}");
    }
    let reward = GenerationConfig { repetition_penalty: 1e-40, ..GenerationConfig::default() };
    let e = LogitsProcessors::new(&reward).unwrap().penalise(&mut [5.0, 1.0], &[0]).unwrap_err();
    assert!(e.to_string().contains("repetition_penalty"), "{e}");
    let wrong = GenerationConfig { top_p: f64::NAN, ..GenerationConfig::default() };
    assert!(LogitsProcessors::new(&wrong).is_err());
}

#[test]
fn one_token_is_left_at_least() {
    for change in [
        GenerationConfig { top_p: 0.0, ..GenerationConfig::default() },
        GenerationConfig { top_k: 1, ..GenerationConfig::default() },
        GenerationConfig { min_p: Some(1.0), ..GenerationConfig::default() },
    ] {
        let mut processors = LogitsProcessors::new(&change).unwrap();
        let left = processors.candidates(&mut [-1.0, 2.0, 0.5], &[]).unwrap();
        assert_eq!(left, [Candidate { token: 1, logit: 2.0, probability: 1.0 }]);
        let only = processors.candidates(&mut [f32::NEG_INFINITY, f32::MIN], &[]).unwrap();
        assert_eq!((only.len(), only[0].token), (1, 1));
    }
}

#[test]
fn ranks_are_by_logit_and_then_by_id() {
    let logits = [f32::MAX, 2.0, 1e-40, 0.0, -0.0, 0.0, -1e-40, -2.0, f32::MIN];
    let of = |(token, &logit)| Candidate { token, logit, probability: 0.0 };
    let mut candidates: Vec<Candidate> = (0..).zip(&logits).map(of).collect();
    candidates.reverse();
    candidates.sort_by_key(rank);
    let tokens: Vec<u32> = candidates.iter().map(|c| c.token).collect();
    assert_eq!(tokens, [0, 1, 2, 5, 4, 3, 6, 7, 8]);
}

proptest::proptest! {
    /// Expected: a full sort.
    #[test]
    fn the_largest_are_found(values in proptest::collection::vec(-4i8..40, 0..2000), k in 1usize..300) {
        let logit = |v: i8| if v == -4 { f32::NEG_INFINITY } else { f32::from(v) };
        let logits: Vec<f32> = values.into_iter().map(logit).collect();
        let mut expected = vec![];
        largest(&logits, 0, &mut expected);
        expected.sort_by_key(rank);
        if let Some(least) = expected.get(k - 1).map(|c| c.logit) {
            expected.retain(|c| c.logit >= least);
        }
        let mut got = vec![];
        largest(&logits, k, &mut got);
        got.sort_by_key(rank);
        proptest::prop_assert_eq!(got, expected);
    }
}

/// Logits of a vocabulary of 150,000 that fall off as those of a language model do.
fn vocabulary() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    (0..150_000).map(|_| 2.5 * (-2.0 * uniform().ln()).sqrt() * (6.2831855 * uniform()).cos()).collect()
}

/// Printed by `cargo test --release -- --ignored --nocapture times`.
#[test]
#[ignore = "a measurement"]
fn times_of_a_large_vocabulary() {
    let logits = vocabulary();
    let history: Vec<u32> = (0..2000).map(|i| i * 71).collect();
    let plain = || GenerationConfig { do_sample: true, top_k: 0, ..GenerationConfig::default() };
    let all = BTreeMap::from([
        ("1 no filter", plain()),
        ("2 temperature", GenerationConfig { temperature: 0.7, ..plain() }),
        ("3 top_k 50", GenerationConfig { top_k: 50, ..plain() }),
        ("4 top_p 0.9", GenerationConfig { top_p: 0.9, ..plain() }),
        ("5 top_p 0.9, cold", GenerationConfig { top_p: 0.9, temperature: 0.3, ..plain() }),
        ("6 min_p 0.05", GenerationConfig { min_p: Some(0.05), ..plain() }),
        (
            "7 all",
            GenerationConfig {
                temperature: 0.7,
                top_k: 50,
                top_p: 0.9,
                min_p: Some(0.05),
                repetition_penalty: 1.1,
                ..plain()
            },
        ),
        ("8 greedy", GenerationConfig { do_sample: false, ..plain() }),
    ]);
    for (name, config) in all {
        let mut sampler = super::Sampler::new(&config).unwrap();
        let mut times: Vec<Duration> = (0..31)
            .map(|_| {
                let mut logits = logits.clone();
                let start = Instant::now();
                sampler.next_token(&mut logits, &history).unwrap();
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("{name}: median {:?}, least {:?}", times[15], times[0]);
    }
}
