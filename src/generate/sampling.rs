//! The choice of the next token: greedy, or sampled from a seeded stream that is the same on every platform.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::candidate::Candidate;
use super::config::GenerationConfig;
use super::processors::{LogitsProcessors, argmax};
use crate::error::{Error, Result};
use crate::stats::random::keyed_rng;

/// Number of the random stream that tokens are sampled from.
const SAMPLING_STREAM: u64 = 0x746f_6b65_6e73;

/// Chooses the tokens of one answer.
#[derive(Debug)]
pub struct Sampler {
    processors: LogitsProcessors,
    /// Without one, search is greedy.
    random: Option<ChaCha8Rng>,
    seed: Option<u64>,
}

impl Sampler {
    /// A sampler as `config` says. Where it samples and has no seed, the operating system gives one.
    ///
    /// Errors: as [`GenerationConfig::validate`]; the operating system has no random numbers.
    pub fn new(config: &GenerationConfig) -> Result<Sampler> {
        let processors = LogitsProcessors::new(config)?;
        if !config.do_sample {
            return Ok(Sampler { processors, random: None, seed: None });
        }
        let seed = match config.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|e| Error::internal("cannot get random bytes").because(e))?,
        };
        Ok(Sampler { processors, random: Some(keyed_rng(seed, SAMPLING_STREAM, 0)), seed: Some(seed) })
    }

    /// The seed in use, with which the same answer can be sampled again; none where search is greedy.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The next token, from the `logits` (`[vocabulary]`) of the last position and the `ids` of prompt and
    /// answer so far. `logits` are changed in place.
    ///
    /// Errors: as [`LogitsProcessors::candidates`]. No random number is used then.
    pub fn next_token(&mut self, logits: &mut [f32], ids: &[u32]) -> Result<u32> {
        let Some(random) = &mut self.random else {
            self.processors.penalise(logits, ids)?;
            return argmax(logits);
        };
        let candidates = self.processors.candidates(logits, ids)?;
        drawn(candidates, uniform(random)).ok_or_else(|| Error::internal("no token can be sampled"))
    }
}

/// A number in [0, 1), a multiple of 2⁻⁵³.
fn uniform(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The candidate in whose share of [0, 1) `at` lies, by inversion of the cumulative distribution.
fn drawn(candidates: &[Candidate], at: f64) -> Option<u32> {
    let mut below = 0.0;
    let hit = candidates.iter().find(|c| {
        below += c.probability;
        below > at
    });
    // Rounding may leave the sum a little below 1.
    let last = || candidates.iter().rfind(|c| c.probability > 0.0);
    hit.or_else(last).map(|c| c.token)
}
