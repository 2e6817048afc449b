//! What can be typed in a chat besides messages: lines that begin with a slash.

/// What such a line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Edit,
    Good,
    Bad,
    Retry,
    First,
    Second,
    Train,
    Undo,
    System,
    Clear,
    Why,
    Help,
    Quit,
}

/// Each with its name, which something may follow, and what it does.
const ALL: [(Command, &str, &str); 14] = [
    (
        Command::Edit,
        "edit [TEXT]",
        "the last answer should have been TEXT; without TEXT it is opened in $VISUAL, $EDITOR, or inline",
    ),
    (Command::Good, "good", "the last answer is good"),
    (Command::Bad, "bad [WHY]", "the last answer is bad"),
    (Command::Retry, "retry", "answer the last message again; then /1 or /2 says which answer is better"),
    (Command::First, "1", "after /retry: the answer before is better, and the chat goes on with it"),
    (Command::Second, "2", "after /retry: the new answer is better"),
    (Command::Train, "train", "learn from what was said; serves only if it proves better"),
    (Command::Undo, "undo", "take back the last message and its answer"),
    (Command::System, "system [TEXT]", "begin anew with this system message; without TEXT there is none"),
    (Command::Clear, "clear", "begin anew; the system message stays"),
    (Command::Why, "why", "what answered, and how fast"),
    (Command::Help, "help", "this list"),
    (Command::Quit, "quit", "leave (or Ctrl-D)"),
    (Command::Quit, "exit", "leave, too"),
];

/// The command of this name.
pub(super) fn named(name: &str) -> Option<Command> {
    let has_name = |usage: &str| usage.split(' ').next() == Some(name);
    ALL.iter().find(|(_, usage, _)| has_name(usage)).map(|(command, ..)| *command)
}

/// All of them, for people.
pub(super) fn help() -> String {
    let line = |usage: &str, what: &str| format!("{usage:<15}{what}\n");
    let mut help: String = ALL.iter().map(|(_, usage, what)| line(&format!("/{usage}"), what)).collect();
    help += &line("//TEXT", "say /TEXT");
    help + "A line that ends with \\ goes on with the next one. Ctrl-C stops an answer; a second one ends the program."
}
