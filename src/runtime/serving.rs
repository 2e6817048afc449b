//! The generation that answers, ready to use.

use ndarray::Array2;

use super::Home;
use crate::adapter::HeadDelta;
use crate::adapter::file::AdapterFile;
use crate::adapter::known::KnownInputs;
use crate::error::{Error, Result};
use crate::head;
use crate::plan::{Factors, Rows, SiteKey, Variant};
use crate::store::Store;

/// The adapter that answers; immutable, so that one prediction never mixes two of them.
pub(crate) struct Serving {
    pub generation: u64,
    pub labels: Vec<String>,
    pub sites: SiteKey,
    pub factors: Factors,
    pub head: Option<head::Head>,
    pub adapter_bytes: u64,
    /// Feedback items of the journal that this generation was trained on; those after them are new to it.
    pub examples: u64,
    /// What logits are divided by on their way to probabilities.
    pub temperature: f32,
    /// What the known inputs are like.
    pub known: Option<KnownInputs>,
    /// Deltas and their plans, while the weights are merged.
    merged: Option<crate::plan::Merged>,
}

impl Serving {
    pub(super) fn base(home: &Home) -> Serving {
        Serving {
            generation: 0,
            labels: home.labels().to_vec(),
            sites: vec![],
            factors: Factors::default(),
            head: None,
            adapter_bytes: 0,
            examples: 0,
            temperature: 1.0,
            known: None,
            merged: None,
        }
    }

    pub(super) fn load(home: &Home, store: &Store, generation: u64, merged: bool) -> Result<Serving> {
        if generation == 0 {
            return Ok(Serving::base(home));
        }
        let file: AdapterFile = store.open_generation(generation, Some(&home.base().fingerprint()))?;
        let header = file.header();
        let adapter = file.to_adapter();
        let head = adapter.head.map(head_of).transpose()?;
        let deltas = adapter.sites;
        let sites: SiteKey = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
        let parts = file.sites().flat_map(|s| {
            let scale = s.header.alpha / s.header.rank as f32;
            [(s.a.shape, s.a.data, 1.0), (s.b.shape, s.b.data, scale)]
        });
        Ok(Serving {
            generation,
            labels: header.labels.clone(),
            factors: Factors::from_slices(parts)?,
            sites,
            head,
            adapter_bytes: file.file_bytes(),
            examples: header.lineage.examples,
            temperature: header.calibrated.temperature,
            known: adapter.known,
            merged: merged.then(|| crate::plan::Merged::new(home.base(), deltas)),
        })
    }

    /// The forward pass that this generation takes.
    pub fn variant(&self) -> Variant<'_> {
        match &self.merged {
            _ if self.sites.is_empty() => Variant::Base,
            Some(merged) => Variant::Merged(merged),
            None => Variant::Adapted(&self.sites, &self.factors),
        }
    }

    /// How familiar an input is whose answer is `class`, and its features those of the base: [`KnownInputs::familiarity`]. `None` where
    /// nothing can be said: too little is known, or no input of that class.
    pub fn familiarity(&self, features: &[f32], class: usize) -> Option<f32> {
        let known = self.known.as_ref().filter(|known| known.knows(class) && known.centre.len() == features.len());
        known.map(|known| known.familiarity(features))
    }

    /// Logits over all classes; none while an encoder has no class.
    pub fn logits(&self, rows: &Rows) -> Result<Option<Array2<f32>>> {
        match &self.head {
            Some(head) => head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view())).map(Some),
            None => Ok(rows.logits.clone()),
        }
    }
}

fn head_of(delta: HeadDelta) -> Result<head::Head> {
    let shape = (delta.features, delta.columns.len());
    let odd = |e| Error::bad_data("the head of the adapter has the wrong size").because(e);
    let head = head::Head {
        features: delta.features,
        base_classes: delta.base_classes,
        classes: delta.classes,
        columns: delta.columns,
        weight: Array2::from_shape_vec(shape, delta.weight.data).map_err(odd)?,
        bias: delta.bias.into(),
    };
    head.check()?;
    Ok(head)
}
