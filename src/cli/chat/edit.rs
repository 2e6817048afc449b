//! An answer as a person changes it: in their editor, or on the line.

use std::process::Command;

use acclimate::{Error, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::super::output::printable_text;
use super::super::stop;

/// Where an answer is changed.
pub(super) enum Place<'a> {
    /// In the program of this command line.
    Editor(String),
    Line(&'a mut DefaultEditor),
}

impl Place<'_> {
    /// The editor that the environment names: `$VISUAL` before `$EDITOR`, as other programs have it.
    pub(super) fn of_environment(line: &mut DefaultEditor) -> Place<'_> {
        let named = |name: &&str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        match ["VISUAL", "EDITOR"].iter().find_map(named) {
            Some(editor) => Place::Editor(editor),
            None => Place::Line(line),
        }
    }

    /// `answer` as it was changed; none where it was not to be changed after all.
    ///
    /// # Errors
    /// When the editor fails, or leaves what cannot be read.
    pub(super) fn edited(self, answer: &str) -> Result<Option<String>> {
        match self {
            Place::Editor(editor) => in_editor(&editor, answer).map(Some),
            Place::Line(line) => on_line(line, answer),
        }
    }
}

fn on_line(line: &mut DefaultEditor, answer: &str) -> Result<Option<String>> {
    let shown = printable_text(answer);
    match line.readline_with_initial("edit> ", (&shown, "")) {
        // What was spelled out for the terminal was not changed by the person.
        Ok(typed) if typed == shown => Ok(Some(answer.to_string())),
        Ok(typed) => Ok(Some(typed)),
        Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(None),
        Err(e) => Err(Error::bad_data("cannot read the edited answer").because(e)),
    }
}

fn in_editor(editor: &str, answer: &str) -> Result<String> {
    // A folder of its own, so that what the editor keeps beside the file goes with it.
    let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make a file to edit", &std::env::temp_dir(), e))?;
    let file = folder.path().join("answer.txt");
    std::fs::write(&file, answer).map_err(|e| Error::io("cannot write the answer", &file, e))?;
    stop::leave_to_others(true);
    // As git does: the variable may hold arguments.
    let ran = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&file).status();
    stop::leave_to_others(false);
    if !ran.is_ok_and(|status| status.success()) {
        return Err(Error::usage(format!("the editor {editor:?} failed: nothing was saved"))
            .hint("set $VISUAL or $EDITOR to another one, or type the text behind /edit"));
    }
    let bytes = std::fs::read(&file).map_err(|e| Error::io("cannot read the edited answer", &file, e))?;
    String::from_utf8(bytes).map_err(|e| {
        Error::bad_data("the edited answer is not UTF-8: nothing was saved").because(e).hint("save it as UTF-8")
    })
}
