//! Which parts of a conversation are trained on.

use super::{ChatTemplate, Message, Moment, SpecialTokens, Supervised};
use crate::error::{ErrorKind, Result};

fn template(name: &str) -> ChatTemplate {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/chat/templates/{name}.jinja"));
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(n, t)| (n.to_owned(), t.to_owned()));
    ChatTemplate::new(&std::fs::read_to_string(path).unwrap(), SpecialTokens(tokens.into())).unwrap()
}

fn now() -> Moment {
    Moment::from_unix_seconds(1_741_338_303).unwrap()
}

fn talk() -> Vec<Message> {
    let turns = [("user", "Hi é"), ("assistant", "Hello ü"), ("user", "More"), ("assistant", " Yes\n")];
    turns.map(|(role, content)| Message::new(role, content)).into()
}

fn ends(ends: &[&str]) -> Vec<String> {
    ends.iter().map(|end| end.to_string()).collect()
}

fn parts(supervised: &Supervised) -> Vec<&str> {
    supervised.assistant.iter().map(|range| &supervised.text[range.clone()]).collect()
}

#[test]
fn assistant_turns_are_found_with_their_end_tokens() {
    for (name, end, expected) in [
        ("qwen2_5", "<|im_end|>", ["Hello ü<|im_end|>", " Yes\n<|im_end|>"]),
        ("chatml", "<|im_end|>", ["Hello ü<|im_end|>", " Yes\n<|im_end|>"]),
        ("own_smollm3", "<|im_end|>", ["Hello ü<|im_end|>", " Yes\n<|im_end|>"]),
        ("qwen2_5_training", "<|im_end|>", ["Hello ü<|im_end|>", " Yes\n<|im_end|>"]),
        ("mistral_v7_tekken", "</s>", ["Hello ü</s>", " Yes\n</s>"]),
        ("own_llama2", "</s>", [" Hello ü </s>", " Yes </s>"]),
        ("own_llama3", "<|eot_id|>", ["Hello ü<|eot_id|>", "Yes<|eot_id|>"]),
        ("own_gemma", "<end_of_turn>", ["Hello ü<end_of_turn>", "Yes<end_of_turn>"]),
        ("phi3", "<|end|>", ["Hello ü<|end|>", " Yes\n<|end|>"]),
        ("own_zephyr", "</s>", ["Hello ü</s>", " Yes\n</s>"]),
        ("own_granite", "<|end_of_text|>", ["Hello ü<|end_of_text|>", " Yes\n<|end_of_text|>"]),
        ("own_cohere", "<|END_OF_TURN_TOKEN|>", ["Hello ü<|END_OF_TURN_TOKEN|>", "Yes<|END_OF_TURN_TOKEN|>"]),
    ] {
        let template = template(name);
        let all = template
            .supervised(&talk(), &ends(&["<|endoftext|>", end]), now())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(parts(&all), expected, "{name}");
        assert_eq!(all.text, template.render(&talk(), false, now()).unwrap(), "{name}");
        let turns = template.supervised_turns(&talk(), &ends(&[end]), now()).unwrap();
        assert_eq!(turns.iter().flat_map(parts).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn a_system_turn_is_not_trained_on() {
    let mut messages = vec![Message::new("system", "Be brief.")];
    messages.extend(talk());
    let supervised = template("qwen2_5").supervised(&messages, &ends(&["<|im_end|>"]), now()).unwrap();
    assert_eq!(parts(&supervised), ["Hello ü<|im_end|>", " Yes\n<|im_end|>"]);
}

#[test]
fn the_first_and_longest_end_token_ends_a_turn() {
    let source = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.role == 'assistant' %}<e><e>2\n{% endif %}{% endfor %}\
        {% if add_generation_prompt %}assistant:{% endif %}";
    let template = ChatTemplate::new(source, SpecialTokens::default()).unwrap();
    let supervised = template.supervised(&talk()[..2], &ends(&["2", "<e>", "<e><e>"]), now()).unwrap();
    assert_eq!(parts(&supervised), ["Hello ü<e><e>"]);
}

#[test]
fn turns_that_are_written_otherwise_later_are_refused_and_can_be_split() {
    let template = template("qwen3");
    let end = ends(&["<|im_end|>"]);
    let e = template.supervised(&talk(), &end, now()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnsupportedModel);
    assert!(e.to_string().contains("writes turn 2 otherwise when other turns follow it"), "{e}");
    let turns = template.supervised_turns(&talk(), &end, now()).unwrap();
    let expected = ["<think>\n\n</think>\n\nHello ü<|im_end|>", "<think>\n\n</think>\n\n Yes\n<|im_end|>"];
    let stripped = |part: &str| part.replace(" Yes\n", "Yes").replace("\n\n Yes", "\n\nYes");
    let found: Vec<String> = turns.iter().flat_map(parts).map(stripped).collect();
    assert_eq!(found, expected.map(stripped));
}

fn refused(result: Result<Supervised>, kind: ErrorKind, said: &str) {
    let e = result.unwrap_err();
    assert!(e.kind() == kind && e.to_string().contains(said) && e.next_step().is_some(), "{e:?}");
}

#[test]
fn what_cannot_be_supervised_is_refused_by_name() {
    let (chatml, messages, end) = (template("chatml"), talk(), ends(&["<|im_end|>"]));
    let tell = |name: &str, end: &[&str]| template(name).supervised(&talk(), &ends(end), now());
    refused(
        tell("own_falcon", &["<|endoftext|>"]),
        ErrorKind::UnsupportedModel,
        "no end-of-turn token after assistant turn 2",
    );
    refused(tell("chatml", &["</s>"]), ErrorKind::UnsupportedModel, "none of [\"</s>\"]");
    refused(tell("deepseek_r1_distill", &["</s>"]), ErrorKind::UnsupportedModel, "its own generation prompt in turn 2");
    refused(tell("deepseekv3", &["</s>"]), ErrorKind::UnsupportedModel, "its own generation prompt in turn 2");
    refused(tell("gptoss", &["<|return|>"]), ErrorKind::UnsupportedModel, "writes turn 2 otherwise");
    refused(tell("chatml", &[]), ErrorKind::Usage, "no token that ends generation");
    refused(tell("chatml", &["<|im_end|>", ""]), ErrorKind::Usage, "no token that ends generation");
    refused(chatml.supervised(&[], &end, now()), ErrorKind::BadData, "without an assistant turn");
    refused(chatml.supervised(&messages[..1], &end, now()), ErrorKind::BadData, "without an assistant turn");
    refused(chatml.supervised(&messages[1..], &end, now()), ErrorKind::BadData, "starts with an assistant turn");
    let holds = [messages[0].clone(), Message::new("assistant", "a<|im_end|>b")];
    refused(chatml.supervised(&holds, &end, now()), ErrorKind::BadData, "holds the end token");
    let raised = [Message::new("user", "a"), Message::new("user", "b"), Message::new("assistant", "c")];
    let raised = template("own_gemma").supervised(&raised, &ends(&["<end_of_turn>"]), now());
    refused(raised, ErrorKind::BadData, "refuses the conversation: Roles must alternate");
}
