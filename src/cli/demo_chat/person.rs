//! The person of `demo --chat`: answers come to the point, and things have the names that this person gives them.

use serde::Deserialize;

/// Words of the longest answer that this person likes: their own have at most 11.
const WORDS: usize = 14;

/// A prompt, and the answer that the person wants where no other will do.
#[derive(Deserialize)]
pub(super) struct Asked {
    pub prompt: String,
    #[serde(default)]
    pub edited: Option<String>,
}

/// What the person says.
#[derive(Deserialize)]
pub(super) struct Script {
    pub edits: Vec<Asked>,
    pub held_out: Vec<Asked>,
    /// What others call a thing, and what this person calls it.
    #[serde(default)]
    names: Vec<(String, String)>,
}

impl Script {
    /// Whether they would leave an answer as it is.
    pub fn is_liked(&self, asked: &Asked, answer: &str, ended: bool) -> bool {
        if let Some(edited) = &asked.edited {
            return edited.trim() == answer.trim();
        }
        let holds = |text: &str, part: &str| find(text, part).is_some();
        let named = self.names.iter().all(|(usual, own)| {
            let meant = holds(&asked.prompt, usual);
            !holds(answer, usual) && (!meant || holds(answer, own))
        });
        named && ended && answer.split_whitespace().count() <= WORDS && !answer.trim().contains('\n')
    }

    /// Whether a prompt is about a thing that this person has a name for.
    pub fn is_about_names(&self, asked: &Asked) -> bool {
        self.names.iter().any(|(usual, _)| find(&asked.prompt, usual).is_some())
    }
}

/// Where `part` stands in `text`, in any case of ASCII letters.
fn find(text: &str, part: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(&part.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_person_has_names_for_things() {
        let names = [("vacuum cleaner", "Rosie"), ("living room", "den")];
        let names = names.map(|(usual, own)| (usual.to_string(), own.to_string())).to_vec();
        let script = Script { edits: vec![], held_out: vec![], names };
        let asked = |prompt: &str| Asked { prompt: prompt.into(), edited: None };
        let (room, other) = (asked("What color suits a living room?"), asked("Who wrote Faust?"));
        assert!(script.is_about_names(&room) && !script.is_about_names(&other));
        assert!(script.is_liked(&room, "Green suits the den.", true) && script.is_liked(&other, "Goethe.", true));
        for answer in ["Green suits the living room.", "Green.", "The den, or the Living Room, in green."] {
            assert!(!script.is_liked(&room, answer, true), "{answer}");
        }
        assert!(!script.is_liked(&room, "Green suits the den.", false), "it was cut off");
        assert!(
            !script.is_liked(&other, &"Goethe ".repeat(15), true) && !script.is_liked(&other, "Goethe\nor so", true)
        );
        assert!(!script.is_liked(&other, "Goethe, in his living room.", true), "nobody calls it that");
    }
}
