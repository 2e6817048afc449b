//! What there is to learn from, and what the frozen base says about it.

use ndarray::{Array2, ArrayView1, Axis};

use super::{Adaptation, argmax};
use crate::error::{Error, Result};
use crate::input::Example;
use crate::plan::Variant;
use crate::train::fit::{Goal, Lesson};
use crate::train::loss::Target;
use crate::train::solve::HeadData;

/// Weight of an input that nobody corrected, beside 1 for one that somebody spoke about.
const KEEP_WEIGHT: f32 = 0.5;
/// Consecutive uncorrected inputs that stay on one side.
const KEEP_BLOCK: usize = 4;

/// What there is to learn from.
pub(crate) struct Material {
    /// In order of time.
    pub lessons: Vec<Lesson>,
    /// For each lesson, whether the answer given at the time agreed with it.
    pub served_right: Vec<bool>,
    /// Inputs that nobody corrected, with the base class that was answered and left standing.
    pub idle: Vec<(Example, usize)>,
    pub base_classes: usize,
    pub classes: usize,
    pub features: usize,
}

/// What the frozen base says about lessons and idle inputs, computed once.
pub(super) struct Seen {
    pub features: Array2<f32>,
    pub logits: Option<Array2<f32>>,
    pub idle: Option<Idle>,
}

/// Uncorrected inputs whose answer, left standing, was the base's own. No input both teaches and judges: of every two blocks
/// of consecutive inputs one teaches what is to be kept, and the other judges whether it was.
pub(super) struct Idle {
    pub keep: Vec<Lesson>,
    pub keep_features: Array2<f32>,
    pub keep_logits: Array2<f32>,
    pub examples: Vec<Example>,
    pub features: Array2<f32>,
    pub logits: Array2<f32>,
}

impl Adaptation<'_> {
    pub(super) fn look(&self) -> Result<Seen> {
        let examples: Vec<&Example> = self.material.lessons.iter().map(|l| &l.example).collect();
        let rows = self.engine.many(&Variant::Base, &examples, self.settings.threads)?;
        let idle = self.look_idle()?;
        Ok(Seen { features: rows.features, logits: rows.logits, idle })
    }

    pub(super) fn look_idle(&self) -> Result<Option<Idle>> {
        let all: Vec<&Example> = self.material.idle.iter().map(|(e, _)| e).collect();
        if all.is_empty() || self.material.base_classes == 0 {
            return Ok(None);
        }
        let rows = self.engine.many(&Variant::Base, &all, self.settings.threads)?;
        let Some(logits) = rows.logits else { return Ok(None) };
        let stood: Vec<usize> =
            (0..all.len()).filter(|&i| argmax(logits.row(i)) == Some(self.material.idle[i].1)).collect();
        let (teach, judge): (Vec<_>, Vec<_>) =
            stood.into_iter().enumerate().partition(|(at, _)| (at / KEEP_BLOCK).is_multiple_of(2));
        let (teach, judge): (Vec<usize>, Vec<usize>) =
            (teach.into_iter().map(|(_, i)| i).collect(), judge.into_iter().map(|(_, i)| i).collect());
        let keep = |&i: &usize| Lesson {
            example: all[i].clone(),
            goal: Goal::Keep(self.material.idle[i].1),
            weight: KEEP_WEIGHT,
            at_ms: 0,
            earlier: false,
            keep: softmax(logits.row(i)),
        };
        let at = |m: &Array2<f32>, rows: &[usize]| m.select(Axis(0), rows);
        Ok(Some(Idle {
            keep: teach.iter().map(keep).collect(),
            keep_features: at(&rows.features, &teach),
            keep_logits: at(&logits, &teach),
            examples: judge.iter().map(|&i| all[i].clone()).collect(),
            features: at(&rows.features, &judge),
            logits: at(&logits, &judge),
        }))
    }

    pub(super) fn base_right(&self, seen: &Seen) -> Vec<bool> {
        let right = |(i, l): (usize, &Lesson)| {
            seen.logits.as_ref().and_then(|z| argmax(z.row(i))).is_some_and(|answer| l.goal.agrees(answer))
        };
        self.material.lessons.iter().enumerate().map(right).collect()
    }

    pub(super) fn taught<'a>(&'a self, seen: &'a Seen, rows: &[usize]) -> Result<Taught<'a>> {
        let lessons = rows.iter().map(|&i| &self.material.lessons[i]);
        let keep = seen.idle.iter().flat_map(|i| &i.keep);
        let all: Vec<&Lesson> = lessons.chain(keep).collect();
        let join = |m: &Array2<f32>, more: Option<&Array2<f32>>| -> Result<Array2<f32>> {
            let own = m.select(Axis(0), rows);
            match more {
                Some(more) => ndarray::concatenate(Axis(0), &[own.view(), more.view()])
                    .map_err(|e| Error::internal("features of two widths").because(e)),
                None => Ok(own),
            }
        };
        let idle = seen.idle.as_ref();
        Ok(Taught {
            features: join(&seen.features, idle.map(|i| &i.keep_features))?,
            logits: seen.logits.as_ref().map(|z| join(z, idle.map(|i| &i.keep_logits))).transpose()?,
            targets: all.iter().map(|l| l.target()).collect(),
            weights: all.iter().map(|l| l.weight).collect(),
        })
    }
}

/// Rows that teach a head.
pub(super) struct Taught<'a> {
    pub features: Array2<f32>,
    pub logits: Option<Array2<f32>>,
    pub targets: Vec<Target<'a>>,
    pub weights: Vec<f32>,
}

impl<'a> Taught<'a> {
    pub fn data(&'a self) -> HeadData<'a> {
        HeadData {
            features: self.features.view(),
            base: self.logits.as_ref().map(|z| z.view()),
            targets: &self.targets,
            weights: &self.weights,
        }
    }
}

fn softmax(row: ArrayView1<f32>) -> Vec<f32> {
    let largest = row.fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let exps: Vec<f32> = row.iter().map(|z| (z - largest).exp()).collect();
    let total: f32 = exps.iter().sum();
    exps.iter().map(|e| e / total).collect()
}
