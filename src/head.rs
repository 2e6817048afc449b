//! The linear head: `logits = [base logits | 0] + (f·W + b)` on some columns.

use crate::error::{Error, Result};
use crate::linalg::{MatMut, MatRef, gemm};
use crate::stats::rows::{length, unit_rows};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};

/// A linear head over features. Columns below `base_classes` correct the base model's own logits, the others are
/// classes of the user.
///
/// A new head, and a new column, starts at weight 0: the base's answers stay what they were until something is
/// learned, and the convex problem of [`Head::solve`](crate::train::solve) ends at the same place from any start.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Length of a feature vector.
    pub features: usize,
    /// Classes of the base model (0 for an encoder).
    pub base_classes: usize,
    /// All classes: those of the base, then the user's.
    pub classes: usize,
    /// Classes that this head acts on, ascending; it holds every class from `base_classes` on.
    pub columns: Vec<u32>,
    /// Whether a feature vector is scaled to length 1 (L2) first; only without classes of the base model.
    pub normalised: bool,
    /// `[features, columns]`.
    pub weight: Array2<f32>,
    /// `[columns]`.
    pub bias: Array1<f32>,
}

/// A head whose weights lie elsewhere, such as in the file of an adapter: what it takes to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadView<'a> {
    pub features: usize,
    pub base_classes: usize,
    pub classes: usize,
    pub columns: &'a [u32],
    pub normalised: bool,
    /// `[features, columns]`.
    pub weight: ArrayView2<'a, f32>,
    /// `[columns]`.
    pub bias: ArrayView1<'a, f32>,
}

impl HeadView<'_> {
    /// [`Head::forward`].
    pub fn forward(&self, features: ArrayView2<'_, f32>, base: Option<ArrayView2<'_, f32>>) -> Result<Array2<f32>> {
        let rows = features.nrows();
        self.check_rows(&features, rows)?;
        let mut logits = padded_base(base, rows, self.base_classes, self.classes)?;
        let own = match self.normalised {
            true => product(unit_rows(features).view(), self.weight)?,
            false => product(features, self.weight)?,
        } + self.bias;
        add_columns(self.columns, &own, &mut logits);
        Ok(logits)
    }

    pub fn check_rows(&self, features: &ArrayView2<'_, f32>, rows: usize) -> Result<()> {
        if features.dim() == (rows, self.features) && self.weight.dim() == (self.features, self.columns.len()) {
            return Ok(());
        }
        Err(Error::internal(format!(
            "features {:?} for a head over {} features and {rows} rows",
            features.dim(),
            self.features
        )))
    }
}

/// Gradients of a loss with respect to a head and its features.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadGrads {
    /// `[features, columns]`.
    pub weight: Array2<f32>,
    /// `[columns]`.
    pub bias: Array1<f32>,
    /// `[rows, features]`.
    pub features: Array2<f32>,
}

impl Head {
    /// A head of zeros. With `correct_base` it also acts on the base's own classes.
    ///
    /// # Errors
    /// When there are no features, no classes, fewer classes than the base has, or nothing to act on.
    pub fn new(features: usize, base_classes: usize, classes: usize, correct_base: bool) -> Result<Head> {
        let first = if correct_base { 0 } else { base_classes };
        if features == 0 || classes < base_classes || first >= classes || u32::try_from(classes).is_err() {
            return Err(Error::usage(format!(
                "a head over {features} features, {base_classes} base classes and {classes} classes has nothing to learn"
            )));
        }
        let columns: Vec<u32> = (first..classes).map(|c| c as u32).collect();
        let n = columns.len();
        Ok(Head {
            features,
            base_classes,
            classes,
            columns,
            normalised: false,
            weight: Array2::zeros((features, n)),
            bias: Array1::zeros(n),
        })
    }

    /// Checks that the fields agree, for a head that comes from outside.
    ///
    /// # Errors
    /// When they do not, or a value is not finite.
    pub fn check(&self) -> Result<()> {
        let n = self.columns.len();
        let ascending = self.columns.windows(2).all(|w| matches!(w, [a, b] if a < b));
        let inside = self.columns.last().is_none_or(|&c| (c as usize) < self.classes);
        let new = self.columns.iter().filter(|&&c| c as usize >= self.base_classes).count();
        let whole = self.classes.checked_sub(self.base_classes) == Some(new);
        let alone = !self.normalised || self.base_classes == 0;
        let finite = self.weight.iter().chain(&self.bias).all(|v| v.is_finite());
        if ascending
            && inside
            && whole
            && alone
            && finite
            && self.weight.dim() == (self.features, n)
            && self.bias.len() == n
        {
            Ok(())
        } else {
            Err(Error::bad_data("a head's classes, weights and sizes do not agree, or hold a value that is not finite"))
        }
    }

    /// Adds `count` new classes at the end, with weight 0 and the given bias. [`quiet_bias`] is a bias that leaves the
    /// base's answers alone; for an encoder, 0.
    ///
    /// # Errors
    /// When there would be too many classes.
    pub fn grow(&mut self, count: usize, bias: f32) -> Result<()> {
        let classes = self.classes.checked_add(count).filter(|&c| c <= 1 << 20);
        let classes = classes.ok_or_else(|| Error::usage(format!("{count} more classes are too many")))?;
        let old = self.columns.len();
        self.columns.extend((self.classes..classes).map(|c| c as u32));
        self.classes = classes;
        let mut weight = Array2::zeros((self.features, old + count));
        weight.slice_mut(s![.., ..old]).assign(&self.weight);
        self.weight = weight;
        self.bias = self.bias.iter().copied().chain(std::iter::repeat_n(bias, count)).collect();
        Ok(())
    }

    /// Logits [rows, classes] for features [rows, features] and the base's logits [rows, base_classes] (`None` for an
    /// encoder).
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn forward(&self, features: ArrayView2<'_, f32>, base: Option<ArrayView2<'_, f32>>) -> Result<Array2<f32>> {
        self.view().forward(features, base)
    }

    /// The same, borrowed.
    pub(crate) fn view(&self) -> HeadView<'_> {
        HeadView {
            features: self.features,
            base_classes: self.base_classes,
            classes: self.classes,
            columns: &self.columns,
            normalised: self.normalised,
            weight: self.weight.view(),
            bias: self.bias.view(),
        }
    }

    /// Gradients, given that of the logits. The base's logits receive theirs unchanged: see [`Head::base_grad`].
    ///
    /// With `d` the columns of `dlogits` that the head acts on: `dW = fᵀ·d`, `db = sum over rows of d`, `df = d·Wᵀ`.
    /// Where features are normalised, `u = f/‖f‖` takes the place of `f`, and `df = (du - u·(u·du))/‖f‖`.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn backward(&self, features: ArrayView2<'_, f32>, dlogits: ArrayView2<'_, f32>) -> Result<HeadGrads> {
        self.view().check_rows(&features, dlogits.nrows())?;
        if dlogits.ncols() != self.classes {
            return Err(Error::internal(format!(
                "a gradient of {} logits for a head of {}",
                dlogits.ncols(),
                self.classes
            )));
        }
        let d = self.own_columns(dlogits);
        let (bias, mut by_features) = (d.sum_axis(Axis(0)), product(d.view(), self.weight.t())?);
        if !self.normalised {
            return Ok(HeadGrads { weight: product(features.t(), d.view())?, bias, features: by_features });
        }
        let unit = unit_rows(features);
        for ((mut df, u), f) in by_features.rows_mut().into_iter().zip(unit.rows()).zip(features.rows()) {
            let along = u.dot(&df);
            df.scaled_add(-along, &u);
            df /= length(f);
        }
        Ok(HeadGrads { weight: product(unit.t(), d.view())?, bias, features: by_features })
    }

    /// The columns that the head acts on, [rows, columns].
    pub(crate) fn own_columns(&self, dlogits: ArrayView2<'_, f32>) -> Array2<f32> {
        let columns: Vec<usize> = self.columns.iter().map(|&c| c as usize).collect();
        dlogits.select(Axis(1), &columns)
    }

    /// The part of the logits' gradient that goes on into the base model, [rows, base_classes].
    pub fn base_grad<'a>(&self, dlogits: &'a Array2<f32>) -> ArrayView2<'a, f32> {
        dlogits.slice(s![.., ..self.base_classes.min(dlogits.ncols())])
    }
}

/// `[base | 0]`, [rows, classes].
pub(crate) fn padded_base(
    base: Option<ArrayView2<'_, f32>>,
    rows: usize,
    base_classes: usize,
    classes: usize,
) -> Result<Array2<f32>> {
    let mut logits = Array2::zeros((rows, classes));
    match base {
        Some(base) if base.dim() == (rows, base_classes) && base_classes <= classes => {
            logits.slice_mut(s![.., ..base_classes]).assign(&base);
        }
        None if base_classes == 0 => {}
        _ => {
            let got = base.map(|b| b.dim());
            return Err(Error::internal(format!(
                "base logits {got:?} where {rows} rows of {base_classes} were expected"
            )));
        }
    }
    Ok(logits)
}

/// Adds `own` [rows, columns] to those columns of `logits`.
pub(crate) fn add_columns(columns: &[u32], own: &Array2<f32>, logits: &mut Array2<f32>) {
    for (mut z, own) in logits.rows_mut().into_iter().zip(own.rows()) {
        for (&column, &v) in columns.iter().zip(own) {
            if let Some(z) = z.get_mut(column as usize) {
                *z += v;
            }
        }
    }
}

/// A bias for a new class that gives it about one percent of the probability next to these base logits [rows,
/// base_classes]: the mean log-sum-exp less `ln 99`. 0 when there are none.
pub fn quiet_bias(base: ArrayView2<'_, f32>) -> f32 {
    if base.is_empty() {
        return 0.0;
    }
    let lse = |row: ArrayView1<'_, f32>| {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
        max + row.iter().map(|v| (v - max).exp()).sum::<f32>().ln()
    };
    base.rows().into_iter().map(lse).sum::<f32>() / base.nrows() as f32 - 99f32.ln()
}

/// `a·b`.
pub(crate) fn product(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    let (a, b) = (dense(&a), dense(&b));
    gemm(1.0, MatRef::of(&a)?, MatRef::of(&b)?, 0.0, MatMut::of(&mut c)?)?;
    Ok(c)
}

/// The same values without gaps: borrowed when they already lie so, in either order.
fn dense<'a>(a: &'a ArrayView2<'_, f32>) -> ndarray::CowArray<'a, f32, ndarray::Ix2> {
    let forward = a.strides().iter().all(|&s| s > 0);
    if forward && a.as_slice_memory_order().is_some() {
        a.view().into()
    } else {
        a.as_standard_layout().into_owned().into()
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::train::loss::{LossTarget, cross_entropy};

    fn wave(rows: usize, cols: usize, shift: f32) -> Array2<f32> {
        Array2::from_shape_fn((rows, cols), |(i, j)| (1.7 * i as f32 + 2.3 * j as f32 + shift).sin())
    }

    fn head() -> Head {
        let mut h = Head::new(5, 3, 4, true).unwrap();
        h.columns = vec![1, 3];
        h.weight = wave(5, 2, 0.3);
        h.bias = ndarray::arr1(&[0.2, -0.4]);
        h.check().unwrap();
        h
    }

    #[test]
    fn forward_touches_its_columns_only() {
        let h = head();
        let (f, base) = (wave(6, 5, 0.0), wave(6, 3, 1.0));
        let z = h.forward(f.view(), Some(base.view())).unwrap();
        let own = f.dot(&h.weight) + &h.bias;
        for i in 0..6 {
            assert_eq!((z[[i, 0]], z[[i, 2]]), (base[[i, 0]], base[[i, 2]]));
            assert!((z[[i, 1]] - base[[i, 1]] - own[[i, 0]]).abs() < 1e-5 && (z[[i, 3]] - own[[i, 1]]).abs() < 1e-5);
        }
        assert!(h.forward(f.view(), None).is_err() && h.forward(wave(6, 4, 0.0).view(), Some(base.view())).is_err());
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let h = head();
        let (f, base) = (wave(6, 5, 0.0), wave(6, 3, 1.0));
        let targets = [
            LossTarget::Class(1),
            LossTarget::Class(3),
            LossTarget::Not(1),
            LossTarget::Class(0),
            LossTarget::Not(3),
            LossTarget::Class(2),
        ];
        let value = |h: &Head, f: &Array2<f32>| {
            let z = h.forward(f.view(), Some(base.view())).unwrap();
            let l = cross_entropy(z.view(), &targets, &[1.0; 6], 0.0).unwrap();
            (l.rows.iter().map(|&v| f64::from(v)).sum::<f64>() / 6.0, l.dlogits)
        };
        let (_, d) = value(&h, &f);
        let g = h.backward(f.view(), d.view()).unwrap();
        let near = |numeric: f64, exact: f32| assert!((numeric - f64::from(exact)).abs() < 5e-5, "{numeric} {exact}");
        for i in 0..5 {
            for j in 0..2 {
                let at = |e: f32| {
                    let mut h = h.clone();
                    h.weight[[i, j]] += e;
                    value(&h, &f).0
                };
                near((at(0.01) - at(-0.01)) / 0.02, g.weight[[i, j]]);
            }
            let at = |e: f32| {
                let mut f = f.clone();
                f[[2, i]] += e;
                value(&h, &f).0
            };
            near((at(0.01) - at(-0.01)) / 0.02, g.features[[2, i]]);
        }
        let at = |e: f32| {
            let mut h = h.clone();
            h.bias[1] += e;
            value(&h, &f).0
        };
        near((at(0.01) - at(-0.01)) / 0.02, g.bias[1]);
        assert_eq!(h.base_grad(&d).dim(), (6, 3));
        // Views with gaps give the same.
        let wide = wave(6, 10, 0.0);
        let every_other = wide.slice(s![.., ..;2]);
        let z = h.forward(every_other, Some(base.view())).unwrap();
        assert_eq!(z, h.forward(every_other.to_owned().view(), Some(base.view())).unwrap());
    }

    #[test]
    fn normalised_features_have_the_gradients_of_finite_differences() {
        let mut h = Head { normalised: true, ..Head::new(5, 0, 3, false).unwrap() };
        h.weight = wave(5, 3, 0.3) * 3.0;
        h.check().unwrap();
        let mut f = wave(4, 5, 0.0) * 2.0;
        let scaled = h.forward((&f * 7.0).view(), None).unwrap();
        h.forward(f.view(), None).unwrap().iter().zip(&scaled).for_each(|(a, b)| assert!((a - b).abs() < 1e-5));
        let targets = [0, 2, 1, 2].map(LossTarget::Class);
        let value = |h: &Head, f: &Array2<f32>| {
            let l = cross_entropy(h.forward(f.view(), None).unwrap().view(), &targets, &[1.0; 4], 0.0).unwrap();
            (l.rows.iter().map(|&v| f64::from(v)).sum::<f64>() / 4.0, l.dlogits)
        };
        let g = h.backward(f.view(), value(&h, &f).1.view()).unwrap();
        let near = |numeric: f64, exact: f32| assert!((numeric - f64::from(exact)).abs() < 5e-5, "{numeric} {exact}");
        for (i, j) in (0..20).map(|at| (at / 5, at % 5)) {
            let at = |e: f32| {
                let mut f = f.clone();
                f[[i, j]] += e;
                value(&h, &f).0
            };
            near((at(0.01) - at(-0.01)) / 0.02, g.features[[i, j]]);
        }
        for (i, j) in (0..15).map(|at| (at / 3, at % 3)) {
            let at = |e: f32| {
                let mut h = h.clone();
                h.weight[[i, j]] += e;
                value(&h, &f).0
            };
            near((at(0.01) - at(-0.01)) / 0.02, g.weight[[i, j]]);
        }
        f.row_mut(1).fill(0.0);
        assert!(h.forward(f.view(), None).unwrap().iter().all(|v| v.is_finite()));
        h.base_classes = 2;
        h.columns = vec![0, 1, 2];
        assert!(h.check().is_err(), "beside a classifier of the base model features are not scaled");
    }

    #[test]
    fn growing_keeps_the_old_answers() {
        let mut h = head();
        let (f, base) = (wave(6, 5, 0.0), wave(6, 3, 1.0) * 4.0);
        let before = h.forward(f.view(), Some(base.view())).unwrap();
        let quiet = quiet_bias(base.view());
        h.grow(2, quiet).unwrap();
        h.check().unwrap();
        let after = h.forward(f.view(), Some(base.view())).unwrap();
        assert_eq!(after.slice(s![.., ..4]), before);
        assert!(after.slice(s![.., 4..]).iter().all(|&v| v == quiet));
        assert_eq!(h.columns, [1, 3, 4, 5]);
        assert!((quiet_bias(ndarray::arr2(&[[0.0, 0.0]]).view()) - (2f32 / 99.0).ln()).abs() < 1e-5);
    }

    #[test]
    fn heads_that_do_not_agree_are_refused() {
        assert!(
            Head::new(0, 0, 2, true).is_err()
                && Head::new(3, 2, 1, true).is_err()
                && Head::new(3, 2, 2, false).is_err()
        );
        let mut h = head();
        h.columns = vec![3, 1];
        assert!(h.check().is_err());
        h.columns = vec![0, 1];
        assert!(h.check().is_err());
        let mut h = head();
        h.bias[0] = f32::NAN;
        assert!(h.check().is_err());
    }
}
