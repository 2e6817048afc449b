//! `bench --report`: a suite's results in a file that can be handed on. It tells what the machine is, and not whose.

use std::path::Path;
use std::process::ExitCode;

use acclimate::{Error, Result};

use super::results::Results;
use super::suite::{How, as_json, measure, stopped};
use super::words;
use crate::cli::output::Output;

/// What stands for a word that may tell whose the machine is.
const LEFT_OUT: &str = "[left out]";
/// Shorter words are parts of too many others: they are left out where they stand alone.
const SHORTEST: usize = 3;

pub fn run(file: &Path, how: &How, output: &Output) -> Result<ExitCode> {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.is_dir() || !folder.is_dir() {
        return Err(Error::usage("no report can be written there")
            .at(file.display())
            .hint("name a file in a folder that exists"));
    }
    // Models of the user's own have names of the user's own.
    let Some(mut results) = measure(folder, how, false, output)? else { return Ok(stopped()) };
    without(&mut results, &personal(Path::new("/"), &|name| std::env::var(name).ok()));
    results.write(file)?;
    output.data(&as_json(&results)?, || words::results(&results))?;
    output.note(format_args!(
        "{} was written: figures, the board or processor, and versions; no names, paths or serial numbers. Nothing was \
         sent.",
        file.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Words that may tell whose the machine is: its name, the user's, and paths.
fn personal(root: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
    let files = ["etc/hostname", "proc/sys/kernel/hostname", "etc/machine-id", "proc/device-tree/serial-number"];
    let variables = ["USER", "LOGNAME", "HOSTNAME", "HOME", "PWD", "ACCLIMATE_MODELS", "TMPDIR"];
    let words = files.into_iter().filter_map(read).chain(variables.into_iter().filter_map(variable));
    let words = words.map(|w| w.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_string());
    let mut words: Vec<String> = words.filter(|w| !w.is_empty()).collect();
    // Longer ones first: a path that has a name in it goes as a whole.
    words.sort_by_key(|w| std::cmp::Reverse(w.len()));
    words.dedup();
    words
}

/// Takes `words` out of everything that was not written by this program.
fn without(results: &mut Results, words: &[String]) {
    let clean = |text: &mut String| {
        for word in words.iter().filter(|w| w.len() >= SHORTEST) {
            *text = text.replace(word.as_str(), LEFT_OUT);
        }
        let is_told = |part: &&str| {
            part.starts_with('/') && part[1..].contains('/') || words.iter().any(|w| w.len() < SHORTEST && w == part)
        };
        let parts: Vec<String> = text
            .split(|c: char| c.is_whitespace() || "'\"`(),;:".contains(c))
            .filter(is_told)
            .map(str::to_string)
            .collect();
        // Each stands alone here: what is next to it is no letter.
        for part in parts {
            *text = alone(text, &part);
        }
    };
    let Results { machine, models, .. } = results;
    clean(&mut machine.kernel);
    let said = models.iter_mut().flat_map(|m| [&mut m.reason, &mut m.next]);
    said.chain([&mut machine.board, &mut machine.governor]).flatten().for_each(clean);
    machine.cpu.iter_mut().for_each(clean);
}

/// `text` without `part` where no letter, digit or slash is next to it.
fn alone(text: &str, part: &str) -> String {
    let is_apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '/');
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(part) {
        let (before, after) = (&rest[..at], &rest[at + part.len()..]);
        out += before;
        out += if is_apart(out.chars().last()) && is_apart(after.chars().next()) { LEFT_OUT } else { part };
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::super::compare_tests::made_up;
    use super::*;

    #[test]
    fn what_tells_whose_a_machine_is_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/hostname"), "adas-kitchen\n").unwrap();
        let variable = |name: &str| match name {
            "USER" => Some("ada".to_string()),
            "HOME" => Some("/home/ada".to_string()),
            "HOSTNAME" => Some("x".to_string()),
            _ => None,
        };
        let words = personal(root.path(), &variable);
        assert_eq!(words, ["adas-kitchen", "/home/ada", "ada", "x"]);
        let mut results = made_up(1.0);
        results.machine.kernel = "6.12.1-adas-kitchen".into();
        results.machine.board = Some("Board of ada".into());
        results.models[0].reason = Some("cannot read /home/ada/models/m.onnx".into());
        results.models[0].next = Some("ask ada or x, not xenia; see '/srv/own/list.txt' or models/a.onnx".into());
        without(&mut results, &words);
        let text = serde_json::to_string(&results).unwrap();
        assert!(!text.contains("kitchen") && !text.contains("/home") && !text.contains("ada\""), "{text}");
        assert!(text.contains("or [left out], not xenia; see '[left out]' or models/a.onnx"), "{text}");
        assert!(text.contains("6.12.1-[left out]") && text.contains("Cortex-A76"), "{text}");
        assert!(text.contains("adapted_predict"), "names of measures stay");
    }
}
