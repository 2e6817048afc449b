//! JSON as Python's `json.dumps` writes it: the filter `tojson`, which unlike Jinja2's own escapes no HTML.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::{Text, invalid, text};
use crate::chat::limits::MAX_DEPTH;

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub fn filter(state: &mut State, value: &Value, given: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let mut options = [None, None, None, None];
    for (i, (name, option)) in
        ["ensure_ascii", "indent", "separators", "sort_keys"].iter().zip(&mut options).enumerate()
    {
        let found: Option<Value> = given.get(i).cloned().or(named.get(name)?);
        *option = found.filter(|value| !value.is_none());
    }
    named.assert_all_used()?;
    let [ensure_ascii, indent, separators, sort_keys] = options;
    let [ensure_ascii, sort_keys] = [ensure_ascii, sort_keys].map(|option| option.is_some_and(|o| o.is_true()));
    let indent = match indent {
        None => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) => text.to_owned(),
            // A step of at most 64 leaves the text within a small multiple of its limit.
            (None, Some(spaces)) if spaces <= 64 => " ".repeat(spaces.max(0) as usize),
            _ => return Err(invalid("tojson: indent is neither a small number nor text")),
        }),
    };
    let (item, key) = match separators {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some(pair) => match pair.try_iter()?.map(|s| s.as_str().map(str::to_owned)).collect::<Vec<_>>().as_slice() {
            [Some(item), Some(key)] => (item.clone(), key.clone()),
            _ => return Err(invalid("tojson: separators are not two texts")),
        },
    };
    let mut writer = Writer { out: Text::default(), ensure_ascii, indent, item, key, sort_keys };
    writer.write(value, 0)?;
    state.consume_fuel(writer.out.0.len() as u64 / 4)?;
    Ok(writer.out.0)
}

struct Writer {
    out: Text,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Writer {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("a value that is nested too deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push("null"),
            ValueKind::Bool => self.out.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push("[")?;
                let mut empty = true;
                for item in value.try_iter()? {
                    self.next(empty, depth + 1)?;
                    empty = false;
                    self.write(&item, depth + 1)?;
                }
                self.end(empty, depth, "]")
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.out.push("{")?;
                for (i, key) in keys.iter().enumerate() {
                    self.next(i == 0, depth + 1)?;
                    self.string(&name(key)?)?;
                    let separator = self.key.clone();
                    self.out.push(&separator)?;
                    self.write(&value.get_item(key)?, depth + 1)?;
                }
                self.end(keys.is_empty(), depth, "}")
            }
            kind => Err(Error::new(ErrorKind::BadSerialization, format!("a value of type {kind} is not JSON"))),
        }
    }

    /// What stands before an item.
    fn next(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            let separator = self.item.clone();
            self.out.push(&separator)?;
        }
        self.line(depth)
    }

    fn end(&mut self, empty: bool, depth: usize, bracket: &str) -> Result<(), Error> {
        if !empty {
            self.line(depth)?;
        }
        self.out.push(bracket)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        self.out.push("\n")?;
        for _ in 0..depth {
            self.out.push(indent)?;
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for c in text.chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\u{8}' => quoted.push_str("\\b"),
                '\u{c}' => quoted.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        quoted.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        self.out.push(&quoted)
    }
}

/// A key of an object.
fn name(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number => number(key),
        kind => return Err(Error::new(ErrorKind::BadSerialization, format!("a key of type {kind} is not JSON"))),
    })
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match text::number(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        finite => finite.to_owned(),
    }
}
