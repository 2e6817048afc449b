//! Documents that list what the code knows agree with it. `UPDATE_DOCS=1 cargo test --test docs` writes them anew.
#![cfg(all(feature = "cli", feature = "train"))]

use std::path::Path;

fn supported_ops() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut page = String::from(
        "# Operators that a gradient can be taken through\n\n\
         Written by `UPDATE_DOCS=1 cargo test --test docs` from the registry in `src/grad/rules/`; not edited by hand.\n\n\
         Only the operators between a site and the outputs need a rule. A model's other operators run forward and need none. Names are those \
         of the runtime's decluttered graph: an ONNX operator becomes one or several of them, and many (such as `Identity`, `Dropout` or a \
         folded `BatchNormalization`) become none. `acclimate inspect` says which operator cuts a site off, and \
         `acclimate gradcheck` checks the gradients of a whole model against finite differences.\n\n\
         `y` is the result, `dy` its gradient, `x`, `a`, `b` the inputs. Sums over broadcast axes are left out: the walk does them.\n\n\
         | operator | gradient |\n|---|---|\n",
    );
    let mut rules: Vec<_> = acclimate::grad::supported_ops().collect();
    rules.sort_by_key(|r| r.op);
    for rule in rules {
        page += &format!("| `{}` | {} |\n", cell(rule.op), cell(rule.equation));
    }
    page
}

/// The help of every command, as the program prints it.
fn flags() -> String {
    let help = |command: Option<&str>| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_acclimate"));
        program.env_clear().env("COLUMNS", "100").args(command).arg("--help");
        let output = program.output().unwrap();
        assert!(output.status.success(), "{command:?} --help");
        String::from_utf8(output.stdout).unwrap()
    };
    let overview = help(None);
    let mut page = String::from(
        "# Flags\n\nWritten by `UPDATE_DOCS=1 cargo test --test docs` from the program's own `--help`; not edited by hand. What the flags \
         mean together, and the JSON of each command, is in [Command line](cli.md).\n\n",
    );
    page += &format!("```text\n{}\n```\n", overview.trim_end());
    let listed = overview.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for command in listed.lines().filter_map(|line| line.split_whitespace().next()).filter(|c| *c != "help") {
        page += &format!("\n## {command}\n\n```text\n{}\n```\n", help(Some(command)).trim_end());
    }
    page
}

/// Compares a page with what the code says, or writes it.
fn current(page: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "docs/{page} is not current; write it with UPDATE_DOCS=1 cargo test --test docs");
}

#[test]
fn the_list_of_operators_is_current() {
    current("supported-ops.md", &supported_ops());
}

#[test]
fn the_list_of_flags_is_current() {
    current("cli-flags.md", &flags());
}

#[test]
fn no_operator_has_two_rules() {
    let mut names: Vec<&str> = acclimate::grad::supported_ops().map(|r| r.op).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
