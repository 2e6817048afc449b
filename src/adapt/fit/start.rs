//! Where the factors of a fit start.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Recipe;
use super::family::less_its_start;
use crate::adapter::{DenseTensor, SiteDelta, SiteKind};
use crate::base::Base;
use crate::error::{Error, Result};
use crate::plan::{SiteWeight, site_weights};
use crate::sites::Site;
use crate::train::svd;

/// The start of the recipe's member of the LoRA family. `sites` have the ranks that are applied.
///
/// # Errors
/// [`UnsupportedModel`](crate::ErrorKind::UnsupportedModel) naming a site that has no such start.
pub(in crate::adapt) fn begin(base: &Base, sites: &[(Site, usize)], recipe: &Recipe) -> Result<Vec<SiteDelta>> {
    let lora = &recipe.lora;
    lora.check()?;
    if lora.is_pissa() {
        let mut of = sites.iter();
        let missing = || Error::internal("a weight without a site");
        return site_weights(base, sites.iter().map(|(site, _)| site.name.as_str()), |weight| {
            let (site, rank) = of.next().ok_or_else(missing)?;
            pissa(site, *rank, &weight, recipe)
        });
    }
    let mut deltas = start(sites, recipe.scale, recipe.seed);
    for (delta, (site, rank)) in deltas.iter_mut().zip(sites) {
        delta.alpha = lora.scale(recipe.scale, *rank) * *rank as f32;
        if lora.lora_fa {
            delta.a.data = frozen_a(site, *rank, recipe.seed);
        }
    }
    Ok(deltas)
}

/// The low-rank start: `A` random with the variance that keeps the size of its input (Kaiming uniform with a = √5, as
/// PEFT does), `B` zero, so that the adapted model starts as the base.
pub(crate) fn start(sites: &[(Site, usize)], scale: f32, seed: u64) -> Vec<SiteDelta> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let delta = |(site, rank): &(Site, usize)| SiteDelta {
        name: site.name.clone(),
        kind: site.kind,
        rank: *rank as u32,
        alpha: scale * *rank as f32,
        a: DenseTensor { shape: site.a_shape(*rank), data: uniform(site, *rank, &mut rng) },
        b: DenseTensor::zeros(&site.b_shape(*rank)),
    };
    sites.iter().map(delta).collect()
}

fn uniform(site: &Site, rank: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let bound = (site.fan_in() as f32).sqrt().recip();
    (0..site.a_shape(rank).iter().product()).map(|_| rng.random_range(-bound..bound)).collect()
}

/// An `A` that is never trained. It follows from the seed, the site's name and the rank alone, whatever other sites
/// there are, so that adapters of one seed have it in common and need not send it.
pub(super) fn frozen_a(site: &Site, rank: usize, seed: u64) -> Vec<f32> {
    let mut hash = blake3::Hasher::new();
    hash.update(b"acclimate frozen A").update(&seed.to_le_bytes()).update(&(rank as u64).to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(*hash.update(site.name.as_bytes()).finalize().as_bytes());
    uniform(site, rank, &mut rng)
}

/// Trains the largest singular triples of the frozen weight: `A` and `B` start as them, each with the root of the
/// singular values, and the other half of the delta takes that product out of the weight.
fn pissa(site: &Site, applied: usize, weight: &SiteWeight, recipe: &Recipe) -> Result<SiteDelta> {
    let rank = recipe.lora.trained_rank(applied);
    let scale = recipe.lora.scale(recipe.scale, rank);
    let SiteWeight { rows, cols, values } = weight;
    let found = svd::largest(values, *rows, *cols, rank, recipe.seed)?;
    let root: Vec<f32> = found.values.iter().map(|v| (v / scale).sqrt()).collect();
    let left = found.left.chunks_exact(rank).flat_map(|row| row.iter().zip(&root).map(|(v, s)| v * s)).collect();
    let right = found.right.chunks_exact(*cols).zip(&root).flat_map(|(row, s)| row.iter().map(move |v| v * s));
    let (left, right): (Vec<f32>, Vec<f32>) = (left, right.collect());
    let (a, b) = if site.kind == SiteKind::Linear { (left, right) } else { (right, left) };
    Ok(less_its_start(SiteDelta {
        name: site.name.clone(),
        kind: site.kind,
        rank: rank as u32,
        alpha: scale * rank as f32,
        a: DenseTensor { shape: site.a_shape(rank), data: a },
        b: DenseTensor { shape: site.b_shape(rank), data: b },
    }))
}
