//! A chat template that renders as `transformers` does.

use std::io::{self, Write};

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig};

use super::date::Moment;
use super::limits::{FUEL, MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES, RECURSION};
use super::message::Message;
use super::special_tokens::SpecialTokens;
use super::stack::with_room;
use super::{python, source};
use crate::error::{Error, Result};

/// The name of the template within its environment.
const NAME: &str = "chat_template";

/// A compiled chat template with its special tokens. It is shared between threads by reference.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles the template in `source`, which is Jinja as `transformers` reads it.
    ///
    /// Errors ([`crate::ErrorKind::UnsupportedModel`]): a template of more than [`MAX_TEMPLATE_BYTES`], bad
    /// syntax with its line, a statement that reads other files (`include`, `import`, `extends`), an unknown
    /// filter.
    pub fn new(source: &str, tokens: SpecialTokens) -> Result<ChatTemplate> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(Error::unsupported(format!(
                "a chat template of {} bytes; at most {MAX_TEMPLATE_BYTES} are read",
                source.len()
            ))
            .hint("give another chat_template.jinja"));
        }
        with_room(|| ChatTemplate::compile(source, tokens))
    }

    fn compile(source: &str, tokens: SpecialTokens) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_recursion_limit(RECURSION);
        environment.set_fuel(Some(FUEL));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::internal("cannot set up chat templates").because(e))?);
        python::add_to(&mut environment);
        environment.add_function("raise_exception", raise);
        environment.add_template_owned(NAME, source::prepared(source)).map_err(|e| {
            let reads = ["include", "import", "from", "extends"]
                .iter()
                .any(|statement| e.detail().is_some_and(|detail| detail == format!("unknown statement {statement}")));
            failed("cannot compile the chat template", &e).hint(if reads {
                "a chat template cannot read other templates: give one that stands alone"
            } else {
                "check the template's syntax, or give another chat_template.jinja"
            })
        })?;
        Ok(ChatTemplate { environment, tokens })
    }

    /// The special tokens that the template can name.
    pub fn tokens(&self) -> &SpecialTokens {
        &self.tokens
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the assistant is to speak.
    /// Dates in it are those of `now`.
    ///
    /// Errors: the template raises one ([`crate::ErrorKind::BadData`], with its text), fails
    /// ([`crate::ErrorKind::UnsupportedModel`], with the line), does not end in time, or writes more than
    /// [`MAX_RENDERED_BYTES`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, now: Moment) -> Result<String> {
        with_room(|| self.evaluate(messages, add_generation_prompt, now))
    }

    fn evaluate(&self, messages: &[Message], add_generation_prompt: bool, now: Moment) -> Result<String> {
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let context = context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
            strftime_now => Value::from_function(move |format: &str| strftime(now, format)),
        };
        let tokens = self.tokens.0.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let variables = context! { ..Value::from_pairs(tokens), ..context };
        let what = "cannot render the chat template";
        let template = self.environment.get_template(NAME).map_err(|e| failed(what, &e))?;
        let mut out = Limited(Vec::new());
        template.render_captured_to(variables, &mut out).map_err(|e| failed(what, &e))?;
        String::from_utf8(out.0).map_err(|e| Error::internal(what).because(e))
    }
}

fn strftime(now: Moment, format: &str) -> Result<String, minijinja::Error> {
    now.strftime(format).map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// What a template raises itself.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise(message: &Value) -> Result<Value, minijinja::Error> {
    let text = message.to_string();
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(text)))
}

/// Output of at most [`MAX_RENDERED_BYTES`].
struct Limited(Vec<u8>);

/// The template wrote too much.
#[derive(Debug)]
struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it writes more than {MAX_RENDERED_BYTES} bytes")
    }
}

impl std::error::Error for TooLong {}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED_BYTES {
            return Err(io::Error::other(TooLong));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The engine's error in this crate's words.
fn failed(what: &str, e: &minijinja::Error) -> Error {
    let mut line = e.line();
    let mut cause: &(dyn std::error::Error + 'static) = e;
    let mut reason = describe(e);
    loop {
        if let Some(Raised(text)) = cause.downcast_ref() {
            let error = Error::bad_data(format!("the chat template refuses the conversation: {text}"));
            return error.hint("give conversations in the order of roles that the model was made for");
        }
        if let Some(inner) = cause.downcast_ref::<minijinja::Error>() {
            (line, reason) = (inner.line().or(line), describe(inner));
        } else if let Some(io) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            reason = io.to_string();
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => break,
        }
    }
    let error = Error::unsupported(what).because(reason);
    let error = error.hint("give another chat_template.jinja, or a shorter conversation");
    match line {
        Some(line) => error.at(format!("line {line}")),
        None => error,
    }
}

/// What happened, without the place.
fn describe(e: &minijinja::Error) -> String {
    match (e.kind(), e.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does not end within the work that one conversation may take".into(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}
