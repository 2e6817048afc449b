//! Averages of the parameters over optimiser steps.

use serde::{Deserialize, Serialize};

use super::optim::ParamSet;

/// The mean of the parameters over steps: stochastic weight averaging (Izmailov et al. 2018, *Averaging Weights Leads
/// to Wider Optima and Better Generalization*). Holds as much memory as the parameters, from the first step that
/// counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Average {
    /// Steps that count so far.
    count: u64,
    /// In the order of the parameter set.
    means: Vec<Vec<f32>>,
}

impl Average {
    /// Counts the parameters as they are now.
    pub fn add(&mut self, params: &ParamSet) {
        if self.count == 0 {
            self.means = params.iter().map(|p| p.value.clone()).collect();
        }
        self.count += 1;
        let share = 1.0 / self.count as f32;
        for (mean, p) in self.means.iter_mut().zip(params) {
            mean.iter_mut().zip(&p.value).for_each(|(mean, value)| *mean += share * (value - *mean));
        }
    }

    /// Puts the mean into the parameters, and counts from nothing again. Without a step that counts they stay.
    pub fn take(&mut self, params: &mut ParamSet) {
        let Average { means, .. } = std::mem::take(self);
        params.iter_mut().zip(means).for_each(|(p, mean)| p.value = mean);
    }

    /// Whether these are means of such parameters.
    pub fn fits(&self, params: &ParamSet) -> bool {
        if self.count == 0 {
            return self.means.is_empty();
        }
        self.means.len() == params.len()
            && self.means.iter().zip(params).all(|(mean, p)| mean.len() == p.value.len())
            && self.means.iter().flatten().all(|v| v.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optim::Group;

    fn set(values: &[&[f32]]) -> ParamSet {
        let mut params = ParamSet::new();
        for (at, value) in values.iter().enumerate() {
            params.add(format!("p{at}"), value.to_vec(), Group::default()).unwrap();
        }
        params
    }

    #[test]
    fn the_mean_of_all_steps_that_count() {
        let (mut average, mut params) = (Average::default(), set(&[&[1.0, -2.0], &[3.0]]));
        let kept = params.iter().map(|p| p.value.clone()).collect::<Vec<_>>();
        average.take(&mut params);
        assert_eq!(params.iter().map(|p| p.value.clone()).collect::<Vec<_>>(), kept, "nothing was counted");
        let steps: [[&[f32]; 2]; 3] = [[&[1.0, -2.0], &[3.0]], [&[2.0, 0.0], &[9.0]], [&[6.0, -1.0], &[0.0]]];
        for step in &steps {
            average.add(&set(step));
        }
        assert!(average.fits(&params));
        average.take(&mut params);
        let means = params.iter().flat_map(|p| p.value.clone()).collect::<Vec<f32>>();
        for (mean, expected) in means.iter().zip([3.0, -1.0, 4.0]) {
            assert!((mean - expected).abs() < 1e-6, "{means:?}");
        }
        assert_eq!(average, Average::default());
    }

    #[test]
    fn means_of_other_parameters_do_not_fit() {
        let mut average = Average::default();
        average.add(&set(&[&[1.0, 2.0]]));
        for other in [set(&[&[1.0]]), set(&[&[1.0, 2.0], &[1.0]]), set(&[])] {
            assert!(!average.fits(&other));
        }
        average.add(&set(&[&[f32::NAN, 2.0]]));
        assert!(!average.fits(&set(&[&[1.0, 2.0]])));
    }
}
