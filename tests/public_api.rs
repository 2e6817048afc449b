//! What the crate shows of itself: the names at its root, checked in, so that no change goes by unseen.
//! `UPDATE_DOCS=1 cargo test --test public_api` writes the list anew.

use std::path::Path;

/// Most names at the root.
const MOST: usize = 40;

/// The names that the `pub use` lines of `lib` bring to the root, sorted.
fn names(lib: &str) -> Vec<String> {
    let uses = lib.split("\npub use ").skip(1).map(|rest| rest.split(';').next().unwrap_or_default());
    let leaves = |tree: &str| -> Vec<String> {
        let list = tree.split_once('{').map_or(tree, |(_, list)| list.trim_end_matches('}'));
        let name = |leaf: &str| leaf.rsplit([' ', ':']).next().unwrap_or_default().to_string();
        list.split(',').map(str::trim).filter(|leaf| !leaf.is_empty()).map(name).collect()
    };
    let mut names: Vec<String> = uses.flat_map(leaves).collect();
    names.sort();
    names
}

/// Items of the root other than private modules, `use` lines and macros.
fn other_public_items(lib: &str) -> Vec<&str> {
    lib.lines().filter(|line| line.starts_with("pub ") && !line.starts_with("pub use ")).collect()
}

#[test]
fn the_names_at_the_root_are_those_that_are_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lib = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
    assert!(other_public_items(&lib).is_empty(), "{:?}", other_public_items(&lib));
    let names = names(&lib);
    assert!(names.len() <= MOST, "{} names at the root for at most {MOST}", names.len());
    let expected = names.join("\n") + "\n";
    let file = root.join("tests/public-api.txt");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&file, &expected).unwrap();
    }
    let listed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(listed, expected, "tests/public-api.txt; write it with UPDATE_DOCS=1 cargo test --test public_api");
}

#[test]
fn names_are_read_through_every_form_of_use() {
    let lib =
        "\npub use a::B;\n#[cfg(x)]\npub use c::{D,\n    e::F, G as H};\nuse i::J;\npub(crate) use k::L;\npub mod m;\n";
    assert_eq!(names(lib), ["B", "D", "F", "H"]);
    assert_eq!(other_public_items(lib), ["pub mod m;"]);
}
