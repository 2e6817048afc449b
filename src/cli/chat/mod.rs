//! `chat`: a conversation with a home's language model in a terminal.

mod commands;
mod edit;

use std::io::{ErrorKind as IoKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use acclimate::chat::Message;
use acclimate::generate::GenerationConfig;
use acclimate::runtime::{Conversation, Generated};
use acclimate::{Error, ErrorKind, Feedback, Result, Session};
use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use self::commands::Command;
use self::edit::Place;
use super::generate::{GenerationArgs, NO_TEMPLATE, left_out, unrecorded};
use super::output::{Output, printable_text};
use super::{DeviceArg, ProfileArg, stop};

/// Talk with a language model in the terminal
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate chat home --system \"Answer briefly.\"\n\n\
                        Ctrl-C stops an answer, Ctrl-D leaves. A line that ends with \\ goes on. \
                        /help lists the commands.")]
pub struct Chat {
    /// The home
    home: PathBuf,
    /// System message before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    options: GenerationArgs,
    #[command(flatten)]
    profile: ProfileArg,
    #[command(flatten)]
    device: DeviceArg,
}

/// Temperature of a second answer where the most likely tokens are taken otherwise.
const RETRY_TEMPERATURE: f64 = 0.8;
/// What is said where a person has edited an answer, which then takes no other word.
const EDIT_STAYS: &str = "what you wrote in place of this answer stays what is learned; /edit changes it";

impl Chat {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.session(&self.home, &self.device, output)?;
        let conversation = session.conversation()?;
        let config = self.options.or(conversation.defaults()?)?;
        if !conversation.has_template()? {
            output.note(NO_TEMPLATE);
        }
        let editor = DefaultEditor::new().map_err(|e| Error::internal("cannot use the terminal").because(e))?;
        let prompts = std::io::stdin().is_terminal();
        let mut chat =
            Talk { session: &session, conversation, config, output, editor, prompts, last: None, before: None };
        chat.begin(self.system);
        output.note("/help lists the commands");
        while let Some(line) = chat.line()? {
            // Two slashes are one that is said.
            match line.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
                Some(command) if !chat.command(command)? => break,
                Some(_) => {}
                None => {
                    let said = line.strip_prefix('/').unwrap_or(&line);
                    chat.conversation.push(Message::new("user", said));
                    chat.answer()?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A chat that is going on.
struct Talk<'a> {
    session: &'a Session,
    conversation: Conversation<'a>,
    config: GenerationConfig,
    output: &'a Output,
    editor: DefaultEditor,
    /// Somebody types.
    prompts: bool,
    last: Option<Answer>,
    /// The answer before the last one, to the same message.
    before: Option<Answer>,
}

/// An answer of this chat.
struct Answer {
    generated: Generated,
    /// What the person put in its place.
    edited: Option<String>,
}

impl Answer {
    /// What the conversation goes on with.
    fn text(&self) -> &str {
        self.edited.as_ref().unwrap_or(&self.generated.text)
    }
}

impl Talk<'_> {
    /// A new conversation, with `system` as its first message.
    fn begin(&mut self, system: Option<String>) {
        let system = system.filter(|text| !text.is_empty()).map(|text| Message::new("system", text));
        self.conversation.set_messages(system.into_iter().collect());
        (self.last, self.before) = (None, None);
    }

    /// What was typed, or nothing at the end. Empty lines are passed over.
    fn line(&mut self) -> Result<Option<String>> {
        let mut typed = String::new();
        loop {
            let prompt = match (self.prompts, typed.is_empty()) {
                (false, _) => "",
                (true, true) => "> ",
                (true, false) => "… ",
            };
            let line = match self.editor.readline(prompt) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    typed.clear();
                    self.output.note("/quit or Ctrl-D leaves");
                    continue;
                }
                Err(ReadlineError::Eof) if !typed.trim().is_empty() => return Ok(Some(typed.trim().to_string())),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Io(e)) if e.kind() == IoKind::InvalidData => {
                    typed.clear();
                    self.output.warn("what was typed is not UTF-8, and was passed over");
                    continue;
                }
                Err(ReadlineError::Io(e)) => {
                    return Err(Error::io("cannot read what is typed", Path::new("standard input"), e));
                }
                Err(e) => return Err(Error::internal("cannot read the terminal").because(e)),
            };
            if let Some(goes_on) = line.strip_suffix('\\') {
                typed += goes_on;
                typed.push('\n');
                continue;
            }
            typed += &line;
            if !typed.trim().is_empty() {
                // Kept while the chat lasts, and nowhere.
                let _ = self.editor.add_history_entry(&typed);
                return Ok(Some(typed.trim().to_string()));
            }
            typed.clear();
        }
    }

    /// Does what `/line` says; whether the chat goes on.
    fn command(&mut self, line: &str) -> Result<bool> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let Some(command) = commands::named(name) else {
            self.output.note(format_args!("there is no command /{}; /help lists them", printable_text(name)));
            return Ok(true);
        };
        match command {
            Command::Quit => return Ok(false),
            Command::Help => self.output.note(commands::help()),
            Command::Clear => {
                let system = self.system();
                self.begin(system);
            }
            Command::System => self.begin(Some(rest.to_string())),
            Command::Undo => {
                self.take_back();
                match self.conversation.messages().last().is_some_and(|m| m.role == "user") {
                    true => {
                        self.conversation.pop();
                    }
                    false => self.output.note("there is nothing to take back"),
                }
            }
            Command::Retry => self.retry()?,
            Command::First => self.prefer(true),
            Command::Second => self.prefer(false),
            Command::Good => self.rate(Feedback::Accept),
            Command::Bad => self.rate(Feedback::RejectBecause(rest.into())),
            Command::Edit => self.edit(rest),
            Command::Train => match super::train_in_chat(self.session, self.output) {
                Ok(text) => self.output.note(text),
                Err(e) => self.output.error(&e),
            },
            Command::Why => match &self.last {
                Some(answer) => self.output.note(why(&answer.generated)),
                None => self.output.note("nothing was answered yet"),
            },
        }
        Ok(true)
    }

    fn system(&self) -> Option<String> {
        self.conversation.messages().first().filter(|m| m.role == "system").map(|m| m.content.clone())
    }

    /// Takes back the last answer, if the last message is one.
    fn take_back(&mut self) {
        if self.conversation.messages().last().is_some_and(|m| m.role == "assistant") {
            self.conversation.pop();
        }
        (self.last, self.before) = (None, None);
    }

    /// Answers the last message a second time.
    fn retry(&mut self) -> Result<()> {
        if !self.conversation.messages().iter().any(|m| m.role == "user") {
            self.output.note("there is no message to answer again");
            return Ok(());
        }
        let (before, messages) = (self.last.take(), self.conversation.messages().to_vec());
        self.take_back();
        self.answer_again()?;
        if self.last.is_none() {
            // It could not be answered again: what was there stays.
            self.conversation.set_messages(messages);
            self.last = before;
            return Ok(());
        }
        self.before = before;
        if self.before.is_some() {
            self.output.note("which answer is better? /1 is the one before, /2 this one");
        }
        Ok(())
    }

    /// Another answer to the last message: the most likely one again would be the same, so it is sampled.
    fn answer_again(&mut self) -> Result<()> {
        let usual = self.config.clone();
        if !self.config.do_sample {
            (self.config.do_sample, self.config.temperature) = (true, RETRY_TEMPERATURE);
        }
        let answered = self.answer();
        self.config = usual;
        answered
    }

    /// Says whether the last answer is good.
    fn rate(&self, feedback: Feedback) {
        if self.last.as_ref().is_some_and(|answer| answer.edited.is_some()) {
            return self.output.note(EDIT_STAYS);
        }
        self.say(feedback);
    }

    /// Says `feedback` about the last answer, in the place of what was said before; whether it was taken.
    fn say(&self, feedback: Feedback) -> bool {
        let id = match &self.last {
            Some(answer) => answer.generated.id,
            None => {
                self.output.note("there is no answer to say something about");
                return false;
            }
        };
        let Some(id) = id else {
            self.output.note("the last answer was not recorded, and takes no feedback");
            return false;
        };
        let said = match self.session.feedback(id, feedback.clone()) {
            Err(e) if e.kind() == ErrorKind::Usage => match self.session.replace_feedback(id, feedback) {
                // What is wrong with the feedback itself is said first.
                Err(_) => Err(e),
                replaced => replaced,
            },
            said => said,
        };
        match &said {
            Ok(receipt) => self.output.note(format_args!("saved. {} waiting for /train", receipt.waiting)),
            Err(e) => self.output.error(e),
        }
        said.is_ok()
    }

    /// Says which of two answers to the same message is better, and goes on with that one. One that the person edited
    /// keeps the edit, which says more.
    fn prefer(&mut self, first: bool) {
        let ids = |a: &Option<Answer>| a.as_ref().and_then(|answer| answer.generated.id);
        let (Some(one), Some(two)) = (ids(&self.before), ids(&self.last)) else {
            return self.output.note("there are no two answers to choose from; /retry makes another one");
        };
        if first {
            std::mem::swap(&mut self.before, &mut self.last);
            self.go_on_with_last();
        }
        self.rate(Feedback::PreferredOver(if first { two } else { one }));
        self.before = None;
    }

    /// Puts the last answer, as it stands now, in the place of what the conversation has.
    fn go_on_with_last(&mut self) {
        let Some(answer) = &self.last else { return };
        if self.conversation.messages().last().is_some_and(|m| m.role == "assistant") {
            self.conversation.pop();
            self.conversation.push(Message::new("assistant", answer.text()));
        }
    }

    /// Says what the last answer should have been, and goes on with that.
    fn edit(&mut self, given: &str) {
        let Some(answer) = &self.last else { return self.output.note("there is no answer to edit") };
        let (original, shown) = (answer.generated.text.trim().to_string(), answer.text().to_string());
        let edited = match given {
            "" => match Place::of_environment(&mut self.editor).edited(&shown) {
                Ok(Some(text)) => text,
                Ok(None) => return self.output.note("nothing was saved"),
                Err(e) => return self.output.error(&e),
            },
            given => given.to_string(),
        };
        let (text, was) = (edited.trim(), answer.edited.is_some());
        if text.is_empty() {
            return self.output.note("an edit to nothing: nothing was saved; /bad says that the answer is bad");
        }
        if text == shown.trim() && was {
            return self.output.note("nothing was changed");
        }
        if text == original && !was {
            let what = "the edited text is the answer itself: nothing was saved; /good says that it is good";
            return self.output.note(what);
        }
        // An edit back to the answer says that the answer was right.
        let back = text == original;
        let said = self.say(if back { Feedback::Accept } else { Feedback::Edit(text.to_string()) });
        if let (true, Some(answer)) = (said, &mut self.last) {
            answer.edited = (!back).then(|| text.to_string());
            self.go_on_with_last();
        }
    }

    /// Answers the last message. One that cannot be answered is removed, and the chat goes on.
    fn answer(&mut self) -> Result<()> {
        let stopped = stop::on_signal()?;
        let mut out = std::io::stdout();
        let (mut written, mut begun) = (Ok(()), false);
        let answer = self.conversation.answer(&self.config, &mut |text| {
            begun |= !text.is_empty();
            written = out.write_all(printable_text(text).as_bytes()).and_then(|()| out.flush());
            written.is_ok() && !stopped.load(Ordering::Relaxed)
        });
        stop::at_rest();
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) => {
                if begun {
                    let _ = writeln!(out);
                }
                self.conversation.pop();
                self.output.error(&e);
                return Ok(());
            }
        };
        let ended = written.and_then(|()| writeln!(out));
        ended.map_err(|e| Error::io("cannot write the answer", Path::new("standard output"), e))?;
        if answer.left_out > 0 {
            self.output.warn(left_out(&answer));
        }
        if let Some(warning) = unrecorded(&answer) {
            self.output.warn(warning);
        }
        if answer.finish_reason.is_none() {
            self.output.note("stopped");
        }
        if answer.tokens == 0 {
            self.conversation.pop();
            return Ok(());
        }
        (self.last, self.before) = (Some(Answer { generated: answer, edited: None }), None);
        Ok(())
    }
}

fn why(answer: &Generated) -> String {
    let by = match answer.generation {
        0 => "the base model".to_string(),
        generation => format!("generation {generation}"),
    };
    let ended = answer.finish_reason.map_or("it was stopped", |reason| match reason.as_str() {
        "length" => "it reached its most tokens",
        _ => "the model ended it",
    });
    let rate = if answer.token_ms > 0.0 { format!(", {:.1} tokens/s", 1e3 / answer.token_ms) } else { String::new() };
    format!(
        "answered by {by}: {} tokens, {ended}; first token after {:.0} ms{rate}; \
         prompt of {} tokens, {} of them read before",
        answer.tokens, answer.prefill_ms, answer.prompt_tokens, answer.cached_tokens
    )
}
