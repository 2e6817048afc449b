//! What is forgotten, encrypted, or another profile's.

use super::*;

/// Every file below `folder`, with its bytes.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push((path.clone(), std::fs::read(&path).unwrap())),
            }
        }
    }
    found
}

/// The files that hold the text.
fn holding(folder: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    files(folder).into_iter().filter(|(_, bytes)| holds(bytes)).map(|(path, _)| path).collect()
}

#[test]
fn an_encrypted_home_learns_and_shows_nothing() {
    let folder = TempDir::new().unwrap();
    let script = unpack(folder.path());
    let key = folder.path().join("key");
    let options = InitOptions::new(folder.path().join("model.onnx")).key(KeySource::KeyFile(key));
    let home = Home::init(folder.path().join("home"), &options).unwrap();
    let session = home.session("p").unwrap();
    let answer = ask(&session, &script.edits[0].prompt).text;
    edit_all(&session, &script.edits[..12]);
    assert!(train(&session).promoted);
    assert_eq!(ask(&session, &script.held_out[0].prompt).generation, 1);
    session.flush().unwrap();
    let profiles = folder.path().join("home/profiles");
    assert!(files(&profiles).len() > 2);
    for secret in [&script.edits[0].wanted, &script.edits[0].prompt, &answer] {
        assert!(holding(&profiles, secret).is_empty(), "{secret}");
    }
}

#[test]
fn a_forgotten_edit_is_in_no_file_and_leaves_no_trace_in_what_is_learned() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let (session, never) = (home.session("p").unwrap(), home.session("never").unwrap());
    let marked = Asked {
        prompt: "please open the zanzibar door".into(),
        wanted: "Opened the zanzibar door, your majesty.".into(),
    };
    let id = edit(&session, &marked);
    for session in [&session, &never] {
        edit_all(session, &script.edits[..12]);
    }
    let (stop, told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let tell = |p: Progress| {
        if p.stage.starts_with("training") && told.fetch_add(1, Ordering::Relaxed) == 12 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    // A training that learns from it, and leaves a checkpoint.
    let options = TrainOptions::default().stop(&stop).progress(&tell).checkpoints(Checkpoints::default());
    assert_eq!(session.train(&options).unwrap_err().kind(), ErrorKind::Interrupted);
    session.flush().unwrap();
    let profile = folder.path().join("home/profiles/p");
    assert!(!holding(&profile, "zanzibar").is_empty(), "it can be found");
    assert_eq!(session.forget(&Selection::Ids(vec![id])).unwrap().interactions, 1);
    session.flush().unwrap();
    assert!(holding(&profile, "zanzibar").is_empty(), "{:?}", holding(&profile, "zanzibar"));
    assert!(train(&session).promoted && train(&never).promoted);
    assert!(bits(&session) == bits(&never));
}

#[test]
fn another_profile_stays_as_it_was() {
    let folder = TempDir::new().unwrap();
    let (home, script) = home(&folder);
    let (one, other) = (home.session("one").unwrap(), home.session("other").unwrap());
    let before = ask(&other, &script.held_out[0].prompt);
    edit_all(&one, &script.edits[..12]);
    assert!(train(&one).promoted);
    let after = ask(&other, &script.held_out[0].prompt);
    assert_eq!((after.generation, &after.text), (0, &before.text));
    assert_eq!(ask(&one, &script.held_out[0].prompt).generation, 1);
    assert_eq!(other.status().unwrap().feedback, 0);
}

#[test]
fn later_answers_of_a_conversation_are_forgotten_with_an_earlier_one() {
    let folder = TempDir::new().unwrap();
    let (home, _) = home(&folder);
    let session = home.session("p").unwrap();
    let mut conversation = session.conversation().unwrap();
    let mut config = conversation.defaults().unwrap();
    config.max_new_tokens = Some(24);
    let mut ids = vec![];
    for said in ["turn on the lamp in the hall", "thank you", "good night"] {
        conversation.push(Message::new("user", said));
        ids.push(conversation.answer(&config, &mut |_| true).unwrap().id.unwrap());
    }
    let other = ask(&session, "open the window in the attic").id.unwrap();
    let forgotten = session.forget(&Selection::Ids(vec![ids[1]])).unwrap();
    assert_eq!(forgotten.interactions, 2);
    let accepts = |id| session.feedback(id, Feedback::Accept);
    assert!(accepts(ids[0]).is_ok() && accepts(other).is_ok() && accepts(ids[2]).is_err());
}
