//! `demo --chat`: a person edits a language model's answers, and it learns how they want them.

mod person;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use acclimate::adapt::Progress;
use acclimate::chat::Message;
use acclimate::runtime::{TrainOptions, TrainReport};
use acclimate::{Error, Feedback, Home, InitOptions, Result, Session};
use serde_json::{Value, json};

use self::person::{Asked, Script};
use super::bundled::tiny_chat;
use super::output::{Output, printable, table};
use super::stop;

/// What a person says to another model.
const PROMPTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/chat_demo.json"));
/// Edits, and prompts that are never fed back.
const TAUGHT: usize = 20;
const HELD_OUT: usize = 20;
/// Most tokens of an answer: the bundled model's are bytes.
const TOKENS: usize = 64;
const BYTES: usize = 160;
/// Columns of a prompt and of an answer in the table.
const SHOWN: usize = 44;

/// An answer to a prompt that is never fed back.
struct Held {
    prompt: String,
    answer: String,
    liked: bool,
    /// It is about a thing that this person has a name for.
    about_names: bool,
}

/// Runs the demo on the bundled model, or on the one in the folder `model`.
pub(super) fn run(model: Option<&Path>, seed: u64, threads: usize, output: &Output) -> Result<ExitCode> {
    let started = Instant::now();
    let stop = stop::on_signal()?;
    let folder = tempfile::Builder::new()
        .prefix("acclimate-demo-")
        .tempdir()
        .map_err(|e| Error::io("cannot make a temporary folder", &std::env::temp_dir(), e))?;
    let (onnx, script) = match model {
        Some(dir) => (dir.join("model.onnx"), script(PROMPTS.as_bytes())?),
        None => unpack(folder.path())?,
    };
    let most = if model.is_some() { TOKENS } else { BYTES };
    let home = Home::init(folder.path().join("home"), &InitOptions::new(onnx))?;
    let session = home.session("default")?;
    let bar = output.bar(1000);
    let say = |what: &str, part: f64| {
        bar.set_message(what.to_string());
        bar.set_position((1000.0 * part) as u64);
    };
    let held_out = &script.held_out[..script.held_out.len().min(HELD_OUT)];
    let ask_all = |what: &str| -> Result<Vec<Held>> {
        let ask = |(at, asked): (usize, &Asked)| {
            say(what, at as f64 / held_out.len() as f64);
            let (answer, ended, _) = ask(&session, &asked.prompt, most, stop)?;
            let (liked, about_names) = (script.is_liked(asked, &answer, ended), script.is_about_names(asked));
            Ok(Held { prompt: asked.prompt.clone(), liked, answer, about_names })
        };
        held_out.iter().enumerate().map(ask).collect()
    };
    let before = ask_all("asking what is never fed back")?;
    let mut edits = 0;
    for (at, asked) in script.edits.iter().take(TAUGHT).enumerate() {
        say("answering, and being edited", at as f64 / TAUGHT as f64);
        let (answer, ended, id) = ask(&session, &asked.prompt, most, stop)?;
        let Some(id) = id else { continue };
        let said = match &asked.edited {
            Some(wanted) if !script.is_liked(asked, &answer, ended) => Feedback::Edit(wanted.clone()),
            _ => Feedback::Accept,
        };
        edits += usize::from(matches!(said, Feedback::Edit(_)));
        session.feedback(id, said)?;
    }
    let progress = |p: Progress| say(&p.stage, f64::from(p.done.clamp(0.0, 1.0)));
    let options = TrainOptions::default().seed(seed).threads(threads).stop(stop).progress(&progress);
    let report = session.train(&options)?;
    let after = ask_all("asking again")?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let data = as_json(&before, &after, edits, &report, seconds);
    output.data(&data, || for_people(&before, &after, edits, &report, seconds))?;
    Ok(ExitCode::SUCCESS)
}

/// The bundled model in `folder`, and what is said to it.
fn unpack(folder: &Path) -> Result<(PathBuf, Script)> {
    let mut said = None;
    for (name, bytes) in tiny_chat()? {
        if name == "prompts.json" {
            said = Some(script(&bytes)?);
            continue;
        }
        let path = folder.join(&name);
        std::fs::write(&path, bytes).map_err(|e| Error::io("cannot write the bundled file", &path, e))?;
    }
    let said = said.ok_or_else(|| Error::internal("the bundled model has no prompts"))?;
    Ok((folder.join("model.onnx"), said))
}

fn script(bytes: &[u8]) -> Result<Script> {
    serde_json::from_slice(bytes).map_err(|e| Error::internal("the bundled prompts cannot be read").because(e))
}

type Answered = (String, bool, Option<acclimate::journal::InteractionId>);

/// The most likely answer, whether the model ended it, and its id.
fn ask(session: &Session, prompt: &str, most: usize, stop: &AtomicBool) -> Result<Answered> {
    let mut conversation = session.conversation()?;
    let mut config = conversation.defaults()?;
    (config.do_sample, config.max_new_tokens) = (false, Some(most));
    conversation.push(Message::new("user", prompt));
    let answer = conversation.answer(&config, &mut |_| !stop.load(std::sync::atomic::Ordering::Relaxed))?;
    let ended = answer.finish_reason.is_some_and(|reason| reason.as_str() == "stop");
    match answer.finish_reason {
        Some(_) => Ok((answer.text, ended, answer.id)),
        None => Err(Error::new(acclimate::ErrorKind::Interrupted, "the demo was stopped")),
    }
}

fn liked(held: &[Held]) -> usize {
    held.iter().filter(|h| h.liked).count()
}

fn liked_names(held: &[Held]) -> usize {
    held.iter().filter(|h| h.about_names && h.liked).count()
}

fn about_names(held: &[Held]) -> usize {
    held.iter().filter(|h| h.about_names).count()
}

fn as_json(before: &[Held], after: &[Held], edits: usize, report: &TrainReport, seconds: f64) -> Value {
    let one = |(b, a): (&Held, &Held)| {
        json!({
            "prompt": b.prompt,
            "before": b.answer,
            "after": a.answer,
            "liked_before": b.liked,
            "liked_after": a.liked,
        })
    };
    json!({
        "edits": edits,
        "names": { "held_out": about_names(after), "liked_before": liked_names(before), "liked_after": liked_names(after) },
        "held_out": before.len(),
        "liked_before": liked(before),
        "liked_after": liked(after),
        "promoted": report.promoted,
        "generation": report.generation,
        "reason": report.verdict.reason,
        "tried": report.tried,
        "language": report.language().map(super::train::language),
        "answers": before.iter().zip(after).map(one).collect::<Vec<_>>(),
        "train_seconds": report.seconds,
        "seconds": seconds,
    })
}

fn short(text: &str) -> String {
    let mut line: String = text.chars().take(SHOWN).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    printable(&line)
}

fn for_people(before: &[Held], after: &[Held], edits: usize, report: &TrainReport, seconds: f64) -> String {
    let row = |(b, a): (&Held, &Held)| [short(&b.prompt), short(&b.answer), short(&a.answer)];
    let shown = table(["prompt that was never fed back", "before", "after"], before.iter().zip(after).map(row), 3);
    let names = match about_names(after) {
        0 => String::new(),
        n => format!(", {} of {n} where this person has a name for what it is about", liked_names(after)),
    };
    let promoted = if report.promoted { "promoted" } else { "not promoted" };
    format!(
        "{shown}\n\nafter {edits} edits {} of {} answers are as this person wants them, {} before{names} \
         ({promoted}: {})\n{seconds:.0} s, {:.0} s of them training",
        liked(after),
        after.len(),
        liked(before),
        report.verdict.reason,
        report.seconds
    )
}
