//! Lines of conversations.

use super::{MAX_LINE_BYTES, Message, conversation, conversations};
use crate::error::ErrorKind;

#[test]
fn lines_are_conversations() {
    let text = "\u{feff}{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\r\n \n\
        {\"id\": 3, \"tools\": [], \"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, \
        {\"type\": \"text\", \"text\": \"b\"}]}, {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": null}]}";
    let read = conversations(text.as_bytes()).unwrap();
    assert_eq!(read[0], [Message::new("user", "Hi")]);
    assert_eq!(read[1], [Message::new("user", "ab"), Message::new("assistant", "")]);
    assert_eq!(read.len(), 2);
    let json = serde_json::to_string(&read[0][0]).unwrap();
    assert_eq!(
        (json.as_str(), serde_json::from_str(&json).unwrap()),
        (r#"{"role":"user","content":"Hi"}"#, read[0][0].clone())
    );
}

#[test]
fn what_is_no_conversation_is_refused_with_its_reason() {
    let user = r#"{"messages": [{"role": "user", "content": "#;
    for (line, said) in [
        ("{", "not JSON"),
        ("[]", "a list instead of an object"),
        ("null", "null instead of an object"),
        ("{}", "without \"messages\""),
        (r#"{"messages": {}}"#, "an object instead of a list"),
        (r#"{"messages": []}"#, "without messages"),
        (r#"{"messages": ["a"]}"#, "text instead of an object"),
        (r#"{"messages": [{"content": "a"}]}"#, "without \"role\""),
        (r#"{"messages": [{"role": 3, "content": "a"}]}"#, "a number instead of text"),
        (r#"{"messages": [{"role": "", "content": "a"}]}"#, "an empty role"),
        (r#"{"messages": [{"role": "user"}]}"#, "without \"content\""),
        (&format!("{user}null}}]}}"), "without \"content\""),
        (&format!("{user}true}}]}}"), "a truth value instead of text"),
        (&format!("{user}[3]}}]}}"), "a number instead of an object"),
        (&format!("{user}[{{\"type\": \"text\"}}]}}]}}"), "without \"text\""),
        (&format!("{user}[{{\"type\": \"text\", \"text\": 3}}]}}]}}"), "without \"text\""),
        (&format!("{user}[{{\"type\": \"image_url\"}}]}}]}}"), "content of type \"image_url\""),
        (&format!("{user}[{{\"type\": \"image\"}}]}}]}}"), "content of type \"image\""),
        (&format!("{user}[{{\"type\": 3, \"text\": \"a\"}}]}}]}}"), "content of type \"unknown\""),
        (&format!("{user}\"a\", \"tool_calls\": []}}]}}"), "\"tool_calls\", which is not read"),
        (&format!("{user}\"a\"}}], \"tools\": [1]}}"), "tools, which are not read"),
    ] {
        let e = conversation(line).unwrap_err();
        assert!(e.kind() == ErrorKind::BadData && e.to_string().contains(said), "{line}: {e}");
        assert!(e.next_step().is_some(), "{line}: {e}");
    }
    let second = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}"#;
    assert!(conversation(second).unwrap_err().to_string().contains("message 2"));
    let deep = "[".repeat(100_000);
    assert!(conversation(&deep).is_err() && conversation(&" ".repeat(MAX_LINE_BYTES + 1)).is_err());
}

#[test]
fn errors_name_the_line() {
    let good = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    for (bad, said) in [(&b"{}"[..], "without"), (b"\xff", "UTF-8"), (b"{\"messages\": 3}", "a number")] {
        let file = [good.as_bytes(), b"\n\n", bad, b"\n"].concat();
        let e = conversations(&file).unwrap_err();
        assert!(e.place() == Some("line 3") && e.to_string().contains(said), "{e}");
    }
    assert!(conversations(b"\n \n").unwrap_err().to_string().contains("no conversation"));
}
