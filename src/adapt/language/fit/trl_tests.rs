//! Losses and gradients of every factor are those of TRL's trainers, on batches that `scripts/golden_trl.py` stored.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::adapt::fit::family::Side;
use crate::adapter::{DenseTensor, Pooling, SiteKind};
use crate::base::{Base, Task};
use crate::input::arrays;
use crate::plan::{Engine, Keeps, TextPasses, Trains};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/trl/trl.zip");
const RANK: usize = 4;

struct Golden {
    engine: Engine,
    arrays: HashMap<String, (Vec<usize>, Vec<f32>)>,
    deltas: Vec<SiteDelta>,
}

impl Golden {
    fn open() -> Golden {
        let mut zip = zip::ZipArchive::new(std::fs::File::open(GOLDEN).unwrap()).unwrap();
        let mut part = |name: &str| {
            let mut bytes = vec![];
            zip.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cases.npz");
        std::fs::write(&file, part("cases.npz")).unwrap();
        let base = Base::from_bytes(&part("model.onnx"), Path::new("trl")).unwrap();
        let arrays = arrays::read(&file).unwrap();
        let arrays: HashMap<_, _> = arrays.into_iter().map(|a| (a.name, (a.shape, a.data.to_f32()))).collect();
        let mut sites: Vec<String> = arrays
            .keys()
            .filter_map(|name| name.strip_prefix("lora.")?.strip_suffix(".A").map(str::to_string))
            .collect();
        sites.sort();
        let factor = |name: String| {
            let (shape, data) = &arrays[&name];
            DenseTensor { shape: shape.clone(), data: data.clone() }
        };
        let deltas = sites.iter().map(|site| SiteDelta {
            name: site.clone(),
            kind: SiteKind::Linear,
            rank: RANK as u32,
            alpha: 8.0,
            a: factor(format!("lora.{site}.A")),
            b: factor(format!("lora.{site}.B")),
        });
        let deltas: Vec<SiteDelta> = deltas.collect();
        assert_eq!(deltas.len(), 14);
        Golden { engine: Engine::new(Arc::new(base), Task::CausalLm, Pooling::None), deltas, arrays }
    }

    fn one(&self, name: &str) -> f64 {
        f64::from(self.arrays.get(name).unwrap_or_else(|| panic!("no {name}")).1[0])
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        self.arrays.get(name).unwrap_or_else(|| panic!("no {name}")).1.iter().map(|v| *v as u32).collect()
    }

    fn count(&self, start: &str) -> usize {
        (0..).take_while(|n| self.arrays.contains_key(&format!("{start}.{n}"))).count()
    }

    fn pairs(&self) -> Vec<[Text; 2]> {
        let text = |kind: &str, n: usize| Text {
            tokens: self.tokens(&format!("dpo.{kind}_ids.{n}")),
            start: self.one(&format!("dpo.prompt_len.{n}")) as usize,
        };
        (0..self.count("dpo.chosen_ids")).map(|n| [text("chosen", n), text("rejected", n)]).collect()
    }

    fn rated(&self, case: &str) -> Vec<Said> {
        let rated = |n: &f32| {
            let n = *n as usize;
            let start = self.one(&format!("kto.prompt_len.{n}")) as usize;
            let text = Text { tokens: self.tokens(&format!("kto.ids.{n}")), start };
            if self.one(&format!("kto.desirable.{n}")) > 0.0 { Said::Good(text) } else { Said::Bad(text) }
        };
        self.arrays[&format!("{case}.order")].1.iter().map(rated).collect()
    }

    /// Loss and gradients of one batch are those of `case`.
    fn agrees(&self, case: &str, said: Vec<Said>, losses: Losses, kto: Option<[f64; 2]>, keeps: Keeps) {
        let sites: SiteKey = self.deltas.iter().map(|d| (d.name.clone(), RANK)).collect();
        let examples: Vec<LanguageExample> = said
            .into_iter()
            .map(|said| LanguageExample { said, messages: [0; 32], conversation: 0, at_ms: 0, fresh: true })
            .collect();
        let passes = TextPasses::new(&self.engine, 64).unwrap();
        let trainer = TextTrainer::new(passes, &sites, (Trains::Both, keeps));
        let recipe = Recipe::default();
        let all = examples.iter().collect();
        let mut fit = TextFit::from_start(trainer, all, &sites, self.deltas.clone(), &recipe, losses).unwrap();
        fit.kto = kto;
        let items: Vec<usize> = (0..examples.len()).collect();
        let loss = fit.gradients(&items, &mut References::default()).unwrap();
        let grads = &fit.grads;
        let wanted = self.one(&format!("{case}.loss"));
        assert!((loss - wanted).abs() <= 1e-5 * wanted.abs().max(1.0), "{case}: {loss} for {wanted}");
        assert_eq!(fit.parts.len(), grads.0.len());
        for (part, got) in fit.parts.iter().zip(&grads.0) {
            let name = format!("{case}.grad.{}.{:?}", self.deltas[part.site].name, part.side);
            let wanted = &self.arrays.get(&name).unwrap_or_else(|| panic!("no {name}")).1;
            let most = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
            let off = got.iter().zip(wanted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(got.len() == wanted.len() && off <= 1e-4 * most, "{name}: {off} of {most}");
        }
    }
}

fn losses(beta: f64, preference: PairLoss) -> Losses {
    Losses { beta, preference, unchanged: 1.0, ..Losses::default() }
}

#[test]
fn pairs_are_learned_as_trl_learns_them() {
    let golden = Golden::open();
    let cases = [
        ("dpo_sigmoid", 0.1, PairLoss::Sigmoid),
        ("dpo_sigmoid_steep", 0.5, PairLoss::Sigmoid),
        ("dpo_robust", 0.1, PairLoss::Robust { label_smoothing: 0.1 }),
        ("dpo_apo_zero", 0.1, PairLoss::ApoZero),
    ];
    for (case, beta, loss) in cases {
        let said = golden.pairs().into_iter().map(|[chosen, rejected]| Said::Preference { chosen, rejected });
        golden.agrees(case, said.collect(), losses(beta, loss), None, Keeps::Everything);
    }
}

/// An edit with a loss on the pair beside the supervised one; with gradient checkpointing as well.
#[test]
fn edits_are_learned_as_trl_learns_pairs_with_a_supervised_loss() {
    let golden = Golden::open();
    let edits = || {
        golden.pairs().into_iter().map(|[edited, original]| Said::Edit { edited, original: Some(original) }).collect()
    };
    let with = |loss| Losses { supervised: 0.25, edit: Some(loss), ..losses(0.1, PairLoss::Sigmoid) };
    golden.agrees("dpo_sigmoid_sft", edits(), with(PairLoss::Sigmoid), None, Keeps::Everything);
    golden.agrees("dpo_sigmoid_sft", edits(), with(PairLoss::Sigmoid), None, Keeps::Checkpoints);
}

#[test]
fn supervised_tokens_are_learned_as_trl_learns_them() {
    let golden = Golden::open();
    // A conversation with several answers is as many texts: what comes later changes nothing before.
    let said = (0..golden.count("sft.ids")).flat_map(|n| {
        let (tokens, mask) = (golden.tokens(&format!("sft.ids.{n}")), golden.tokens(&format!("sft.mask.{n}")));
        let starts: Vec<usize> = (1..mask.len()).filter(|&at| mask[at - 1] < mask[at]).collect();
        let end = |start: usize| mask[start..].iter().position(|m| *m == 0).map_or(mask.len(), |n| start + n);
        let texts = starts.into_iter().map(|start| Text { tokens: tokens[..end(start)].to_vec(), start });
        texts.map(|edited| Said::Edit { original: None, edited }).collect::<Vec<_>>()
    });
    golden.agrees("sft_nll", said.collect(), Losses::default(), None, Keeps::Everything);
}

#[test]
fn good_and_bad_answers_are_learned_as_trl_learns_them() {
    let golden = Golden::open();
    let apo = losses(0.1, PairLoss::Sigmoid);
    golden.agrees("kto_apo_zero", golden.rated("kto_apo_zero"), apo, None, Keeps::Everything);
    let cases = [("kto", 0.1, [1.0, 1.0]), ("kto_weighted", 0.3, [1.0, 1.5]), ("kto_clamped", 0.1, [1.0, 1.0])];
    for (case, beta, weights) in cases {
        golden.agrees(case, golden.rated(case), losses(beta, PairLoss::Sigmoid), Some(weights), Keeps::Everything);
    }
}

/// The gradient of the divergence from the base on its own texts, by finite differences of the divergence that the gate
/// measures.
#[test]
fn rehearsal_goes_down_the_divergence() {
    let golden = Golden::open();
    let sites: SiteKey = golden.deltas.iter().map(|d| (d.name.clone(), RANK)).collect();
    let text = golden.pairs()[1][0].clone();
    let text = Text { start: 1, ..text };
    let example =
        LanguageExample { said: Said::Good(text.clone()), messages: [0; 32], conversation: 0, at_ms: 0, fresh: true };
    let (recipe, all) = (Recipe::default(), Losses::default());
    let trainer =
        TextTrainer::new(TextPasses::new(&golden.engine, 64).unwrap(), &sites, (Trains::Both, Keeps::Everything));
    let mut fit = TextFit::from_start(trainer, vec![&example], &sites, golden.deltas.clone(), &recipe, all).unwrap();
    let mut references = References { rehearsal: vec![(text.clone(), None)], ..References::default() };
    (fit.pull, fit.weight) = (1.0, 2.0);
    fit.rehearse(7, &mut references).unwrap();
    let mut passes = TextPasses::new(&golden.engine, 64).unwrap();
    let mut divergence = |deltas: &[SiteDelta]| {
        let factors = Factors::of(deltas).unwrap();
        let found = passes.compare(&Variant::Base, &Variant::Adapted(&sites, &factors), &text).unwrap();
        2.0 * found.kl / text.completion().len() as f64
    };
    assert!(divergence(&golden.deltas) > 1e-3, "these factors change the model");
    const H: f32 = 2e-2;
    for (part, gradient) in fit.parts.iter().zip(&fit.grads.0).step_by(3) {
        let at = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
        let mut moved = |by: f32| {
            let mut deltas = golden.deltas.clone();
            let delta = &mut deltas[part.site];
            let factor = if part.side == Side::A { &mut delta.a } else { &mut delta.b };
            factor.data[at] += by;
            divergence(&deltas)
        };
        let slope = (moved(H) - moved(-H)) / f64::from(2.0 * H);
        let got = f64::from(gradient[at]);
        assert!((got - slope).abs() < 0.02 * slope.abs() + 1e-4, "{:?} of {}: {got} for {slope}", part.side, part.site);
    }
}
