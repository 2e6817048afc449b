//! The person of `demo --chat`: answers come to the point, and things have the names that this person gives them.

use serde::Deserialize;

/// Words of an answer that this person likes, and a few more that they let pass.
const WORDS: usize = 12;
const LET_PASS: usize = 14;

/// A prompt, and what the person wants as its answer where that does not depend on the answer given.
#[derive(Deserialize)]
pub(super) struct Asked {
    pub prompt: String,
    #[serde(default)]
    edited: Option<String>,
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
    /// What the person makes of an answer.
    pub fn wanted(&self, asked: &Asked, answer: &str) -> String {
        asked.edited.clone().unwrap_or_else(|| self.renamed(to_the_point(answer)))
    }

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
        named && ended && answer.split_whitespace().count() <= LET_PASS && !answer.trim().contains('\n')
    }

    /// Whether a prompt is about a thing that this person has a name for.
    pub fn is_about_names(&self, asked: &Asked) -> bool {
        self.names.iter().any(|(usual, _)| find(&asked.prompt, usual).is_some())
    }

    fn renamed(&self, mut text: String) -> String {
        for (usual, own) in &self.names {
            while let Some(at) = find(&text, usual) {
                text.replace_range(at..at + usual.len(), own);
            }
        }
        capitalised(&text)
    }
}

/// Where `part` stands in `text`, in any case of ASCII letters.
fn find(text: &str, part: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(&part.to_ascii_lowercase())
}

/// The first sentence without what leads up to it, and no more of it than a person reads at a glance.
fn to_the_point(answer: &str) -> String {
    const LEADS: [&str; 10] =
        ["sure", "certainly", "of course", "absolutely", "great question", "well", "hello", "hi", "yes", "okay"];
    let line = answer.trim().lines().next().unwrap_or_default();
    let mut sentence =
        line.split_inclusive(['.', '!', '?']).find(|s| s.split_whitespace().count() > 2).unwrap_or(line).trim();
    for lead in LEADS {
        let Some(start) = sentence.get(..lead.len()).filter(|s| s.eq_ignore_ascii_case(lead)) else { continue };
        let rest = &sentence[start.len()..];
        if let Some(rest) = rest.strip_prefix([',', '!', ':', '.']) {
            sentence = rest.trim();
            break;
        }
    }
    let words: Vec<&str> = sentence.split_whitespace().collect();
    let mut short = words[..words.len().min(WORDS)].join(" ");
    if words.len() > WORDS {
        short = short.trim_end_matches([',', ';', ':']).to_string() + ".";
    }
    capitalised(&short)
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_person_comes_to_the_point() {
        let made = [
            ("Sure, I can help. The capital is Paris.", "I can help."),
            (
                "Yes! It is. A bridge spans a river and carries a road or a railway over it.",
                "A bridge spans a river and carries a road or a railway.",
            ),
            ("Paris.", "Paris."),
            ("", ""),
        ];
        for (answer, wanted) in made {
            assert_eq!(to_the_point(answer), wanted, "{answer}");
        }
    }

    #[test]
    fn this_person_has_names_for_things() {
        let names = [("the vacuum cleaner", "Rosie"), ("vacuum cleaner", "Rosie"), ("living room", "den")];
        let names = names.map(|(usual, own)| (usual.to_string(), own.to_string())).to_vec();
        let script = Script { edits: vec![], held_out: vec![], names };
        let asked = |prompt: &str| Asked { prompt: prompt.into(), edited: None };
        let (room, other) = (asked("What color suits a living room?"), asked("Who wrote Faust?"));
        let made = script.wanted(&room, "The vacuum cleaner cleans a Living Room. It does so every day.");
        assert_eq!(made, "Rosie cleans a den.");
        assert!(script.is_about_names(&room) && !script.is_about_names(&other));
        assert!(script.is_liked(&room, "Green suits the den.", true) && script.is_liked(&other, "Goethe.", true));
        for answer in ["Green suits the living room.", "Green.", "The den, or the living room, in green."] {
            assert!(!script.is_liked(&room, answer, true), "{answer}");
        }
        assert!(!script.is_liked(&room, "Green suits the den.", false), "it was cut off");
        assert!(!script.is_liked(&other, "Goethe, in his living room.", true), "nobody calls it that");
    }
}
