//! Values as Python's `str` and `repr` write them.

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::{Text, invalid};
use crate::chat::limits::MAX_DEPTH;

/// `str(value)`; nothing for an undefined value.
///
/// Errors: a value that is nested too deep, or a text that is too long.
pub fn str(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = Text::default();
    write(&mut out, value, 0)?;
    Ok(out.0)
}

/// `repr(value)` of what is within a list or a mapping.
fn write(out: &mut Text, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid("a value that is nested too deep"));
    }
    match value.kind() {
        ValueKind::String => out.push(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Number if !value.is_integer() => out.push(&number(value)),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { "(" } else { "[" })?;
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push(", ")?;
                }
                write(out, &item, depth + 1)?;
            }
            out.push(if tuple && value.len() == Some(1) { "," } else { "" })?;
            out.push(if tuple { ")" } else { "]" })
        }
        ValueKind::Map => {
            out.push("{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push(", ")?;
                }
                write(out, &key, depth + 1)?;
                out.push(": ")?;
                write(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push("}")
        }
        ValueKind::Undefined => out.push(if depth == 0 { "" } else { "Undefined" }),
        ValueKind::Invalid => Err(invalid(value.to_string())),
        _ => out.push(&value.to_string()),
    }
}

/// `repr` of a number that is no integer.
pub fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) => float(number),
        Err(_) => value.to_string(),
    }
}

/// `repr` of a float: the shortest digits that give it, with an exponent where it is below -4 or above 15.
fn float(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let scientific = format!("{value:e}");
    let exponent = scientific.split_once('e').and_then(|(digits, e)| Some((digits, e.parse::<i32>().ok()?)));
    match exponent {
        Some((digits, e)) if !(-4..16).contains(&e) => {
            format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
        }
        _ => {
            let plain = value.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// `repr` of a text.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if printable(c) => out.push(c),
            c => out.push_str(&match u32::from(c) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

/// `str.isprintable` of one character, quotes and backslashes included.
fn printable(c: char) -> bool {
    // A mark that combines is printable, but for the start of a text.
    matches!(c, '"' | '\'' | '\\') || format!("a{c}").escape_debug().skip(1).eq([c])
}
