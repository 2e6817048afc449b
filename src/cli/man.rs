//! `man`: the manual pages, from the same definition as `--help`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::{Error, Result};
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};
use serde_json::json;

use super::Cli;
use super::output::Output;

/// Write the manual pages, one a command, into a folder; packages are made with it
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate man target/man && man -l target/man/acclimate.1")]
pub struct Man {
    /// Folder that gets the pages; made if it is missing
    dir: PathBuf,
}

impl Man {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let failed = |path: &Path, e: io::Error| Error::io("cannot write the manual pages", path, e);
        fs::create_dir_all(&self.dir).map_err(|e| failed(&self.dir, e))?;
        let pages = pages().map_err(|e| failed(&self.dir, e))?;
        for (name, text) in &pages {
            let path = self.dir.join(name);
            fs::write(&path, text).map_err(|e| failed(&path, e))?;
        }
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        output.data(&json!({ "dir": self.dir, "pages": names }), || {
            format!("{} pages in {}", names.len(), self.dir.display())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The file name and the text of every page: the program's own first.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().filter(|c| !c.is_hide_set()).cloned();
    std::iter::once(program.clone()).chain(commands).map(page).collect()
}

fn page(command: Command) -> io::Result<(String, Vec<u8>)> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.get_subcommands().any(|c| !c.is_hide_set());
    let page = Page::new(command).source(concat!("acclimate ", env!("CARGO_PKG_VERSION"))).manual("acclimate");
    let mut text = vec![];
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if has_commands {
        page.render_subcommands_section(&mut text)?;
    }
    as_written("NOTES", &examples).to_writer(&mut text)?;
    let mut see = Roff::new();
    see.control("SH", ["SEE ALSO"]);
    see.text([roman(match has_commands {
        true => "/usr/share/doc/acclimate",
        false => "acclimate(1)",
    })]);
    see.to_writer(&mut text)?;
    Ok((page.get_filename(), text))
}

/// A section whose lines are not joined.
fn as_written(heading: &str, lines: &str) -> Roff {
    let mut section = Roff::new();
    section.control("SH", [heading]);
    section.control("nf", []);
    for line in lines.lines() {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;

    #[test]
    fn every_command_has_a_page_and_a_completion() {
        let pages = pages().unwrap();
        let (first, overview) = &pages[0];
        assert_eq!(first, "acclimate.1");
        let overview = String::from_utf8(overview.clone()).unwrap();
        let mut script = vec![];
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "acclimate", &mut script);
        let script = String::from_utf8(script).unwrap();
        let command = Cli::command();
        let listed: Vec<&str> = command.get_subcommands().filter(|c| !c.is_hide_set()).map(Command::get_name).collect();
        assert_eq!(pages.len(), listed.len() + 1);
        for name in listed {
            let file = format!("acclimate-{name}.1");
            let (_, text) = pages.iter().find(|(page, _)| *page == file).expect(&file);
            let text = String::from_utf8(text.clone()).unwrap();
            assert!(overview.contains(&format!("acclimate\\-{}", name.replace('-', "\\-"))), "{name} is not listed");
            assert!(text.contains(&format!("acclimate {}", name.replace('-', "\\-"))), "{file} has no example");
            assert!(text.contains(".SH OPTIONS"), "{file} has no options");
            assert!(script.contains(&format!("acclimate,{name})")), "{name} is not completed");
        }
    }

    #[test]
    fn a_line_of_an_example_stays_a_line() {
        let pages = pages().unwrap();
        let train = &pages.iter().find(|(name, _)| name == "acclimate-train.1").unwrap().1;
        let text = String::from_utf8(train.clone()).unwrap();
        assert!(text.contains("\nExample:\n  acclimate train home \\-\\-budget\\-seconds 60\n"), "{text}");
    }
}
