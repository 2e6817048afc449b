//! How often a profile answers a labelled set right, with what it has learned and without.

use crate::error::{Error, Result};
use crate::input::{LabelledSet, RawInput};
use crate::runtime::Session;
use crate::stats::rows::argmax;

/// Inputs that are held in memory at a time.
const CHUNK: usize = 256;

/// Accuracies on a labelled set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// Examples.
    pub n: usize,
    /// Share that the base model answers right, 0 to 1.
    pub base: f64,
    /// Share that the active generation answers right, 0 to 1.
    pub adapted: f64,
    /// Examples whose label is none that the profile knows: they count as wrong.
    pub unknown: usize,
}

/// The labels of a data set in the words of a model: where all of them are numbers, and none of these is the name of a class, a number
/// is the position of the class, counted from 0. One beyond the last class stays what it is.
#[derive(Debug, Clone)]
pub struct Names<'a>(Option<&'a [String]>);

impl<'a> Names<'a> {
    /// Looks at the labels of some data and at the `known` labels of a model.
    pub fn new<'d>(data: impl IntoIterator<Item = &'d String>, known: &'a [String]) -> Names<'a> {
        let position = |label: &String| label.parse::<i64>().is_ok() && !known.contains(label);
        let mut data = data.into_iter().peekable();
        Names((data.peek().is_some() && data.all(position)).then_some(known))
    }

    /// The model's word for `label`.
    pub fn of<'l>(&self, label: &'l str) -> &'l str
    where
        'a: 'l,
    {
        let named = |known: &'a [String]| label.parse::<usize>().ok().and_then(|i| known.get(i));
        self.0.and_then(named).map_or(label, String::as_str)
    }
}

/// Answers all of `data` twice, recording nothing. A label that nobody has taught counts as wrong.
///
/// # Errors
/// When an example cannot be read or does not fit the model.
pub fn evaluate(session: &Session, data: &LabelledSet, threads: usize) -> Result<Accuracy> {
    let [base, adapted] = [true, false].map(|base| count(session, data, base, threads));
    let share = |right: usize| right as f64 / data.len().max(1) as f64;
    let (names, known) = (Names::new(data.labels(), session.home().labels()), session.known_labels());
    let unknown = data.labels().iter().filter(|label| !known.iter().any(|k| k == names.of(label))).count();
    Ok(Accuracy { n: data.len(), base: share(base?), adapted: share(adapted?), unknown })
}

/// Share of `data` that the active generation, or with `base` the base model, answers right.
///
/// # Errors
/// As [`evaluate`].
pub fn accuracy(session: &Session, data: &LabelledSet, base: bool, threads: usize) -> Result<f64> {
    count(session, data, base, threads).map(|right| right as f64 / data.len().max(1) as f64)
}

fn count(session: &Session, data: &LabelledSet, base: bool, threads: usize) -> Result<usize> {
    Ok(right_each(session, data, base, threads)?.into_iter().filter(|right| *right).count())
}

/// Which examples of `data` the active generation, or with `base` the base model, answers right.
///
/// # Errors
/// As [`evaluate`].
pub fn right_each(session: &Session, data: &LabelledSet, base: bool, threads: usize) -> Result<Vec<bool>> {
    let names = Names::new(data.labels(), session.home().labels());
    let mut right = vec![];
    let all: Vec<usize> = (0..data.len()).collect();
    for chunk in all.chunks(CHUNK) {
        let start = chunk.first().copied().unwrap_or(0);
        let inputs: Vec<RawInput> = chunk.iter().map(|&i| data.input(i)).collect::<Result<_>>()?;
        let numbered = |e: Error| match e.place() {
            Some(_) => e,
            None => e.at(format!("examples {} to {} of the data", start, start + chunk.len() - 1)),
        };
        let Some(p) = session.evaluate(&inputs, base, threads).map_err(numbered)? else {
            right.resize(right.len() + chunk.len(), false);
            continue;
        };
        let labels = if base { session.home().labels().to_vec() } else { session.labels() };
        for (row, &i) in p.rows().into_iter().zip(chunk) {
            // The first of equals, as in an answer.
            let best = argmax(row);
            let expected = data.labels().get(i).map(|l| names.of(l));
            right.push(expected.is_some() && best.and_then(|b| labels.get(b)).map(String::as_str) == expected);
        }
    }
    Ok(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(of: &[&str]) -> Vec<String> {
        of.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn numbers_become_names_only_where_they_can() {
        let named = words(&["cat", "dog"]);
        let data = words(&["1", "0", "1"]);
        assert_eq!(Names::new(&data, &named).of("1"), "dog");
        // Beyond the last class: that one is another class.
        let beyond = words(&["1", "2", "-1"]);
        assert_eq!(["1", "2", "-1"].map(|l| Names::new(&beyond, &named).of(l)), ["dog", "2", "-1"]);
        // Mixed, or numbered classes: taken as they are.
        assert_eq!(Names::new(&words(&["1", "cat"]), &named).of("1"), "1");
        assert_eq!(Names::new(&data, &words(&["0", "1"])).of("1"), "1");
        assert_eq!(Names::new(&data, &[]).of("1"), "1");
        assert_eq!(Names::new(&words(&[]), &named).of("1"), "1");
    }
}
