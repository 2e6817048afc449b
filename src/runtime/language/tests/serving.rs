//! Which generation answers, what a conversation keeps, and when a generation is rolled back.

use super::*;

/// A home of which generation 1 was promoted from twelve edits, after many answers without a word.
fn promoted(folder: &TempDir) -> (Home, Script) {
    let (home, script) = home(folder);
    let session = home.session("p").unwrap();
    for asked in script.held_out.iter().chain(&script.edits[20..]) {
        ask(&session, &asked.prompt);
    }
    edit_all(&session, &script.edits[..12]);
    assert!(train(&session).promoted);
    (home, script)
}

/// Says `said` about the answers to these until the generation is rolled back.
fn complain(session: &Session, about: &[Asked], said: impl Fn(&Asked) -> Feedback) -> Option<u64> {
    about.iter().find_map(|asked| {
        let answer = ask(session, &asked.prompt);
        assert_eq!(answer.generation, 1);
        session.feedback(answer.id.unwrap(), said(asked)).unwrap().rolled_back
    })
}

#[test]
fn a_generation_that_is_complained_about_is_rolled_back() {
    let edit = |_: &Asked| Feedback::Edit("No. It should say something else altogether.".into());
    let said: [&dyn Fn(&Asked) -> Feedback; 2] = [&|_| Feedback::Reject, &edit];
    for said in said {
        let folder = TempDir::new().unwrap();
        let (home, script) = promoted(&folder);
        let session = home.session("p").unwrap();
        assert_eq!(complain(&session, &script.edits[20..30], said), Some(1));
        assert_eq!(session.status().unwrap().rolled_back.map(|r| r.cause), Some(Cause::Worse));
        assert_eq!(ask(&session, &script.edits[0].prompt).generation, 0);
    }
}

#[test]
fn a_generation_that_is_complained_about_as_often_as_the_base_stays() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let session = home.session("p").unwrap();
    // Every answer is edited, before and after.
    edit_all(&session, &script.edits[..12]);
    assert!(train(&session).promoted);
    let edit = |_: &Asked| Feedback::Edit("No. It should say something else altogether.".into());
    assert_eq!(complain(&session, &script.edits[12..24], edit), None);
    assert_eq!(session.status().unwrap().generation, 1);
}

#[test]
fn a_turn_reads_what_is_new_and_another_generation_reads_everything() {
    let folder = TempDir::new().unwrap();
    let (home, script) = promoted(&folder);
    let session = home.session("p").unwrap();
    let mut conversation = session.conversation().unwrap();
    let mut config = conversation.defaults().unwrap();
    (config.do_sample, config.max_new_tokens) = (false, Some(60));
    conversation.push(Message::new("user", &script.edits[0].prompt));
    let first = conversation.answer(&config, &mut |_| true).unwrap();
    conversation.push(Message::new("user", &script.edits[1].prompt));
    let second = conversation.answer(&config, &mut |_| true).unwrap();
    // All of the first turn but the token that ended it, which nobody read.
    let read = first.prompt_tokens + first.tokens - 1;
    assert!(second.cached_tokens >= read, "{} of {read} cached", second.cached_tokens);
    assert_eq!((first.generation, second.generation), (1, 1));
    for (back_to, generation) in [(None, 0), (Some(1), 1)] {
        session.rollback(back_to).unwrap();
        conversation.push(Message::new("user", &script.edits[2].prompt));
        let messages = conversation.messages().to_vec();
        let answer = conversation.answer(&config, &mut |_| true).unwrap();
        assert_eq!((answer.generation, answer.cached_tokens), (generation, 0));
        let mut fresh = session.conversation().unwrap();
        fresh.set_messages(messages);
        assert_eq!(fresh.answer(&config, &mut |_| true).unwrap().text, answer.text);
    }
}

#[test]
fn an_answer_is_of_one_generation_to_its_end() {
    let folder = TempDir::new().unwrap();
    let (home, script) = promoted(&folder);
    let (session, other) = (home.session("p").unwrap(), home.session("p").unwrap());
    let mut conversation = session.conversation().unwrap();
    let mut config = conversation.defaults().unwrap();
    (config.do_sample, config.max_new_tokens) = (false, Some(60));
    let prompt = &script.held_out[0].prompt;
    let whole = ask(&session, prompt);
    conversation.push(Message::new("user", prompt));
    let mut pieces = 0;
    let mut swap = |text: &str| {
        pieces += usize::from(!text.is_empty());
        if pieces == 3 {
            assert_eq!(other.rollback(None).unwrap(), 0);
        }
        true
    };
    let answer = conversation.answer(&config, &mut swap).unwrap();
    assert!(pieces > 4, "{pieces} pieces");
    assert_eq!((answer.generation, &answer.text), (1, &whole.text));
    assert_eq!(ask(&session, prompt).generation, 0);
}

#[test]
fn an_answer_that_is_stopped_while_its_prompt_is_read_leaves_no_trace() {
    let folder = TempDir::new().unwrap();
    let (home, _) = home(&folder);
    let session = home.session("p").unwrap();
    let mut conversation = session.conversation().unwrap();
    let mut config = conversation.defaults().unwrap();
    (config.do_sample, config.max_new_tokens) = (false, Some(8));
    let long = "please switch on the lamp ".repeat(14);
    conversation.push(Message::new("user", long.clone()));
    let none = conversation.answer(&config, &mut |text| !text.is_empty()).unwrap();
    assert_eq!((none.tokens, none.id, conversation.messages().len()), (0, None, 1), "{none:?}");
    assert!(none.prompt_tokens > 256, "{none:?}");
    // What was read stays read.
    let answer = conversation.answer(&config, &mut |_| true).unwrap();
    assert!(answer.cached_tokens >= 128 && answer.id.is_some(), "{answer:?}");
    let mut fresh = session.conversation().unwrap();
    fresh.push(Message::new("user", long));
    assert_eq!(fresh.answer(&config, &mut |_| true).unwrap().text, answer.text);
    assert_eq!(session.status().unwrap().interactions, 2);
}
