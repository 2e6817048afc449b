use proptest::prelude::*;
use tokenizers::Tokenizer;

use super::stream::TextStream;
use super::test_tokenizers::{FIRST_PIECE, byte_level, llama, metaspace};

/// The parts of `tokens`, the last of them at the end.
fn parts(tokenizer: &Tokenizer, tokens: &[u32], skip_special_tokens: bool) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, skip_special_tokens);
    let mut parts: Vec<String> = tokens.iter().map(|token| stream.push(*token).unwrap()).collect();
    parts.push(stream.finish().unwrap());
    parts
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

/// Text of one, two, three and four bytes a character; marks; joined emoji; spaces of every kind.
const TEXTS: &[&str] = &[
    "Hello world, this  is   text.\n\n\tIndented é e\u{301} ñ",
    "👨\u{200d}👩\u{200d}👧 🇩🇪 👍🏽 ❤\u{fe0f} a😀b",
    "你好，世界。こんにちは 안녕하세요",
    "  two spaces first and one last ",
    "he lo the lower. a\u{fffd}b",
    "\u{10ffff}\u{800}\u{7ff}\u{feff}\u{300}\u{301}",
];

#[test]
fn parts_together_are_the_text_and_hold_whole_characters() {
    for tokenizer in [byte_level(), llama(), metaspace()] {
        for text in TEXTS {
            let tokens = ids(tokenizer, text);
            let parts = parts(tokenizer, &tokens, true);
            let whole = tokenizer.decode(&tokens, true).unwrap();
            assert_eq!(parts.concat(), whole);
            assert_eq!(parts.concat().matches('\u{fffd}').count(), text.matches('\u{fffd}').count(), "{text:?}");
        }
    }
    for tokenizer in [byte_level(), llama()] {
        for text in TEXTS {
            assert_eq!(parts(tokenizer, &ids(tokenizer, text), true).concat(), *text);
        }
    }
}

#[test]
fn a_character_is_given_with_its_last_byte() {
    let tokens = ids(byte_level(), "a👩\u{200d}z");
    let mut stream = TextStream::new(byte_level(), true);
    let mut given = String::new();
    for (number, token) in (1..).zip(&tokens) {
        given.push_str(&stream.push(*token).unwrap());
        let now = byte_level().decode(&tokens[..number], true).unwrap();
        assert_eq!(given, now.trim_end_matches('\u{fffd}'));
    }
    assert!(tokens.len() > 4 && stream.finish().unwrap().is_empty());
}

#[test]
fn spaces_are_kept_between_tokens_and_left_out_at_the_start() {
    for tokenizer in [llama(), metaspace()] {
        assert_eq!(parts(tokenizer, &ids(tokenizer, "he lo he"), true), ["he", " ", "lo", " he", ""]);
        let spaces = ids(tokenizer, "a  b");
        assert_eq!(parts(tokenizer, &spaces, true).concat(), "a  b");
    }
}

#[test]
fn what_is_incomplete_at_the_end_is_given_lossily() {
    let byte = |byte: u32| byte + 3;
    assert_eq!(parts(llama(), &[FIRST_PIECE + 3, byte(0xe2), byte(0x82)], true), ["a", "", "", "\u{fffd}\u{fffd}"]);
    assert_eq!(parts(llama(), &[byte(0xe2), byte(0x82), byte(0xac)], true), ["", "", "", "€"]);
    // One invalid byte makes its whole run invalid.
    let run = [byte(0x61), byte(0x62), byte(0xff), FIRST_PIECE + 3];
    assert_eq!(parts(llama(), &run, true), ["", "", "", "\u{fffd}\u{fffd}\u{fffd}a", ""]);
    let half = &ids(byte_level(), "a👩")[..2];
    assert_eq!(parts(byte_level(), half, true), ["a", "", "\u{fffd}"]);
}

/// Why [`TextStream`] is not the stream of the `tokenizers` crate.
#[test]
fn the_stream_of_the_crate_gives_up_on_invalid_bytes() {
    let run = [0x61 + 3, 0xff + 3, FIRST_PIECE + 3];
    let mut stream = llama().decode_stream(true);
    assert_eq!(stream.step(run[0]).unwrap(), Some("a".into()));
    assert!(run[1..].iter().any(|token| stream.step(*token).is_err()));
    assert_eq!(parts(llama(), &run, true).concat(), llama().decode(&run, true).unwrap());
}

#[test]
fn special_and_unknown_tokens_do_not_cut_characters() {
    let mut tokens = ids(byte_level(), "é👩");
    let plain = parts(byte_level(), &tokens, true).concat();
    for at in (0..=tokens.len()).rev() {
        tokens.insert(at, 0);
        tokens.insert(at, u32::MAX);
    }
    assert_eq!(parts(byte_level(), &tokens, true).concat(), plain);
    let shown = parts(byte_level(), &tokens, false).concat();
    assert!(shown.contains("<|endoftext|>") && shown == byte_level().decode(&tokens, false).unwrap());
    assert_eq!(parts(byte_level(), &[], true), [""]);
    assert_eq!(parts(byte_level(), &[u32::MAX, 0], true), ["", "", ""]);
}

/// A text of these tokens is the same in parts as at once, special tokens shown or not.
fn same(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<(), TestCaseError> {
    for skip in [true, false] {
        let whole = if tokens.is_empty() { String::new() } else { tokenizer.decode(tokens, skip).unwrap() };
        prop_assert_eq!(parts(tokenizer, tokens, skip).concat(), whole);
    }
    Ok(())
}

/// Tokens of SmolLM2: any, those of single bytes, special ones, and the tokens of texts.
fn byte_level_tokens() -> impl Strategy<Value = Vec<u32>> {
    let size = byte_level().get_vocab_size(true) as u32;
    let text = proptest::sample::select(TEXTS).prop_map(|text| ids(byte_level(), text));
    let some = |range: std::ops::Range<u32>| proptest::collection::vec(range, 1..5);
    let part = prop_oneof![2 => some(0..size + 5), 4 => some(17..273), 1 => some(0..17), 1 => text];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

fn sentencepiece_tokens() -> impl Strategy<Value = Vec<u32>> {
    let size = llama().get_vocab_size(true) as u32;
    let token = prop_oneof![
        1 => 0..3u32,
        2 => 3..FIRST_PIECE,
        2 => proptest::sample::select(b"\xe2\x82\xac\xf0\x9f\x98\x80a").prop_map(|byte| u32::from(byte) + 3),
        4 => FIRST_PIECE..size + 3,
        3 => FIRST_PIECE..FIRST_PIECE + 3,
    ];
    proptest::collection::vec(token, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_byte_level_tokens(tokens in byte_level_tokens()) {
        same(byte_level(), &tokens)?;
    }
    #[test]
    fn any_tokens_with_byte_fallback(tokens in sentencepiece_tokens()) {
        same(llama(), &tokens)?;
        same(metaspace(), &tokens)?;
    }
    #[test]
    fn any_text(text in "\\PC{0,20}") {
        for tokenizer in [byte_level(), llama()] {
            let tokens = ids(tokenizer, &text);
            same(tokenizer, &tokens)?;
        }
        prop_assert_eq!(parts(byte_level(), &ids(byte_level(), &text), true).concat(), text);
    }
}

/// Printed by `cargo test --release -- --ignored --nocapture long_`.
#[test]
#[ignore = "a measurement"]
fn long_runs_of_invalid_bytes() {
    let start = std::time::Instant::now();
    let invalid = byte_level().token_to_id("Ã").unwrap();
    assert_eq!(parts(byte_level(), &vec![invalid; 4096], true).concat().chars().count(), 4096);
    println!("4096 invalid bytes: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let text = ids(byte_level(), &"This is the text of an answer. ".repeat(600));
    parts(byte_level(), &text, true);
    println!("{} tokens of text: {:?}", text.len(), start.elapsed());
}
