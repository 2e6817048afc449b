//! The generation that answers, ready to use.

use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::Home;
use crate::adapter::Confusions;
use crate::adapter::file::AdapterFile;
use crate::adapter::known::KnownView;
use crate::error::{Error, Result};
use crate::head::HeadView;
use crate::input::Example;
use crate::plan::{Factors, Rows, SiteKey, Variant};
use crate::store::Store;

/// The adapter that answers; immutable, so that one prediction never mixes two of them.
pub(crate) struct Serving {
    pub generation: u64,
    pub labels: Vec<String>,
    pub sites: SiteKey,
    pub factors: Factors,
    /// Factors, head and known inputs are used where they lie in it; none for the base model.
    file: Option<Arc<AdapterFile>>,
    /// Which answers of the base model it may change; any where there is none.
    pub confusions: Option<Confusions>,
    pub adapter_bytes: u64,
    /// Feedback items of the journal that this generation was trained on; those after them are new to it.
    pub examples: u64,
    /// What logits are divided by on their way to probabilities.
    pub temperature: f32,
    /// Deltas and their plans, while the weights are merged.
    merged: Option<crate::plan::Merged>,
}

/// What a generation answers to some inputs.
pub(crate) struct Answered {
    /// Over all classes, `[inputs, classes]`; none while an encoder has no class.
    pub logits: Option<Array2<f32>>,
    /// The base model's features, `[inputs, features]`, where its forward pass was a step of the answer.
    pub base_features: Option<Array2<f32>>,
}

impl Serving {
    pub(super) fn base(home: &Home) -> Serving {
        Serving {
            generation: 0,
            labels: home.labels().to_vec(),
            sites: vec![],
            factors: Factors::default(),
            file: None,
            confusions: None,
            adapter_bytes: 0,
            examples: 0,
            temperature: 1.0,
            merged: None,
        }
    }

    pub(super) fn load(home: &Home, store: &Store, generation: u64, merged: bool) -> Result<Serving> {
        if generation == 0 {
            return Ok(Serving::base(home));
        }
        let access = home.config().storage.adapters;
        let file = Arc::new(store.open_generation_as(generation, Some(&home.base().fingerprint()), access)?);
        let header = file.header();
        let serving = Serving {
            generation,
            labels: header.labels.clone(),
            sites: header.sites.iter().map(|s| (s.name.clone(), s.rank as usize)).collect(),
            factors: Factors::in_file(&file)?,
            confusions: header.confusions.clone(),
            adapter_bytes: file.file_bytes(),
            examples: header.lineage.examples,
            temperature: header.calibrated.temperature,
            merged: merged.then(|| crate::plan::Merged::new(home.base(), file.to_adapter().sites)),
            file: Some(file.clone()),
        };
        // Never an answer without the head that belongs to it.
        if serving.head().is_none() && header.head.is_some() {
            return Err(Error::bad_data("the head of the adapter has the wrong size").at(file.path().display()));
        }
        Ok(serving)
    }

    /// The head, if it has one.
    pub fn head(&self) -> Option<HeadView<'_>> {
        let (header, weight, bias) = self.file.as_ref()?.head()?;
        Some(HeadView {
            features: header.features,
            base_classes: header.base_classes,
            classes: header.classes,
            columns: &header.columns,
            normalised: header.normalised,
            weight: ArrayView2::from_shape((header.features, header.columns.len()), weight.data).ok()?,
            bias: ArrayView1::from(bias.data),
        })
    }

    /// What the known inputs are like.
    pub fn known(&self) -> Option<KnownView<'_>> {
        self.file.as_ref()?.known()
    }

    /// The forward pass that this generation takes.
    pub fn variant(&self) -> Variant<'_> {
        match &self.merged {
            _ if self.sites.is_empty() => Variant::Base,
            Some(merged) => Variant::Merged(merged),
            None => Variant::Adapted(&self.sites, &self.factors),
        }
    }

    /// What is answered to `examples`, by `forward`. Where this generation may not change the base model's answer, that
    /// stands.
    pub fn answers(
        &self,
        examples: &[&Example],
        forward: impl Fn(&Variant, &[&Example]) -> Result<Rows>,
    ) -> Result<Answered> {
        let rows = forward(&self.variant(), examples)?;
        let mut logits = self.logits(&rows)?;
        let base = match &self.confusions {
            _ if self.sites.is_empty() => Some(rows),
            Some(_) => Some(forward(&Variant::Base, examples)?),
            None => None,
        };
        let base_logits = base.as_ref().and_then(|base| base.logits.as_ref());
        if let (Some(confusions), Some(logits), Some(base)) = (&self.confusions, &mut logits, base_logits) {
            for (adapted, base) in logits.rows_mut().into_iter().zip(base.rows()) {
                confusions.let_stand(adapted, base);
            }
        }
        Ok(Answered { logits, base_features: base.map(|base| base.features) })
    }

    /// How familiar an input is whose answer is `class`, and its features those of the base:
    /// [`KnownView::familiarity`]. `None` where nothing can be said: too little is known, or no input of that class.
    pub fn familiarity(&self, features: &[f32], class: usize) -> Option<f32> {
        let known = self.known().filter(|known| known.knows(class) && known.centre.len() == features.len());
        known.map(|known| known.familiarity(features))
    }

    /// Logits over all classes by the adapter alone; none while an encoder has no class.
    pub fn logits(&self, rows: &Rows) -> Result<Option<Array2<f32>>> {
        match self.head() {
            Some(head) => head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view())).map(Some),
            None => Ok(rows.logits.clone()),
        }
    }
}

#[cfg(test)]
pub(in crate::runtime) mod tests {
    use std::path::Path;

    use super::*;
    use crate::adapter::{Adapter, Calibrated, Confusion, DenseTensor, HeadDelta, SiteDelta, SiteKind, samples};
    use crate::input::LabelledSet;
    use crate::runtime::{InitOptions, Session};
    use crate::stats::rows::argmax;

    /// A home whose generation 1 answers class 0 whatever it is asked, through a site or without one, where
    /// `confusions` let it.
    pub(in crate::runtime) fn stubborn(folder: &Path, confusions: Option<Confusions>, site: bool) -> Session {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx");
        let home = Home::init(folder.join("home"), &InitOptions::new(model)).unwrap();
        let session = home.session("default").unwrap();
        let features = home.0.features;
        let mut sites = vec![];
        if site {
            // A delta of nothing: the forward pass is an adapted one all the same.
            let (name, kind) = ("/0/Conv".to_string(), SiteKind::Conv);
            let (a, b) = (DenseTensor::zeros(&[1, 6, 5]), DenseTensor::zeros(&[32, 1]));
            sites.push(SiteDelta { name, kind, rank: 1, alpha: 1.0, a, b });
        }
        let mut adapter = Adapter {
            base: home.base().fingerprint(),
            labels: home.labels().to_vec(),
            sites,
            head: Some(HeadDelta {
                features,
                base_classes: 6,
                classes: 6,
                pooling: home.0.engine.pooling,
                columns: vec![0],
                normalised: false,
                weight: DenseTensor::zeros(&[features, 1]),
                bias: vec![1000.0],
            }),
            confusions,
            calibrated: Calibrated::default(),
            known: None,
            ..samples::adapter(0)
        };
        // All feedback is new to it.
        adapter.lineage.examples = 0;
        session.store.commit(&adapter).unwrap();
        session.follow().unwrap();
        session
    }

    #[test]
    fn an_answer_that_feedback_never_showed_wrong_stands_with_its_probabilities() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hapt_users_23_26.npz");
        let all = LabelledSet::read(&data).unwrap().filter_user(26).unwrap();
        let inputs: Vec<_> = (0..all.len()).step_by(9).map(|i| all.input(i).unwrap()).collect();
        let shown = [3, 4].map(|answered| Confusion { answered, right: 0, base_margin: 100.0, adapter_margin: 0.0 });
        for site in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let session = stubborn(folder.path(), Some(Confusions::of(shown, 1.0)), site);
            let base = session.evaluate(&inputs, true, 1).unwrap().unwrap();
            let ours = session.evaluate(&inputs, false, 1).unwrap().unwrap();
            let mut answered = [0; 2];
            for ((input, base), ours) in inputs.iter().zip(base.rows()).zip(ours.rows()) {
                let class = argmax(base).unwrap();
                let changes = [0, 3, 4].contains(&class);
                answered[usize::from(changes)] += 1;
                match changes {
                    true => assert_eq!(argmax(ours), Some(0)),
                    false => assert_eq!(ours, base),
                }
                let one = session.predict(input).unwrap();
                let wanted = &session.labels()[if changes { 0 } else { class }];
                assert_eq!((one.generation, one.label()), (1, Some(wanted.as_str())));
            }
            assert!(answered.iter().all(|n| *n > 5), "both kinds of answers occur: {answered:?}");
            let folder = tempfile::tempdir().unwrap();
            let free = stubborn(folder.path(), None, site).evaluate(&inputs, false, 1).unwrap().unwrap();
            assert!(free.rows().into_iter().all(|row| argmax(row) == Some(0)));
        }
    }
}
