//! The files of `src` as tokens, without comments and without what is compiled into tests only.

use std::collections::BTreeSet;
use std::path::Path;

/// A name, a literal, `::`, or one other character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A source file that is part of the library or of the program.
#[derive(Debug)]
pub struct File {
    /// Below `src`: `base/mod.rs`.
    pub name: String,
    /// Its module: `["base"]`; none for the roots.
    pub module: Vec<String>,
    pub tokens: Vec<Token>,
}

impl File {
    pub fn of(name: &str, text: &str) -> File {
        let mut module: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_string).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        File { name: name.to_string(), module, tokens: tokens(text) }
    }

    /// The folder at the top of `src`, or the file there.
    pub fn folder(&self) -> &str {
        self.name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Whether the file is the face of a folder or of a crate.
    pub fn is_face(&self) -> bool {
        ["mod.rs", "lib.rs", "main.rs"].contains(&self.name.rsplit('/').next().unwrap_or_default())
    }
}

/// `(name, text)` of every Rust file below `folder`, sorted.
pub fn read(folder: &Path) -> Vec<(String, String)> {
    fn walk(folder: &Path, below: &str, found: &mut Vec<(String, String)>) {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{below}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if name.ends_with(".rs") {
                found.push((name, std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    let mut found = vec![];
    walk(folder, "", &mut found);
    found
}

/// The files without test code, and without those that are modules of tests.
pub fn without_tests(sources: &[(String, String)]) -> Vec<File> {
    let mut tests = BTreeSet::new();
    let mut files = vec![];
    for (name, text) in sources {
        let mut file = File::of(name, text);
        let (kept, modules) = cut_tests(std::mem::take(&mut file.tokens));
        file.tokens = kept;
        tests.extend(modules.into_iter().map(|m| [&file.module[..], &[m]].concat()));
        files.push(file);
    }
    files.retain(|f| !(1..=f.module.len()).any(|n| tests.contains(&f.module[..n])));
    files
}

/// Tokens without `#[cfg(test)]` items, and the names of the modules among those.
fn cut_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut modules) = (vec![], vec![]);
    let mut at = 0;
    while at < tokens.len() {
        if !is_test_attribute(&tokens[at..]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let start = item_behind(&tokens, at);
        let end = end_of_item(&tokens, start);
        if let Some(m) = tokens[start..end].iter().position(|t| t.text == "mod")
            && tokens[end - 1].text == ";"
        {
            modules.push(tokens[start + m + 1].text.clone());
        }
        at = end;
    }
    (kept, modules)
}

/// Whether `tokens` begin with `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let begins = |with: &[&str]| tokens.len() >= with.len() && with.iter().zip(tokens).all(|(w, t)| t.text == *w);
    begins(&["#", "[", "cfg", "(", "test", ")"]) || begins(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// Where the item begins that the attribute at `at`, and those behind it, belong to.
pub fn item_behind(tokens: &[Token], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|t| t.text == "#") {
        at += 1;
        let mut depth = 0;
        while let Some(t) = tokens.get(at) {
            at += 1;
            match t.text.as_str() {
                "[" => depth += 1,
                "]" if depth == 1 => break,
                "]" => depth -= 1,
                _ => {}
            }
        }
    }
    at
}

/// Just behind the item that begins at `start`.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let visibility = ["pub", "(", "crate", "super", "in", "::", ")"];
    let is_use =
        tokens[start..].iter().find(|t| !visibility.contains(&t.text.as_str())).is_some_and(|t| t.text == "use");
    let mut depth = 0;
    for (i, t) in tokens.iter().enumerate().skip(start) {
        match t.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_use {
                    return i + 1;
                }
            }
            ";" if depth == 0 => return i + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Splits Rust source, without comments. Literals stay whole, quotes included.
pub fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut found = vec![];
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let end = at + length(&text[at..]);
        let piece = &text[at..end];
        if !(piece.starts_with("//") || piece.starts_with("/*") || piece.trim().is_empty()) {
            found.push(Token { text: piece.to_string(), line });
        }
        line += piece.matches('\n').count();
        at = end;
    }
    found
}

/// Bytes of the token, comment or blank that `text` begins with.
fn length(text: &str) -> usize {
    let first = text.chars().next().map_or(0, char::len_utf8);
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |n| n + 2);
    }
    if text.starts_with("::") {
        return 2;
    }
    if let Some(n) = literal(text) {
        return n;
    }
    let word = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    word.max(first)
}

/// Bytes of the string or character that `text` begins with.
fn literal(text: &str) -> Option<usize> {
    let body = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - body.len();
    let (raw, hashes) = match body.strip_prefix('r') {
        Some(rest) => (true, rest.len() - rest.trim_start_matches('#').len()),
        None => (false, 0),
    };
    let quote = prefix + usize::from(raw) + hashes;
    let rest = text.get(quote..)?;
    if prefix > 1 || !rest.starts_with(['"', '\'']) || (raw && rest.starts_with('\'')) {
        return None;
    }
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return rest[1..].find(&end).map(|n| quote + 1 + n + end.len());
    }
    if rest.starts_with('\'') && !is_character(rest) {
        return None;
    }
    let close = rest.chars().next()?;
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == close => return Some(quote + i + 1),
            _ => {}
        }
    }
    None
}

/// Whether a quote begins a character, not a lifetime.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (Some(_), next) => next == Some('\''),
        _ => false,
    }
}
