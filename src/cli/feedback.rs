//! `feedback`: say what was right.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::{Error, Feedback as Said, Result, Session};
use clap::Args;
use serde_json::json;

use super::ProfileArg;
use super::output::Output;

/// Longest edited text.
const LONGEST_EDIT: u64 = 1 << 20;

/// Say what was right about an answer; it is on the disk before this command returns
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate feedback home 7f3a --label cat\n  acclimate feedback home last --accept\n  acclimate feedback home last --none\n  acclimate feedback home 7f3a --label dog --replace\n  acclimate feedback home 7f3a --ignore\n  acclimate feedback home last --edit \"Paris.\""
)]
pub struct Feedback {
    /// The home
    home: PathBuf,
    /// Id that predict printed, or `last` for the latest
    id: String,
    #[command(flatten)]
    said: SaidArg,
    /// With --reject, what was wrong with the text that was generated; for people to read
    #[arg(long, value_name = "WHY", requires = "reject")]
    #[arg(conflicts_with_all = ["label", "accept", "none", "ignore", "edit", "edit_file", "preferred_over"])]
    because: Option<String>,
    /// Put this in the place of what was said about this answer before
    #[arg(long, conflicts_with = "ignore")]
    replace: bool,
    /// The label names a class that nobody has named before
    #[arg(long, conflicts_with_all = ["accept", "reject", "none", "ignore", "edit", "edit_file", "preferred_over"])]
    new_class: bool,
    #[command(flatten)]
    profile: ProfileArg,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct SaidArg {
    /// The right answer
    #[arg(long, value_name = "L")]
    label: Option<String>,
    /// The answer was right
    #[arg(long)]
    accept: bool,
    /// The answer was wrong, and the right one is not known
    #[arg(long)]
    reject: bool,
    /// The input is none of the classes
    #[arg(long)]
    none: bool,
    /// What the text that was generated should have been
    #[arg(long, value_name = "TEXT")]
    edit: Option<String>,
    /// As --edit, with the text in a file; - for standard input
    #[arg(long, value_name = "F")]
    edit_file: Option<PathBuf>,
    /// The text is better than the one that this interaction generated for the same messages
    #[arg(long, value_name = "ID")]
    preferred_over: Option<String>,
    /// What was said about this answer is kept, and teaches nothing any more
    #[arg(long)]
    ignore: bool,
}

impl Feedback {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let session = self.profile.known_session(&self.home)?;
        let id = super::interaction(&session, &self.id)?;
        let said = match self.said {
            SaidArg { label: Some(label), .. } if self.new_class => Some(Said::NewLabel(label)),
            SaidArg { label: Some(label), .. } => Some(Said::Label(label)),
            SaidArg { accept: true, .. } => Some(Said::Accept),
            SaidArg { reject: true, .. } => Some(self.because.map_or(Said::Reject, Said::RejectBecause)),
            SaidArg { none: true, .. } => Some(Said::NoneOfThese),
            SaidArg { edit: Some(text), .. } => Some(Said::Edit(text)),
            SaidArg { edit_file: Some(file), .. } => Some(Said::Edit(text_of(&file)?)),
            SaidArg { preferred_over: Some(other), .. } => Some(Said::PreferredOver(other.parse()?)),
            SaidArg { .. } => None,
        };
        let receipt = match said {
            Some(said) if self.replace => session.replace_feedback(id, said)?,
            Some(said) => session.feedback(id, said)?,
            None => session.ignore_feedback(id)?,
        };
        let data = json!({
            "id": receipt.id.to_string(),
            "durable": receipt.durable,
            "waiting": receipt.waiting,
            "unlearns": receipt.unlearns,
            "rolled_back": receipt.rolled_back,
        });
        let home = self.home.display().to_string();
        output.data(&data, || format!("saved. {}", next(&session, receipt.waiting, &home)))?;
        if let Some(generation) = receipt.unlearns {
            output.note(format_args!(
                "generation {generation} is active and learned from what was said before; the next training leaves that out"
            ));
        }
        if let Some(generation) = receipt.rolled_back {
            output.note(format_args!(
                "generation {generation} was rolled back automatically: the base model would have been right more often (see `acclimate status {home}`)"
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The text in `file`.
fn text_of(file: &Path) -> Result<String> {
    let cannot = |e| Error::io("cannot read the edited text", file, e);
    let mut bytes = vec![];
    let from: &mut dyn Read = match file.to_str() {
        Some("-") => &mut std::io::stdin(),
        _ => &mut std::fs::File::open(file).map_err(cannot)?,
    };
    from.take(LONGEST_EDIT + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LONGEST_EDIT {
        return Err(Error::bad_data(format!("an edited text of more than {LONGEST_EDIT} bytes")).at(file.display()));
    }
    String::from_utf8(bytes).map_err(|e| Error::bad_data("the edited text is not UTF-8").at(file.display()).because(e))
}

#[cfg(feature = "train")]
fn next(session: &Session, waiting: usize, home: &str) -> String {
    let given = session.status().map_or(waiting, |s| s.known_answers);
    match acclimate::adapt::FEWEST_EXAMPLES.saturating_sub(given) {
        0 => format!("{waiting} waiting for `acclimate train {home}`"),
        more => format!("{more} more before the first training"),
    }
}

#[cfg(not(feature = "train"))]
fn next(_: &Session, waiting: usize, _: &str) -> String {
    format!("{waiting} waiting for a build that can train")
}
