//! `interactions`: what was asked, answered and said.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use acclimate::input::label;
use acclimate::journal::FeedbackKind;
use acclimate::runtime::{Asked, Filter, Flag, Flagged, Listed, Listing};
use acclimate::{Error, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

use super::ProfileArg;
use super::csv;
use super::output::{Output, date, instant, percent, printable, table};

/// Most rows of a table, unless told otherwise.
const ROWS: usize = 50;
/// Longest input and label in a table, in characters.
const LONGEST: usize = 48;

/// List what was asked, what was answered and what was said about it, the latest first
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate interactions home --flagged\n  acclimate interactions home --label cat --since 7d\n  acclimate interactions home --csv > interactions.csv"
)]
pub struct Interactions {
    /// The home
    home: PathBuf,
    #[command(flatten)]
    profile: ProfileArg,
    /// Only those with feedback
    #[arg(long, conflicts_with = "without_feedback")]
    with_feedback: bool,
    /// Only those without feedback
    #[arg(long)]
    without_feedback: bool,
    /// Only those with a flag: what is doubtful about the feedback
    #[arg(long)]
    flagged: bool,
    /// Only those with this flag; may be given several times
    #[arg(long, value_name = "FLAG", value_parser = PossibleValuesParser::new(Flag::ALL.map(Flag::name)))]
    flag: Vec<String>,
    /// Only those that were said to be this class, or were answered so and nothing was said
    #[arg(long, value_name = "L")]
    label: Option<String>,
    /// Only answers of this generation; 0 is the base model
    #[arg(long, value_name = "G")]
    generation: Option<u64>,
    /// Only the last of this duration, such as 90min, 12h or 7d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// At most so many, the latest; without it 50 in a table, and all as JSON or CSV
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print comma-separated values with a header line
    #[arg(long)]
    csv: bool,
}

impl Interactions {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        if self.csv && output.json {
            return Err(Error::usage("--csv and --json at once").hint("choose one of them"));
        }
        let label = self.label.map(|label| label::clean(&label)).transpose();
        let label = label.map_err(|e| Error::usage(e.what()).hint(e.next_step().unwrap_or_default()))?;
        let session = self.profile.repair_session(&self.home)?;
        let filter = Filter {
            feedback: (self.with_feedback || self.without_feedback).then_some(self.with_feedback),
            label,
            flagged: self.flagged,
            flags: Flag::ALL.into_iter().filter(|flag| self.flag.iter().any(|f| f == flag.name())).collect(),
            generation: self.generation,
            last_ms: self.since.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            limit: self.limit.or((!self.csv && !output.json).then_some(ROWS)),
        };
        let listing = session.interactions(&filter)?;
        if self.csv {
            return output.text(&as_csv(&listing)).map(|()| ExitCode::SUCCESS);
        }
        let data: Value = listing.interactions.iter().map(as_json).collect();
        let home = self.home.display().to_string();
        output.data(&data, || for_people(&listing, &home))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(i: &Listed) -> Value {
    let input = match &i.input {
        Asked::Text(text) => json!({ "text": text }),
        Asked::Conversation(c) => {
            let message = |(role, content): &(String, String)| json!({ "role": role, "content": content });
            json!({ "messages": c.messages.iter().map(message).collect::<Vec<_>>() })
        }
        Asked::Image { width, height } => json!({ "image": { "width": width, "height": height } }),
        Asked::Arrays(arrays) => {
            let arrays =
                arrays.iter().map(|(name, dtype, shape)| json!({ "name": name, "type": dtype, "shape": shape }));
            json!({ "arrays": arrays.collect::<Vec<_>>() })
        }
    };
    let said = |kind: &FeedbackKind| {
        let mut said = json!({ "kind": kind.name(), "label": right(i, kind) });
        match kind {
            FeedbackKind::Edit(text) => said["text"] = json!(text),
            FeedbackKind::PreferredOver(other) => said["over"] = json!(other.to_string()),
            FeedbackKind::RejectBecause(why) => said["why"] = json!(why),
            FeedbackKind::Demonstration(text) => said["text"] = json!(text),
            _ => {}
        }
        said
    };
    let feedback = i.feedback.as_ref().map(|f| {
        let mut data = said(&f.kind);
        data["at"] = json!(instant(f.at_ms));
        data["was"] = json!(f.was.as_ref().map(said));
        data
    });
    json!({
        "id": i.id.to_string(),
        "at": instant(i.at_ms),
        "input": input,
        "answer": answer_json(i),
        "generation": i.generation,
        "feedback": feedback,
        "flags": i.flags.iter().map(|f| f.flag.name()).collect::<Vec<_>>(),
        "reasons": i.flags.iter().map(|f| (f.flag.name().to_string(), json!(f.reason))).collect::<Map<_, _>>(),
    })
}

fn answer_json(i: &Listed) -> Value {
    match (&i.input, &i.answer) {
        (Asked::Conversation(c), _) => json!({ "text": c.answer, "ended": c.ended }),
        (_, answer) => json!(answer.as_ref().map(|(label, p)| json!({ "label": label, "p": p, "none": i.none }))),
    }
}

fn answered(i: &Listed) -> Option<&str> {
    match &i.input {
        Asked::Conversation(c) => Some(&c.answer),
        _ => i.answer.as_ref().map(|(label, _)| label.as_str()),
    }
}

/// The class that is right by what was said.
fn right<'a>(i: &'a Listed, said: &'a FeedbackKind) -> Option<&'a str> {
    match said {
        FeedbackKind::Label(label) => Some(label),
        FeedbackKind::Accept if i.none => Some(label::shown(label::NONE_OF_THESE)),
        FeedbackKind::Accept => answered(i),
        FeedbackKind::NoneOfThese => Some(label::shown(label::NONE_OF_THESE)),
        FeedbackKind::Reject
        | FeedbackKind::RejectBecause(_)
        | FeedbackKind::Ignored
        | FeedbackKind::Edit(_)
        | FeedbackKind::PreferredOver(_)
        | FeedbackKind::Demonstration(_) => None,
    }
}

/// The input in a line.
fn input(i: &Listed) -> String {
    match &i.input {
        Asked::Text(text) => text.clone(),
        Asked::Conversation(c) => c.messages.last().map_or_else(String::new, |(_, content)| content.clone()),
        Asked::Image { width, height } => format!("picture {width} × {height}"),
        Asked::Arrays(arrays) => {
            let one = |(name, dtype, shape): &(String, &str, Vec<u64>)| {
                let name = if name.is_empty() { String::new() } else { format!("{name} ") };
                format!("{name}{dtype} {shape:?}")
            };
            arrays.iter().map(one).collect::<Vec<_>>().join("; ")
        }
    }
}

fn said(i: &Listed) -> String {
    match i.feedback.as_ref().map(|f| &f.kind) {
        None => String::new(),
        Some(FeedbackKind::Label(label)) => label.clone(),
        Some(FeedbackKind::Accept) => "accepted".into(),
        Some(FeedbackKind::Reject) => "rejected".into(),
        Some(FeedbackKind::NoneOfThese) => label::shown(label::NONE_OF_THESE).into(),
        Some(FeedbackKind::Ignored) => "ignored".into(),
        Some(FeedbackKind::RejectBecause(why)) => format!("rejected: {why}"),
        Some(FeedbackKind::Edit(text) | FeedbackKind::Demonstration(text)) => text.clone(),
        Some(FeedbackKind::PreferredOver(other)) => format!("preferred over {other}"),
    }
}

fn as_csv(listing: &Listing) -> String {
    let mut text =
        csv::line(["id", "at", "input", "answer", "p", "generation", "feedback", "label", "feedback_at", "flags"]);
    for i in &listing.interactions {
        let (kind, at) = i.feedback.as_ref().map_or(("", String::new()), |f| (f.kind.name(), instant(f.at_ms)));
        let label = i.feedback.as_ref().and_then(|f| right(i, &f.kind)).unwrap_or_default();
        let p = i.answer.as_ref().map_or(String::new(), |(_, p)| p.to_string());
        let (id, generation) = (i.id.to_string(), i.generation.to_string());
        let answer = answered(i).unwrap_or_default();
        text += &csv::line([&id, &instant(i.at_ms), &input(i), answer, &p, &generation, kind, label, &at, &flags(i)]);
    }
    text
}

fn flags(i: &Listed) -> String {
    i.flags.iter().map(|f| f.flag.name()).collect::<Vec<_>>().join(" ")
}

fn reason(f: &Flagged) -> String {
    format!("{}: {}", f.flag.name(), printable(&f.reason))
}

fn for_people(listing: &Listing, home: &str) -> String {
    let mut text: String = listing.of_classes.iter().map(|f| format!("{}\n", reason(f))).collect();
    if !text.is_empty() {
        text += "\n";
    }
    if listing.interactions.is_empty() {
        return text + "no interaction";
    }
    let row = |i: &Listed| {
        let answer = i.answer.as_ref();
        let answer = answer.filter(|(l, _)| !i.none || l == label::shown(label::NONE_OF_THESE));
        let none = if i.none { label::shown(label::NONE_OF_THESE) } else { "-" };
        let answer = match &i.input {
            Asked::Conversation(c) => short(&c.answer),
            _ => answer.map_or_else(|| none.into(), |(l, p)| format!("{} {}", short(l), percent((*p).into()))),
        };
        let (input, said) = (short(&input(i)), short(&said(i)));
        [i.id.to_string(), date(i.at_ms), input, answer, i.generation.to_string(), said, flags(i)]
    };
    let header = ["id", "when (UTC)", "input", "answer", "generation", "feedback", "flags"];
    text += &table(header, listing.interactions.iter().map(row), header.len());
    if listing.more {
        text += "\n\nthere are more: show them with --limit";
    }
    let mut doubted = listing
        .interactions
        .iter()
        .flat_map(|i| i.flags.iter().filter(|f| !f.flag.is_of_a_class()).map(|f| format!("\n{} {}", i.id, reason(f))));
    if let Some(first) = doubted.next() {
        text += &format!("\n{first}{}", doubted.collect::<String>());
        text += &format!(
            "\n\nrelabel one with `acclimate feedback {home} ID --label L --replace`, leave it out of training with --ignore, or forget it with `acclimate forget {home} ID`"
        );
    }
    text
}

/// One line of a bounded length that does nothing to a terminal.
fn short(text: &str) -> String {
    let mut line: String = text.chars().take(LONGEST).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    printable(&line)
}
