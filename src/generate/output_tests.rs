use super::config::GenerationConfig;
use super::output::{GeneratedText, Piece};
use super::stop::FinishReason;
use super::test_tokenizers::{byte_level, llama};
use crate::error::ErrorKind;

fn ids(text: &str) -> Vec<u32> {
    byte_level().encode_fast(text, false).unwrap().get_ids().to_vec()
}

/// The text of `tokens` up to its end, and why it ended.
fn generated(config: &GenerationConfig, tokens: &[u32]) -> (String, Option<FinishReason>) {
    let mut text = GeneratedText::new(byte_level(), config, 3).unwrap();
    let mut given = String::new();
    for token in tokens {
        let piece = text.push(*token).unwrap();
        given.push_str(&piece.text);
        if piece.finish_reason.is_some() {
            assert_eq!(text.push(*token).unwrap_err().kind(), ErrorKind::Usage);
            return (given, text.finish_reason());
        }
    }
    (given + &text.finish().unwrap(), None)
}

fn config(stop: &[&str], most: usize) -> GenerationConfig {
    GenerationConfig {
        eos_token_id: vec![2],
        max_new_tokens: Some(most),
        stop_strings: stop.iter().map(|s| s.to_string()).collect(),
        ..GenerationConfig::default()
    }
}

#[test]
fn answers_end_for_their_reasons() {
    let tokens = [ids("One 😀 two.\nUser: three"), vec![2], ids("more")].concat();
    let stop = Some(FinishReason::Stop);
    let cases: [(&[&str], &str); 6] = [
        (&[], "One 😀 two.\nUser: three"),
        (&["\nUser:"], "One 😀 two."),
        (&["wo"], "One 😀 t"),
        (&["😀"], "One "),
        (&["absent", "ree!"], "One 😀 two.\nUser: three"),
        (&["O"], ""),
    ];
    for (strings, expected) in cases {
        assert_eq!(generated(&config(strings, 100), &tokens), (expected.to_string(), stop), "{strings:?}");
    }
    let most = ids("One 😀 two").len();
    assert_eq!(generated(&config(&[], most), &tokens), ("One 😀 two".into(), Some(FinishReason::Length)));
    // What may begin a stop string is given when none follows; a stop string with the last token is a stop.
    assert_eq!(generated(&config(&["two!"], most), &tokens), ("One 😀 two".into(), Some(FinishReason::Length)));
    assert_eq!(generated(&config(&["two"], most), &tokens), ("One 😀 ".into(), stop));
    assert_eq!(generated(&config(&["two!"], 100), &tokens[..most]), ("One 😀 two".into(), None));
}

#[test]
fn a_stop_token_is_no_text_though_it_is_no_special_one() {
    let [comma] = ids(",")[..] else { panic!() };
    let config = GenerationConfig { eos_token_id: vec![comma], ..config(&[], 9) };
    assert_eq!(generated(&config, &ids("yes, no")), ("yes".into(), Some(FinishReason::Stop)));
}

#[test]
fn special_tokens_can_be_stop_strings() {
    let tokens = [ids("yes"), vec![1], ids("no")].concat();
    assert_eq!(generated(&config(&["<|im_start|>"], 50), &tokens), ("yes".into(), Some(FinishReason::Stop)));
    assert_eq!(generated(&config(&[], 50), &tokens), ("yesno".into(), None));
}

#[test]
fn half_a_character_at_the_end_is_given_lossily() {
    let tokens = ids("a👩");
    assert_eq!(generated(&config(&[], 2), &tokens), ("a\u{fffd}".into(), Some(FinishReason::Length)));
    assert_eq!(generated(&config(&["a"], 2), &tokens), (String::new(), Some(FinishReason::Stop)));
    let tokens = [tokens[0], tokens[1], 2];
    assert_eq!(generated(&config(&[], 9), &tokens), ("a\u{fffd}".into(), Some(FinishReason::Stop)));
}

#[test]
fn a_stop_string_of_bytes_held_back_is_found_at_the_end() {
    let [e2, x82, ac] = [0xe2 + 3, 0x82 + 3, 0xac + 3];
    let mut text = GeneratedText::new(llama(), &config(&["€"], 3), 0).unwrap();
    let pieces = [e2, x82, ac].map(|token| text.push(token).unwrap());
    let last = Piece { text: String::new(), finish_reason: Some(FinishReason::Stop) };
    assert_eq!(pieces[2], last);
}

#[test]
fn nothing_is_generated_without_room() {
    for (config, prompt) in [
        (config(&[], 0), 1),
        (GenerationConfig { context_length: Some(8), ..config(&[], 5) }, 8),
        (GenerationConfig { max_new_tokens: None, max_length: Some(8), ..config(&[], 5) }, 9),
        (config(&[""], 5), 1),
    ] {
        assert_eq!(GeneratedText::new(byte_level(), &config, prompt).unwrap_err().kind(), ErrorKind::Usage);
    }
}
