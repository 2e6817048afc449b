use super::config::GenerationConfig;
use super::processors::LogitsProcessors;
use super::sampling::Sampler;

fn sampled(seed: u64) -> GenerationConfig {
    GenerationConfig { do_sample: true, top_k: 0, seed: Some(seed), ..GenerationConfig::default() }
}

/// 40 logits from -3.9 to 3.9 in a mixed order.
fn logits() -> Vec<f32> {
    (0..40).map(|i| (i * 23 % 40) as f32 * 0.2 - 3.9).collect()
}

fn draws(config: &GenerationConfig, number: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(config).unwrap();
    (0..number).map(|_| sampler.next_token(&mut logits(), &[]).unwrap()).collect()
}

/// Expected: ChaCha8 and the distribution in Python, by `tests/generate/make.py`.
#[test]
fn a_seed_fixes_the_tokens_on_every_platform() {
    assert_eq!(draws(&sampled(7), FIXED.len()), FIXED);
    assert_eq!(draws(&sampled(7), 500), draws(&sampled(7), 500));
    assert_ne!(draws(&sampled(7), 500), draws(&sampled(8), 500));
}
const FIXED: [u32; 20] = [38, 31, 19, 33, 3, 24, 12, 19, 12, 24, 10, 3, 12, 33, 12, 33, 32, 26, 33, 38];

#[test]
fn without_a_seed_the_one_in_use_can_be_used_again() {
    let config = GenerationConfig { seed: None, ..sampled(0) };
    let mut sampler = Sampler::new(&config).unwrap();
    let first: Vec<u32> = (0..100).map(|_| sampler.next_token(&mut logits(), &[]).unwrap()).collect();
    assert_eq!(first, draws(&GenerationConfig { seed: sampler.seed(), ..config.clone() }, 100));
    assert_ne!(first, draws(&config, 100));
}

/// Pearson's test against the probabilities of the processors: 39 degrees of freedom at most. The statistic
/// exceeds 72.05 in one of a thousand samples of the right distribution.
#[test]
fn tokens_follow_their_probabilities() {
    const DRAWS: usize = 40_000;
    let configs = [
        sampled(1),
        GenerationConfig { temperature: 2.0, ..sampled(2) },
        GenerationConfig { top_k: 9, top_p: 0.95, ..sampled(3) },
        GenerationConfig { min_p: Some(0.1), ..sampled(4) },
    ];
    for config in configs {
        let mut processors = LogitsProcessors::new(&config).unwrap();
        let candidates = processors.candidates(&mut logits(), &[]).unwrap().to_vec();
        assert!((candidates.iter().map(|c| c.probability).sum::<f64>() - 1.0).abs() < 1e-12);
        let drawn = draws(&config, DRAWS);
        assert!(drawn.iter().all(|token| candidates.iter().any(|c| c.token == *token)));
        let statistic: f64 = candidates
            .iter()
            .map(|c| {
                let expected = c.probability * DRAWS as f64;
                (drawn.iter().filter(|token| **token == c.token).count() as f64 - expected).powi(2) / expected
            })
            .sum();
        println!("{} candidates, statistic {statistic:.1}", candidates.len());
        assert!(statistic < 72.05, "{statistic}");
    }
}

#[test]
fn greedy_search_takes_the_penalty_into_account_and_nothing_else() {
    let config =
        GenerationConfig { repetition_penalty: 3.0, temperature: 0.0, top_p: 0.1, ..GenerationConfig::default() };
    let mut sampler = Sampler::new(&config).unwrap();
    assert_eq!(sampler.seed(), None);
    assert_eq!(sampler.next_token(&mut [1.0, 2.0, 2.0, -1.0], &[]).unwrap(), 1);
    assert_eq!(sampler.next_token(&mut [1.0, 2.0, 2.0, -1.0], &[1]).unwrap(), 2);
    assert_eq!(sampler.next_token(&mut [1.0, 2.0, 2.0, -1.0], &[1, 2, 99]).unwrap(), 0);
}

#[test]
fn a_refused_step_uses_no_random_number() {
    let mut sampler = Sampler::new(&sampled(7)).unwrap();
    assert!(sampler.next_token(&mut [], &[]).is_err());
    assert!(sampler.next_token(&mut [f32::NAN, 0.0], &[]).is_err());
    assert!(sampler.next_token(&mut [f32::NEG_INFINITY; 4], &[]).is_err());
    let after: Vec<u32> = (0..FIXED.len()).map(|_| sampler.next_token(&mut logits(), &[]).unwrap()).collect();
    assert_eq!(after, FIXED);
    let wrong = GenerationConfig { temperature: 0.0, ..sampled(7) };
    assert!(Sampler::new(&wrong).is_err());
}
