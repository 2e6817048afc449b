//! Whether an input is like those that an adapter's classes are known by: the cosine of its features, as the frozen
//! base model gives them, with the mean of the nearest class (nearest class mean: Mensink, Verbeek, Perronnin and
//! Csurka 2013), held against the same figure of the known inputs themselves, each left out of its own mean (a
//! conformal p-value: Vovk, Gammerman and Shafer 2005).

use super::{DenseTensor, check_data};
use crate::error::{Error, Result};

/// Known inputs without which nothing is called unlike them: at a rate of 5 % twenty can just say so.
pub const FEWEST_KNOWN: usize = 20;

/// What the known inputs are like.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownInputs {
    /// Mean of the features of all: `[features]`.
    pub centre: Vec<f32>,
    /// The class of each row of `means`, increasing.
    pub classes: Vec<u32>,
    /// Direction from the centre to the mean of each class, of length 1: classes × features.
    pub means: DenseTensor,
    /// [`KnownView::strangeness`] of each known input, left out of the mean of its class.
    pub scores: Vec<f32>,
}

impl KnownInputs {
    /// Of features with their classes. `None` where there are fewer than [`FEWEST_KNOWN`], not counting those that are
    /// alone in their class.
    pub fn of(rows: &[(&[f32], usize)]) -> Option<KnownInputs> {
        let features = rows.first()?.0.len();
        let usable = rows.iter().all(|(x, class)| x.len() == features && u32::try_from(*class).is_ok());
        if rows.len() < FEWEST_KNOWN || !usable || rows.iter().any(|(x, _)| x.iter().any(|v| !v.is_finite())) {
            return None;
        }
        let mut centre = vec![0.0f64; features];
        rows.iter().for_each(|(x, _)| add(&mut centre, x, 1.0 / rows.len() as f64));
        let centre: Vec<f32> = centre.into_iter().map(|v| v as f32).collect();
        let centred: Vec<Vec<f32>> = rows.iter().map(|(x, _)| less(x, &centre)).collect();
        let mut classes: Vec<usize> = rows.iter().map(|(_, class)| *class).collect();
        classes.sort_unstable();
        classes.dedup();
        let mut sums = vec![vec![0.0f64; features]; classes.len()];
        let mut counts = vec![0usize; classes.len()];
        let place = |class: usize| classes.binary_search(&class).ok();
        for (x, (_, class)) in centred.iter().zip(rows) {
            let at = place(*class)?;
            add(sums.get_mut(at)?, x, 1.0);
            *counts.get_mut(at)? += 1;
        }
        let means: Vec<Vec<f32>> = sums.iter().map(|sum| unit(sum)).collect();
        let mut scores = vec![];
        for (x, (_, class)) in centred.iter().zip(rows) {
            let at = place(*class)?;
            if *counts.get(at)? < 2 {
                continue;
            }
            let mut without = sums.get(at)?.clone();
            add(&mut without, x, -1.0);
            let own = unit(&without);
            let others = means.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, mean)| mean.as_slice());
            scores.push(strangeness(x, others.chain([own.as_slice()])));
        }
        let classes = classes.into_iter().map(|c| c as u32).collect::<Vec<_>>();
        let means = DenseTensor { shape: vec![classes.len(), features], data: means.concat() };
        (scores.len() >= FEWEST_KNOWN).then_some(KnownInputs { centre, classes, means, scores })
    }

    /// The same, borrowed.
    pub fn view(&self) -> KnownView<'_> {
        KnownView { classes: &self.classes, centre: &self.centre, means: &self.means.data, scores: &self.scores }
    }

    /// # Errors
    /// `BadData` where sizes disagree, nothing is known, or a value is not finite.
    pub(crate) fn check(&self) -> Result<()> {
        let sizes = KnownShape {
            classes: &self.classes,
            centre: &[self.centre.len()],
            means: &self.means.shape,
            scores: &[self.scores.len()],
        };
        sizes.check()?;
        check_data("known inputs", &[self.centre.len()], &self.centre)?;
        check_data("known inputs", &self.means.shape, &self.means.data)?;
        check_data("known inputs", &[self.scores.len()], &self.scores)
    }
}

/// [`KnownInputs`] in the bytes of an adapter file.
#[derive(Debug, Clone, Copy)]
pub struct KnownView<'a> {
    /// The class of each row of `means`, increasing.
    pub classes: &'a [u32],
    /// `[features]`.
    pub centre: &'a [f32],
    /// Classes × features.
    pub means: &'a [f32],
    /// One a known input.
    pub scores: &'a [f32],
}

impl KnownView<'_> {
    /// A copy.
    pub fn to_known_inputs(self) -> KnownInputs {
        KnownInputs {
            classes: self.classes.to_vec(),
            centre: self.centre.to_vec(),
            means: DenseTensor { shape: vec![self.classes.len(), self.centre.len()], data: self.means.to_vec() },
            scores: self.scores.to_vec(),
        }
    }

    /// How unlike the known inputs one is, 0 to 2: one less the cosine with the nearest class.
    pub fn strangeness(&self, features: &[f32]) -> f32 {
        let rows = self.means.chunks_exact(self.centre.len().max(1));
        strangeness(&less(features, self.centre), rows)
    }

    /// Share of inputs that are as strange as this one, or more: a p-value that it is like the known ones. If it is,
    /// this is at most `rate` with a probability of at most `rate`.
    pub fn familiarity(&self, features: &[f32]) -> f32 {
        let score = self.strangeness(features);
        // What is no number is as strange as can be.
        let as_strange = self.scores.iter().filter(|known| **known >= score).count();
        (1 + as_strange) as f32 / (1 + self.scores.len()) as f32
    }

    /// Whether inputs of this class are known.
    pub fn knows(&self, class: usize) -> bool {
        u32::try_from(class).is_ok_and(|class| self.classes.binary_search(&class).is_ok())
    }
}

/// Sizes of [`KnownInputs`].
pub(crate) struct KnownShape<'a> {
    pub classes: &'a [u32],
    pub centre: &'a [usize],
    pub means: &'a [usize],
    pub scores: &'a [usize],
}

impl KnownShape<'_> {
    pub fn check(&self) -> Result<()> {
        let sound = match (self.centre, self.means, self.scores) {
            ([features], [classes, wide], [scores]) => {
                *features > 0 && wide == features && *classes == self.classes.len() && *classes > 0 && *scores > 0
            }
            _ => false,
        };
        if sound && self.classes.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(Error::bad_data("the sizes of what is known of its inputs do not agree").at("known inputs"))
    }
}

fn add(to: &mut [f64], x: &[f32], times: f64) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += times * f64::from(*x));
}

fn less(x: &[f32], centre: &[f32]) -> Vec<f32> {
    x.iter().zip(centre).map(|(x, c)| x - c).collect()
}

/// Of length 1, or zeros.
fn unit(x: &[f64]) -> Vec<f32> {
    let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let by = if length > 0.0 { 1.0 / length } else { 0.0 };
    x.iter().map(|v| (v * by) as f32).collect()
}

fn strangeness<'a>(x: &[f32], means: impl Iterator<Item = &'a [f32]>) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let length = dot(x, x).sqrt();
    let nearest = means.map(|mean| dot(x, mean)).fold(f64::NEG_INFINITY, f64::max);
    match length.is_finite() {
        true if length > 0.0 => (1.0 - nearest / length) as f32,
        // At the centre it is like none.
        true => 1.0,
        false => 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points around the directions of `classes` axes, in no pattern.
    fn around(classes: &[usize], n: usize, features: usize) -> Vec<(Vec<f32>, usize)> {
        let noise = |i: usize, j: usize| ((i * 7919 + j * 104_729 + i * j * 31) % 1009) as f32 / 1009.0 - 0.5;
        let of = |class: usize, i: usize| -> Vec<f32> {
            let at = |j: usize| if j == class { 3.0 } else { 0.0 } + noise(i + 1000 * class, j);
            (0..features).map(at).collect()
        };
        classes.iter().flat_map(|&class| (0..n).map(move |i| (class, i))).map(|(c, i)| (of(c, i), c)).collect()
    }

    fn known(rows: &[(Vec<f32>, usize)]) -> Option<KnownInputs> {
        KnownInputs::of(&rows.iter().map(|(x, class)| (x.as_slice(), *class)).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_known_is_strange_at_the_rate_and_what_is_not_is() {
        let all = around(&[0, 2, 5], 80, 8);
        let (taught, met): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
        let taught: Vec<_> = taught.into_iter().map(|(_, row)| row).collect();
        let known = known(&taught).unwrap();
        known.check().unwrap();
        assert_eq!((known.classes.as_slice(), known.scores.len()), (&[0, 2, 5][..], 120));
        assert!(known.view().knows(2) && !known.view().knows(1) && !known.view().knows(usize::MAX));
        for rate in [0.05, 0.1, 0.3] {
            let called = met.iter().filter(|(_, (x, _))| known.view().familiarity(x) <= rate).count() as f32;
            let share = called / met.len() as f32;
            assert!(share <= rate + 0.06 && share > rate / 4.0, "{share} at {rate}");
        }
        let others = around(&[1, 7], 20, 8);
        assert!(others.iter().all(|(x, _)| known.view().familiarity(x) <= 0.05));
        // The least that can be said of 120 inputs.
        assert_eq!(known.view().familiarity(&[f32::NAN; 8]), 1.0 / 121.0);
        assert_eq!(known.view().strangeness(&known.centre), 1.0);
    }

    #[test]
    fn each_score_leaves_its_input_out() {
        let rows = around(&[0, 3], 12, 5);
        let all = known(&rows).unwrap();
        for (i, (x, class)) in rows.iter().enumerate() {
            // The mean of its class without it, and of the other class; the centre stays.
            let mean = |of: usize| -> Vec<f64> {
                let mut sum = vec![0.0; 5];
                let others = rows.iter().enumerate().filter(|(j, (_, c))| *c == of && *j != i);
                others.for_each(|(_, (x, _))| add(&mut sum, &less(x, &all.centre), 1.0));
                sum
            };
            let cosine = |of: usize| {
                let (x, mean) = (less(x, &all.centre), unit(&mean(of)));
                let length = x.iter().map(|v| v * v).sum::<f32>().sqrt();
                x.iter().zip(&mean).map(|(a, b)| a * b).sum::<f32>() / length
            };
            let expected = 1.0 - cosine(0).max(cosine(3));
            assert!((all.scores[i] - expected).abs() < 1e-5, "{i} of {class}: {} {expected}", all.scores[i]);
        }
    }

    #[test]
    fn little_says_nothing() {
        assert_eq!(known(&[]), None);
        assert_eq!(known(&around(&[0], FEWEST_KNOWN - 1, 4)), None);
        assert!(known(&around(&[0], FEWEST_KNOWN, 4)).is_some());
        // Each alone in its class: nothing can be left out.
        let alone: Vec<_> = around(&[0], 40, 4).into_iter().enumerate().map(|(i, (x, _))| (x, i)).collect();
        assert_eq!(known(&alone), None);
        let mut odd = around(&[0], 40, 4);
        odd[3].0[1] = f32::INFINITY;
        assert_eq!(known(&odd), None);
        let same = vec![(vec![1.0f32; 4], 0); 40];
        let same = known(&same).unwrap();
        assert!(same.check().is_ok() && same.scores.iter().all(|s| *s == 1.0));
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        type Spoil = fn(&mut KnownInputs);
        let spoil: [Spoil; 6] = [
            |k| k.centre.truncate(4),
            |k| k.classes.reverse(),
            |k| k.classes.truncate(1),
            |k| k.means.shape = vec![4, 5],
            |k| k.scores.clear(),
            |k| k.scores[0] = f32::NAN,
        ];
        for spoil in spoil {
            let mut known = known(&around(&[0, 3], 12, 5)).unwrap();
            known.check().unwrap();
            spoil(&mut known);
            assert_eq!(known.check().unwrap_err().kind(), crate::ErrorKind::BadData);
        }
    }
}
