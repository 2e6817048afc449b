//! A template's source, as the template engine reads it the way Jinja2 would.

use std::borrow::Cow;

/// `source` with LF line ends, as Jinja2 reads it, and `{% generation %}` blocks as blocks that keep their
/// content. Line numbers stay.
pub(super) fn prepared(source: &str) -> String {
    let lines = if source.contains('\r') {
        Cow::from(source.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::from(source)
    };
    let mut out = String::with_capacity(lines.len());
    let mut rest = &*lines;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        match generation(tag) {
            Some((length, name)) => {
                // A block of its own scope, like that of transformers.
                let block = if name == "generation" { "with" } else { "endwith" };
                out.push_str(&tag[..length].replacen(name, block, 1));
                rest = &tag[length..];
            }
            None => {
                out.push_str("{%");
                rest = &tag["{%".len()..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The length of the tag at the start of `text` and its name, if it is `{% generation %}` or `{%
/// endgeneration %}`.
fn generation(text: &str) -> Option<(usize, &'static str)> {
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    let name = ["generation", "endgeneration"].into_iter().find(|name| inner.starts_with(name))?;
    let rest = inner[name.len()..].trim_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).strip_prefix("%}")?;
    Some((text.len() - rest.len(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_keep_their_marks_and_lines() {
        let cases = [
            ("a{% generation %}b{% endgeneration %}", "a{% with %}b{% endwith %}"),
            ("{%- generation -%}\n{%+endgeneration+%}", "{%- with -%}\n{%+endwith+%}"),
            ("{%\n  generation\n%}", "{%\n  with\n%}"),
            ("{% generations %}{% set generation = 1 %}{%", "{% generations %}{% set generation = 1 %}{%"),
            ("a\r\nb\rc\n", "a\nb\nc\n"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepared(source), expected);
        }
    }
}
