//! `predict`: answer inputs, and record them so that feedback can be given.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::input::arrays;
use acclimate::input::npy::RawArray;
use acclimate::input::{Given, Intake, RawInput};
use acclimate::journal::SyncPolicy;
use acclimate::{Answer, Error, Home, Result};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, percent};
use super::{DeviceArg, ProfileArg};

/// Answer inputs; each answer has an id for feedback
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate predict home window.npy\n  acclimate predict home \"turn on the light\" --top 3"
)]
pub struct Predict {
    /// The home
    home: PathBuf,
    /// Arrays (.npy, .npz; one with a leading batch dimension holds several inputs), pictures (.png, .jpg, .webp), or
    /// text
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
    #[command(flatten)]
    device: DeviceArg,
    /// When answers are durable: together, at most 5 seconds later, or each before it is shown
    #[arg(long, value_name = "WHEN", value_parser = ["grouped", "always"], default_value = "grouped")]
    sync: String,
}

impl Predict {
    /// Reads, answers, records and shows one input before the next, so that memory does not grow with their number and
    /// whatever was answered before a failure is shown.
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.session(&self.home, &self.device, output)?;
        session.home().classifies()?;
        if self.sync == "always" {
            session.set_sync(SyncPolicy::Always);
        }
        let mut shown = output.list();
        let mut warned = false;
        let home = self.home.display().to_string();
        let profile = self.profile.as_flag();
        let mut answer = |input: Result<RawInput>, argument: &str| -> Result<()> {
            let placed = |e: Error| if e.place().is_some() { e } else { e.at(argument) };
            let input = if self.tensor { input.map(RawInput::as_tensor) } else { input };
            let answer = input.and_then(|input| session.predict_top(&input, self.top)).map_err(placed)?;
            if let Some(why) = answer.unrecorded.as_ref().filter(|_| !warned) {
                output.warn(format_args!("not recorded, so no feedback can be given on it: {why}"));
                warned = true;
            }
            let mut to_people = false;
            shown.push(&as_json(&answer), || {
                to_people = true;
                line(&answer, &home, &profile)
            })?;
            if let Some(id) = answer.id.filter(|_| to_people && answer.ask && !answer.top.is_empty()) {
                // Beside the data: standard output keeps one line an answer.
                output.note(format_args!("ask: what is it? acclimate feedback {home} {id} --label NAME{profile}"));
            }
            Ok(())
        };
        let outcome = self.inputs.iter().try_for_each(|argument| {
            let given = Given::from_argument(argument, session.home().intake())?;
            let mut examples = Examples::new(given, Path::new(argument), session.home())?;
            (0..examples.count).try_for_each(|i| answer(examples.next(i), argument))
        });
        // The array is closed whatever happened; the first failure is the one that is told.
        let closed = shown.close();
        outcome.and(closed).map(|()| ExitCode::SUCCESS)
    }
}

fn as_json(answer: &Answer) -> Value {
    let top: Vec<Value> = answer.top.iter().map(|s| json!({ "label": s.label, "p": s.p, "none": s.none })).collect();
    json!({
        "id": answer.id.map(|id| id.to_string()),
        "top": top,
        "generation": answer.generation,
        "ask": answer.ask,
        "none": answer.none,
        "familiarity": answer.familiarity,
    })
}

fn line(answer: &Answer, home: &str, profile: &str) -> String {
    let id = answer.id.map_or_else(|| "-".to_string(), |id| id.to_string());
    if answer.top.is_empty() {
        return format!("{id}  no class is known yet: acclimate feedback {home} {id} --label NAME{profile}");
    }
    let top: Vec<String> = answer.top.iter().map(|s| format!("{} {}", s.label, percent(s.p.into()))).collect();
    // Beside the class of that name it would say so twice.
    let none = if answer.none && !answer.top.iter().take(1).any(|s| s.none) { "none of these; else " } else { "" };
    format!("{id}  {none}{}", top.join("  "))
}

/// The examples that an argument holds.
struct Examples<'a> {
    given: Given,
    count: usize,
    /// The argument, where it is a file.
    path: &'a Path,
}

impl<'a> Examples<'a> {
    /// Arrays with one dimension more than an example has hold several of them.
    fn new(mut given: Given, path: &'a Path, home: &Home) -> Result<Examples<'a>> {
        let ports = home.base().inputs();
        if let Given::Arrays(arrays) = &mut given
            && ports.len() == 1
            && arrays.len() > 1
            && let Some(x) = arrays.iter().position(|a| a.name == "x")
        {
            // A labelled archive: its x is what the model sees.
            *arrays = vec![arrays.swap_remove(x)];
        }
        let several = |at: usize, name: &str, shape: &[usize]| -> bool {
            let only = || if ports.len() == 1 { ports.first() } else { ports.get(at) };
            let port = ports.iter().find(|p| p.name == name).or_else(only);
            match home.intake() {
                // A picture has two or three dimensions, whatever the model's layout.
                Intake::Image(_) => shape.len() == 4,
                _ => port.is_some_and(|p| shape.len() == p.dims.len()),
            }
        };
        let shapes: Vec<(&str, &[usize])> = match &given {
            Given::One(_) => vec![],
            Given::Rows(rows) => vec![("", rows.shape())],
            Given::Arrays(arrays) => arrays.iter().map(|a| (a.name.as_str(), a.shape.as_slice())).collect(),
        };
        let batched =
            !shapes.is_empty() && shapes.iter().enumerate().all(|(at, (name, shape))| several(at, name, shape));
        let rows: Vec<usize> = shapes.iter().map(|(_, shape)| shape.first().copied().unwrap_or(0)).collect();
        let wrong = |what: String| Err(Error::bad_data(what).at(path.display()));
        match rows.as_slice() {
            [0, ..] if batched => wrong("an array without an example".into()),
            [count, rest @ ..] if batched => match rest.iter().find(|n| *n != count) {
                Some(odd) => wrong(format!("the arrays hold different numbers of examples: {count} and {odd}")),
                None => Ok(Examples { count: *count, given, path }),
            },
            _ => Examples::one(given, path),
        }
    }

    /// All of it is one example.
    fn one(given: Given, path: &'a Path) -> Result<Examples<'a>> {
        let arrays = match given {
            Given::One(_) => return Ok(Examples { given, count: 1, path }),
            Given::Rows(rows) => vec![rows.whole().map_err(|e| e.at(path.display()))?],
            Given::Arrays(arrays) => arrays,
        };
        let given = Given::One(RawInput::Arrays(arrays::convert(arrays, path)?));
        Ok(Examples { given, count: 1, path })
    }

    /// Example `i`; they are asked for in their order.
    fn next(&mut self, i: usize) -> Result<RawInput> {
        match &mut self.given {
            Given::One(input) => Ok(std::mem::replace(input, RawInput::Arrays(vec![]))),
            Given::Rows(rows) => match rows.row() {
                Ok(row) => Ok(RawInput::Arrays(vec![row])),
                Err(e) => Err(e.at(self.path.display())),
            },
            Given::Arrays(arrays) => {
                let row = |a: &RawArray| a.row(i).map_err(|e| e.at(arrays::location(self.path, &a.name)));
                arrays.iter().map(row).collect::<Result<_>>().map(RawInput::Arrays)
            }
        }
    }
}
