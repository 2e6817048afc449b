//! The rules of the house. Each answers with what breaks it, a line a case.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::{Imports, circles, imports};
use crate::source::{File, Token, item_behind, without_tests};

/// Who may name tract, and who may read and write its protobufs of ONNX.
const TRACT: [&str; 5] = ["base", "sites", "grad", "plan", "ops"];
const PROTOBUFS: [&str; 2] = ["export", "tools"];
/// Most `allow(dead_code)` in `src`.
const DEAD_CODE: usize = 5;
/// Most `feature = "train"` that are not on a `mod` or a `use` of a folder's or crate's face.
const TRAIN: usize = 28;

/// What the table in `docs/architecture.md` says: a folder, and those that it may import, the lowest first.
pub type Table = Vec<(String, BTreeSet<String>)>;

/// Reads the rows under `| folder |`: the first cell names folders, the last one what they may import.
pub fn table(page: &str) -> Table {
    let words = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_string).collect() };
    let rows = page.lines().skip_while(|l| !l.starts_with("| folder |")).skip(2).take_while(|l| l.starts_with('|'));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let may: BTreeSet<String> = words(cells.last().copied().unwrap_or_default()).into_iter().collect();
        words(cells[0]).into_iter().map(move |folder| (folder, may.clone()))
    })
    .collect()
}

/// Every rule over these sources, given as (name below `src`, text).
pub fn broken(sources: &[(String, String)], table: &Table) -> Vec<String> {
    let files = without_tests(sources);
    let imports = imports(&files);
    [
        folders(&files, &imports, table),
        circles(&imports),
        tract(&files),
        dead_code(&files),
        train(&files),
        module_files(sources),
    ]
    .concat()
}

/// Modules are where the compiler looks for them, in one style.
pub fn module_files(sources: &[(String, String)]) -> Vec<String> {
    [module_style(sources), path_attributes(sources)].concat()
}

/// Folders import what the table lets them, which lists none above what it imports, and allows nothing that is not used.
fn folders(files: &[File], imports: &Imports, table: &Table) -> Vec<String> {
    let folder_of_file: BTreeMap<&str, &str> = files.iter().map(|f| (f.name.as_str(), f.folder())).collect();
    let is_root = |folder: &str| folder == "lib";
    let mut broken = vec![];
    let mut used = BTreeSet::new();
    for ((from, to), names) in imports {
        let (a, b) = (folder_of_file[from.as_str()], folder_of_file[to.as_str()]);
        if a == b || is_root(a) || is_root(b) {
            continue;
        }
        used.insert((a, b));
        if !table.iter().any(|(folder, may)| folder == a && may.contains(b)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            broken.push(format!("`{a}` may not import `{b}`: {from} -> {to}: {}", names.join(", ")));
        }
    }
    for folder in folder_of_file.values().collect::<BTreeSet<_>>() {
        if !is_root(folder) && !table.iter().any(|(r, _)| r == *folder) {
            broken.push(format!("`{folder}` has no row in docs/architecture.md"));
        }
    }
    for (i, (folder, may)) in table.iter().enumerate() {
        for b in may {
            if !table[..i].iter().any(|(below, _)| below == b) {
                broken.push(format!("`{folder}` may import `{b}`, which does not stand above it in the table"));
            }
            if !used.contains(&(folder.as_str(), b.as_str())) {
                broken.push(format!("`{folder}` may import `{b}` and does not: take it out of the table"));
            }
        }
    }
    broken
}

/// tract is named only where models are read, differentiated and run.
fn tract(files: &[File]) -> Vec<String> {
    let mut broken = vec![];
    for f in files.iter().filter(|f| !TRACT.contains(&f.folder())) {
        for (i, t) in f.tokens.iter().enumerate().filter(|(_, t)| t.text.starts_with("tract_")) {
            let is_pb = t.text == "tract_onnx" && is(&f.tokens, i + 1, "::") && is(&f.tokens, i + 2, "pb");
            if !(is_pb && PROTOBUFS.contains(&f.folder())) {
                broken.push(format!("{}:{} names {}", f.name, t.line, t.text));
            }
        }
    }
    broken
}

/// Fewer than six `allow(dead_code)`.
fn dead_code(files: &[File]) -> Vec<String> {
    let found = places(files, |f, i| {
        f.tokens[i].text == "dead_code" && f.tokens[..i].iter().rev().take(8).any(|t| t.text == "allow")
    });
    at_most(DEAD_CODE, "allow(dead_code)", &found)
}

/// `feature = "train"` stands on `mod` and `use` in faces; elsewhere no more often than it did.
fn train(files: &[File]) -> Vec<String> {
    let found = places(files, |f, i| {
        let named = f.tokens[i].text == "\"train\"" && i > 1 && f.tokens[i - 2].text == "feature";
        named && !(f.is_face() && is_boundary(&f.tokens, i))
    });
    at_most(TRAIN, "feature = \"train\" inside a module", &found)
}

/// Whether the attribute with the token `at` belongs to a `mod` or a `use`.
fn is_boundary(tokens: &[Token], at: usize) -> bool {
    let Some(start) = (0..at).rev().find(|i| is(tokens, *i, "#")) else { return false };
    let mut item = item_behind(tokens, start);
    if is(tokens, item, "pub") {
        item += 1;
        if is(tokens, item, "(") {
            item += 3;
        }
    }
    is(tokens, item, "mod") || is(tokens, item, "use")
}

/// A module with children is `foo/mod.rs`, without `foo.rs` beside the folder.
fn module_style(sources: &[(String, String)]) -> Vec<String> {
    let names: BTreeSet<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
    let folder_of = |name: &&str| name.trim_end_matches(".rs").to_string() + "/";
    let twice = |name: &&&str| names.iter().any(|n| n.starts_with(&folder_of(name)));
    names.iter().filter(twice).map(|n| format!("{n} stands beside a folder of its name: make it its mod.rs")).collect()
}

/// No module is told where its file is.
fn path_attributes(sources: &[(String, String)]) -> Vec<String> {
    let files: Vec<File> = sources.iter().map(|(name, text)| File::of(name, text)).collect();
    let found = places(&files, |f, i| {
        let attribute = is(&f.tokens, i, "#") && is(&f.tokens, i + 1, "[") && is(&f.tokens, i + 2, "path");
        // The file of another package, or of several test binaries, cannot be had in another way.
        attribute && !f.tokens.get(i + 4).is_some_and(|t| t.text.starts_with("\"../"))
    });
    at_most(0, "#[path]", &found)
}

fn is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|t| t.text == text)
}

/// Where `found` is true of a token.
fn places(files: &[File], found: impl Fn(&File, usize) -> bool) -> Vec<String> {
    let of = |f: &File| -> Vec<String> {
        let hits = (0..f.tokens.len()).filter(|i| found(f, *i));
        hits.map(|i| format!("{}:{}", f.name, f.tokens[i].line)).collect()
    };
    files.iter().flat_map(of).collect()
}

fn at_most(limit: usize, what: &str, found: &[String]) -> Vec<String> {
    if found.len() <= limit {
        return vec![];
    }
    vec![format!("{what}: {} for at most {limit}: {}", found.len(), found.join(" "))]
}
