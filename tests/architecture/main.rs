//! The rules of the house (`docs/architecture.md`), kept.

mod imports;
mod rules;
mod source;

use std::path::Path;

use rules::{Table, broken, table};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn the_table() -> Table {
    table(&std::fs::read_to_string(root().join("docs/architecture.md")).unwrap())
}

#[test]
fn the_house_keeps_its_rules() {
    let broken = broken(&source::read(&root().join("src")), &the_table());
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn tests_say_where_no_module_is() {
    let broken = rules::module_files(&source::read(&root().join("tests")));
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// What the rules say of two sound files, and of those with `name` and `text` beside them or in their place.
fn said(name: &str, text: &str) -> Vec<String> {
    let table = table("| folder | may import |\n|---|---|\n| `low` | |\n| `high` | `low` |\n");
    let sound = [("high/mod.rs", "use crate::low::Thing;\nmod part;\n"), ("low.rs", "pub struct Thing;\n")];
    let mut sources: Vec<(String, String)> =
        sound.iter().filter(|(n, _)| *n != name).map(|(n, t)| (n.to_string(), t.to_string())).collect();
    sources.push((name.to_string(), text.to_string()));
    sources.sort();
    broken(&sources, &table)
}

#[test]
fn every_rule_can_be_broken() {
    assert!(said("high/part.rs", "fn f() { super::g() }").is_empty());
    let cases = [
        ("low.rs", "pub struct Thing;\nfn f() -> crate::high::Part { todo!() }", "`low` may not import `high`"),
        ("new.rs", "", "`new` has no row"),
        ("high/mod.rs", "mod part;", "`high` may import `low` and does not"),
        ("high/part.rs", "use tract_core::internal::*;", "high/part.rs:1 names tract_core"),
        ("high/part.rs", &"#[allow(dead_code)]\nfn f() {}\n".repeat(6), "allow(dead_code): 6 for at most 5"),
        (
            "high/part.rs",
            &"#[cfg(feature = \"train\")]\nfn f() {}\n".repeat(100),
            "feature = \"train\" inside a module",
        ),
        ("high.rs", "", "high.rs stands beside a folder of its name"),
        ("high/part.rs", "#[path = \"elsewhere.rs\"]\nmod elsewhere;", "#[path]: 1 for at most 0"),
    ];
    for (name, text, wanted) in cases {
        let said = said(name, text);
        assert!(said.iter().any(|s| s.contains(wanted)), "{name}: {wanted:?} is not in {said:?}");
    }
}

#[test]
fn circles_are_found_through_what_hands_names_on() {
    let sources = [
        ("high/mod.rs", "mod a;\nmod b;\npub use a::A;\nuse crate::low::Thing;\n"),
        ("high/a.rs", "use super::b::B;\n#[cfg(test)]\nmod tests { use crate::high::nothing; }"),
        ("high/b.rs", "fn f(_: &crate::high::A) {}\n// use crate::nothing;\n"),
        ("low.rs", "pub struct Thing;"),
    ];
    let sources = sources.map(|(name, text)| (name.to_string(), text.to_string()));
    let table = table("| folder | may import |\n|---|---|\n| `low` | |\n| `high` | `low` |\n");
    let wanted = "2 files import each other in a circle:\n  high/a.rs -> high/b.rs: B\n  high/b.rs -> high/a.rs: A";
    assert_eq!(broken(&sources, &table), [wanted]);
}

#[test]
fn what_only_tests_name_is_not_counted() {
    let text = "#[cfg(test)]\nuse crate::high::{A, B};\n#[cfg(all(test, feature = \"train\"))]\nfn f() { tract_core::g(); }\n\
                const S: &str = \"crate::high::A\";\nfn g<'a>(c: char) -> bool { c == '\"' || c == '\\'' }\n";
    assert!(said("low.rs", text).is_empty(), "{:?}", said("low.rs", text));
    let behind = "#[cfg(test)]\nmod tests {\n    use super::*;\n    fn f() {}\n}\nfn f() { crate::high::g(); }\n";
    assert!(!said("low.rs", behind).is_empty());
}
