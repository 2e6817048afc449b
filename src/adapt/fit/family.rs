//! What the members of the LoRA family change in a fit: scales and ranks, and which part of each factor is trained.

use crate::adapter::{DenseTensor, LoraOptions, SiteDelta, SiteKind};
use crate::error::Result;
use crate::plan::Trains;
use crate::train::optim::Group;
use crate::train::spd::inverse;

/// Added to the diagonal of `A·Aᵀ` before it is inverted, as PEFT does.
const RIDGE: f64 = 1e-8;

impl LoraOptions {
    /// Rank of the delta that is applied where factors of `rank` are trained: a PiSSA delta takes away what it started
    /// from.
    pub(crate) fn applied_rank(&self, rank: usize) -> usize {
        if self.is_pissa() { 2 * rank } else { rank }
    }

    /// Rank of the factors that are trained in a delta of the rank `applied`.
    pub(crate) fn trained_rank(&self, applied: usize) -> usize {
        if self.is_pissa() { applied / 2 } else { applied }
    }

    /// Of which factors gradients are taken.
    pub(crate) fn trains(&self) -> Trains {
        if self.lora_fa { Trains::B } else { Trains::Both }
    }

    /// Scale of trained factors of `rank`, from the scale `alpha / rank` of plain LoRA.
    pub(crate) fn scale(&self, usual: f32, rank: usize) -> f32 {
        if self.use_rslora { usual * (rank as f32).sqrt() } else { usual }
    }
}

/// One of the two factors of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::adapt) enum Side {
    A,
    B,
}

impl Side {
    fn of(self, delta: &SiteDelta) -> &DenseTensor {
        match self {
            Side::A => &delta.a,
            Side::B => &delta.b,
        }
    }

    fn of_mut(self, delta: &mut SiteDelta) -> &mut DenseTensor {
        match self {
            Side::A => &mut delta.a,
            Side::B => &mut delta.b,
        }
    }

    fn rank_axis(self, kind: SiteKind) -> usize {
        match (kind, self) {
            (SiteKind::Linear, Side::A) | (SiteKind::Conv | SiteKind::ConvTranspose, Side::B) => 1,
            (SiteKind::Linear, Side::B) | (SiteKind::Conv, Side::A) => 0,
            (SiteKind::ConvTranspose, Side::A) => 1,
        }
    }
}

/// A factor seen as `[outer, ranks, inner]`.
#[derive(Debug, Clone, Copy)]
struct Ranks {
    ranks: usize,
    inner: usize,
}

impl Ranks {
    fn of(delta: &SiteDelta, side: Side) -> Ranks {
        let (shape, axis) = (&side.of(delta).shape, side.rank_axis(delta.kind));
        Ranks { ranks: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    /// Length of all ranks at one place of the outer axes.
    fn row(self) -> usize {
        self.ranks * self.inner
    }
}

/// The part of a factor that a training changes: its first ranks; and how they learn.
#[derive(Debug)]
pub(in crate::adapt) struct Part {
    pub site: usize,
    pub side: Side,
    /// Multiplies the learning rate.
    rate: f32,
    decays: bool,
    view: Ranks,
    trained: usize,
    /// What the gradient is multiplied by along its ranks, where `A` stays: `(A·Aᵀ)⁻¹ / s²`.
    projection: Option<Vec<f32>>,
}

/// What `lora` trains of `deltas`, in the order of the deltas, `A` before `B`.
///
/// # Errors
/// [`BadData`](crate::ErrorKind::BadData) naming a site whose `A` stays and has dependent rows.
pub(in crate::adapt) fn parts(deltas: &[SiteDelta], lora: &LoraOptions) -> Result<Vec<Part>> {
    let mut parts = vec![];
    for (site, delta) in deltas.iter().enumerate() {
        let trained = lora.trained_rank(delta.rank as usize);
        let part = |side: Side, rate: f32, projection: Option<Vec<f32>>| {
            let view = Ranks::of(delta, side);
            Part { site, side, rate, decays: !lora.is_pissa(), view, trained, projection }
        };
        let projection = if lora.lora_fa { Some(projection(delta)?) } else { None };
        if !lora.lora_fa {
            parts.push(part(Side::A, 1.0, None));
        }
        parts.push(part(Side::B, lora.loraplus_lr_ratio.unwrap_or(1.0), projection));
    }
    Ok(parts)
}

/// `(A·Aᵀ)⁻¹ / s²`: makes of the gradient of `B` the step whose product with `A` is nearest to the gradient of the
/// weight.
fn projection(delta: &SiteDelta) -> Result<Vec<f32>> {
    let (view, r) = (Ranks::of(delta, Side::A), delta.rank as usize);
    let mut gram = vec![0f64; r * r];
    for row in delta.a.data.chunks_exact(view.row()) {
        for i in 0..r {
            for j in 0..r {
                let pair = row[i * view.inner..][..view.inner].iter().zip(&row[j * view.inner..][..view.inner]);
                gram[i * r + j] += pair.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            }
        }
    }
    (0..r).for_each(|i| gram[i * r + i] += RIDGE);
    let square = f64::from(delta.scale()).powi(2);
    let inverse = inverse(&gram, r).map_err(|e| e.at(&delta.name))?;
    Ok(inverse.into_iter().map(|v| (v / square) as f32).collect())
}

impl Part {
    /// PEFT's name of the factor.
    pub fn name(&self, deltas: &[SiteDelta]) -> String {
        format!("{}.lora_{:?}", deltas[self.site].name, self.side)
    }

    pub fn group(&self, weight_decay: f32) -> Group {
        Group { lr_scale: self.rate, weight_decay: if self.decays { weight_decay } else { 0.0 } }
    }

    /// The trained values.
    pub fn values(&self, deltas: &[SiteDelta]) -> Vec<f32> {
        self.pick(self.whole(deltas))
    }

    /// All values of the factor.
    pub fn whole<'a>(&self, deltas: &'a [SiteDelta]) -> &'a [f32] {
        &self.side.of(&deltas[self.site]).data
    }

    /// The trained ones of the values, or gradients, of a whole factor.
    pub fn pick(&self, whole: &[f32]) -> Vec<f32> {
        let taken = self.trained * self.view.inner;
        whole.chunks_exact(self.view.row()).flat_map(|row| &row[..taken]).copied().collect()
    }

    /// Whether it is all of its factor.
    fn is_whole(&self) -> bool {
        self.trained * self.view.inner == self.view.row()
    }

    /// Hands the trained values over to whom has none of them, `own` or `deltas`, where they are a whole factor: they
    /// are held once.
    pub fn hand_over(&self, own: &mut Vec<f32>, deltas: &mut [SiteDelta]) {
        if self.is_whole() {
            std::mem::swap(own, &mut self.side.of_mut(&mut deltas[self.site]).data);
        }
    }

    /// Adds `scale` times the trained ones of the gradients of a whole factor.
    pub fn add(&self, whole: &[f32], scale: f32, sum: &mut [f32]) {
        if self.is_whole() {
            return added(scale, whole, sum);
        }
        let taken = self.trained * self.view.inner;
        for (sum, row) in sum.chunks_exact_mut(taken).zip(whole.chunks_exact(self.view.row())) {
            added(scale, &row[..taken], sum);
        }
    }

    /// [`Part::pick`] of values that nobody else needs.
    pub fn take(&self, whole: Vec<f32>) -> Vec<f32> {
        if self.is_whole() { whole } else { self.pick(&whole) }
    }

    /// Puts trained values back.
    pub fn put(&self, values: &[f32], deltas: &mut [SiteDelta]) {
        let whole = &mut self.side.of_mut(&mut deltas[self.site]).data;
        let taken = self.trained * self.view.inner;
        for (row, values) in whole.chunks_exact_mut(self.view.row()).zip(values.chunks_exact(taken)) {
            row[..taken].copy_from_slice(values);
        }
    }

    /// Makes a gradient the step that the optimiser is to see.
    pub fn project(&self, gradient: &mut [f32]) {
        let Some(p) = &self.projection else { return };
        let (r, inner) = (self.trained, self.view.inner);
        for row in gradient.chunks_exact_mut(r * inner) {
            let before = row.to_vec();
            row.fill(0.0);
            for (i, out) in row.chunks_exact_mut(inner).enumerate() {
                for (j, from) in before.chunks_exact(inner).enumerate() {
                    out.iter_mut().zip(from).for_each(|(o, g)| *o += p[i * r + j] * g);
                }
            }
        }
    }
}

/// A delta that starts as nothing and whose first half is trained: the second half takes away what the first half
/// starts from.
pub(super) fn less_its_start(half: SiteDelta) -> SiteDelta {
    let twice = |side: Side, sign: f32| {
        let (tensor, row) = (side.of(&half), Ranks::of(&half, side).row());
        let mut shape = tensor.shape.clone();
        shape[side.rank_axis(half.kind)] *= 2;
        let both = |row: &[f32]| row.iter().copied().chain(row.iter().map(|v| sign * v)).collect::<Vec<_>>();
        DenseTensor { shape, data: tensor.data.chunks_exact(row).flat_map(both).collect() }
    };
    let (a, b) = (twice(Side::A, 1.0), twice(Side::B, -1.0));
    SiteDelta { rank: 2 * half.rank, alpha: 2.0 * half.alpha, a, b, ..half }
}

/// `sum += scale·gradient`.
fn added(scale: f32, gradient: &[f32], sum: &mut [f32]) {
    sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += scale * g);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::InitLoraWeights;

    fn delta(kind: SiteKind, a: &[usize], b: &[usize], rank: u32) -> SiteDelta {
        let filled = |shape: &[usize], from: f32| {
            let n = shape.iter().product::<usize>();
            DenseTensor { shape: shape.to_vec(), data: (0..n).map(|i| ((i as f32 + from) * 1.7).sin()).collect() }
        };
        SiteDelta { name: "s".into(), kind, rank, alpha: 2.0 * rank as f32, a: filled(a, 0.3), b: filled(b, 9.1) }
    }

    fn kinds() -> [SiteDelta; 3] {
        [
            delta(SiteKind::Linear, &[5, 2], &[2, 3], 2),
            delta(SiteKind::Conv, &[2, 3, 2], &[4, 2], 2),
            delta(SiteKind::ConvTranspose, &[3, 2, 2], &[4, 2], 2),
        ]
    }

    #[test]
    fn what_is_picked_is_put_back_and_the_rest_stays() {
        let lora = LoraOptions::default().init_lora_weights(InitLoraWeights::Pissa);
        for half in kinds() {
            let mut deltas = [less_its_start(half.clone())];
            let whole = deltas.clone();
            for part in parts(&deltas, &lora).unwrap() {
                let values = part.values(&deltas);
                assert_eq!(values, part.side.of(&half).data, "{:?} {:?}", half.kind, part.side);
                part.put(&vec![0.0; values.len()], &mut deltas);
                assert_eq!(part.values(&deltas), vec![0.0; values.len()]);
                let zeros = part.side.of(&deltas[0]).data.iter().filter(|v| **v == 0.0).count();
                assert_eq!(zeros, values.len(), "the other half stays");
                part.put(&values, &mut deltas);
            }
            assert_eq!(deltas, whole);
            assert_eq!(deltas[0].scale(), half.scale());
        }
    }

    #[test]
    fn a_projected_step_is_the_nearest_to_the_gradient_of_the_weight() {
        // Of all dB, the projected one has s·A·(s·dB) nearest to the weight's gradient G: then Aᵀ·(G - s²·A·dB) = 0.
        let d = &kinds()[0];
        let (lora, s) = (LoraOptions::default().lora_fa(true), d.scale());
        let g: Vec<f32> = (0..15).map(|i| (i as f32 * 0.9).cos()).collect();
        let a = |i: usize, r: usize| d.a.data[i * 2 + r];
        let mut step = vec![0f32; 6];
        for (at, v) in step.iter_mut().enumerate() {
            *v = (0..5).map(|i| a(i, at / 3) * g[i * 3 + at % 3]).sum();
        }
        let parts = parts(std::slice::from_ref(d), &lora).unwrap();
        assert_eq!(parts.iter().map(|p| p.side).collect::<Vec<_>>(), [Side::B]);
        parts[0].project(&mut step);
        let rest = |i: usize, o: usize| g[i * 3 + o] - s * s * (0..2).map(|r| a(i, r) * step[r * 3 + o]).sum::<f32>();
        for (r, o) in (0..6).map(|at| (at / 3, at % 3)) {
            let left: f32 = (0..5).map(|i| a(i, r) * rest(i, o)).sum();
            assert!(left.abs() < 1e-5, "{r} {o}: {left}");
        }
    }

    #[test]
    fn scales_and_ranks() {
        let rs = LoraOptions::default().use_rslora(true);
        assert_eq!((rs.scale(2.0, 16), LoraOptions::default().scale(2.0, 16)), (8.0, 2.0));
        let pissa = LoraOptions::default().init_lora_weights(InitLoraWeights::Pissa);
        assert_eq!((pissa.applied_rank(8), pissa.trained_rank(16), rs.applied_rank(8)), (16, 8, 8));
    }
}
