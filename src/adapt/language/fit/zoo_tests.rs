//! Log-probabilities and gradients of every factor of small language models of the usual exporters are PyTorch's, which
//! `scripts/golden_lm_gradients.py` stored.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::adapt::select::{TYPICAL_LENGTH, choose};
use crate::adapter::{DenseTensor, Pooling, SiteKind};
use crate::base::{Base, Task};
use crate::input::arrays;
use crate::plan::{Engine, EnteredTexts, Keeps, SiteWeight, TextPasses, Trains, site_weights, survey};
use crate::sites::{Pattern, Site};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");
/// Alpha over the rank.
const SCALE: f32 = 2.0;
/// More tokens than a text has: it is padded to 64.
const CONTEXT: usize = 128;
/// Models without stored gradients: scripts/golden_lm_gradients.py says why.
const WITHOUT: [&str; 4] = ["gemma2_genai_f32", "llama_genai_f16_dml", "llama_merged_int8", "llama_past_int8"];
/// Rotary frequencies times positions: a product with a weight that says nothing of the text, and so no site.
const FREQUENCIES: &str = "/model/rotary_emb/MatMul";

/// The file `name` in the archive `zip` of the goldens.
fn part(zip: &str, name: &str) -> Vec<u8> {
    let file = std::fs::File::open(format!("{GOLDENS}/{zip}")).unwrap_or_else(|e| panic!("{zip}: {e}"));
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let mut bytes = vec![];
    zip.by_name(name).unwrap_or_else(|e| panic!("{name}: {e}")).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Names of all models.
fn models() -> BTreeSet<String> {
    let files = std::fs::read_dir(format!("{GOLDENS}/lm")).unwrap().map(|f| f.unwrap().path());
    files.map(|f| f.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

/// Names of the models with gradients.
fn stored() -> BTreeSet<String> {
    let file = std::fs::File::open(format!("{GOLDENS}/lm_gradients.zip")).unwrap();
    let zip = zip::ZipArchive::new(file).unwrap();
    zip.file_names().map(|name| name.unwrap().strip_suffix(".npz").unwrap().to_string()).collect()
}

/// The largest difference; infinite where there are not as many numbers, or one is none.
fn apart(got: &[f32], wanted: &[f32]) -> f32 {
    let differences = got.iter().zip(wanted).map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() });
    if got.len() == wanted.len() { differences.fold(0.0, f32::max) } else { f32::INFINITY }
}

struct Golden {
    name: String,
    engine: Engine,
    arrays: HashMap<String, (Vec<usize>, Vec<f32>)>,
    text: Text,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("references.npz");
        std::fs::write(&file, part("lm_gradients.zip", &format!("{name}.npz"))).unwrap();
        let arrays = arrays::read(&file).unwrap().into_iter().map(|a| (a.name, (a.shape, a.data.to_f32())));
        let arrays: HashMap<_, _> = arrays.collect();
        let model = part(&format!("lm/{name}.zip"), &format!("{name}.onnx"));
        let base = Base::from_bytes(&model, Path::new(name)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(base.guess_task().unwrap(), Task::CausalLm, "{name}");
        Golden {
            name: name.into(),
            engine: Engine::new(Arc::new(base), Task::CausalLm, Pooling::None),
            text: Text {
                tokens: arrays["ids"].1.iter().map(|v| *v as u32).collect(),
                start: arrays["start"].1[0] as usize,
            },
            arrays,
        }
    }

    /// Sites with references.
    fn stored(&self) -> BTreeSet<String> {
        self.arrays.keys().filter_map(|key| key.strip_suffix(".grad.A")).map(str::to_string).collect()
    }

    /// The stored factors of a site.
    fn delta(&self, site: &str) -> SiteDelta {
        let factor = |side: &str| {
            let key = format!("{site}.{side}");
            let (shape, data) = self.arrays.get(&key).unwrap_or_else(|| panic!("{}: no {key}", self.name));
            DenseTensor { shape: shape.clone(), data: data.clone() }
        };
        let (a, b) = (factor("A"), factor("B"));
        let rank = a.shape[1];
        SiteDelta { name: site.into(), kind: SiteKind::Linear, rank: rank as u32, alpha: SCALE * rank as f32, a, b }
    }

    /// Sites of the model that have no reference, and the other way round.
    fn unlike(&self) -> Vec<String> {
        let base = &self.engine.base;
        let seen = survey(base, Task::CausalLm, &base.bucket(1, TYPICAL_LENGTH)).unwrap();
        assert!(seen.table.sites.iter().all(|site| site.name != FREQUENCIES), "{}", self.name);
        let body = seen.table.sites.into_iter().filter(|site| seen.classifier.as_ref() != Some(&site.name));
        let mut all: BTreeSet<String> = body.map(|site| site.name).collect();
        let chosen = choose(base, Task::CausalLm, &Pattern::default(), 2, TYPICAL_LENGTH).unwrap();
        all.extend(chosen.sites.into_iter().map(|site| site.name));
        let unlike = &all ^ &self.stored();
        unlike.iter().map(|site| format!("{}: {site} has no reference, or is no site", self.name)).collect()
    }

    /// What is wrong with the log-probabilities `got`, if anything is.
    fn differs(&self, key: &str, got: &[f32]) -> Option<String> {
        let worst = apart(got, &self.arrays[key].1);
        (worst > 1e-3).then(|| format!("{}: {key}: {worst}", self.name))
    }

    /// All that differs from the references.
    fn wrong(&self, keeps: Keeps) -> Vec<String> {
        let deltas: Vec<SiteDelta> = self.stored().iter().map(|site| self.delta(site)).collect();
        let sites: SiteKey = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
        let mut passes = TextPasses::new(&self.engine, CONTEXT).unwrap();
        let plain = passes.log_probs(&Variant::Base, &self.text).unwrap_or_else(|e| panic!("{}: {e:?}", self.name));
        let mut trainer = TextTrainer::new(passes, &sites, (Trains::Both, keeps));
        let factors = Factors::of(&deltas).unwrap();
        let passed = trainer.forward(&factors, &self.text).unwrap_or_else(|e| panic!("{}: {e:?}", self.name));
        let mut wrong: Vec<String> = self.differs("plain_log_probs", &plain).into_iter().collect();
        let log_probs = trainer.log_probs(&passed, &self.text).unwrap();
        wrong.extend(self.differs("log_probs", &log_probs));
        let mut gradients: Vec<Vec<f32>> = vec![vec![]; 2 * sites.len()];
        let mut give = |at: usize, gradient: &[f32]| {
            let sum = &mut gradients[at];
            sum.resize(gradient.len(), 0.0);
            sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g);
        };
        let again = trainer.backward(passed, &self.text, &self.arrays["weights"].1, &mut give).unwrap();
        assert_eq!(again, log_probs, "{}", self.name);
        let keys = sites.iter().flat_map(|(site, _)| ["A", "B"].map(|side| format!("{site}.grad.{side}")));
        let mut worst = (0f32, String::new());
        for (key, got) in keys.zip(gradients) {
            let wanted = &self.arrays[&key].1;
            let off = apart(&got, wanted) / wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
            if off > 1e-4 {
                wrong.push(format!("{}: {key}: {off} of the largest", self.name));
            }
            if off > worst.0 {
                worst = (off, key);
            }
        }
        println!("{}: {keeps:?}: gradients to {:.1e}, that of {}", self.name, worst.0, worst.1);
        wrong
    }
}

#[test]
fn gradients_of_every_site_are_those_of_torch() {
    let (all, stored) = (models(), stored());
    assert!(stored.len() > 30, "{stored:?}");
    let left: Vec<&String> = all.symmetric_difference(&stored).collect();
    assert_eq!(left, WITHOUT, "models without gradients, or gradients without a model");
    let mut wrong = vec![];
    for name in &stored {
        let golden = Golden::open(name);
        wrong.extend(golden.unlike());
        wrong.extend(golden.wrong(Keeps::Everything));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn gradients_of_what_is_computed_twice_are_those_of_torch() {
    let names = ["llama_past", "gemma3_genai_int4", "phi3_past", "gpt2_past"];
    let twice = |name: &str| [Keeps::Selected, Keeps::Checkpoints].map(|keeps| Golden::open(name).wrong(keeps));
    let wrong: Vec<String> = names.iter().flat_map(|name| twice(name).concat()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn layers_before_the_first_site_run_once_a_text() {
    for (name, keeps) in [("llama_past", Keeps::Selected), ("gpt2_past", Keeps::Checkpoints)] {
        let golden = Golden::open(name);
        let chosen = choose(&golden.engine.base, Task::CausalLm, &Pattern::default(), 2, TYPICAL_LENGTH).unwrap();
        let all: Vec<&str> = chosen.sites.iter().map(|site| site.name.as_str()).collect();
        // The sites of the second of two layers, with their factors.
        let deltas: Vec<SiteDelta> = all[all.len() / 2..].iter().map(|site| golden.delta(site)).collect();
        let sites: SiteKey = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
        let factors = Factors::of(&deltas).unwrap();
        let other = Text { tokens: golden.text.tokens.iter().rev().copied().collect(), start: golden.text.start };
        let run = |entered: &EnteredTexts, text: &Text| -> Vec<Vec<f32>> {
            let passes = TextPasses::new(&golden.engine, CONTEXT).unwrap();
            let trainer = TextTrainer::new(passes, &sites, (Trains::Both, keeps));
            let mut trainer = trainer.keeping(entered.clone());
            let passed = trainer.forward(&factors, text).unwrap();
            let mut found = vec![trainer.log_probs(&passed, text).unwrap()];
            let weights = &golden.arrays["weights"].1;
            trainer.backward(passed, text, weights, &mut |_, gradient| found.push(gradient.to_vec())).unwrap();
            assert!(found.len() > sites.len() && found.iter().flatten().any(|v| *v != 0.0), "{name}");
            found
        };
        let (none, kept) = (EnteredTexts::new(0), EnteredTexts::new(1 << 20));
        for text in [&golden.text, &other] {
            let first = run(&kept, text);
            assert!(first == run(&none, text) && first == run(&kept, text), "{name}: other bits");
        }
        let (texts, bytes) = kept.held();
        assert_eq!((texts, none.held()), (2, (0, 0)), "{name}");
        let room = EnteredTexts::new(bytes - 1);
        assert!(run(&room, &golden.text) == run(&kept, &golden.text) && run(&room, &other) == run(&kept, &other));
        assert_eq!(room.held(), (1, bytes / 2), "{name}: no room for the second");
    }
}

#[test]
fn a_packed_projection_is_one_site_and_three_modules() {
    let table = |name: &str| {
        let golden = Golden::open(name);
        let base = &golden.engine.base;
        let sites = survey(base, Task::CausalLm, &base.bucket(1, TYPICAL_LENGTH)).unwrap().table.sites;
        (golden, sites)
    };
    let packed = |sites: &[Site]| sites.iter().filter(|site| !site.modules.is_empty()).count();
    for name in ["qwen2_genai_f32", "qwen3_genai_f32", "smollm2_genai_int4", "llama_genai_int8", "llama_genai_f32"] {
        let (_, sites) = table(name);
        assert_eq!(packed(&sites), 2, "{name}: one a layer");
        for site in sites.iter().filter(|site| !site.modules.is_empty()) {
            let ends: Vec<usize> = site.modules.iter().map(|m| m.outputs.end).collect();
            let starts: Vec<usize> = site.modules.iter().map(|m| m.outputs.start).collect();
            assert_eq!((ends[2], &starts[..]), (site.outputs, &[0, ends[0], ends[1]][..]), "{name}: {}", site.name);
        }
    }
    for name in ["llama_genai_f32_apart", "gemma3_genai_f32", "llama_past", "phi3_past", "gpt2_past"] {
        assert_eq!(packed(&table(name).1), 0, "{name}");
    }
    // The same model, exported with and without packing: the modules are the sites of the other file.
    let ((together, sites), (apart, _)) = (table("llama_genai_f32"), table("llama_genai_f32_apart"));
    let weight = |golden: &Golden, name: &str| {
        let whole = |w: SiteWeight| Ok((w.cols, w.values));
        site_weights(&golden.engine.base, [name].into_iter(), whole).unwrap().remove(0)
    };
    for site in sites.iter().filter(|site| !site.modules.is_empty()) {
        let (wide, all) = weight(&together, &site.name);
        for module in &site.modules {
            let own: Vec<f32> = all.chunks(wide).flat_map(|row| row[module.outputs.clone()].to_vec()).collect();
            assert_eq!(weight(&apart, &module.name), (module.outputs.len(), own), "{}", module.name);
            let only = Pattern::new(&format!("*{}", module.name));
            let chosen = choose(&together.engine.base, Task::CausalLm, &only, 2, TYPICAL_LENGTH).unwrap();
            assert_eq!(chosen.sites, std::slice::from_ref(site), "a pattern in the words of the trained model");
        }
    }
}
