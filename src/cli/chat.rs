//! `chat`: a conversation with a home's language model in a terminal.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;

use acclimate::chat::Message;
use acclimate::generate::GenerationConfig;
use acclimate::runtime::{Conversation, Generated};
use acclimate::{Error, ErrorKind, Feedback, Result, Session};
use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generate::{GenerationArgs, left_out};
use super::output::{Output, printable_text};
use super::{DeviceArg, ProfileArg, stop};

/// Talk with a language model in the terminal
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate chat home --system \"Answer briefly.\"\n\n\
                        Ctrl-C stops an answer, Ctrl-D leaves. A line that ends with \\ goes on. /help lists the commands.")]
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

const HELP: &str = "\
/edit [TEXT]  the last answer should have been TEXT; without TEXT it is opened in $VISUAL, $EDITOR, or inline
/good         the last answer is good
/bad [WHY]    the last answer is bad
/retry        answer the last message again; then /1 or /2 says which answer is better
/train        learn from what was said; serves only if it proves better
/undo         take back the last message and its answer
/system TEXT  replace the system message and begin anew; without TEXT there is none
/clear        begin anew
/why          what answered, and how fast
/quit         leave (or Ctrl-D)
//TEXT        say /TEXT
A line that ends with \\ goes on with the next one. Ctrl-C stops an answer.";

impl Chat {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.session(&self.home, &self.device, output)?;
        let conversation = session.conversation()?;
        let config = self.options.or(conversation.defaults()?)?;
        if !conversation.has_template()? {
            output.note("the model has no chat template: it goes on where your text ends");
        }
        let editor = DefaultEditor::new().map_err(|e| Error::internal("cannot use the terminal").because(e))?;
        let mut chat = Talk { session: &session, conversation, config, output, editor, last: None, before: None };
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
    last: Option<Generated>,
    /// The answer before the last one, to the same message.
    before: Option<Generated>,
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
            let line = match self.editor.readline(if typed.is_empty() { "> " } else { "… " }) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    typed.clear();
                    self.output.note("/quit or Ctrl-D leaves");
                    continue;
                }
                Err(ReadlineError::Eof) if !typed.trim().is_empty() => return Ok(Some(typed.trim().to_string())),
                Err(ReadlineError::Eof) => return Ok(None),
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

    /// Does what `/command` says; whether the chat goes on.
    fn command(&mut self, command: &str) -> Result<bool> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match name {
            "quit" | "exit" => return Ok(false),
            "help" => self.output.note(HELP),
            "clear" => {
                let system = self.system();
                self.begin(system);
            }
            "system" => self.begin(Some(rest.trim().to_string())),
            "undo" => {
                self.take_back();
                match self.conversation.messages().last().is_some_and(|m| m.role == "user") {
                    true => {
                        self.conversation.pop();
                    }
                    false => self.output.note("there is nothing to take back"),
                }
            }
            "retry" => match self.conversation.messages().iter().any(|m| m.role == "user") {
                true => {
                    let (before, messages) = (self.last.take(), self.conversation.messages().to_vec());
                    self.take_back();
                    self.answer_again()?;
                    if self.last.is_none() {
                        // It could not be answered again: what was there stays.
                        self.conversation.set_messages(messages);
                        self.last = before;
                        return Ok(true);
                    }
                    self.before = before;
                    if self.before.is_some() {
                        self.output.note("/1 or /2 says which answer is better");
                    }
                }
                false => self.output.note("there is no message to answer again"),
            },
            "1" | "2" => self.prefer(name == "1"),
            "good" => self.say(Feedback::Accept),
            "bad" => self.say(Feedback::RejectBecause(rest.trim().into())),
            "edit" => self.edit(rest.trim())?,
            "train" => self.train(),
            "why" => match &self.last {
                Some(answer) => self.output.note(why(answer)),
                None => self.output.note("nothing was answered yet"),
            },
            other => self.output.note(format_args!("there is no command /{other}; /help lists them")),
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

    /// Says `feedback` about the last answer, in the place of what was said before.
    fn say(&mut self, feedback: Feedback) {
        let Some(id) = self.last.as_ref().and_then(|answer| answer.id) else {
            return self.output.note("there is no answer to say something about");
        };
        let said = match self.session.feedback(id, feedback.clone()) {
            Err(e) if e.kind() == ErrorKind::Usage => match self.session.replace_feedback(id, feedback) {
                // What is wrong with the feedback itself is said first.
                Err(_) => Err(e),
                replaced => replaced,
            },
            said => said,
        };
        match said {
            Ok(receipt) => self.output.note(format_args!("saved. {} waiting for /train", receipt.waiting)),
            Err(e) => self.output.error(&e),
        }
    }

    /// Says which of two answers to the same message is better, and goes on with that one.
    fn prefer(&mut self, first: bool) {
        let ids = |a: &Option<Generated>| a.as_ref().and_then(|answer| answer.id);
        let (Some(one), Some(two)) = (ids(&self.before), ids(&self.last)) else {
            return self.output.note("there are no two answers to choose from; /retry makes another one");
        };
        if first {
            std::mem::swap(&mut self.before, &mut self.last);
            self.conversation.pop();
            let text = self.last.as_ref().map_or_else(String::new, |answer| answer.text.clone());
            self.conversation.push(Message::new("assistant", text));
        }
        self.say(Feedback::PreferredOver(if first { two } else { one }));
        self.before = None;
    }

    /// Says what the last answer should have been, and goes on with that.
    fn edit(&mut self, given: &str) -> Result<()> {
        let Some(answer) = self.last.as_ref().map(|answer| answer.text.clone()) else {
            self.output.note("there is no answer to edit");
            return Ok(());
        };
        let text = match given {
            "" => match self.edited(&answer)? {
                Some(text) => text,
                None => return Ok(()),
            },
            given => given.to_string(),
        };
        let text = text.trim().to_string();
        self.say(Feedback::Edit(text.clone()));
        if !text.is_empty() && self.conversation.messages().last().is_some_and(|m| m.role == "assistant") {
            self.conversation.pop();
            self.conversation.push(Message::new("assistant", text));
        }
        Ok(())
    }

    /// `answer` as the person changed it, in their editor or on the line.
    fn edited(&mut self, answer: &str) -> Result<Option<String>> {
        let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
        let Some(editor) = editor else {
            return match self.editor.readline_with_initial("edit> ", (&printable_text(answer), "")) {
                Ok(line) => Ok(Some(line)),
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(None),
                Err(e) => Err(Error::internal("cannot read the terminal").because(e)),
            };
        };
        // A folder of its own, so that what the editor keeps beside the file goes with it.
        let folder =
            tempfile::tempdir().map_err(|e| Error::io("cannot make a file to edit", &std::env::temp_dir(), e))?;
        let file = folder.path().join("answer.txt");
        std::fs::write(&file, answer).map_err(|e| Error::io("cannot write the answer", &file, e))?;
        stop::leave_to_others(true);
        // As git does: the variable may hold arguments.
        let ran = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&file).status();
        stop::leave_to_others(false);
        match ran {
            Ok(status) if status.success() => {
                let text = std::fs::read_to_string(&file);
                text.map(Some).map_err(|e| Error::io("cannot read the edited answer", &file, e))
            }
            _ => {
                self.output.note(format_args!("the editor {editor:?} failed: nothing was saved"));
                Ok(None)
            }
        }
    }

    fn train(&mut self) {
        match super::train_in_chat(self.session, self.output) {
            Ok(text) => self.output.note(text),
            Err(e) => self.output.error(&e),
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
        if answer.finish_reason.is_none() {
            self.output.note("stopped");
        }
        if answer.tokens == 0 {
            self.conversation.pop();
            return Ok(());
        }
        self.last = Some(answer);
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
        "answered by {by}: {} tokens, {ended}; first token after {:.0} ms{rate}; prompt of {} tokens, {} of them read before",
        answer.tokens, answer.prefill_ms, answer.prompt_tokens, answer.cached_tokens
    )
}
