//! Methods of Python's `str`.

use minijinja::value::{Kwargs, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, State};

use super::{Text, bounded, invalid, text};

/// Calls a method of a text. Positions are counted in characters.
pub fn method(state: &mut State, s: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    state.consume_fuel(s.len() as u64 / 16)?;
    let changed = |text: String| Ok(Value::from(text));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(Value::from(trimmed(s, chars, name != "rstrip", name != "lstrip")))
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(named.get("sep")?);
            let most = most.or(named.get("maxsplit")?).unwrap_or(-1);
            named.assert_all_used()?;
            if separator == Some("") {
                return Err(invalid("split: an empty separator"));
            }
            let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
            list(state, if name == "split" { split(s, separator, most) } else { rsplit(s, separator, most) })
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(named.get("keepends")?).unwrap_or(false);
            list(state, lines(s, keep))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("partition: an empty separator"));
            }
            let last = name == "rpartition";
            let parts = match if last { s.rsplit_once(separator) } else { s.split_once(separator) } {
                Some((before, after)) => (before, separator, after),
                None if last => ("", "", s),
                None => (s, "", ""),
            };
            Ok(Value::from(parts))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let Some((first, part)) = slice(s, start, end) else {
                return Ok(Value::from(if name == "count" { 0 } else { -1 }));
            };
            if name == "count" {
                // An empty text is found between all characters.
                return Ok(Value::from(part.matches(wanted).count()));
            }
            let found = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
            match found {
                Some(at) => Ok(Value::from(first + part[..at].chars().count())),
                None if name.ends_with("index") => Err(invalid("index: the text is not found")),
                None => Ok(Value::from(-1)),
            }
        }
        "startswith" | "endswith" => {
            let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = slice(s, start, end).map(|(_, part)| part);
            let is = |wanted: &Value| {
                let wanted = wanted.as_str().ok_or_else(|| invalid(format!("{name}: not a text")))?;
                Ok(part.is_some_and(|p| if name == "endswith" { p.ends_with(wanted) } else { p.starts_with(wanted) }))
            };
            if !wanted.is_tuple() {
                return is(wanted).map(Value::from);
            }
            for one in wanted.try_iter()? {
                if is(&one)? {
                    return Ok(Value::from(true));
                }
            }
            Ok(Value::from(false))
        }
        "replace" => {
            let (old, new, count, named): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            let count = usize::try_from(count.or(named.get("count")?).unwrap_or(-1)).unwrap_or(usize::MAX);
            bounded(s.len().saturating_add(s.matches(old).take(count).count().saturating_mul(new.len())))?;
            changed(s.replacen(old, new, count))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let mut out = Text::default();
            for (i, item) in items.try_iter()?.enumerate() {
                state.consume_fuel(1)?;
                if i > 0 {
                    out.push(s)?;
                }
                out.push(item.as_str().ok_or_else(|| invalid("join: an item that is not a text"))?)?;
            }
            changed(out.0)
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let fill = if name == "zfill" { "0" } else { fill.unwrap_or(" ") };
            padded(s, name, usize::try_from(width).unwrap_or(0), fill).map(Value::from)
        }
        "expandtabs" => {
            let (size, named): (Option<i64>, Kwargs) = from_args(args)?;
            let size = size.or(named.get("tabsize")?).unwrap_or(8);
            tabs(s, usize::try_from(size).unwrap_or(0)).map(Value::from)
        }
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { s.strip_prefix(affix) } else { s.strip_suffix(affix) };
            Ok(Value::from(rest.unwrap_or(s)))
        }
        "format" => {
            let (positional, named): (Rest<Value>, Kwargs) = from_args(args)?;
            format(s, &positional, &named).map(Value::from)
        }
        _ => {
            let () = from_args(args)?;
            cases(s, name).ok_or_else(|| Error::from(ErrorKind::UnknownMethod))
        }
    }
}

/// Methods without arguments: upper and lower case, and what a text is made of.
fn cases(s: &str, name: &str) -> Option<Value> {
    let all = |is: fn(char) -> bool| Some(Value::from(!s.is_empty() && s.chars().all(is)));
    let changed = |text: String| Some(Value::from(text));
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    match name {
        "upper" => changed(s.to_uppercase()),
        "lower" | "casefold" => changed(s.to_lowercase()),
        "capitalize" => {
            let mut rest = s.chars();
            let first: String = rest.next().into_iter().flat_map(char::to_uppercase).collect();
            changed(first + &rest.as_str().to_lowercase())
        }
        "title" => {
            let mut inside = false;
            let mut out = String::with_capacity(s.len());
            for c in s.chars() {
                if inside {
                    out.extend(c.to_lowercase())
                } else {
                    out.extend(c.to_uppercase())
                }
                inside = cased(c);
            }
            changed(out)
        }
        "swapcase" => {
            let swap =
                |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            changed(s.chars().map(swap).collect())
        }
        "isupper" => Some(Value::from(s.chars().any(cased) && !s.chars().any(char::is_lowercase))),
        "islower" => Some(Value::from(s.chars().any(cased) && !s.chars().any(char::is_uppercase))),
        "isspace" => all(is_space),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isnumeric" => all(char::is_numeric),
        "isdigit" => all(|c| c.is_ascii_digit() || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉')),
        "isdecimal" => all(|c| c.is_ascii_digit()),
        "isascii" => Some(Value::from(s.is_ascii())),
        _ => None,
    }
}

/// `str.isspace` of one character.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `text` without white space, or the given characters, at its ends.
pub fn trimmed<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let away = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(away) } else { text };
    if end { text.trim_end_matches(away) } else { text }
}

/// A list of parts; each takes work.
fn list(state: &State, parts: Vec<&str>) -> Result<Value, Error> {
    state.consume_fuel(parts.len() as u64)?;
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split<'a>(s: &'a str, separator: Option<&str>, most: usize) -> Vec<&'a str> {
    if let Some(separator) = separator {
        return s.splitn(most + 1, separator).collect();
    }
    let mut parts = Vec::new();
    let mut rest = trimmed(s, None, true, false);
    while !rest.is_empty() {
        match rest.find(is_space) {
            Some(end) if parts.len() < most => {
                parts.push(&rest[..end]);
                rest = trimmed(&rest[end..], None, true, false);
            }
            _ => {
                let whole = if parts.len() < most { trimmed(rest, None, false, true) } else { rest };
                parts.push(whole);
                break;
            }
        }
    }
    parts
}

fn rsplit<'a>(s: &'a str, separator: Option<&str>, most: usize) -> Vec<&'a str> {
    let mut parts: Vec<&str> = match separator {
        Some(separator) => s.rsplitn(most + 1, separator).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = trimmed(s, None, false, true);
            while !rest.is_empty() {
                match rest.char_indices().rfind(|&(_, c)| is_space(c)) {
                    Some((at, c)) if parts.len() < most => {
                        parts.push(&rest[at + c.len_utf8()..]);
                        rest = trimmed(&rest[..at], None, false, true);
                    }
                    _ => {
                        parts.push(rest);
                        break;
                    }
                }
            }
            parts
        }
    };
    parts.reverse();
    parts
}

fn lines(s: &str, keep: bool) -> Vec<&str> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut parts = Vec::new();
    let mut rest = s;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let mark =
            if rest[end..].starts_with("\r\n") { 2 } else { rest[end..].chars().next().map_or(0, char::len_utf8) };
        parts.push(&rest[..if keep { end + mark } else { end }]);
        rest = &rest[end + mark..];
    }
    parts
}

/// The characters from `start` to `end`, as in Python's slices, and the number of characters before them.
fn slice(s: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, s));
    }
    let length = s.chars().count();
    let at = |i: i64| if i < 0 { length.saturating_sub(i.unsigned_abs() as usize) } else { i as usize };
    let (start, end) = (start.map_or(0, at), end.map_or(length, at).min(length));
    let byte = |i: usize| s.char_indices().nth(i).map_or(s.len(), |(byte, _)| byte);
    if start > end { None } else { Some((start, &s[byte(start)..byte(end)])) }
}

fn padded(s: &str, name: &str, width: usize, fill: &str) -> Result<String, Error> {
    if fill.chars().count() != 1 {
        return Err(invalid(format!("{name}: fill with one character")));
    }
    let length = s.chars().count();
    let missing = width.saturating_sub(length);
    bounded(s.len().saturating_add(missing.saturating_mul(fill.len())))?;
    let (sign, digits) = match name {
        "zfill" => s.split_at(usize::from(s.starts_with(['+', '-']))),
        _ => ("", s),
    };
    let left = match name {
        "ljust" => 0,
        // The odd one goes to the left where the width is odd, too.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    Ok(format!("{sign}{}{digits}{}", fill.repeat(left), fill.repeat(missing - left)))
}

fn tabs(s: &str, size: usize) -> Result<String, Error> {
    let mut out = Text::default();
    let mut column = 0;
    for c in s.chars() {
        match c {
            '\t' => {
                let width = if size == 0 { 0 } else { size - column % size };
                bounded(width)?;
                column += width;
                out.push(&" ".repeat(width))?;
            }
            c => {
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                out.push(c.encode_utf8(&mut [0; 4]))?;
            }
        }
    }
    Ok(out.0)
}

/// `str.format` with fields that are empty, a position or a name: no attributes and no format.
fn format(s: &str, positional: &[Value], named: &Kwargs) -> Result<String, Error> {
    let mut out = Text::default();
    let (mut rest, mut next) = (s, 0);
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            out.push(&rest[..1])?;
            rest = after;
            continue;
        }
        let field = rest.strip_prefix('{').and_then(|field| field.split_once('}'));
        let Some((field, after)) = field else { return Err(invalid("format: a brace without its counterpart")) };
        let value = match field {
            "" => {
                next += 1;
                positional.get(next - 1).cloned()
            }
            _ if field.contains([':', '!', '.', '[', '{']) => {
                return Err(invalid(format!("format: the field {field:?} is not supported")));
            }
            _ => match field.parse::<usize>() {
                Ok(index) => positional.get(index).cloned(),
                Err(_) => named.get(field)?,
            },
        };
        let value = value.ok_or_else(|| invalid(format!("format: nothing is given for the field {field:?}")))?;
        out.push(&text::str(&value)?)?;
        rest = after;
    }
    out.push(rest)?;
    Ok(out.0)
}
