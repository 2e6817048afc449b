//! The converged head: regularised multinomial logistic regression on frozen features.
//!
//! With `x` the scaled features, `o` the base's logits as fixed offsets and `l` the loss of [`crate::train::loss`]:
//!
//! `minimise  (1/sum w)·[ sum_i w_i·l(o_i + x_i·V + b, target_i) + (l2/2)·(‖V‖² + sum_c beta_c·b_c²) ]`
//!
//! which is scikit-learn's `LogisticRegression(C = 1/l2)` when features are not scaled, `beta = 0` and there are no
//! offsets. It is convex unless there are [`LossTarget::Not`] rows; those start from the base's answers and end in the
//! nearest minimum.

use super::lbfgs::{Stop, minimise};
use super::loss::{LossTarget, cross_entropy};
use crate::error::{Error, Result};
use crate::head::{Head, add_columns, padded_base, product};
use crate::stats::paired::{mean_gap, within};
use crate::stats::rows::unit_rows;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, CowArray};

/// What a head is solved on; all with the same number of rows.
#[derive(Clone, Copy, Debug)]
pub struct HeadData<'a> {
    /// [rows, features].
    pub features: ArrayView2<'a, f32>,
    /// [rows, base_classes]; `None` for an encoder.
    pub base: Option<ArrayView2<'a, f32>>,
    /// What each row should have answered.
    pub targets: &'a [LossTarget<'a>],
    /// Weight of each row.
    pub weights: &'a [f32],
}

/// How features are scaled before the penalty sees them. The result is folded back: the head acts on features as they
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Centred, then one factor for all, so that the mean squared norm is 1: `l2` then means the same on every model.
    Whole,
    /// Each feature centred and divided by its standard deviation (at least a hundredth of the root mean square of all
    /// of them, so that nearly constant features do not explode), then as [`Scaling::Whole`].
    Each,
}

/// Options of [`Head::solve`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolveOptions {
    /// Strength of the penalty, scikit-learn's `1/C`.
    pub l2: f32,
    /// Scaling of the features.
    pub scaling: Scaling,
    /// beta of columns that correct the base's classes: with 1 a class that nobody named stays where it was.
    pub base_bias: f32,
    /// beta of the user's classes. Above 0, so that a class without examples (in a fold) keeps a finite bias.
    pub new_bias: f32,
    /// Iterations at most.
    pub iterations: usize,
    /// Stop when no entry of the gradient is larger (scikit-learn's `tol`). With scaled features, whose entries are
    /// about `1/sqrt(features)`, it shrinks by that factor.
    pub tolerance: f32,
}

impl Default for SolveOptions {
    fn default() -> SolveOptions {
        SolveOptions {
            l2: 0.1,
            scaling: Scaling::Whole,
            base_bias: 1.0,
            new_bias: 0.01,
            iterations: 300,
            tolerance: 1e-4,
        }
    }
}

/// Strengths tried by [`Head::choose_l2`] unless told otherwise, strong to weak, for scaled features.
pub const L2_GRID: [f32; 9] = [10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001];

/// Factor on the tolerance while strengths are compared: held-out losses settle long before coefficients do.
const ROUGH: f32 = 5.0;

/// How a solution came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solved {
    /// Value of the objective.
    pub objective: f64,
    /// Iterations of L-BFGS.
    pub iterations: usize,
    /// Whether the gradient fell below the tolerance.
    pub converged: bool,
}

/// The outcome of a cross-validation over penalty strengths.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Choice {
    /// The strength chosen.
    pub l2: f32,
    /// Strengths tried. The path ends after two strengths in a row did worse.
    pub tried: Vec<Tried>,
    /// Held-out logits of every row at the chosen strength, [rows, classes].
    pub held_out: Array2<f32>,
}

impl L2Choice {
    /// Of every row of the data that it was chosen on, whether its held-out answer agrees with its target.
    pub fn right(&self, data: &HeadData<'_>) -> Vec<bool> {
        self.held_out.rows().into_iter().zip(data.targets).map(|(logits, target)| agrees(logits, target)).collect()
    }
}

/// One strength that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// The strength.
    pub l2: f32,
    /// Weighted mean held-out loss.
    pub loss: f64,
    /// Of every row, whether its held-out answer agrees with its target.
    pub right: Vec<bool>,
}

impl Head {
    /// Sets weight and bias to the minimum of this module's objective, starting from zero.
    ///
    /// # Errors
    /// When shapes or options do not agree, a value is not finite, or no row has a positive weight.
    pub fn solve(&mut self, data: &HeadData<'_>, options: &SolveOptions) -> Result<Solved> {
        let problem = Problem::new(self, data, options)?;
        let mut v = vec![0.0; problem.len()];
        let solved = problem.minimise(&mut v, options.l2, data.weights, options)?;
        problem.fold_back(&v, self);
        self.check()?;
        Ok(solved)
    }

    /// [`Head::choose_l2`] for a head that corrects a base which already answers: the strongest penalty whose held-out
    /// answers are right as often as those of any strength tried. A smaller loss alone is no reason to move further
    /// from the base.
    ///
    /// # Errors
    /// As [`Head::choose_l2`].
    pub fn choose_gentle_l2(
        &self,
        data: &HeadData<'_>,
        folds: &[u32],
        grid: &[f32],
        options: &SolveOptions,
    ) -> Result<L2Choice> {
        let mut strengths = grid.to_vec();
        strengths.sort_by(|a, b| b.total_cmp(a));
        let mut best: Option<(f32, L2Choice)> = None;
        let mut tried = Vec::new();
        for l2 in strengths {
            let choice = self.choose_l2(data, folds, &[l2], options)?;
            let right: f32 = (choice.held_out.rows().into_iter().zip(data.targets).zip(data.weights))
                .filter(|((z, target), _)| agrees(*z, target))
                .map(|(_, w)| *w)
                .sum();
            tried.extend(choice.tried.iter().cloned());
            if best.as_ref().is_none_or(|(most, _)| right > *most) {
                best = Some((right, choice));
            }
        }
        let (_, choice) = best.ok_or_else(|| Error::internal("no penalty strength to choose from"))?;
        Ok(L2Choice { tried, ..choice })
    }

    /// The plain strength, scikit-learn's default C = 1 on raw features, unless [`Head::choose_l2`] finds one of
    /// `grid` that is clearly better on held-out rows: a smaller loss and more answers right, both beyond chance.
    /// Strengths that differ by less than that end above the plain one as often as below it; where features are so
    /// small or so large that C = 1 is a bad guess, the difference is clear at once. For an encoder, whose head
    /// answers alone.
    ///
    /// # Errors
    /// As [`Head::choose_l2`].
    pub fn choose_l2_or_plain(
        &self,
        data: &HeadData<'_>,
        folds: &[u32],
        grid: &[f32],
        options: &SolveOptions,
    ) -> Result<L2Choice> {
        let plain = Problem::new(self, data, options)?.plain_l2();
        let plain = self.choose_l2(data, folds, &[plain], options)?;
        let other = self.choose_l2(data, folds, grid, options)?;
        let losses = |c: &L2Choice| -> Result<Vec<f32>> {
            Ok(cross_entropy(c.held_out.view(), data.targets, data.weights, 0.0)?.rows)
        };
        let right = |c: &L2Choice| -> Vec<f32> { c.right(data).into_iter().map(|r| f32::from(u8::from(r))).collect() };
        let clear = |more: &[f32], less: &[f32]| !within(mean_gap(more, less, data.weights.iter().copied()));
        let better = clear(&losses(&plain)?, &losses(&other)?) && clear(&right(&other), &right(&plain));
        let tried = plain.tried.iter().chain(&other.tried).cloned().collect();
        Ok(L2Choice { tried, ..if better { other } else { plain } })
    }

    /// Chooses the strength of the penalty by leaving out one fold at a time; `folds[i]` is the fold of row i (blocks
    /// of consecutive rows, see [`crate::gate::split`]): the strongest whose held-out loss is above the smallest by no
    /// more than chance, as in the one-standard-error rule (Breiman and others, *Classification and Regression Trees*,
    /// 1984, section 3.4.3). Few rows tell strengths apart poorly, and the smallest loss alone is mostly reached by
    /// too weak a penalty. The head itself is left alone. Scaling looks at the features of all rows, at no target.
    ///
    /// # Errors
    /// As [`Head::solve`]; fewer than two folds; an empty grid.
    pub fn choose_l2(
        &self,
        data: &HeadData<'_>,
        folds: &[u32],
        grid: &[f32],
        options: &SolveOptions,
    ) -> Result<L2Choice> {
        let problem = Problem::new(self, data, options)?;
        let mut names = folds.to_vec();
        names.sort_unstable();
        names.dedup();
        if folds.len() != data.weights.len() || names.len() < 2 {
            return Err(Error::internal(format!(
                "{} folds over {} of {} rows",
                names.len(),
                folds.len(),
                data.weights.len()
            )));
        }
        let mut strengths = grid.to_vec();
        strengths.sort_by(|a, b| b.total_cmp(a));
        let rough = SolveOptions { tolerance: options.tolerance * ROUGH, ..*options };
        let mut starts = vec![vec![0.0; problem.len()]; names.len()];
        let mut path: Vec<Strength> = Vec::new();
        let mut best = 0;
        for l2 in strengths {
            let held_out = problem.held_out(data.weights, folds, &names, l2, &mut starts, &rough)?;
            let loss = cross_entropy(held_out.view(), data.targets, data.weights, 0.0)?;
            path.push(Strength { l2, mean: f64::from(loss.mean), rows: loss.rows, held_out });
            if path[path.len() - 1].mean < path[best].mean {
                best = path.len() - 1;
            }
            if path.len() - 1 == best + 2 {
                break;
            }
        }
        let right = |s: &Strength| s.held_out.rows().into_iter().zip(data.targets).map(|(z, t)| agrees(z, t)).collect();
        let tried = path.iter().map(|s| Tried { l2: s.l2, loss: s.mean, right: right(s) }).collect();
        let close = |s: &Strength| within(mean_gap(&s.rows, &path[best].rows, data.weights.iter().copied()));
        let chosen = path.iter().position(close).unwrap_or(best);
        let Some(Strength { l2, held_out, .. }) = path.into_iter().nth(chosen) else {
            return Err(Error::internal("no penalty strength to choose from"));
        };
        Ok(L2Choice { l2, tried, held_out })
    }
}

/// One strength of the penalty, on rows that did not teach it.
struct Strength {
    l2: f32,
    mean: f64,
    rows: Vec<f32>,
    held_out: Array2<f32>,
}

fn agrees(logits: ArrayView1<'_, f32>, target: &LossTarget<'_>) -> bool {
    let first = |v: &mut dyn Iterator<Item = f32>| -> Option<usize> {
        v.enumerate()
            .fold(None::<(usize, f32)>, |b, (i, x)| if b.is_none_or(|(_, y)| x > y) { Some((i, x)) } else { b })
            .map(|b| b.0)
    };
    let answer = first(&mut logits.iter().copied());
    match target {
        LossTarget::Class(c) => answer == Some(*c),
        LossTarget::Not(c) => answer != Some(*c),
        LossTarget::Soft(q) => answer == first(&mut q.iter().copied()),
    }
}

/// The objective over scaled features. The unknowns are V row-major, then b.
struct Problem<'a> {
    head: Head,
    x: Array2<f32>,
    offsets: Array2<f32>,
    targets: &'a [LossTarget<'a>],
    mean: Array1<f32>,
    factor: Array1<f32>,
    /// What normalised features are multiplied by.
    length: f32,
    /// beta of each column.
    beta: Vec<f32>,
}

impl<'a> Problem<'a> {
    fn new(head: &Head, data: &HeadData<'a>, options: &SolveOptions) -> Result<Problem<'a>> {
        let rows = data.features.nrows();
        head.view().check_rows(&data.features, rows)?;
        if data.targets.len() != rows || data.weights.len() != rows {
            return Err(Error::internal(format!(
                "{rows} rows, {} targets and {} weights",
                data.targets.len(),
                data.weights.len()
            )));
        }
        if !data.weights.iter().any(|&w| w > 0.0) {
            return Err(Error::bad_data("there is nothing to learn from").hint("give some feedback first"));
        }
        if data.features.iter().any(|v| !v.is_finite()) {
            return Err(Error::bad_data("a feature is not a finite number"));
        }
        if !(options.base_bias >= 0.0 && options.new_bias >= 0.0 && options.tolerance > 0.0) {
            return Err(Error::usage("a penalty or tolerance of the head is negative"));
        }
        let offsets = padded_base(data.base, rows, head.base_classes, head.classes)?;
        // Features of length 1 get the length that the raw ones have on average: a strength means the same on both.
        let (features, length) = match head.normalised {
            true => {
                let length = (data.features.iter().map(|v| v * v).sum::<f32>() / rows.max(1) as f32).sqrt();
                let length = if length > 0.0 { length } else { 1.0 };
                (CowArray::from(unit_rows(data.features) * length), length)
            }
            false => (CowArray::from(data.features), 1.0),
        };
        let (mean, factor) = scales(features.view(), options.scaling);
        let x = (&features - &mean) * &factor;
        let beta = head
            .columns
            .iter()
            .map(|&c| if (c as usize) < head.base_classes { options.base_bias } else { options.new_bias })
            .collect();
        Ok(Problem { head: head.clone(), x, offsets, targets: data.targets, mean, factor, length, beta })
    }

    /// The strength that penalises the weights of raw features as 1 does without scaling.
    fn plain_l2(&self) -> f32 {
        self.factor.iter().map(|f| f * f).sum::<f32>() / self.factor.len() as f32
    }

    fn len(&self) -> usize {
        (self.head.features + 1) * self.head.columns.len()
    }

    fn logits(&self, v: &[f32]) -> Result<Array2<f32>> {
        let columns = self.head.columns.len();
        let (weight, bias) = v.split_at(self.head.features * columns);
        let weight = ArrayView2::from_shape((self.head.features, columns), weight)
            .map_err(|e| Error::internal("head sizes").because(e))?;
        let mut own = product(self.x.view(), weight)?;
        for mut row in own.rows_mut() {
            row.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
        }
        let mut logits = self.offsets.clone();
        add_columns(&self.head.columns, &own, &mut logits);
        Ok(logits)
    }

    /// Logits of every row, [rows, classes], by a head that its fold did not teach. `starts` holds one solution a
    /// fold, from which the next strength goes on.
    fn held_out(
        &self,
        weights: &[f32],
        folds: &[u32],
        names: &[u32],
        l2: f32,
        starts: &mut [Vec<f32>],
        options: &SolveOptions,
    ) -> Result<Array2<f32>> {
        let mut held_out = Array2::zeros((folds.len(), self.head.classes));
        for (&fold, start) in names.iter().zip(starts) {
            let teach: Vec<f32> = weights.iter().zip(folds).map(|(&w, &f)| if f == fold { 0.0 } else { w }).collect();
            if teach.iter().any(|&w| w > 0.0) {
                self.minimise(start, l2, &teach, options)?;
            }
            let logits = self.logits(start)?;
            let judged = held_out.rows_mut().into_iter().zip(logits.rows()).zip(folds);
            for ((mut to, from), _) in judged.filter(|(_, f)| **f == fold) {
                to.assign(&from);
            }
        }
        Ok(held_out)
    }

    fn minimise(&self, v: &mut [f32], l2: f32, weights: &[f32], options: &SolveOptions) -> Result<Solved> {
        if !(l2 >= 0.0 && l2.is_finite()) {
            return Err(Error::usage(format!("a penalty strength of {l2}")).hint("choose a number from 0.001 to 10"));
        }
        let total: f32 = weights.iter().sum();
        let split = self.head.features * self.head.columns.len();
        let penalty = l2 / total;
        let entry = if options.scaling == Scaling::None { 1.0 } else { (self.head.features as f32).sqrt() };
        let stop = Stop { iterations: options.iterations, gradient: (options.tolerance / entry).max(1e-6) };
        let out = minimise(v, stop, |v, g| {
            if v.iter().any(|v| !v.is_finite() || v.abs() > 1e12) {
                return Ok(f64::INFINITY);
            }
            let loss = cross_entropy(self.logits(v)?.view(), self.targets, weights, 0.0)?;
            let d = self.head.own_columns(loss.dlogits.view());
            let dw = product(self.x.t(), d.view())?;
            let (w, b) = v.split_at(split);
            let (gw, gb) = g.split_at_mut(split);
            let mut value = 0.0f64;
            for ((g, &d), &w) in gw.iter_mut().zip(&dw).zip(w) {
                *g = d + penalty * w;
                value += f64::from(w) * f64::from(w);
            }
            for (((g, d), &b), &beta) in gb.iter_mut().zip(d.sum_axis(Axis(0))).zip(b).zip(&self.beta) {
                *g = d + penalty * beta * b;
                value += f64::from(beta) * f64::from(b) * f64::from(b);
            }
            let data: f64 = loss.rows.iter().zip(weights).map(|(&l, &w)| f64::from(l) * f64::from(w)).sum();
            Ok(data / f64::from(total) + 0.5 * f64::from(penalty) * value)
        })?;
        Ok(Solved { objective: out.value, iterations: out.iterations, converged: out.converged })
    }

    /// `W = factor·V`, `b = b' - mean·W`; then `W` by the length that normalised features were given.
    fn fold_back(&self, v: &[f32], head: &mut Head) {
        let columns = head.columns.len();
        let (weight, bias) = v.split_at(head.features * columns);
        for (to, &from) in head.weight.iter_mut().zip(weight) {
            *to = from;
        }
        for (mut row, &f) in head.weight.rows_mut().into_iter().zip(&self.factor) {
            row *= f;
        }
        let shift = self.mean.dot(&head.weight);
        head.bias = bias.iter().zip(&shift).map(|(b, s)| b - s).collect();
        head.weight *= self.length;
    }
}

/// Mean and factor of each feature.
fn scales(x: ArrayView2<'_, f32>, scaling: Scaling) -> (Array1<f32>, Array1<f32>) {
    let features = x.ncols();
    let Some(mean) = x.mean_axis(Axis(0)).filter(|_| scaling != Scaling::None && x.nrows() > 1) else {
        return (Array1::zeros(features), Array1::ones(features));
    };
    let variance: Array1<f32> = x
        .columns()
        .into_iter()
        .zip(&mean)
        .map(|(c, m)| c.iter().map(|v| (v - m).powi(2)).sum::<f32>() / c.len() as f32)
        .collect();
    let total: f32 = variance.sum();
    if total.is_nan() || total <= 0.0 {
        return (mean, Array1::ones(features));
    }
    let factor = match scaling {
        Scaling::Each => {
            let floor = (total / features as f32).sqrt() / 100.0;
            let each = variance.mapv(|v| 1.0 / v.sqrt().max(floor));
            let norm: f32 = variance.iter().zip(&each).map(|(v, f)| v * f * f).sum();
            each / norm.sqrt()
        }
        _ => Array1::from_elem(features, 1.0 / total.sqrt()),
    };
    (mean, factor)
}

#[cfg(test)]
mod tests;
