//! Data on stdout, for people or as JSON; messages, progress and errors on stderr.

use std::fmt::Display;
use std::io::{ErrorKind as IoKind, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use acclimate::input::Skipped;
use acclimate::{Error, Result};
use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// How to speak to whoever called.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON on stdout, errors as JSON on stderr.
    pub json: bool,
    /// No progress and no messages but errors.
    pub quiet: bool,
}

impl Output {
    /// The result of a command: `json` or `human`. A reader that has gone away is no error.
    pub fn data(&self, json: &Value, human: impl FnOnce() -> String) -> Result<()> {
        let text = if self.json { json_text(json) } else { human() };
        let end = if text.ends_with('\n') { "" } else { "\n" };
        write_out(&format!("{text}{end}"))
    }

    /// A result in a form of its own.
    pub fn text(&self, text: &str) -> Result<()> {
        write_out(text)
    }

    /// A result of many parts, each shown when it is there: a line each, or the elements of one JSON array.
    pub fn list(&self) -> List {
        List { json: self.json, parts: 0 }
    }

    /// Says what a dataset left out: each on a line, the first few of many.
    pub fn skipped(&self, skipped: &[Skipped]) {
        const SHOWN: usize = 5;
        if skipped.is_empty() {
            return;
        }
        let lines: Vec<String> =
            skipped.iter().take(SHOWN).map(|s| format!("\n  {}: {}", s.file.display(), s.reason)).collect();
        let more = match skipped.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("\n  and {more} more (all are in `skipped` with --json)"),
        };
        self.warn(format_args!("{} left out of the data:{}{more}", skipped.len(), lines.concat()));
    }

    /// A message beside the data. Shown unless quiet; also with `--json`, where stdout stays clean.
    pub fn note(&self, text: impl Display) {
        if !self.quiet {
            // A message that nobody can read is no reason to fail.
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// A warning: shown in any case.
    pub fn warn(&self, text: impl Display) {
        let style = AnsiColor::Yellow.on_default().bold();
        let _ = writeln!(anstream::stderr(), "{style}warning{style:#}: {text}");
    }

    /// An error, with what to do next.
    pub fn error(&self, e: &Error) {
        let mut err = anstream::stderr();
        let _ = match self.json {
            true => writeln!(err, "{}", error_json(e)),
            false => {
                let red = AnsiColor::Red.on_default().bold();
                let bold = Style::new().bold();
                let next = e.next_step().map(|next| format!("\n  {bold}next{bold:#}: {next}")).unwrap_or_default();
                writeln!(err, "{red}error{red:#}: {e}{next}")
            }
        };
    }

    /// A progress bar of `length` steps; hidden when nobody watches.
    pub fn bar(&self, length: u64) -> ProgressBar {
        let target = if self.json || self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        // The template is a constant; without it the bar only looks plainer.
        match ProgressStyle::with_template("{bar:30.cyan/dim} {percent:>3} %  {msg}") {
            Ok(style) => bar.with_style(style.progress_chars("━╸─")),
            Err(_) => bar,
        }
    }
}

/// What a dataset left out, as JSON.
pub fn skipped_json<'a>(skipped: impl IntoIterator<Item = &'a Skipped>) -> Value {
    skipped.into_iter().map(|s| json!({ "file": s.file.display().to_string(), "reason": s.reason })).collect()
}

/// Parts of a result. What is dropped without [`List::close`] leaves its JSON array open.
pub struct List {
    json: bool,
    parts: usize,
}

impl List {
    /// Shows one part.
    pub fn push(&mut self, json: &Value, human: impl FnOnce() -> String) -> Result<()> {
        let before = if self.parts == 0 { "[" } else { ",\n" };
        self.parts += 1;
        match self.json {
            true => write_out(&format!("{before}{}", json_text(json))),
            false => write_out(&format!("{}\n", human())),
        }
    }

    /// Ends the list. Nothing is shown of a list without a part.
    pub fn close(&mut self) -> Result<()> {
        if self.json && std::mem::take(&mut self.parts) > 0 { write_out("]\n") } else { Ok(()) }
    }
}

/// Writes to stdout at once. A reader that has gone away is no error.
fn write_out(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != IoKind::BrokenPipe => {
            Err(Error::io("cannot write the result", Path::new("standard output"), e))
        }
        _ => Ok(()),
    }
}

/// A borderless table; columns from `right_from` on are numbers and stand at the right.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    right_from: usize,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        let left = if at == 0 { 0 } else { 1 };
        column.set_padding((left, 1));
        if at >= right_from {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A time that was given in seconds; `what` says for what.
pub fn duration(seconds: f64, what: &str) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|e| Error::usage(format!("{seconds} seconds {what}")).because(e).hint("give a positive number"))
}

/// JSON in which no character does anything to a terminal: those of C1 and those that turn the direction of writing are escaped, too.
fn json_text(json: &Value) -> String {
    spelled(&json.to_string(), |c| format!("\\u{:04x}", u32::from(c)))
}

/// One line that does nothing to a terminal, whoever wrote it: control characters and those that turn the direction of writing are
/// spelled out.
pub fn printable(text: &str) -> String {
    spelled(text, |c| c.escape_unicode().to_string())
}

/// [`printable`] that keeps tabs and line ends.
pub fn printable_text(text: &str) -> String {
    spelled(text, |c| if matches!(c, '\t' | '\n' | '\r') { c.into() } else { c.escape_unicode().to_string() })
}

fn spelled(text: &str, spell: impl Fn(char) -> String) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| if c.is_control() || turns(c) { shown += &spell(c) } else { shown.push(c) });
    shown
}

/// `0.414` as `41 %`.
pub fn percent(share: f64) -> String {
    match share {
        s if s > 0.0 && s < 0.005 => "<1 %".into(),
        s if (0.995..1.0).contains(&s) => ">99 %".into(),
        s => format!("{:.0} %", 100.0 * s),
    }
}

/// `0.8291` as `82.9 %`.
pub fn percent_1(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `123456` as `121 KiB`.
pub fn bytes(n: u64) -> String {
    let n_f = n as f64;
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.0} KiB", n_f / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n_f / 1_048_576.0),
        _ => format!("{:.2} GiB", n_f / 1_073_741_824.0),
    }
}

/// Milliseconds since 1970 as `2025-01-31 14:03` in UTC; what lies behind 9999 is its end.
pub fn date(ms: u64) -> String {
    instant(ms).replace('T', " ").chars().take("2025-01-31 14:03".len()).collect()
}

/// Milliseconds since 1970 as `2025-01-31T14:03:12.345Z` (RFC 3339); what lies behind 9999 is its end.
pub fn instant(ms: u64) -> String {
    const END_OF_9999: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(END_OF_9999))).to_string()
}

fn error_json(e: &Error) -> Value {
    json!({
        "error": e.what(),
        "at": e.place(),
        "because": std::error::Error::source(e).map(ToString::to_string),
        "next": e.next_step(),
        "exit": e.kind().exit_code(),
    })
}

/// A usage error of the argument parser as JSON.
pub fn usage_as_json(text: &str) {
    let mut paragraphs = text.trim().split("\n\n");
    let what = paragraphs.next().unwrap_or_default().trim_start_matches("error: ").replace('\n', " ");
    let error = json!({
        "error": what.split_whitespace().collect::<Vec<_>>().join(" "),
        "at": Value::Null,
        "because": Value::Null,
        "next": "see `acclimate help`",
        "exit": 2,
    });
    let _ = writeln!(std::io::stderr(), "{error}");
}

/// Ends the program with exit code 70 and a few words, unless the panic is one that becomes an error.
pub fn report_panic(json: bool, info: &std::panic::PanicHookInfo<'_>) {
    if acclimate::process::in_guarded_call() {
        return;
    }
    let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
    let why = info.payload_as_str().unwrap_or("no message");
    let next = "this is a fault of acclimate: please report it with the command that you typed; what was acknowledged is stored";
    let _ = match json {
        true => {
            writeln!(
                std::io::stderr(),
                "{}",
                json!({ "error": "internal error", "at": place, "because": why, "next": next, "exit": 70 })
            )
        }
        false => writeln!(std::io::stderr(), "error: internal error ({place}): {why}\n  next: {next}"),
    };
    std::process::exit(70);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!([0.0, 0.004, 0.414, 0.996, 1.0].map(percent), ["0 %", "<1 %", "41 %", ">99 %", "100 %"]);
        assert_eq!(percent_1(0.8291), "82.9 %");
        assert_eq!([0, 1023, 2048, 5 << 20, 3 << 30].map(bytes), ["0 B", "1023 B", "2 KiB", "5.0 MiB", "3.00 GiB"]);
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00");
        assert_eq!(date(1_709_251_199_000), "2024-02-29 23:59");
        assert_eq!(date(1_735_689_600_000), "2025-01-01 00:00");
        assert_eq!(date(u64::MAX), "9999-12-31 23:59", "what a damaged clock says is no panic");
    }

    #[test]
    fn nothing_that_a_person_wrote_moves_the_cursor() {
        let wild = "a\u{1b}]0;title\u{7}\u{9b}2J\u{202e}\u{7f}é\nb";
        let line = printable(wild);
        assert_eq!(line, "a\\u{1b}]0;title\\u{7}\\u{9b}2J\\u{202e}\\u{7f}é\\u{a}b");
        assert!(printable_text(wild).ends_with("é\nb"));
        let text = json_text(&json!({ "x": wild }));
        assert!(text.chars().all(|c| c == 'é' || c.is_ascii_graphic()), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["x"], wild, "it is the same text all the same");
    }

    #[test]
    fn errors_keep_their_parts() {
        let e = Error::bad_data("cannot read").at("a.npy").because("torn").hint("copy it again");
        assert_eq!(
            error_json(&e),
            json!({ "error": "cannot read", "at": "a.npy", "because": "torn", "next": "copy it again", "exit": 65 })
        );
    }

    #[test]
    fn tables_line_up() {
        let text = table(["a", "n"], [["long".into(), "1".into()], ["b".into(), "100".into()]], 1);
        let widths: Vec<usize> = text.lines().map(|l| l.trim_end().len()).collect();
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(1).is_some_and(|l| l.trim_end().ends_with('1')), "{text}");
        assert_eq!(widths[1], widths[2], "{text}");
    }
}
