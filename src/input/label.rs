//! The text of labels: cleaned and checked by one function, whoever brings it (a list of labels, a dataset, a person),
//! so that the same word is the same class everywhere.

use std::collections::HashMap;

use unicode_normalization_alignments::UnicodeNormalization;

use crate::error::{Error, Result};

/// Longest label, bytes of UTF-8.
pub const MAX_LABEL_BYTES: usize = 256;

/// The class of inputs that are none of the classes. Nobody's label is this one: [`clean`] leaves no NUL at an end.
pub const NONE_OF_THESE: &str = "\0none of these";

/// A label as people and programs read it.
pub fn shown(label: &str) -> &str {
    label.trim_start_matches('\0')
}

/// `text` as a label: without white space, byte order marks and NULs at its ends, in Unicode's composed form (NFC), so
/// that an accented letter is the same label as one code point and as two.
///
/// Errors ([`crate::ErrorKind::BadData`]): nothing is left, more than [`MAX_LABEL_BYTES`] are, or control characters
/// are within.
pub fn clean(text: &str) -> Result<String> {
    let composed: String = text.nfc().map(|(c, _)| c).collect();
    let label = composed.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\0'));
    let why = match label {
        "" => "it is empty",
        l if l.len() > MAX_LABEL_BYTES => "it is longer than 256 bytes",
        l if l.chars().any(char::is_control) => "it has control characters",
        _ => return Ok(label.to_owned()),
    };
    let shown: String = label.chars().take(40).collect();
    Err(Error::bad_data(format!("{shown:?} cannot be a label: {why}"))
        .hint("use 1 to 256 bytes of printable characters"))
}

/// The labels of a list, one a line; blank lines at its end are no labels.
///
/// Errors name the line: not UTF-8, blank, listed twice, or as [`clean`] says.
pub fn list(bytes: &[u8]) -> Result<Vec<String>> {
    let mut lines: Vec<&[u8]> = lines(bytes).collect();
    while lines.last().is_some_and(|line| line.trim_ascii().is_empty()) {
        lines.pop();
    }
    if lines.is_empty() {
        return Err(Error::bad_data("the list of labels is empty"));
    }
    let mut seen = HashMap::with_capacity(lines.len());
    let mut labels = Vec::with_capacity(lines.len());
    for (number, line) in (1..).zip(lines) {
        let place = |e: Error| e.at(format!("line {number}"));
        let text = std::str::from_utf8(line).map_err(|_| place(not_utf8("labels")))?;
        if text.trim().is_empty() {
            return Err(Error::bad_data(format!("line {number} of the labels is empty")));
        }
        let label = clean(text).map_err(place)?;
        if let Some(first) = seen.insert(label.clone(), number) {
            return Err(Error::bad_data(format!("the label {label:?} is listed twice, in lines {first} and {number}")));
        }
        labels.push(label);
    }
    Ok(labels)
}

/// The lines of a text file, whichever way it ends them (LF, CR LF, CR), without a byte order mark at its start.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|b| matches!(b, b'\r' | b'\n')) else { return rest.take() };
        let (line, after) = text.split_at(end);
        rest = after.strip_prefix(b"\r\n").or_else(|| after.get(1..));
        Some(line)
    })
}

/// Whether a file ends lines by carriage returns alone, as few editors do.
pub fn has_bare_returns(bytes: &[u8]) -> bool {
    bytes.iter().zip(bytes.iter().skip(1).chain(&[0])).any(|(a, b)| *a == b'\r' && *b != b'\n')
}

pub(super) fn not_utf8(what: &str) -> Error {
    Error::bad_data(format!("{what} that are not UTF-8")).hint("save the file as UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriage_returns_alone_are_noticed() {
        for (bytes, bare) in
            [(&b"a\rb\r"[..], true), (b"a\nb\r", true), (b"a\r\nb\r\n", false), (b"a\nb", false), (b"", false)]
        {
            assert_eq!(has_bare_returns(bytes), bare, "{bytes:?}");
        }
    }

    #[test]
    fn one_word_is_one_label_whatever_surrounds_it() {
        for text in
            ["cat", " cat", "cat \t", "\u{feff}cat", "cat\r", "\u{a0}cat\u{3000}", "cat\0\0", "\u{feff} cat\r\n"]
        {
            assert_eq!(clean(text).unwrap(), "cat", "{text:?}");
        }
        assert_eq!(clean("living  room é").unwrap(), "living  room é");
        for bad in ["", " \u{feff}\r\n", "cat\x1b[31m", "c\0t", "c\tt", "cat\u{7f}", "a\u{85}b", &"x".repeat(257)] {
            assert!(clean(bad).is_err(), "{bad:?}");
        }
        assert!(clean(&"x".repeat(256)).is_ok());
    }

    #[test]
    fn nobody_can_say_the_label_of_none_of_these() {
        for text in [NONE_OF_THESE, "none of these", " none of these\0", "\0\0none of these"] {
            assert_eq!(clean(text).unwrap(), "none of these");
        }
        assert_ne!(clean(NONE_OF_THESE).unwrap(), NONE_OF_THESE);
        assert_eq!((shown(NONE_OF_THESE), shown("cat")), ("none of these", "cat"));
    }

    /// Expected: Python's `unicodedata.normalize("NFC", text)`.
    #[test]
    fn one_word_is_one_label_however_its_letters_are_written() {
        let cases = [
            ("caf\u{e9}", "cafe\u{301}"),
            ("\u{c5}", "\u{212b}"),
            ("\u{1ed9}", "o\u{302}\u{323}"),
            ("\u{1ed9}", "\u{1ecd}\u{302}"),
            ("\u{d55c}", "\u{1112}\u{1161}\u{11ab}"),
            ("\u{304c}", "\u{304b}\u{3099}"),
            ("\u{929}", "\u{928}\u{93c}"),
        ];
        for (composed, written) in cases {
            assert_eq!(clean(&format!(" {written} ")).unwrap(), composed, "{written:?}");
            assert_eq!(clean(composed).unwrap(), composed);
            let twice = list(format!("{composed}\n{written}\n").as_bytes()).unwrap_err().to_string();
            assert!(twice.contains("listed twice, in lines 1 and 2"), "{twice}");
        }
        // Other letters stay others: a ligature, full width, another case, another mark.
        for (one, other) in [("\u{fb01}", "fi"), ("\u{ff21}", "A"), ("É", "é"), ("è", "é")] {
            assert_ne!(clean(one).unwrap(), clean(other).unwrap());
        }
        // The limit is that of what is kept: two bytes a letter, though three are written.
        assert_eq!(clean(&"e\u{301}".repeat(128)).unwrap().len(), 256);
        assert!(clean(&"e\u{301}".repeat(129)).is_err());
    }

    #[test]
    fn lists_are_the_same_from_every_editor() {
        let expected = ["cat", "dog", "bird"];
        for file in [
            "cat\ndog\nbird\n",
            "cat\ndog\nbird",
            "\u{feff}cat\r\ndog\r\nbird\r\n\r\n \n",
            "cat\rdog\rbird\r",
            " cat\t\ndog \n\u{feff}bird",
        ] {
            assert_eq!(list(file.as_bytes()).unwrap(), expected, "{file:?}");
        }
        let cases: [(&[u8], &str); 6] = [
            (b"\xef\xbb\xbf\r\n\n", "empty"),
            (b"cat\n\ndog", "line 2"),
            (b"cat\ndog\n cat \r\n", "lines 1 and 3"),
            (b"cat\nd\xffg\n", "line 2"),
            (b"\xff\xfec\0a\0t\0", "not UTF-8"),
            (b"dog\ncat\x1b[31m\n", "line 2"),
        ];
        for (bytes, said) in cases {
            let e = list(bytes).unwrap_err();
            assert!(e.kind() == crate::ErrorKind::BadData && e.to_string().contains(said), "{e}");
        }
    }
}
