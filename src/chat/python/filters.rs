//! Filters, tests and functions of Jinja2.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, State};

use super::{Text, json, strings, text};

/// Adds them to `environment`, in place of what the engine has under their names.
pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", json::filter);
    environment.add_filter("string", string);
    environment.add_filter("trim", trim);
    environment.add_filter("join", join);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("wordcount", |value: &Value| -> Result<usize, Error> {
        Ok(text::str(value)?.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count())
    });
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::String)
    });
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment
        .add_test("iterable", |value: &Value| value.is_undefined() || value.try_iter().is_ok() && !value.is_none());
}

fn string(state: &mut State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let text = text::str(value)?;
    state.consume_fuel(text.len() as u64 / 4)?;
    Ok(Value::from(text))
}

fn trim(value: &Value, chars: Option<&str>, named: Kwargs) -> Result<String, Error> {
    let chars = chars.or(named.get("chars")?);
    named.assert_all_used()?;
    let text = text::str(value)?;
    Ok(strings::trimmed(&text, chars, true, true).to_owned())
}

/// HTML as MarkupSafe escapes it.
fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let marks = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&#34;"), ("'", "&#39;")];
    let escaped = marks.iter().fold(text::str(value)?, |text, (mark, escaped)| text.replace(mark, escaped));
    super::bounded(escaped.len())?;
    Ok(Value::from_safe_string(escaped))
}

/// `default(default_value='', boolean=false)`.
fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, named: Kwargs) -> Result<Value, Error> {
    let other: Option<Value> = other.or(named.get("default_value")?);
    let boolean = boolean.or(named.get("boolean")?).unwrap_or(false);
    named.assert_all_used()?;
    let missing = value.is_undefined() || boolean && !value.is_true();
    Ok(if missing { other.unwrap_or(Value::from("")) } else { value.clone() })
}

/// `int(default=0, base=10)`.
fn int(value: &Value, other: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let other: Option<Value> = other.or(named.get("default")?);
    let base = base.or(named.get("base")?).unwrap_or(10);
    named.assert_all_used()?;
    let read = match value.as_str() {
        Some(text) => integer(text, base),
        None if value.is_integer() => return Ok(value.clone()),
        None => f64::try_from(value.clone()).ok().filter(|f| f.abs() < 1e18).map(|f| f as i64),
    };
    Ok(read.map_or(other.unwrap_or(Value::from(0)), Value::from))
}

/// A text as an integer; a float is cut if the base is ten.
fn integer(text: &str, base: u32) -> Option<i64> {
    let text = strings::trimmed(text, None, true, true).replace('_', "").to_lowercase();
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = text.strip_prefix(prefix).unwrap_or(&text);
    let read = if (2..=36).contains(&base) { i64::from_str_radix(digits, base).ok() } else { None };
    read.or_else(|| text.parse::<f64>().ok().filter(|f| f.abs() < 1e18).map(|f| f as i64))
}

/// `float(default=0.0)`.
fn float(value: &Value, other: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let other: Option<Value> = other.or(named.get("default")?);
    named.assert_all_used()?;
    let read = match value.as_str() {
        Some(text) => strings::trimmed(text, None, true, true).parse::<f64>().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(read.map_or(other.unwrap_or(Value::from(0.0)), Value::from))
}

/// `join(d='', attribute=none)`.
fn join(
    state: &mut State,
    value: &Value,
    between: Option<&Value>,
    attribute: Option<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let attribute: Option<Value> = attribute.or(named.get("attribute")?).filter(|a| !a.is_none());
    let between = match between {
        Some(between) => text::str(between)?,
        None => named.get::<Option<&Value>>("d")?.map_or(Ok(String::new()), text::str)?,
    };
    named.assert_all_used()?;
    let mut out = Text::default();
    for (i, item) in value.try_iter()?.enumerate() {
        state.consume_fuel(1)?;
        if i > 0 {
            out.push(&between)?;
        }
        let item = match &attribute {
            Some(attribute) => lookup(&item, attribute)?,
            None => item,
        };
        out.push(&text::str(&item)?)?;
    }
    Ok(out.0)
}

/// The attribute of `item` at a path such as `function.name` or an index.
fn lookup(item: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return item.get_item(path) };
    path.split('.').try_fold(item.clone(), |item, name| match name.parse::<usize>() {
        Ok(index) => item.get_item(&Value::from(index)),
        Err(_) => item.get_attr(name),
    })
}
