//! Model folders: where templates and tokens are found, and what is wrong with them.

use std::fs;

use tempfile::TempDir;

use super::{ChatTemplate, Message, Moment, SpecialTokens};
use crate::error::{ErrorKind, Result};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn rendered(files: &[(&str, &str)]) -> Result<Option<String>> {
    let Some(template) = ChatTemplate::from_folder(folder(files).path())? else { return Ok(None) };
    template.render(&[Message::new("user", "Hi")], true, Moment::from_unix_seconds(0)?).map(Some)
}

const CONFIG: &str = "tokenizer_config.json";
const TOKENS: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";

#[test]
fn templates_and_tokens_are_found_where_transformers_finds_them() {
    let show = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token is defined }}";
    let config = r#"{"chat_template": "config {{ eos_token }}", "eos_token": "</s>", "bos_token": {"content": "<s>"}, "pad_token": null}"#;
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[(CONFIG, config)], "config </s>"),
        (&[(CONFIG, config), (TEMPLATE, show)], "<s>Hi</s>False"),
        (
            &[(CONFIG, config), (TEMPLATE, show), (TOKENS, r#"{"eos_token": "no", "pad_token": {"content": "<p>"}}"#)],
            "<s>Hi</s>True",
        ),
        (&[(TEMPLATE, show)], "HiFalse"),
        (
            &[(
                CONFIG,
                r#"{"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]}"#,
            )],
            "yes",
        ),
    ];
    for (files, expected) in cases {
        assert_eq!(rendered(files).unwrap().as_deref(), Some(expected), "{files:?}");
    }
    for files in [&[][..], &[(CONFIG, "{}")], &[(CONFIG, r#"{"chat_template": null}"#)], &[(TOKENS, "{}")]] {
        assert_eq!(rendered(files).unwrap(), None, "{files:?}");
    }
    let template = ChatTemplate::from_folder(folder(&[(CONFIG, config)]).path()).unwrap().unwrap();
    assert_eq!((template.tokens().get("eos_token"), template.tokens().get("unk_token")), (Some("</s>"), None));
    assert_eq!(SpecialTokens::default().get("eos_token"), None);
}

#[test]
fn wrong_files_are_refused_with_their_names() {
    let large = " ".repeat(131_073);
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: [Case; 14] = [
        (&[(CONFIG, "{")], CONFIG, "not JSON"),
        (&[(CONFIG, "[]")], CONFIG, "no object"),
        (&[(CONFIG, "null")], CONFIG, "no object"),
        (&[(CONFIG, r#"{"chat_template": 3}"#)], CONFIG, "neither text nor a list"),
        (&[(CONFIG, r#"{"chat_template": {"default": "a"}}"#)], CONFIG, "neither text nor a list"),
        (&[(CONFIG, r#"{"chat_template": ["a"]}"#)], CONFIG, "without name and template"),
        (
            &[(CONFIG, r#"{"chat_template": [{"name": "default", "template": 3}]}"#)],
            CONFIG,
            "without name and template",
        ),
        (&[(CONFIG, r#"{"chat_template": [{"name": "rag", "template": "a"}]}"#)], CONFIG, "no template named default"),
        (&[(CONFIG, r#"{"chat_template": "a", "eos_token": 3}"#)], CONFIG, "eos_token is neither"),
        (&[(CONFIG, r#"{"chat_template": "a", "eos_token": {"id": 3}}"#)], CONFIG, "eos_token is neither"),
        (&[(TEMPLATE, "a"), (TOKENS, r#"{"bos_token": ["a"]}"#)], TOKENS, "bos_token is neither"),
        (&[(TEMPLATE, "a"), (TOKENS, "no")], TOKENS, "not JSON"),
        (&[(TEMPLATE, &large)], TEMPLATE, "more than 131072 bytes"),
        (&[(CONFIG, r#"{"chat_template": "a\n{% if %}"}"#)], CONFIG, "cannot compile the chat template"),
    ];
    for (files, place, said) in cases {
        let e = rendered(files).unwrap_err();
        assert!(e.place().unwrap().contains(place) && e.to_string().contains(said), "{files:?}: {e}");
        assert!(matches!(e.kind(), ErrorKind::BadData | ErrorKind::UnsupportedModel), "{e:?}");
        assert!(e.next_step().is_some(), "{e:?}");
    }
    let e = rendered(&[(TEMPLATE, "a\n{{ 1 + }}")]).unwrap_err();
    assert!(e.place().unwrap().ends_with("chat_template.jinja: line 2"), "{e}");
    let binary = folder(&[]);
    fs::write(binary.path().join(TEMPLATE), b"\xff\xfe").unwrap();
    assert!(ChatTemplate::from_folder(binary.path()).unwrap_err().to_string().contains("not UTF-8"));
    fs::remove_file(binary.path().join(TEMPLATE)).unwrap();
    fs::create_dir(binary.path().join(TEMPLATE)).unwrap();
    assert_eq!(ChatTemplate::from_folder(binary.path()).unwrap_err().kind(), ErrorKind::Io);
}
