//! Two texts in one batch, padded on the left or on the right, have the scores that ONNX Runtime gives them.

use super::tests::Golden;
use super::*;
use crate::input::{ArrayData, Example, NamedArray};
use crate::plan::graph::Ends;
use crate::plan::{Batch, Factors, ForwardPlan, Padding, check};

/// A language model, and what ONNX Runtime answers with it.
struct Padded {
    golden: Golden,
    base: Base,
}

impl Padded {
    fn array(&self, name: &str) -> &NamedArray {
        self.golden.array(name).unwrap_or_else(|| panic!("{}: no {name}", self.golden.name))
    }

    /// Rows of an array of whole numbers.
    fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        let array = self.array(name);
        let ArrayData::I64(values) = &array.data else { panic!("{}: {name} is not whole", self.golden.name) };
        values.chunks(array.shape[1]).map(<[i64]>::to_vec).collect()
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
                other => panic!("{}: {}: {other:?}", self.golden.name, port.name),
            };
            NamedArray { name: port.name.clone(), shape: vec![values.len()], data: ArrayData::I64(values.to_vec()) }
        });
        Example { arrays: arrays.collect() }
    }

    /// Scores of the tokens of text `text` in the batch padded on `side`, without those of the padding, and whether
    /// they are those of the text alone. Of a copy without rounded activations where there is one.
    fn scores(&self, side: &str, text: usize) -> Vec<(bool, Vec<f32>)> {
        let exact = format!("exact_{side}_logits");
        let exact = self.golden.array(&exact);
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
        examples.iter().for_each(|e| check(&self.base, e).unwrap_or_else(|e| panic!("{}: {e:?}", self.golden.name)));
        let bucket = self.base.bucket(ids.len(), ids[0].len());
        assert_eq!(bucket.batch, 2, "{}", self.golden.name);
        let plan = ForwardPlan::new(&self.base, Ends::Model, &bucket, &Deltas::Inputs(&[]));
        let plan = plan.unwrap_or_else(|e| panic!("{}: {e:?}", self.golden.name));
        let batch = Batch::new(&self.base, &bucket, &examples.iter().collect::<Vec<_>>(), Padding::Exact).unwrap();
        let outputs =
            plan.run_all(&batch, &Factors::default()).unwrap_or_else(|e| panic!("{}: {e:?}", self.golden.name));
        let got = outputs[0].view().into_dimensionality::<ndarray::Ix3>().unwrap();
        let other = if side == "left" { "right" } else { "left" };
        let mut wrong = vec![];
        for (text, mask) in mask.iter().enumerate() {
            let places = (0..mask.len()).filter(|at| mask[*at] == 1);
            let pairs = self.scores(side, text).into_iter().zip(self.scores(other, text));
            assert_eq!(pairs.len(), [12, 7][text], "{}", self.golden.name);
            for (at, ((valid, own), (other_valid, others))) in places.zip(pairs) {
                let wanted = if !valid && other_valid { others } else { own };
                let row = got.slice(ndarray::s![text, at, ..]);
                assert_eq!(row.len(), wanted.len(), "{}", self.golden.name);
                let worst = row.iter().zip(&wanted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                if worst > self.golden.tolerance() || row.iter().any(|v| v.is_nan()) {
                    wrong.push(format!("{}: {side}: position {at} of text {text}: {worst}", self.golden.name));
                }
            }
        }
        wrong
    }
}

fn compare(side: &str) {
    let wrong: Vec<String> =
        Golden::all().flat_map(|golden| Padded { base: golden.base(), golden }.wrong(side)).collect();
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
