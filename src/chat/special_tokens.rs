//! Special tokens of a model.

/// The special tokens that a template can name, such as `bos_token` and `eos_token`: name and text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens(pub Vec<(String, String)>);

impl SpecialTokens {
    /// The text of the token that is named so.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }
}
