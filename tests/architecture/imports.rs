//! Which file names what of which other file.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{File, Token};

/// A path in the source, from the root of the crate on.
#[derive(Debug, Clone)]
struct Named {
    path: Vec<String>,
    /// What it is called here, if it is imported; `*` for everything.
    import: Option<String>,
    /// Whether it is handed on.
    public: bool,
}

/// For every pair of files, the names that the first takes from the second.
pub type Imports = BTreeMap<(String, String), BTreeSet<String>>;

/// Imports among `files`. A folder's face and what is below it are one module: a file that names what the face of its own
/// folder defines imports nothing, and neither does a face that hands on a name without using it.
pub fn imports(files: &[File]) -> Imports {
    let mut house = House::default();
    for file in files {
        // The program's root names nothing that the library's may not have.
        if file.name != "main.rs" {
            house.modules.insert(file.module.clone(), file.name.clone());
        }
    }
    let named: Vec<Vec<Named>> = files.iter().map(|f| paths(f, &house.modules)).collect();
    for (file, named) in files.iter().zip(&named) {
        let known = house.names.entry(file.module.clone()).or_default();
        for n in named {
            if let Some(name) = &n.import {
                known.insert(name.clone(), n.path.clone());
            }
        }
    }
    let mut found = Imports::new();
    for (file, named) in files.iter().zip(&named) {
        for n in named {
            let handed_on = n.public && n.path.starts_with(&file.module) && n.path.len() > file.module.len();
            if handed_on && !uses(file, n) {
                continue;
            }
            if let Some(to) = house.file_of(&n.path, 8)
                && to != file.name
                && !is_face_above(file, &to)
            {
                let name = n.path.last().cloned().unwrap_or_default();
                found.entry((file.name.clone(), to)).or_default().insert(name);
            }
        }
    }
    found
}

/// Whether `face` is that of a folder which holds `file`.
fn is_face_above(file: &File, face: &str) -> bool {
    face.strip_suffix("mod.rs").is_some_and(|folder| file.name.starts_with(folder))
}

/// Whether `file` uses what it hands on.
fn uses(file: &File, n: &Named) -> bool {
    let name = n.import.as_deref().unwrap_or_default();
    file.tokens.iter().filter(|t| t.text == name).count() > 1
}

#[derive(Default)]
struct House {
    /// File of every module.
    modules: BTreeMap<Vec<String>, String>,
    /// What each module imports, by the name it has there.
    names: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
}

impl House {
    /// The file that defines what `path` names, through whatever hands it on.
    fn file_of(&self, path: &[String], hops: usize) -> Option<String> {
        let depth = (0..=path.len()).rev().find(|n| self.modules.contains_key(&path[..*n]))?;
        let (module, rest) = path.split_at(depth);
        let handed_on = rest.first().and_then(|name| self.names.get(module)?.get(name));
        match handed_on {
            Some(on) if hops > 0 && on != path => {
                let on = [&on[..], &rest[1..]].concat();
                self.file_of(&on, hops - 1)
            }
            _ if module.is_empty() && rest.is_empty() => None,
            _ => self.modules.get(module).cloned(),
        }
    }
}

/// All paths in a file that lead to this crate.
fn paths(file: &File, modules: &BTreeMap<Vec<String>, String>) -> Vec<Named> {
    let mut found = vec![];
    let tokens = &file.tokens;
    let (mut at, mut depth, mut inner) = (0, 0, vec![]);
    while let Some(token) = tokens.get(at) {
        // `super` in a module that is written out inside the file is the file's own module.
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if inner.last() == Some(&depth) {
                    inner.pop();
                }
            }
            "mod" if tokens.get(at + 2).is_some_and(|t| t.text == "{") => inner.push(depth),
            _ => {}
        }
        let from = Place { module: &file.module, inner: inner.len(), modules };
        if token.text == "use" && tokens.get(at + 1).is_none_or(|t| t.text != "<") {
            let public = at > 0 && ["pub", ")"].contains(&tokens[at - 1].text.as_str());
            let mut leaves = vec![];
            at = use_tree(tokens, at + 1, &[], &mut leaves);
            for (path, name) in leaves {
                if let Some(path) = from.absolute(&path) {
                    found.push(Named { path, import: Some(name), public });
                }
            }
            continue;
        }
        let begins = at == 0 || !["::", ".", "in", "mod"].contains(&tokens[at - 1].text.as_str());
        if begins && tokens.get(at + 1).is_some_and(|t| t.text == "::") {
            let path = path_at(tokens, at);
            if let Some(path) = from.absolute(&path) {
                found.push(Named { path, import: None, public: false });
            }
        }
        at += 1;
    }
    found
}

/// Where a path is written.
struct Place<'a> {
    module: &'a [String],
    inner: usize,
    modules: &'a BTreeMap<Vec<String>, String>,
}

impl Place<'_> {
    /// `path` from the root of the crate on; none if it leads elsewhere.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|s| *s == "super").count();
        if supers > 0 {
            let up = supers.saturating_sub(self.inner);
            let module = &self.module[..self.module.len().checked_sub(up)?];
            return Some([module, &path[supers..]].concat());
        }
        match path.first()?.as_str() {
            "crate" | "acclimate" => Some(path[1..].to_vec()),
            "self" => Some([self.module, &path[1..]].concat()),
            child => {
                let below = [self.module, &[child.to_string()]].concat();
                self.modules.contains_key(&below).then(|| [self.module, path].concat())
            }
        }
    }
}

/// Names joined by `::` from `at` on.
fn path_at(tokens: &[Token], mut at: usize) -> Vec<String> {
    let mut path = vec![tokens[at].text.clone()];
    while let (Some(colons), Some(name)) = (tokens.get(at + 1), tokens.get(at + 2))
        && colons.text == "::"
        && name.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    {
        path.push(name.text.clone());
        at += 2;
    }
    path
}

/// Reads a tree of imports from `at` on, below `prefix`; answers where it ends.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], leaves: &mut Vec<(Vec<String>, String)>) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t.text != "}") {
                    at = use_tree(tokens, at, &path, leaves);
                    at += usize::from(tokens.get(at).is_some_and(|t| t.text == ","));
                }
                return at + 1;
            }
            "," | ";" | "}" => break,
            "::" => at += 1,
            "as" => {
                let name = tokens.get(at + 1).map(|t| t.text.clone()).unwrap_or_default();
                leaves.push((path, name));
                return at + 2;
            }
            name => {
                path.push(name.to_string());
                at += 1;
            }
        }
    }
    if path.last().is_some_and(|l| l == "self") && path.len() > 1 {
        path.pop();
    }
    let name = path.last().cloned().unwrap_or_default();
    if name == "*" {
        path.pop();
    }
    leaves.push((path, name));
    at
}

/// Groups of files that import each other in a circle, each with what ties it.
pub fn circles(imports: &Imports) -> Vec<String> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in imports.keys() {
        next.entry(from).or_default().insert(to);
    }
    let reached = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for to in next.get(at).into_iter().flatten() {
                if seen.insert(*to) {
                    open.push(*to);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|f| (*f, reached(f))).collect();
    let mut told = BTreeSet::new();
    let mut found = vec![];
    for (from, seen) in &reach {
        if !seen.contains(from) || told.contains(from) {
            continue;
        }
        let with = |f: &&&str| reach.get(**f).is_some_and(|back| back.contains(from));
        let group: BTreeSet<&str> = seen.iter().filter(with).copied().collect();
        let ties = imports.iter().filter(|((a, b), _)| group.contains(a.as_str()) && group.contains(b.as_str()));
        let ties: Vec<String> = ties
            .map(|((a, b), names)| format!("\n  {a} -> {b}: {}", names.iter().cloned().collect::<Vec<_>>().join(", ")))
            .collect();
        found.push(format!("{} files import each other in a circle:{}", group.len(), ties.concat()));
        told.extend(group);
    }
    found
}
