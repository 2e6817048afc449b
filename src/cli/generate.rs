//! `generate`: answers of a home's language model, for programs.

use std::io::{ErrorKind as IoKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use acclimate::chat::{self, Message};
use acclimate::generate::GenerationConfig;
use acclimate::runtime::Generated;
use acclimate::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, printable_text};
use super::{DeviceArg, ProfileArg, stop};

/// Largest file of prompts.
const LARGEST: u64 = 64 << 20;
/// Exit code where a signal ended the answers.
const STOPPED: u8 = 130;
/// Most tokens of an answer where neither the caller nor the model says.
const MOST_TOKENS: usize = 512;
/// What is said of a model that was not trained for conversations.
pub(super) const NO_TEMPLATE: &str = "the model has no chat template: it goes on where the text ends";

/// Answer a prompt with a language model
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate generate home \"Which planet is the largest?\"\n  \
                        acclimate generate home --file conversations.jsonl --json")]
pub struct Generate {
    /// The home
    home: PathBuf,
    /// What to answer; standard input when not given
    #[arg(conflicts_with = "file")]
    prompt: Option<String>,
    /// Answer what this file holds: each line of a .jsonl is a conversation, {"messages": [{"role", "content"}, ...]};
    /// any other file is one prompt
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
    /// System message before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    options: GenerationArgs,
    #[command(flatten)]
    profile: ProfileArg,
    #[command(flatten)]
    device: DeviceArg,
}

/// How the next token is chosen; what is not given is the model's own, by its generation_config.json.
#[derive(Args)]
pub(super) struct GenerationArgs {
    /// Most tokens of an answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Sample with this temperature; 0 takes the most likely token
    #[arg(long, value_name = "X")]
    temperature: Option<f64>,
    /// Sample from the K most likely tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the most likely tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Sample from tokens with at least this share of the greatest probability
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Divide the logits of tokens that are there already
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f64>,
    /// Seed of sampling
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl GenerationArgs {
    /// `config` with what was given.
    pub(super) fn or(&self, mut config: GenerationConfig) -> Result<GenerationConfig> {
        let most = self.max_tokens.map(|n| n as usize);
        config.max_new_tokens =
            most.or(config.max_new_tokens).or_else(|| config.max_length.is_none().then_some(MOST_TOKENS));
        if let Some(temperature) = self.temperature {
            config.do_sample = temperature > 0.0;
            config.temperature = temperature;
        }
        let samples = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        config.do_sample |= samples && self.temperature.is_none();
        config.top_k = self.top_k.unwrap_or(config.top_k);
        config.top_p = self.top_p.unwrap_or(config.top_p);
        config.min_p = self.min_p.or(config.min_p);
        config.repetition_penalty = self.repetition_penalty.unwrap_or(config.repetition_penalty);
        config.seed = self.seed.or(config.seed);
        config.stop_strings.extend(self.stop.iter().cloned());
        config.validate()?;
        Ok(config)
    }
}

impl Generate {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.session(&self.home, &self.device, output)?;
        let mut conversation = session.conversation()?;
        let config = self.options.or(conversation.defaults()?)?;
        let has_template = conversation.has_template()?;
        if !has_template {
            output.note(NO_TEMPLATE);
        }
        let stopped = stop::on_signal()?;
        let mut shown = output.list();
        let (several, conversations) = self.conversations()?;
        let shows = |text: &str| match std::io::stdout().is_terminal() {
            true => printable_text(text),
            false => text.to_string(),
        };
        for (n, messages) in conversations.into_iter().enumerate() {
            conversation.set_messages(messages);
            let mut out = std::io::stdout();
            let mut broken = Ok(());
            let streams = !output.json;
            let answer = conversation.answer(&config, &mut |text| {
                if streams {
                    broken = out.write_all(shows(text).as_bytes()).and_then(|()| out.flush());
                }
                broken.is_ok() && !stopped.load(Ordering::Relaxed)
            });
            let answer = match answer {
                Ok(answer) => answer,
                Err(e) => {
                    shown.close()?;
                    return Err(if several { e.within(format!("conversation {}", n + 1)) } else { e });
                }
            };
            if answer.left_out > 0 {
                output.warn(left_out(&answer));
            }
            if let Some(warning) = unrecorded(&answer) {
                output.warn(warning);
            }
            match broken {
                // A reader that has gone away is no error, and reads no other answer either.
                Err(e) if e.kind() == IoKind::BrokenPipe => break,
                other => other.map_err(|e| Error::io("cannot write the answer", Path::new("standard output"), e))?,
            }
            let data = as_json(&answer, has_template);
            match several {
                true => shown.push(&data, String::new)?,
                false => output.data(&data, String::new)?,
            }
            if stopped.load(Ordering::Relaxed) {
                break;
            }
        }
        shown.close()?;
        Ok(if stopped.load(Ordering::Relaxed) { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS })
    }

    /// What to answer, and whether there may be several.
    fn conversations(&self) -> Result<(bool, Vec<Vec<Message>>)> {
        let system = self.system.iter().map(|text| Message::new("system", text.clone()));
        let bytes = match (&self.prompt, &self.file) {
            (Some(prompt), _) => prompt.clone().into_bytes(),
            (None, None) => read(&mut std::io::stdin(), "standard input")?,
            (None, Some(file)) => {
                if file.extension().is_some_and(|e| e == "jsonl") {
                    let all = conversations(file)?;
                    // A system message of its own stays.
                    let own = |messages: &[Message]| messages.first().is_some_and(|m| m.role == "system");
                    let first = |messages: Vec<Message>| match own(&messages) {
                        true => messages,
                        false => system.clone().chain(messages).collect(),
                    };
                    return Ok((true, all.into_iter().map(first).collect()));
                }
                let mut opened = std::fs::File::open(file).map_err(|e| Error::io("cannot open the prompt", file, e))?;
                read(&mut opened, &file.display().to_string())?
            }
        };
        let prompt = String::from_utf8(bytes).map_err(|e| Error::bad_data("the prompt is not UTF-8").because(e))?;
        if prompt.trim().is_empty() {
            return Err(Error::usage("an empty prompt").hint("`acclimate generate HOME \"a question\"`"));
        }
        let prompt = prompt.trim_end_matches(['\r', '\n']);
        Ok((false, vec![system.chain([Message::new("user", prompt)]).collect()]))
    }
}

/// The conversations in `file`, one a line.
pub(super) fn conversations(file: &Path) -> Result<Vec<Vec<Message>>> {
    let mut opened = std::fs::File::open(file).map_err(|e| Error::io("cannot open the conversations", file, e))?;
    let bytes = read(&mut opened, &file.display().to_string())?;
    chat::conversations(&bytes).map_err(|e| e.within(file.display()))
}

fn read(from: &mut dyn Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let cannot = |e| Error::io("cannot read the prompt", Path::new(name), e);
    from.take(LARGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::bad_data(format!("more than {LARGEST} bytes of prompts")).at(name));
    }
    Ok(bytes)
}

/// What is said where messages were left out.
pub(super) fn left_out(answer: &Generated) -> String {
    format!(
        "the model's context does not hold the whole conversation: its first {} messages were left out",
        answer.left_out
    )
}

/// What is said where an answer has no id.
pub(super) fn unrecorded(answer: &Generated) -> Option<String> {
    let why = answer.unrecorded.as_ref()?;
    Some(format!("the answer could not be recorded, and takes no feedback: {why}"))
}

fn as_json(answer: &Generated, has_template: bool) -> Value {
    json!({
        "id": answer.id.map(|id| id.to_string()),
        "text": answer.text,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason.map(|reason| reason.as_str()),
        "generation": answer.generation,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
        "left_out": answer.left_out,
        "chat_template": has_template,
        "prefill_ms": answer.prefill_ms,
        "token_ms": answer.token_ms,
    })
}
