//! The README and the book say what the program does: their commands are run, as typed, and what they print is compared.
//!
//! A page's `console` blocks are one shell script: lines after `$ ` and `> ` are typed, the others are expected output. `…` stands for
//! anything, also for any number of lines; ids, figures and times may differ. Blocks of other kinds (`sh`) are for another machine, or take long:
//! of those, each `acclimate` command must have flags that the program knows.
#![cfg(all(feature = "cli", feature = "train", feature = "bundles"))]

use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The README and every page of the book.
fn pages() -> Vec<PathBuf> {
    let summary = std::fs::read_to_string(Path::new(ROOT).join("docs/SUMMARY.md")).unwrap();
    let linked = summary.lines().filter_map(|line| line.split_once("](")?.1.split_once(')'));
    let mut pages: Vec<PathBuf> = linked.map(|(page, _)| Path::new(ROOT).join("docs").join(page)).collect();
    pages.push(Path::new(ROOT).join("README.md"));
    pages
}

/// Content of the fenced blocks of `kind`.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let mut found: Vec<String> = vec![];
    let mut inside: Option<bool> = None;
    for line in page.lines() {
        match (inside, line.strip_prefix("```")) {
            (None, Some(fence)) => {
                inside = Some(fence.trim() == kind);
                if inside == Some(true) {
                    found.push(String::new());
                }
            }
            (Some(_), Some(_)) => inside = None,
            (Some(true), None) => {
                if let Some(block) = found.last_mut() {
                    *block += line;
                    *block += "\n";
                }
            }
            _ => {}
        }
    }
    found
}

/// A command and the lines that it is to print.
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![];
    for block in blocks(page, "console") {
        for line in block.lines() {
            match (line.strip_prefix("$ "), line.strip_prefix("> ")) {
                (Some(command), _) => steps.push(Step { command: command.to_string(), expected: vec![] }),
                (None, Some(more)) => {
                    let command = &mut steps.last_mut().expect("a block begins with a command").command;
                    *command += "\n";
                    *command += more;
                }
                (None, None) => {
                    steps.last_mut().expect("a block begins with a command").expected.push(line.to_string())
                }
            }
        }
    }
    steps
}

/// Text in which ids and figures look alike.
fn shape(text: &str) -> String {
    let word = |word: &str| {
        let hex = word.len() == 4 && word.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        match word {
            _ if hex => "ID".to_string(),
            _ => {
                let mut out = String::new();
                for c in word.chars() {
                    match c.is_ascii_digit() || (c == '.' && out.ends_with('#')) {
                        true if out.ends_with('#') => {}
                        true => out.push('#'),
                        false => out.push(c),
                    }
                }
                out
            }
        }
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Whether `line` is `pattern`, in which `…` stands for anything.
fn like(pattern: &str, line: &str) -> bool {
    let (pattern, line) = (shape(pattern), shape(line));
    let parts: Vec<&str> = pattern.split('…').map(str::trim).collect();
    let mut rest = line.as_str();
    for (i, part) in parts.iter().enumerate() {
        match rest.find(part) {
            Some(at) if i > 0 || at == 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    parts.len() > 1 && parts.last().is_some_and(|last| last.is_empty()) || rest.is_empty()
}

/// Whether the lines are as expected; a line `…` stands for any lines.
fn all_like(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, more)), _) if first.trim() == "…" => {
            (0..=lines.len()).any(|skip| all_like(more, &lines[skip..]))
        }
        (Some((first, more)), Some((line, rest))) => like(first, line) && all_like(more, rest),
        _ => false,
    }
}

/// Runs a page's commands in one shell, in a folder with the repository's models in it; what is not as the page says.
fn run(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let steps = steps(&text);
    if steps.is_empty() {
        return vec![];
    }
    let folder = tempfile::tempdir().unwrap();
    for shared in ["models", "reference", "scripts"] {
        std::os::unix::fs::symlink(Path::new(ROOT).join(shared), folder.path().join(shared)).unwrap();
    }
    let mark = "=== step";
    let mut script = String::from("set -eu -o pipefail\nexec 2>&1\n");
    for (i, step) in steps.iter().enumerate() {
        script += &format!("echo '{mark} {i}'\n{}\n", step.command);
    }
    let program = Path::new(env!("CARGO_BIN_EXE_acclimate")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let output =
        Command::new("bash").arg("-c").arg(&script).current_dir(folder.path()).env("PATH", path).output().unwrap();
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut printed: Vec<Vec<&str>> = vec![];
    for line in all.lines() {
        match line.strip_prefix(mark) {
            Some(_) => printed.push(vec![]),
            None => printed.last_mut().unwrap().push(line),
        }
    }
    let name = page.strip_prefix(ROOT).unwrap().display();
    let mut wrong = vec![];
    if !output.status.success() {
        wrong.push(format!("{name}: a command failed:\n{all}"));
    }
    for (step, lines) in steps.iter().zip(&printed) {
        let lines: Vec<&str> = lines.iter().copied().filter(|l| !l.trim().is_empty()).collect();
        let expected: Vec<String> = step.expected.iter().filter(|l| !l.trim().is_empty()).cloned().collect();
        // A command with nothing below it may print anything.
        if !expected.is_empty() && !all_like(&expected, &lines) {
            wrong.push(format!("{name}: {}\nthe page says:\n{expected:#?}\nprinted:\n{lines:#?}", step.command));
        }
    }
    wrong
}

#[test]
fn the_commands_of_the_book_run_as_typed() {
    let pages = pages();
    let wrong: Vec<String> = pages.iter().flat_map(|page| run(page)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let count: usize = pages.iter().map(|p| steps(&std::fs::read_to_string(p).unwrap()).len()).sum();
    assert!(count >= 30, "only {count} commands were found");
}

/// A command that is not run has flags that exist: `--help` after them is refused where one is not.
#[test]
fn the_other_commands_have_flags_that_exist() {
    let mut checked = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for line in blocks(&text, "sh").iter().flat_map(|block| block.lines()) {
            let line = line.split(" #").next().unwrap_or(line).split(" > ").next().unwrap_or(line).trim();
            let Some(arguments) = line.strip_prefix("acclimate ") else { continue };
            let output = Command::new(env!("CARGO_BIN_EXE_acclimate"))
                .args(arguments.split_whitespace().map(|a| a.trim_matches('"')))
                .arg("--help")
                .output()
                .unwrap();
            assert!(output.status.success(), "{}: {line}\n{}", page.display(), String::from_utf8_lossy(&output.stderr));
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} commands were found");
}

#[test]
fn pages_link_to_what_is_there() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let here = page.parent().unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or(target);
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(here.join(file).exists(), "{}: a link to {target}, which is not there", page.display());
        }
    }
}

#[test]
fn lines_are_compared_by_their_words() {
    assert!(like("a1c3  …", "7f3a  8 97 %  5 2 %"));
    assert!(like("base 80.0 %   adapted 88.0 %", "base 7 %  adapted 100 %"));
    assert!(like("saved. 7 more …", "saved. 6 more before the first training"));
    assert!(!like("saved. 7 more …", "not saved"));
    assert!(!like("saved", "saved. 7 more"));
    let lines = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
    assert!(all_like(&lines("a\n…\nd"), &["a", "b", "c", "d"]));
    assert!(!all_like(&lines("a\n…\nd"), &["a", "b"]));
}
