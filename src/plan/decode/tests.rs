//! Language models of the usual exporters answer as ONNX Runtime does, however their tokens are read.

use std::io::Read;
use std::path::Path;

use super::*;
use crate::input::{NamedArray, arrays};

/// Made by `scripts/golden_lm.py`: a zip a model, of the model and its references.
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/lm");

/// A language model and what ONNX Runtime answers with it.
pub(super) struct Golden {
    pub name: String,
    model: Vec<u8>,
    pub arrays: Vec<NamedArray>,
}

impl Golden {
    fn of(name: &str) -> Golden {
        let mut zip = zip::ZipArchive::new(std::fs::File::open(format!("{GOLDENS}/{name}.zip")).unwrap()).unwrap();
        let mut part = |end: &str| {
            let mut bytes = vec![];
            zip.by_name(&format!("{name}.{end}")).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let (model, references) = (part("onnx"), part("npz"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("references.npz");
        std::fs::write(&file, references).unwrap();
        Golden { name: name.into(), model, arrays: arrays::read(&file).unwrap() }
    }

    pub fn all() -> impl Iterator<Item = Golden> {
        let files = std::fs::read_dir(GOLDENS).unwrap().map(|f| f.unwrap().path());
        let mut names: Vec<String> = files.map(|f| f.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        assert!(names.len() > 30, "{names:?}");
        names.into_iter().map(|name| Golden::of(&name))
    }

    pub fn array(&self, name: &str) -> Option<&NamedArray> {
        self.arrays.iter().find(|a| a.name == name)
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.array(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
        ids.data.to_f32().into_iter().map(|v| v as u32).collect()
    }

    /// Rows of scores; those of a copy without rounded activations where there are such.
    fn rows(&self, name: &str) -> Vec<Vec<f32>> {
        let found = self.array(&format!("exact_{name}")).or_else(|| self.array(name));
        let array = found.unwrap_or_else(|| panic!("{}: no {name}", self.name));
        let width = *array.shape.last().unwrap();
        array.data.to_f32().chunks(width).map(<[f32]>::to_vec).collect()
    }

    /// Whether the model has no cache.
    fn is_plain(&self) -> bool {
        self.name.contains("_plain")
    }

    /// How far scores may be from the reference.
    pub fn tolerance(&self) -> f32 {
        match &self.name {
            // Dynamic quantisation: which code a number falls to depends on the largest one beside it, in the
            // padding as well.
            name if name.ends_with("_past_int8") => 1.0,
            name if name.contains("f16") => 3e-2,
            _ => 1e-3,
        }
    }

    pub fn base(&self) -> Base {
        let base = Base::from_bytes(&self.model, Path::new(&self.name));
        base.unwrap_or_else(|e| panic!("{}: {e:?}", self.name))
    }

    fn decoder(&self) -> Decoder {
        let base = self.base();
        assert_eq!(base.guess_task().unwrap(), crate::base::Task::CausalLm, "{}", self.name);
        Decoder::new(Arc::new(base), 128, 1).unwrap()
    }

    /// What is wrong with `scores`, if anything is.
    fn differs(&self, what: &str, scores: &[f32], wanted: &[f32]) -> Option<String> {
        assert_eq!(scores.len(), wanted.len(), "{}: {what}", self.name);
        let worst = scores.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        (worst.is_nan() || worst > self.tolerance()).then(|| format!("{}: {what}: {worst}", self.name))
    }
}

fn largest(scores: &[f32]) -> u32 {
    let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(b.cmp(a)));
    best.unwrap() as u32
}

#[test]
fn scores_are_those_of_onnx_runtime() {
    let mut wrong = vec![];
    for golden in Golden::all() {
        let (decoder, mut cache) = (golden.decoder(), KvCache::new());
        let mut read = |what: &str, ids: &[u32], wanted: &[f32]| {
            let scores = decoder
                .read(&Variant::Base, &mut cache, ids)
                .unwrap_or_else(|e| panic!("{}: {what}: {e:?}", golden.name));
            wrong.extend(golden.differs(what, &scores, wanted));
        };
        if golden.is_plain() {
            let (ids, rows) = (golden.ids("full_ids"), golden.rows("full_logits"));
            read("prefill", &ids[..12], &rows[11]);
            read("second turn", &ids[12..], &rows[ids.len() - 1]);
            continue;
        }
        read("prefill", &golden.ids("prefill_ids"), golden.rows("prefill_logits").last().unwrap());
        for (n, (token, row)) in golden.ids("decode_ids").iter().zip(golden.rows("decode_logits")).enumerate() {
            read(&format!("token {n}"), &[*token], &row);
        }
        read("second turn", &golden.ids("turn_ids"), golden.rows("turn_logits").last().unwrap());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn greedy_tokens_are_those_of_onnx_runtime() {
    // Where ONNX Runtime rounds activations its tokens are others now and then.
    let exact =
        |golden: &Golden| golden.tolerance() <= 1e-3 && !golden.arrays.iter().any(|a| a.name.starts_with("exact"));
    let mut wrong = vec![];
    for golden in Golden::all().filter(exact) {
        let (decoder, mut cache) = (golden.decoder(), KvCache::new());
        let prompt = if golden.is_plain() { golden.ids("full_ids")[..12].to_vec() } else { golden.ids("prefill_ids") };
        let mut scores = decoder.read(&Variant::Base, &mut cache, &prompt).unwrap();
        let mut tokens = vec![];
        let greedy = golden.ids("greedy_ids");
        for token in &greedy {
            tokens.push(largest(&scores));
            scores = decoder.read(&Variant::Base, &mut cache, &[*token]).unwrap();
        }
        if tokens != greedy {
            wrong.push(format!("{}: {tokens:?}, not {greedy:?}", golden.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_way_in_which_tokens_are_read_changes_nothing() {
    let golden = Golden::of("llama_past");
    let decoder = golden.decoder();
    let ids = [golden.ids("prefill_ids"), golden.ids("decode_ids"), golden.ids("turn_ids")].concat();
    let mut whole = KvCache::new();
    let wanted = decoder.read(&Variant::Base, &mut whole, &ids).unwrap();
    for parts in [vec![1; ids.len()], vec![1, 8, 9, 5], vec![22, 1], vec![8, 8, 7]] {
        assert_eq!(parts.iter().sum::<usize>(), ids.len());
        let (mut cache, mut at, mut scores) = (KvCache::new(), 0, vec![]);
        for n in parts {
            scores = decoder.read(&Variant::Base, &mut cache, &ids[at..at + n]).unwrap();
            at += n;
        }
        assert_eq!(golden.differs("in parts", &scores, &wanted), None);
    }
    assert_eq!(decoder.caches.known(), Some(true));
    let step = decoder.plans.steps.get((SiteKey::new(), 128), || panic!("no step was run")).unwrap();
    assert_eq!(step.in_place.known(), Some(true));
    // What was forgotten leaves nothing behind.
    decoder.read(&Variant::Base, &mut whole, &[5, 6, 7]).unwrap();
    whole.truncate(ids.len() - 3);
    let again = decoder.read(&Variant::Base, &mut whole, &ids[ids.len() - 3..]).unwrap();
    assert_eq!(golden.differs("after a cut", &again, &wanted), None);
}

/// Gemma's export by optimum counts positions by the length of its cache, and its builder's looks back over a window.
#[test]
fn a_way_that_is_wrong_is_not_used() {
    for (name, caches, in_place) in [
        ("gemma3_past", false, None),
        ("gemma3_genai_f32", true, Some(false)),
        ("qwen3_genai_f32", true, Some(true)),
        ("gpt2_past", true, Some(true)),
        ("llama_plain", false, None),
    ] {
        let (decoder, mut cache) = (Golden::of(name).decoder(), KvCache::new());
        decoder.read(&Variant::Base, &mut cache, &[5, 6, 7, 8]).unwrap();
        decoder.read(&Variant::Base, &mut cache, &[9]).unwrap();
        assert_eq!(decoder.caches.known(), Some(caches), "{name}");
        let step =
            caches.then(|| decoder.plans.steps.get((SiteKey::new(), 128), || panic!("{name}: no step")).unwrap());
        assert_eq!(step.and_then(|step| step.in_place.known()), in_place, "{name}");
    }
    // What was found wrong stays so.
    let tried = Tried::default();
    [false, true].into_iter().for_each(|works| tried.set(works));
    assert_eq!(tried.known(), Some(false));
}

#[test]
fn what_cannot_be_read_is_said() {
    let decoder = Golden::of("llama_past").decoder();
    let mut cache = KvCache::new();
    let error = decoder.read(&Variant::Base, &mut cache, &[5000]).unwrap_err();
    assert!(error.what().contains("the token 5000"), "{error:?}");
    let error = decoder.read(&Variant::Base, &mut cache, &[1; 129]).unwrap_err();
    assert!(error.what().contains("context holds 128"), "{error:?}");
    assert!(cache.tokens().is_empty());
    // Up to the last position, past the first capacity of the cache.
    for token in 0..128 {
        decoder.read(&Variant::Base, &mut cache, &[token % 7]).unwrap();
    }
    assert!(decoder.read(&Variant::Base, &mut cache, &[1]).is_err());
}
