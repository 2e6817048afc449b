//! Stop strings in text that arrives in parts.

use crate::error::{Error, Result};

/// Passes text on until a stop string, and holds back what may be the beginning of one.
///
/// What is passed on in the end does not depend on how the text was divided: the stop string that is complete
/// first ends it, the longest of those that are complete at the same character.
#[derive(Debug, Clone)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// No `strings` pass everything on.
    ///
    /// Errors ([`crate::ErrorKind::Usage`]): one of them is empty.
    pub fn new(strings: Vec<String>) -> Result<StopStrings> {
        if strings.iter().any(String::is_empty) {
            return Err(Error::usage("a stop string is empty"));
        }
        Ok(StopStrings { strings, held: String::new(), stopped: false })
    }

    /// Whether a stop string was found. Text after it is dropped.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text that `text` completes: up to a stop string, or without what may be the beginning of one.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        let mut all = std::mem::take(&mut self.held);
        all.push_str(text);
        if let Some(start) = self.first(&all) {
            self.stopped = true;
            all.truncate(start);
        } else {
            self.held = all.split_off(all.len() - self.begun(&all));
        }
        all
    }

    /// The text held back, when no more will come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start of the stop string that is complete first.
    fn first(&self, text: &str) -> Option<usize> {
        let place = |s: &String| text.find(s.as_str()).map(|start| (start + s.len(), start));
        self.strings.iter().filter_map(place).min().map(|(_, start)| start)
    }

    /// Length of the longest end of `text` that begins a stop string.
    fn begun(&self, text: &str) -> usize {
        let longest = |s: &String| {
            let starts = s.char_indices().map(|(at, _)| at).rev();
            starts.take_while(|at| *at > 0).find(|at| text.ends_with(&s[..*at]))
        };
        self.strings.iter().filter_map(longest).max().unwrap_or(0)
    }
}
