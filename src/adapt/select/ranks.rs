//! The rank of each site: by its part of the gradient where that is asked for, and what it makes of the delta.

use super::Choice;
use crate::adapt::CandidateSites;
use crate::adapter::LoraOptions;
use crate::plan::SiteKey;
use crate::sites::Site;

/// Largest rank, as a multiple of the one that all sites would have.
const MOST: usize = 4;

impl Choice {
    /// `candidates` with ranks by the squared `gradients`, each with as many trained values as before, or a few less.
    pub fn by_gradient(&self, candidates: &CandidateSites, gradients: &[(String, f64)]) -> CandidateSites {
        let ranked = |key: &SiteKey| by_gradient(&self.sites, key, gradients);
        CandidateSites { last_block: ranked(&candidates.last_block), all_sites: ranked(&candidates.all_sites) }
    }
}

/// The same with the ranks of the deltas that are applied for trained factors of these ranks.
pub(crate) fn applied(candidates: &CandidateSites, lora: &LoraOptions) -> CandidateSites {
    let wide = |key: &SiteKey| key.iter().map(|(name, rank)| (name.clone(), lora.applied_rank(*rank))).collect();
    CandidateSites { last_block: wide(&candidates.last_block), all_sites: wide(&candidates.all_sites) }
}

/// Ranks 1, 2, 4 and so on: the rank is doubled where a trained value more meets the most gradient, as long as that
/// fits the number of values of `key`. So ranks go with the squared gradient per trained value of a rank.
fn by_gradient(sites: &[Site], key: &SiteKey, gradients: &[(String, f64)]) -> SiteKey {
    let site = |name: &str| sites.iter().find(|s| s.name == name);
    let gradient = |name: &str| gradients.iter().find(|(n, _)| n == name).map_or(0.0, |(_, g)| *g);
    let known: Option<Vec<(&Site, f64)>> = key.iter().map(|(n, _)| Some((site(n)?, gradient(n)))).collect();
    let Some(known) = known.filter(|k| k.iter().any(|(_, g)| *g > 0.0 && g.is_finite())) else { return key.clone() };
    let room: usize = known.iter().zip(key).map(|((s, _), (_, rank))| s.trainable(*rank)).sum();
    let most = MOST * key.iter().map(|(_, rank)| *rank).max().unwrap_or(1);
    let mut ranks = vec![1; known.len()];
    let mut taken: usize = known.iter().map(|(s, _)| s.trainable(1)).sum();
    loop {
        let next = |i: usize| known[i].0.clamp_rank((2 * ranks[i]).min(most));
        let more = |i: usize| known[i].0.trainable(next(i)) - known[i].0.trainable(ranks[i]);
        let worth = |i: usize| known[i].1 / known[i].0.trainable(ranks[i]) as f64;
        let open = (0..known.len()).filter(|&i| next(i) > ranks[i] && taken + more(i) <= room);
        // The first of equals.
        let Some(best) = open.reduce(|a, b| if worth(b) > worth(a) { b } else { a }) else { break };
        taken += more(best);
        ranks[best] = next(best);
    }
    key.iter().zip(ranks).map(|((name, _), rank)| (name.clone(), rank)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::SiteKind;

    fn sites() -> Vec<Site> {
        let site = |name: &str, inputs, outputs| Site {
            name: name.into(),
            kind: SiteKind::Linear,
            inputs,
            outputs,
            kernel: vec![],
            groups: 1,
            modules: vec![],
        };
        vec![site("a", 32, 32), site("b", 32, 32), site("c", 64, 32), site("narrow", 32, 2)]
    }

    fn ranked(gradients: [f64; 4]) -> Vec<usize> {
        let sites = sites();
        let key: SiteKey = sites.iter().map(|s| (s.name.clone(), s.clamp_rank(8))).collect();
        let gradients: Vec<(String, f64)> = sites.iter().zip(gradients).map(|(s, g)| (s.name.clone(), g)).collect();
        let found = by_gradient(&sites, &key, &gradients);
        let values = |key: &SiteKey| sites.iter().zip(key).map(|(s, (_, rank))| s.trainable(*rank)).sum::<usize>();
        assert!(values(&found) <= values(&key) && values(&found) * 10 >= values(&key) * 8, "{found:?}");
        found.into_iter().map(|(_, rank)| rank).collect()
    }

    #[test]
    fn larger_gradients_get_larger_ranks_within_the_same_values() {
        assert_eq!(ranked([1.0, 1.0, 1.5, 1.0]), [8, 8, 8, 2]);
        assert_eq!(ranked([100.0, 1.0, 0.01, 0.01])[0], 16, "a rank of 32 has no room beside the others");
        let c = ranked([0.01, 0.01, 100.0, 1.0]);
        assert!(c[2] > 8 && c[0] < 8 && c[3] == 2, "{c:?}");
    }

    #[test]
    fn without_gradients_ranks_stay() {
        assert_eq!(ranked([0.0; 4]), [8, 8, 8, 2]);
    }
}
