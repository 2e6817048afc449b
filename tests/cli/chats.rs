//! `chat`, as a program or a person at a pipe uses it: every command, editors, Ctrl-C.

use std::io::Write;
#[cfg(unix)]
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{acclimate, json as answered};
use crate::texts::home;

/// A chat in which no editor is set.
fn program(home: &str, options: &[&str]) -> Command {
    let mut chat = acclimate(&[&["chat", home], options].concat());
    chat.env_remove("VISUAL").env_remove("EDITOR").env_remove("TERM");
    chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    chat
}

/// What a chat writes to stdout and to stderr while `typed` is typed.
fn said(mut chat: Command, typed: &[u8]) -> (String, String) {
    let mut chat = chat.spawn().unwrap();
    chat.stdin.take().unwrap().write_all(typed).unwrap();
    let output = chat.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

fn chat(home: &str, options: &[&str], typed: &str) -> (String, String) {
    said(program(home, options), typed.as_bytes())
}

/// The interactions of a home, the oldest first.
fn recorded(home: &str) -> Vec<Value> {
    let mut listed = answered(&["interactions", home]).as_array().unwrap().clone();
    listed.reverse();
    listed
}

fn turns(interaction: &Value) -> Vec<(&str, &str)> {
    let messages = interaction["input"]["messages"].as_array().unwrap();
    messages.iter().map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap())).collect()
}

#[test]
fn answers_are_edited_in_editors_and_on_the_line() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let ask = &edits[0].0;
    // $VISUAL, $EDITOR, what is typed after /edit; what is stored, or what is said where nothing is.
    let cases = [
        ("", "sed -i s/.*/Done./", "", Ok("Done.")),
        ("sed -i s/.*/Seen./", "false", "", Ok("Seen.")),
        (" ", "printf '  One.\\nTwo.\\n\\n' >", "", Ok("One.\nTwo.")),
        ("", "", "Typed.\n", Ok("Typed.")),
        ("", "false", "", Err("the editor \"false\" failed: nothing was saved")),
        ("no-such-editor --wait", "true", "", Err("the editor \"no-such-editor --wait\" failed: nothing was saved")),
        ("", "true", "", Err("the edited text is the answer itself")),
        ("", "truncate -s 0", "", Err("an edit to nothing")),
        ("", "printf '\\351' >", "", Err("not UTF-8: nothing was saved")),
        ("", "rm", "", Err("cannot read the edited answer")),
    ];
    for (visual, editor, typed, wanted) in cases {
        let mut chat = program(&home, &[]);
        chat.env("VISUAL", visual).env("EDITOR", editor);
        let (_, said) = said(chat, format!("{ask}\n/edit\n{typed}more\n/quit\n").as_bytes());
        let listed = recorded(&home);
        let [.., first, second] = &listed[..] else { panic!("{listed:?}") };
        let goes_on = turns(second)[1].1;
        match wanted {
            Ok(text) => {
                let stored = &first["feedback"];
                assert_eq!((&stored["kind"], &stored["text"]), (&json!("edit"), &json!(text)), "{editor}: {said}");
                assert_eq!(goes_on, text, "{editor}");
            }
            Err(words) => {
                assert!(said.contains(words), "{editor}: {said}");
                assert_eq!(first["feedback"], Value::Null, "{editor}");
                assert_eq!(goes_on, first["answer"]["text"].as_str().unwrap(), "{editor}");
            }
        }
    }
}

#[test]
fn what_a_person_wrote_stays_until_they_write_something_else() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let ask = &edits[0].0;
    let edited = |interaction: &Value| {
        assert_eq!(interaction["feedback"]["kind"], "edit", "{interaction}");
        interaction["feedback"]["text"].as_str().unwrap().to_string()
    };
    // Neither thumbs nor a choice take it away, and a choice of it goes on with it.
    let (_, said) = chat(&home, &[], &format!("{ask}\n/edit Mine.\n/good\n/bad\n/retry\n/1\nmore\n"));
    let listed = recorded(&home);
    assert_eq!(edited(&listed[0]), "Mine.");
    assert_eq!((&listed[1]["feedback"], said.matches("stays what is learned").count()), (&Value::Null, 3), "{said}");
    assert_eq!(turns(&listed[2])[..2], [("user", &ask[..]), ("assistant", "Mine.")]);
    // A choice of the other answer is one more thing that was said.
    chat(&home, &[], &format!("{ask}\n/edit Mine.\n/retry\n/2\nmore\n"));
    let listed = recorded(&home);
    assert_eq!(edited(&listed[3]), "Mine.");
    assert_eq!(listed[4]["feedback"]["over"], listed[3]["id"], "{}", listed[4]);
    assert_eq!(turns(&listed[5])[1].1, listed[4]["answer"]["text"].as_str().unwrap());
    // Another edit takes its place, and one back to the answer says that this was right.
    let original = listed[0]["answer"]["text"].as_str().unwrap();
    let (_, said) = chat(&home, &[], &format!("{ask}\n/edit Mine.\n/edit Mine.\n/edit Other.\nmore\n"));
    let listed = recorded(&home);
    assert_eq!((edited(&listed[6]).as_str(), turns(&listed[7])[1].1), ("Other.", "Other."));
    assert!(said.contains("nothing was changed"), "{said}");
    chat(&home, &[], &format!("{ask}\n/edit Mine.\n/edit {original}\nmore\n"));
    let listed = recorded(&home);
    assert_eq!((&listed[8]["feedback"]["kind"], turns(&listed[9])[1].1), (&json!("accept"), original));
    // What cannot be learned is not gone on with.
    let (_, said) = chat(&home, &[], &format!("{ask}\n/edit Mine.<|im_end|>\nmore\n"));
    let listed = recorded(&home);
    assert!(said.contains("end token"), "{said}");
    assert_eq!((&listed[10]["feedback"], turns(&listed[11])[1].1), (&Value::Null, original));
}

#[test]
fn a_choice_is_between_answers_to_one_message() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let (_, said) = chat(&home, &[], &format!("{}\n/retry\n{}\n/1\n/retry\n/2\n", edits[0].0, edits[1].0));
    assert_eq!(said.matches("which answer is better?").count(), 2, "{said}");
    assert_eq!(said.matches("no two answers to choose from").count(), 1, "{said}");
    let listed = recorded(&home);
    assert_eq!(listed.iter().filter(|i| !i["feedback"].is_null()).count(), 1, "{listed:?}");
    assert_eq!(listed[3]["feedback"]["over"], listed[2]["id"], "{listed:?}");
}

#[test]
fn conversations_begin_anew_and_messages_are_what_was_typed() {
    let folder = TempDir::new().unwrap();
    let (home, _) = home(&folder);
    let typed = "one \\\n  two\n/bad too long\n//help me\n/clear\nthree\n/system Be kind.\nfour\n/system\nfive\n/undo\n\
                 six\n\n/quit\nseven\n";
    let (answers, _) = chat(&home, &["--max-tokens", "8", "--system", "Be brief."], typed);
    let listed = recorded(&home);
    assert_eq!((answers.lines().count(), listed.len()), (6, 6), "{answers}");
    let said = &listed[0]["feedback"];
    assert_eq!((&said["kind"], &said["why"]), (&json!("reject"), &json!("too long")));
    let (brief, kind) = (("system", "Be brief."), ("system", "Be kind."));
    assert_eq!(turns(&listed[0]), [brief, ("user", "one \n  two")]);
    let answer = listed[0]["answer"]["text"].as_str().unwrap();
    assert_eq!(turns(&listed[1]), [brief, ("user", "one \n  two"), ("assistant", answer), ("user", "/help me")]);
    assert_eq!(turns(&listed[2]), [brief, ("user", "three")]);
    assert_eq!(turns(&listed[3]), [kind, ("user", "four")]);
    assert_eq!(turns(&listed[4]), [("user", "five")]);
    assert_eq!(turns(&listed[5]), [("user", "six")], "what was undone is not said again");
}

#[test]
fn help_lists_the_commands_that_there_are() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let (_, help) = chat(&home, &[], "/help\n");
    let is_command = |word: &&str| word.starts_with('/') && !word.starts_with("//");
    let names: Vec<&str> = help.lines().filter_map(|line| line.split(' ').next()).filter(is_command).skip(1).collect();
    assert!(names.len() >= 14, "{help}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let page = std::fs::read_to_string(page).unwrap();
    let about = page.split("\n### chat\n").nth(1).unwrap().split("\n### ").next().unwrap();
    for name in &names {
        assert!(about.contains(&format!("`{name}")), "docs/cli.md does not tell of {name}");
        // Each does something where nothing was said yet, or leaves.
        let (answers, said) = chat(&home, &["--max-tokens", "4"], &format!("{name}\n/undo\n{}\n", edits[0].0));
        assert!(!said.contains("there is no command"), "{name}: {said}");
        let leaves = ["/quit", "/exit"].contains(name);
        assert_eq!((answers.lines().count(), said.contains("nothing to take back")), (usize::from(!leaves), !leaves));
    }
    let (_, said) = chat(&home, &[], "/nothing\n/\n/quits\n/1x\n");
    assert_eq!(said.matches("there is no command").count(), 4, "{said}");
}

#[test]
fn what_was_edited_in_a_chat_is_learned_in_it() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let edit = |(prompt, wanted): &(String, String)| format!("{prompt}\n/edit {wanted}\n/clear\n");
    let typed = edits[..12].iter().map(edit).collect::<String>();
    let (answers, said) = chat(&home, &[], &format!("{typed}/why\n/train\n{}\n/why\n", edits[20].0));
    assert_eq!(answers.lines().count(), 13, "{said}");
    for words in ["nothing was answered yet", "generation 1 is on probation", "answered by generation 1: "] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let listed = recorded(&home);
    assert_eq!((&listed[11]["generation"], &listed[12]["generation"]), (&json!(0), &json!(1)));
    assert_eq!(answered(&["status", &home])["generation"], 1);
}

#[test]
fn what_is_no_text_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let (home, _) = home(&folder);
    let (answers, said) = said(program(&home, &["--max-tokens", "4"]), b"caf\xe9\nhello\n");
    assert!(said.contains("not UTF-8"), "{said}");
    assert_eq!((answers.lines().count(), turns(&recorded(&home)[0])), (1, vec![("user", "hello")]));
}

#[cfg(unix)]
#[test]
fn a_signal_stops_an_answer_and_not_the_chat() {
    use crate::endless;
    let folder = TempDir::new().unwrap();
    let home = endless::home(&folder);
    let mut chat = program(&home, &[]).spawn().unwrap();
    let (mut typed, mut shown) = (chat.stdin.take().unwrap(), BufReader::new(chat.stdout.take().unwrap()));
    let mut answers = vec![];
    for word in ["one", "two"] {
        writeln!(typed, "{word}").unwrap();
        let mut answer = String::from(char::from(endless::first_byte(&mut shown)));
        endless::interrupt(&chat);
        shown.read_line(&mut answer).unwrap();
        // The first byte came before the end, or the answer would be whole.
        let words = endless::words(&answer);
        assert!(answer.ends_with('\n') && words > 0 && words < endless::STOPPED, "{words} words");
        answers.push(answer.trim_end().to_string());
    }
    typed.write_all(b"/bad it goes on and on\n/why\n/quit\n").unwrap();
    let (mut rest, mut said) = (String::new(), String::new());
    shown.read_to_string(&mut rest).unwrap();
    chat.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(chat.wait().unwrap().success() && rest.is_empty(), "{said}");
    let stopped = said.lines().filter(|line| *line == "stopped").count();
    assert!(stopped == 2 && said.contains(", it was stopped; "), "{said}");
    // As far as it came an answer is kept: the conversation goes on with it, and it takes feedback.
    let listed = recorded(&home);
    assert_eq!(listed.len(), 2);
    for (interaction, answer) in listed.iter().zip(&answers) {
        assert_eq!(interaction["answer"], json!({ "text": answer, "ended": false }));
    }
    assert_eq!(turns(&listed[1]), [("user", "one"), ("assistant", &answers[0][..]), ("user", "two")]);
    assert_eq!(listed[1]["feedback"]["why"], "it goes on and on");
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_the_chat() {
    use crate::endless;
    let folder = TempDir::new().unwrap();
    let home = endless::home(&folder);
    let mut chat = program(&home, &[]).spawn().unwrap();
    let (mut typed, mut shown) = (chat.stdin.take().unwrap(), chat.stdout.take().unwrap());
    writeln!(typed, "one").unwrap();
    endless::first_byte(&mut shown);
    // Two signals that come at once are one.
    let ended = (0..600).find_map(|_| {
        endless::interrupt(&chat);
        std::thread::sleep(std::time::Duration::from_millis(50));
        chat.try_wait().unwrap()
    });
    assert_eq!(ended.expect("the chat ended").code(), Some(130));
}
