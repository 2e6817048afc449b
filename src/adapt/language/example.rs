//! What there is to learn from a conversation: what somebody said about an answer.

use crate::plan::Text;

/// What somebody said about an answer that is text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// It should have been the edited one.
    Edit { edited: Text, original: Option<Text> },
    /// One of two answers to the same messages is better.
    Preference { chosen: Text, rejected: Text },
    /// It was good.
    Good(Text),
    /// It was bad.
    Bad(Text),
}

impl Said {
    /// Of each token of an edit whether the person chose it: it, or the token before it, is not the original's. What
    /// was left as it was may have been looked at or not.
    pub fn chosen_tokens(edited: &Text, original: Option<&Text>) -> Vec<bool> {
        let (to, from) = (edited.completion(), original.map_or(&[][..], Text::completion));
        let mut chosen = vec![true; to.len()];
        for op in similar::capture_diff_slices(similar::Algorithm::Myers, from, to) {
            if let similar::DiffOp::Equal { old_index, new_index, len } = op {
                let first = usize::from(old_index + new_index > 0);
                chosen[new_index + first.min(len)..new_index + len].fill(false);
            }
        }
        chosen
    }

    /// The texts that are looked at: the better one first.
    pub fn texts(&self) -> Vec<&Text> {
        match self {
            Said::Edit { edited, original } => [edited].into_iter().chain(original).collect(),
            Said::Preference { chosen, rejected } => vec![chosen, rejected],
            Said::Good(text) | Said::Bad(text) => vec![text],
        }
    }

    /// What the model was prompted with.
    pub fn prompt(&self) -> &[u32] {
        match self {
            Said::Edit { edited: text, .. }
            | Said::Preference { chosen: text, .. }
            | Said::Good(text)
            | Said::Bad(text) => &text.tokens[..text.start],
        }
    }
}

/// One thing to learn from.
#[derive(Debug, Clone)]
pub(crate) struct LanguageExample {
    pub said: Said,
    /// Names the messages that were answered.
    pub messages: [u8; 32],
    /// The conversation that the answer is a turn of.
    pub conversation: usize,
    /// When it was said, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the active generation has not learned from it.
    pub fresh: bool,
}

impl LanguageExample {
    /// Tokens of the longest text that is looked at.
    pub fn longest(&self) -> usize {
        self.said.texts().iter().map(|text| text.tokens.len()).max().unwrap_or(0)
    }
}

/// What there is to learn from, and what is to stay as it is.
pub(crate) struct LanguageDataset {
    /// In order of time.
    pub examples: Vec<LanguageExample>,
    /// Answers that nobody said anything about.
    pub kept: Vec<Text>,
    /// Something that the active generation learned from is no longer said.
    pub revised: bool,
    /// Prose that has nothing to do with the person, which the gate looks at.
    pub neutral: Vec<Text>,
    /// Other prose, on which a fit is held to what the base model thinks.
    pub rehearsal: Vec<Text>,
    /// Beginnings of texts that the base model goes on with where it does not know the language of the prose.
    pub starts: Vec<Vec<u32>>,
    /// Prompts whose answers must come to an end as the base model's do.
    pub probes: Vec<Vec<u32>>,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_chose_in_an_edit() {
        let text = |completion: &[u32]| Text { tokens: [&[0, 0], completion].concat(), start: 2 };
        let chosen = |edited: &[u32], original: &[u32]| -> Vec<usize> {
            let found = Said::chosen_tokens(&text(edited), Some(&text(original)));
            (0..found.len()).filter(|at| found[*at]).collect()
        };
        assert_eq!(chosen(&[5, 6, 1], &[5, 6, 7, 8, 1]), [2], "it ends earlier");
        assert_eq!(chosen(&[6, 7, 1], &[5, 6, 7, 1]), [0], "it begins later");
        assert_eq!(chosen(&[5, 9, 7, 1], &[5, 6, 7, 1]), [1, 2], "a word and what follows it");
        assert_eq!(chosen(&[8, 9], &[5, 6, 7]), [0, 1]);
        assert_eq!(chosen(&[5, 6], &[5, 6]), [0; 0]);
        assert_eq!(Said::chosen_tokens(&text(&[5, 6]), None), [true, true]);
    }
}
