//! Two texts in one batch, padded on the left or on the right, have the scores that ONNX Runtime gives them.

use std::io::Read;
use std::path::Path;

use super::*;
use crate::input::{ArrayData, Example, NamedArray, arrays};
use crate::plan::graph::Ends;
use crate::plan::{Batch, Factors, ForwardPlan, Padding, check};

/// Made by `scripts/golden_lm.py`: a zip a model, of the model and its references.
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/lm");

struct Golden {
    name: String,
    base: Base,
    arrays: Vec<NamedArray>,
}

impl Golden {
    fn open(name: &str) -> Golden {
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
        let base = Base::from_bytes(&model, Path::new(name)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        Golden { name: name.into(), base, arrays: arrays::read(&file).unwrap() }
    }

    fn names() -> Vec<String> {
        let files = std::fs::read_dir(GOLDENS).unwrap().map(|f| f.unwrap().path());
        let mut names: Vec<String> = files.map(|f| f.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        assert!(names.len() > 30, "{names:?}");
        names
    }

    fn array(&self, name: &str) -> &NamedArray {
        self.arrays.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    /// Rows of an array of whole numbers.
    fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        let array = self.array(name);
        let ArrayData::I64(values) = &array.data else { panic!("{}: {name} is not whole", self.name) };
        values.chunks(array.shape[1]).map(<[i64]>::to_vec).collect()
    }

    /// How far scores may be from the reference.
    fn tolerance(&self) -> f32 {
        match &self.name {
            // Dynamic quantisation: which code a number falls to depends on the largest one beside it.
            name if name.ends_with("_past_int8") => 1.0,
            name if name.contains("f16") => 3e-2,
            _ => 1e-3,
        }
    }

    /// A text of the batch as the model takes it.
    fn example(&self, ids: &[i64], mask: &[i64]) -> Example {
        let counted = mask.iter().scan(0, |sum, m| {
            *sum += m;
            Some((*sum - 1).max(0))
        });
        // At padding the position is 1, as optimum has it.
        let positions: Vec<i64> = counted.zip(mask).map(|(at, m)| if *m == 1 { at } else { 1 }).collect();
        let arrays = self.base.inputs().iter().zip(self.base.roles()).map(|(port, role)| {
            let values = match role {
                Role::Ids => ids,
                Role::Mask => mask,
                Role::Positions => &positions,
                other => panic!("{}: {}: {other:?}", self.name, port.name),
            };
            NamedArray { name: port.name.clone(), shape: vec![values.len()], data: ArrayData::I64(values.to_vec()) }
        });
        Example { arrays: arrays.collect() }
    }

    /// Scores of the tokens of text `text` in the batch padded on `side`, without those of the padding, and whether
    /// they are those of the text alone. Of a copy without rounded activations where there is one.
    fn scores(&self, side: &str, text: usize) -> Vec<(bool, Vec<f32>)> {
        let exact = format!("exact_{side}_logits");
        let exact = self.arrays.iter().find(|a| a.name == exact);
        let scores = exact.unwrap_or_else(|| self.array(&format!("{side}_logits")));
        let (tokens, width) = (scores.shape[1], scores.shape[2]);
        let (scores, valid) = (scores.data.to_f32(), self.array(&format!("{side}_valid")).data.to_f32());
        let mask = &self.rows(&format!("{side}_mask"))[text];
        let rows = (0..tokens).filter(|at| mask[*at] == 1).map(|at| text * tokens + at);
        rows.map(|row| (valid[row] != 0.0, scores[row * width..(row + 1) * width].to_vec())).collect()
    }

    /// What is wrong with the scores of the batch padded on `side`. Where ONNX Runtime does not keep the padding from
    /// a text, they are compared with those of the batch padded on the other side, and where it does on neither, with
    /// its own all the same.
    fn wrong(&self, side: &str) -> Vec<String> {
        let (ids, mask) = (self.rows(&format!("{side}_ids")), self.rows(&format!("{side}_mask")));
        let examples: Vec<Example> = ids.iter().zip(&mask).map(|(ids, mask)| self.example(ids, mask)).collect();
        examples.iter().for_each(|e| check(&self.base, e).unwrap_or_else(|e| panic!("{}: {e:?}", self.name)));
        let bucket = self.base.bucket(ids.len(), ids[0].len());
        assert_eq!(bucket.batch, 2, "{}", self.name);
        let plan = ForwardPlan::new(&self.base, Ends::Model, &bucket, &Deltas::Inputs(&[]));
        let plan = plan.unwrap_or_else(|e| panic!("{}: {e:?}", self.name));
        let batch = Batch::new(&self.base, &bucket, &examples.iter().collect::<Vec<_>>(), Padding::Exact).unwrap();
        let outputs = plan.run_all(&batch, &Factors::default()).unwrap_or_else(|e| panic!("{}: {e:?}", self.name));
        let got = outputs[0].view().into_dimensionality::<ndarray::Ix3>().unwrap();
        let other = if side == "left" { "right" } else { "left" };
        let mut wrong = vec![];
        for (text, mask) in mask.iter().enumerate() {
            let places = (0..mask.len()).filter(|at| mask[*at] == 1);
            let pairs = self.scores(side, text).into_iter().zip(self.scores(other, text));
            assert_eq!(pairs.len(), [12, 7][text], "{}", self.name);
            for (at, ((valid, own), (other_valid, others))) in places.zip(pairs) {
                let wanted = if !valid && other_valid { others } else { own };
                let row = got.slice(ndarray::s![text, at, ..]);
                assert_eq!(row.len(), wanted.len(), "{}", self.name);
                let worst = row.iter().zip(&wanted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                if worst > self.tolerance() || row.iter().any(|v| v.is_nan()) {
                    wrong.push(format!("{}: {side}: position {at} of text {text}: {worst}", self.name));
                }
            }
        }
        wrong
    }
}

fn compare(side: &str) {
    let wrong: Vec<String> = Golden::names().iter().flat_map(|name| Golden::open(name).wrong(side)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn texts_padded_on_the_left_have_their_scores() {
    compare("left");
}

#[test]
fn texts_padded_on_the_right_have_their_scores() {
    compare("right");
}
