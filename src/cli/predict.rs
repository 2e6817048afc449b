//! `predict`: answer inputs, and record them so that feedback can be given.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::input::{ArrayData, Intake, NamedArray, RawInput};
use acclimate::journal::SyncPolicy;
use acclimate::{Answer, Error, Home, Result};
use clap::Args;
use serde_json::{Value, json};

use super::ProfileArg;
use super::output::{Output, percent};

/// Answer inputs; each answer has an id for feedback
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate predict home window.npy\n  acclimate predict home \"turn on the light\" --top 3"
)]
pub struct Predict {
    /// The home
    home: PathBuf,
    /// Arrays (.npy, .npz; one with a leading batch dimension holds several inputs), pictures (.png, .jpg), or text
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    #[command(flatten)]
    profile: ProfileArg,
    /// Arrays go to a model of pictures as they are
    #[arg(long)]
    tensor: bool,
    /// Classes to show
    #[arg(long, value_name = "K", default_value_t = 3)]
    top: usize,
    /// When answers are on the medium: together, at most 5 seconds later, or each before it is shown
    #[arg(long, value_name = "WHEN", value_parser = ["grouped", "always"], default_value = "grouped")]
    sync: String,
}

impl Predict {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.session(&self.home)?;
        if self.sync == "always" {
            session.set_sync(SyncPolicy::Always);
        }
        let home = session.home();
        let mut inputs = vec![];
        for argument in &self.inputs {
            let input = RawInput::from_argument(argument, home.intake())?;
            let parts = split(input, home).map_err(|e| e.at(argument))?;
            let parts = parts.into_iter().map(|part| if self.tensor { part.as_tensor() } else { part });
            inputs.extend(parts.map(|part| (argument, part)));
        }
        let mut answers = vec![];
        let mut failure = None;
        for (argument, input) in &inputs {
            match session.predict_top(input, self.top) {
                Ok(answer) => answers.push(answer),
                Err(e) => {
                    failure = Some(if e.place().is_some() { e } else { e.at(argument) });
                    break;
                }
            }
        }
        if let Some(why) = answers.iter().find_map(|a| a.unrecorded.as_ref()) {
            output.warn(format_args!("not recorded, so no feedback can be given on it: {why}"));
        }
        // What was answered before a failure is recorded, so it is shown, too.
        if failure.is_none() || !answers.is_empty() {
            let data: Vec<Value> = answers.iter().map(as_json).collect();
            let home = self.home.display().to_string();
            output.data(&json!(data), || answers.iter().map(|a| line(a, &home)).collect::<Vec<_>>().join("\n"))?;
        }
        failure.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

fn as_json(answer: &Answer) -> Value {
    let top: Vec<Value> = answer.top.iter().map(|s| json!({ "label": s.label, "p": s.p })).collect();
    json!({ "id": answer.id.map(|id| id.to_string()), "top": top, "generation": answer.generation })
}

fn line(answer: &Answer, home: &str) -> String {
    let id = answer.id.map_or_else(|| "-".to_string(), |id| id.to_string());
    if answer.top.is_empty() {
        return format!("{id}  no class is known yet: acclimate feedback {home} {id} --label NAME");
    }
    let top: Vec<String> = answer.top.iter().map(|s| format!("{} {}", s.label, percent(s.p.into()))).collect();
    format!("{id}  {}", top.join("  "))
}

/// Arrays with one dimension more than an example has hold several of them.
fn split(input: RawInput, home: &Home) -> Result<Vec<RawInput>> {
    let RawInput::Arrays(mut arrays) = input else { return Ok(vec![input]) };
    let ports = home.base().inputs();
    if ports.len() == 1 && arrays.len() > 1 {
        // A labelled archive: its x is what the model sees.
        if let Some(x) = arrays.iter().position(|a| a.name == "x") {
            arrays = vec![arrays.swap_remove(x)];
        }
    }
    let batched = |(at, array): (usize, &NamedArray)| -> bool {
        let port = ports.iter().find(|p| p.name == array.name).or(if ports.len() == 1 {
            ports.first()
        } else {
            ports.get(at)
        });
        match home.intake() {
            // A picture has two or three dimensions, whatever the model's layout.
            Intake::Image(_) => array.shape.len() == 4,
            _ => port.is_some_and(|p| array.shape.len() == p.dims.len()),
        }
    };
    let with_batch = arrays.iter().enumerate().filter(|(at, a)| batched((*at, a))).count();
    if with_batch == 0 || with_batch < arrays.len() {
        return Ok(vec![RawInput::Arrays(arrays)]);
    }
    let rows = arrays.first().and_then(|a| a.shape.first().copied()).unwrap_or(0);
    if let Some(odd) = arrays.iter().find(|a| a.shape.first() != Some(&rows)) {
        return Err(Error::bad_data(format!(
            "the arrays hold different numbers of examples: {rows} and {:?}",
            odd.shape.first()
        )));
    }
    if rows == 0 {
        return Err(Error::bad_data("an array without an example"));
    }
    (0..rows).map(|row| arrays.iter().map(|a| take(a, row)).collect::<Result<_>>().map(RawInput::Arrays)).collect()
}

/// Row `row` along the first dimension.
fn take(array: &NamedArray, row: usize) -> Result<NamedArray> {
    let shape: Vec<usize> = array.shape.iter().skip(1).copied().collect();
    let length: usize = shape.iter().product();
    fn part<T: Clone>(all: &[T], row: usize, length: usize) -> Vec<T> {
        all.iter().skip(row * length).take(length).cloned().collect()
    }
    let data = match &array.data {
        ArrayData::F32(v) => ArrayData::F32(part(v, row, length)),
        ArrayData::I64(v) => ArrayData::I64(part(v, row, length)),
        ArrayData::I32(v) => ArrayData::I32(part(v, row, length)),
        ArrayData::U8(v) => ArrayData::U8(part(v, row, length)),
    };
    NamedArray::new(array.name.clone(), shape, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_array() {
        let all = NamedArray::new("x", vec![2, 3], ArrayData::I64((0..6).collect())).unwrap();
        let second = take(&all, 1).unwrap();
        assert_eq!((second.shape, second.data), (vec![3], ArrayData::I64(vec![3, 4, 5])));
    }
}
