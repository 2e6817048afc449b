//! Parameters, AdamW, gradient clipping and the learning-rate schedule.
//!
//! AdamW as in Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (2019), in the order of operations of
//! `torch.optim.AdamW` (decay first, epsilon outside the bias-corrected root).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the optimiser treats one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Multiplies the learning rate.
    pub lr_scale: f32,
    /// Decoupled weight decay; each step multiplies the values by `1 - lr·lr_scale·weight_decay`.
    pub weight_decay: f32,
}

impl Default for Group {
    fn default() -> Group {
        Group { lr_scale: 1.0, weight_decay: 0.0 }
    }
}

/// A named flat buffer of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Unique within its [`ParamSet`].
    pub name: String,
    /// The values, in whatever order their owner keeps them.
    pub value: Vec<f32>,
    /// Options.
    pub group: Group,
}

/// The parameters of a training run, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamSet {
    params: Vec<Param>,
}

/// One gradient buffer per parameter, in the order of the [`ParamSet`] that made it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grads(pub Vec<Vec<f32>>);

impl ParamSet {
    /// No parameters.
    pub fn new() -> ParamSet {
        ParamSet::default()
    }
    /// Adds a parameter and returns its index.
    ///
    /// # Errors
    /// When the name is taken, or an option is negative or not finite.
    pub fn add(&mut self, name: impl Into<String>, value: Vec<f32>, group: Group) -> Result<usize> {
        let name = name.into();
        if self.index_of(&name).is_some() {
            return Err(Error::internal("two parameters have the same name").at(name));
        }
        if !(group.lr_scale >= 0.0
            && group.lr_scale.is_finite()
            && group.weight_decay >= 0.0
            && group.weight_decay.is_finite())
        {
            return Err(Error::usage("a learning-rate factor or weight decay is negative or not finite").at(name));
        }
        self.params.push(Param { name, value, group });
        Ok(self.params.len() - 1)
    }
    /// The parameters in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Param> {
        self.params.iter()
    }
    /// The parameters in order, to change their values.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Param> {
        self.params.iter_mut()
    }
    /// Index of the parameter called `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.params.iter().position(|p| p.name == name)
    }
    /// Values of parameter `index`.
    pub fn value(&self, index: usize) -> Option<&[f32]> {
        self.params.get(index).map(|p| p.value.as_slice())
    }
    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.params.len()
    }
    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }
    /// Number of values over all parameters.
    pub fn count(&self) -> usize {
        self.params.iter().map(|p| p.value.len()).sum()
    }
    /// Zero gradients of the right lengths.
    pub fn zero_grads(&self) -> Grads {
        Grads(self.params.iter().map(|p| vec![0.0; p.value.len()]).collect())
    }
    fn check(&self, grads: &Grads) -> Result<()> {
        let same = grads.0.len() == self.params.len()
            && grads.0.iter().zip(&self.params).all(|(g, p)| g.len() == p.value.len());
        if same { Ok(()) } else { Err(Error::internal("gradients and parameters differ in number or length")) }
    }
}

impl<'a> IntoIterator for &'a ParamSet {
    type Item = &'a Param;
    type IntoIter = std::slice::Iter<'a, Param>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Grads {
    /// Adds `scale·other`, for gradients of micro-batches. The caller fixes the order of additions, which fixes the rounding.
    ///
    /// # Errors
    /// When lengths differ.
    pub fn add(&mut self, scale: f32, other: &Grads) -> Result<()> {
        if self.0.len() != other.0.len() || self.0.iter().zip(&other.0).any(|(a, b)| a.len() != b.len()) {
            return Err(Error::internal("gradients of different lengths cannot be added"));
        }
        for (x, &y) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *x += scale * y;
        }
        Ok(())
    }
    /// Sets everything to zero.
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|g| g.fill(0.0));
    }
    /// Euclidean norm over all values.
    pub fn norm(&self) -> f32 {
        self.0.iter().flatten().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32
    }
}

/// Scales the gradients so that their norm is at most `max_norm`, and returns the norm they had
/// (`torch.nn.utils.clip_grad_norm_`: factor `min(1, max_norm / (norm + 1e-6))`).
///
/// # Errors
/// When the norm is not finite: the step must be skipped.
pub fn clip_global_norm(grads: &mut Grads, max_norm: f32) -> Result<f32> {
    let norm = grads.norm();
    if !norm.is_finite() {
        return Err(Error::bad_data("the gradient is not a finite number").hint("lower the learning rate"));
    }
    let factor = max_norm / (norm + 1e-6);
    if factor < 1.0 {
        grads.0.iter_mut().flatten().for_each(|g| *g *= factor);
    }
    Ok(norm)
}

/// Options of [`AdamW`]; the defaults are torch's, except for weight decay, which belongs to each [`Group`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWOptions {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl Default for AdamWOptions {
    fn default() -> AdamWOptions {
        AdamWOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// Moments of one parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Name of the parameter.
    pub name: String,
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of the squared gradient.
    pub second: Vec<f32>,
}

/// Everything that a later run needs to go on as if it had never stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWState {
    /// Options.
    pub options: AdamWOptions,
    /// Steps taken.
    pub step: u64,
    /// In the order of the [`ParamSet`].
    pub moments: Vec<Moments>,
}

/// The optimiser.
#[derive(Clone, Debug)]
pub struct AdamW {
    state: AdamWState,
}

impl AdamW {
    /// A fresh optimiser for `params`.
    pub fn new(params: &ParamSet, options: AdamWOptions) -> AdamW {
        let moments = params
            .iter()
            .map(|p| Moments {
                name: p.name.clone(),
                first: vec![0.0; p.value.len()],
                second: vec![0.0; p.value.len()],
            })
            .collect();
        AdamW { state: AdamWState { options, step: 0, moments } }
    }
    /// Goes on from a stored state.
    ///
    /// # Errors
    /// When the state belongs to other parameters, or holds a value that no run could have left.
    pub fn restore(params: &ParamSet, state: AdamWState) -> Result<AdamW> {
        let o = state.options;
        let fits = state.moments.len() == params.len()
            && state.moments.iter().zip(params).all(|(m, p)| {
                m.name == p.name
                    && m.first.len() == p.value.len()
                    && m.second.len() == p.value.len()
                    && m.first.iter().all(|v| v.is_finite())
                    && m.second.iter().all(|v| v.is_finite() && *v >= 0.0)
            })
            && (0.0..1.0).contains(&o.beta1)
            && (0.0..1.0).contains(&o.beta2)
            && o.eps > 0.0;
        if fits {
            Ok(AdamW { state })
        } else {
            Err(Error::bad_data("a stored optimiser state does not fit these parameters")
                .hint("start the training anew"))
        }
    }
    /// Stands for an optimiser that takes no more steps; only their number is of use.
    pub(crate) fn finished(state: AdamWState) -> AdamW {
        AdamW { state }
    }
    /// The state, to store.
    pub fn state(&self) -> &AdamWState {
        &self.state
    }
    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.state.step
    }
    /// One step at learning rate `lr`. A refused step changes nothing.
    ///
    /// # Errors
    /// When gradients do not fit, or a gradient is not finite.
    pub fn step(&mut self, params: &mut ParamSet, grads: &Grads, lr: f32) -> Result<()> {
        params.check(grads)?;
        let fits = self.state.moments.len() == params.len()
            && self.state.moments.iter().zip(params.iter()).all(|(m, p)| m.first.len() == p.value.len());
        if !fits {
            return Err(Error::internal("the optimiser was made for other parameters"));
        }
        if let Some((p, _)) = params.iter().zip(&grads.0).find(|(_, g)| g.iter().any(|v| !v.is_finite())) {
            return Err(Error::bad_data("a gradient is not a finite number")
                .at(&p.name)
                .hint("lower the learning rate"));
        }
        self.state.step += 1;
        let AdamWOptions { beta1, beta2, eps } = self.state.options;
        // Scalars in f64 and rounded once, as torch does.
        let t = self.state.step as f64;
        let correction1 = 1.0 - f64::from(beta1).powf(t);
        let root2 = (1.0 - f64::from(beta2).powf(t)).sqrt() as f32;
        for ((p, g), m) in params.params.iter_mut().zip(&grads.0).zip(&mut self.state.moments) {
            let rate = f64::from(lr) * f64::from(p.group.lr_scale);
            let keep = (1.0 - rate * f64::from(p.group.weight_decay)) as f32;
            let step_size = (rate / correction1) as f32;
            for (((x, &g), m1), m2) in p.value.iter_mut().zip(g).zip(&mut m.first).zip(&mut m.second) {
                *x *= keep;
                *m1 += (1.0 - beta1) * (g - *m1);
                *m2 = beta2 * *m2 + (1.0 - beta2) * g * g;
                *x -= step_size * (*m1 / (m2.sqrt() / root2 + eps));
            }
        }
        Ok(())
    }
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decay {
    /// Stays.
    Constant,
    /// Falls in a straight line.
    Linear,
    /// Falls along half a cosine.
    Cosine,
}

/// Learning-rate factor as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Steps of linear warm-up: step s (from 0) has the factor `(s + 1)/warmup`, so that no step is wasted at rate 0.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// Shape after the warm-up.
    pub decay: Decay,
    /// Factor at the end of the decay.
    pub floor: f32,
}

impl Schedule {
    /// The factor at `step`, counted from 0. From `total` on it stays at the floor (at 1 for [`Decay::Constant`]).
    pub fn factor(&self, step: u64) -> f32 {
        if step < self.warmup {
            return (step + 1) as f32 / self.warmup as f32;
        }
        let span = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / span as f64).min(1.0);
        let left = match self.decay {
            Decay::Constant => return 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.floor + (1.0 - self.floor) * left as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> ParamSet {
        let mut p = ParamSet::new();
        p.add("a", vec![0.5, -1.0, 2.0], Group { lr_scale: 1.0, weight_decay: 0.01 }).unwrap();
        p.add("b", vec![0.1], Group { lr_scale: 0.5, weight_decay: 0.0 }).unwrap();
        p
    }

    /// Gradient of step t at the current values: sin(3·value + t).
    fn grads(p: &ParamSet, t: usize) -> Grads {
        Grads(p.iter().map(|p| p.value.iter().map(|v| (3.0 * v + t as f32).sin()).collect()).collect())
    }

    #[test]
    fn steps_match_torch() {
        let mut p = two();
        let mut opt = AdamW::new(&p, AdamWOptions::default());
        for (t, want) in TORCH.iter().enumerate() {
            let mut g = grads(&p, t);
            let norm = clip_global_norm(&mut g, 1.0).unwrap();
            assert!((norm - want[0]).abs() < 1e-5, "{norm} {}", want[0]);
            opt.step(&mut p, &g, 0.1).unwrap();
            for (x, y) in p.iter().flat_map(|p| &p.value).zip(&want[1..]) {
                assert!((x - y).abs() < 2e-6, "step {t}: {x} is not {y}");
            }
        }
    }
    /// Norm before clipping, then the values of a and b after each step of torch.optim.AdamW: scripts/golden_adamw.py.
    const TORCH: [[f32; 5]; 5] = [
        [1.0864236, 0.3995, -0.899_000_05, 2.098, 0.05],
        [1.7861259, 0.30607316, -0.8103891, 2.062402, 0.0014167577],
        [1.3929617, 0.22489712, -0.719_828_2, 1.9942188, -0.047_402_92],
        [1.0366985, 0.18968764, -0.713_326_9, 1.9183325, -0.094_205_37],
        [1.5165328, 0.19083445, -0.738_425_7, 1.8673253, -0.121_013_39],
    ];

    #[test]
    fn a_restored_state_goes_on_to_the_bit() {
        let run = |stop: usize| {
            let mut p = two();
            let mut opt = AdamW::new(&p, AdamWOptions::default());
            for t in 0..8 {
                if t == stop {
                    let bytes = postcard::to_stdvec(opt.state()).unwrap();
                    opt = AdamW::restore(&p, postcard::from_bytes(&bytes).unwrap()).unwrap();
                }
                let g = grads(&p, t);
                opt.step(&mut p, &g, 0.05).unwrap();
            }
            p
        };
        assert_eq!(run(100), run(4));
    }

    #[test]
    fn refusals_change_nothing() {
        let mut p = two();
        let before = p.clone();
        let mut opt = AdamW::new(&p, AdamWOptions::default());
        let mut g = p.zero_grads();
        g.0[0][1] = f32::NAN;
        assert!(opt.step(&mut p, &g, 0.1).is_err());
        assert!(clip_global_norm(&mut g, 1.0).is_err());
        assert!(opt.step(&mut p, &Grads(vec![vec![0.0; 3]]), 0.1).is_err());
        assert_eq!((p.clone(), opt.steps()), (before, 0));
        assert!(p.add("a", vec![], Group::default()).is_err());
        let mut other = ParamSet::new();
        other.add("c", vec![0.0; 3], Group::default()).unwrap();
        assert!(AdamW::restore(&other, opt.state().clone()).is_err());
    }

    #[test]
    fn small_gradients_are_not_clipped() {
        let mut g = Grads(vec![vec![0.3], vec![0.4]]);
        assert_eq!(clip_global_norm(&mut g, 1.0).unwrap(), 0.5);
        assert_eq!(g, Grads(vec![vec![0.3], vec![0.4]]));
        g.add(2.0, &Grads(vec![vec![1.0], vec![-1.0]])).unwrap();
        assert_eq!(g, Grads(vec![vec![2.3], vec![-1.6]]));
    }

    #[test]
    fn schedules() {
        let s = |decay| Schedule { warmup: 4, total: 14, decay, floor: 0.1 };
        let linear: Vec<f32> = (0..16).map(|t| s(Decay::Linear).factor(t)).collect();
        assert_eq!(&linear[..5], &[0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!((linear[9] - 0.55).abs() < 1e-6 && (linear[14] - 0.1).abs() < 1e-6 && linear[14] == linear[15]);
        let cosine: Vec<f32> = (0..16).map(|t| s(Decay::Cosine).factor(t)).collect();
        assert!((cosine[9] - 0.55).abs() < 1e-6 && cosine.windows(2).skip(4).all(|w| w[1] <= w[0]));
        assert_eq!(s(Decay::Constant).factor(100), 1.0);
        assert_eq!(Schedule { warmup: 0, total: 0, decay: Decay::Cosine, floor: 0.0 }.factor(0), 1.0);
    }
}
