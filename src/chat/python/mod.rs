//! What Python and Jinja2 have that templates rely on and the template engine does not have, or has
//! otherwise.

mod filters;
mod json;
mod lists;
mod strings;
mod text;

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use super::limits::MAX_RENDERED_BYTES;

/// Adds methods, filters, tests and functions of Python and Jinja2 to `environment`, and writes values as
/// Python does.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None => Ok(out.write_str(&text::str(value)?)?),
    });
    filters::add_to(environment);
}

/// Calls a method of Python's `str`, `dict` or `list`. Methods that change their object are not among them.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => strings::method(state, text, name, args),
        (ValueKind::Map, _) => lists::mapping_method(state, value, name, args),
        (ValueKind::Seq | ValueKind::Iterable, _) => lists::method(state, value, name, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Text that a template makes on its way, within the limit of what it may write.
#[derive(Default)]
struct Text(String);

impl Text {
    fn push(&mut self, text: &str) -> Result<(), Error> {
        bounded(self.0.len() + text.len())?;
        self.0.push_str(text);
        Ok(())
    }
}

/// Refuses to make a text of `length` bytes if that is beyond the limit.
fn bounded(length: usize) -> Result<(), Error> {
    if length > MAX_RENDERED_BYTES {
        return Err(invalid(format!("a text of more than {MAX_RENDERED_BYTES} bytes")));
    }
    Ok(())
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}
