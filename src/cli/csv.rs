//! Comma-separated values (RFC 4180).

use super::output::printable_text;

/// One line of fields. A field is quoted where it has to be; control characters other than tabs and line ends are spelled out.
pub fn line<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let fields: Vec<String> = fields.into_iter().map(field).collect();
    fields.join(",") + "\r\n"
}

fn field(text: &str) -> String {
    let text = printable_text(text);
    if text.contains([',', '"', '\n', '\r']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_have_to_be() {
        assert_eq!(line(["a", "", "b c", "1.5"]), "a,,b c,1.5\r\n");
        assert_eq!(
            line(["a,b", "say \"no\"", "two\nlines", " x"]),
            "\"a,b\",\"say \"\"no\"\"\",\"two\nlines\",\" x\"\r\n"
        );
    }

    #[test]
    fn no_escape_sequence_comes_through() {
        let text = line(["\u{1b}[31mred\u{7}", "\u{9b}2J", "a\u{202e}b"]);
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{text:?}");
        assert!(text.contains("\\u{1b}[31mred"), "{text:?}");
    }
}
