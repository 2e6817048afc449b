use super::config::GenerationConfig;
use super::stop::{FinishReason, StoppingCriteria};
use super::stop_strings::StopStrings;
use crate::error::ErrorKind;

fn strings(strings: &[&str]) -> StopStrings {
    StopStrings::new(strings.iter().map(|s| s.to_string()).collect()).unwrap()
}

/// The parts that `parts` give, what was held back at the end, and whether it stopped.
fn passed(stop: &[&str], parts: &[&str]) -> (Vec<String>, String, bool) {
    let mut stop = strings(stop);
    let passed = parts.iter().map(|part| stop.push(part)).collect();
    let rest = stop.finish();
    (passed, rest, stop.stopped())
}

#[test]
fn tokens_and_lengths_end_an_answer() {
    let config = GenerationConfig { eos_token_id: vec![2, 9], max_new_tokens: Some(3), ..GenerationConfig::default() };
    let mut criteria = StoppingCriteria::new(&config, 10).unwrap();
    assert_eq!((criteria.push(1), criteria.push(9)), (None, Some(FinishReason::Stop)));
    let mut criteria = StoppingCriteria::new(&config, 10).unwrap();
    assert_eq!([1, 1, 1].map(|t| criteria.push(t)), [None, None, Some(FinishReason::Length)]);
    assert_eq!((criteria.tokens_left(), criteria.push(1)), (0, Some(FinishReason::Length)));
    let mut criteria = StoppingCriteria::new(&config, 10).unwrap();
    assert_eq!([1, 1, 2].map(|t| criteria.push(t)), [None, None, Some(FinishReason::Stop)]);
    assert_eq!((FinishReason::Stop.to_string(), FinishReason::Length.as_str()), ("stop".to_string(), "length"));
    let short = GenerationConfig { context_length: Some(11), ..config.clone() };
    assert_eq!(StoppingCriteria::new(&short, 10).unwrap().push(1), Some(FinishReason::Length));
    for (wrong, prompt) in [(GenerationConfig { max_new_tokens: Some(0), ..config.clone() }, 1), (short, 11)] {
        assert_eq!(StoppingCriteria::new(&wrong, prompt).unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[test]
fn text_before_a_stop_string_is_passed_on() {
    let owned = |parts: &[&str]| parts.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    type Case = (&'static [&'static str], &'static [&'static str], &'static [&'static str], &'static str, bool);
    let cases: [Case; 10] = [
        (&["\n\n"], &["one\n", "two\n\n", "three"], &["one", "\ntwo", ""], "", true),
        (&["stop"], &["las", "t st", "op", "ped"], &["la", "st ", "", ""], "", true),
        (&["stop"], &["a sto", "ny st"], &["a ", "stony "], "st", false),
        (&["aab"], &["aa", "a", "ab"], &["", "a", "a"], "", true),
        (&["User:", "\nUser"], &["hi\nUs", "er: x"], &["hi", ""], "", true),
        (&["abcd", "bc"], &["abcd"], &["a"], "", true),
        (&["abcd", "bc"], &["a", "b", "c", "d"], &["", "", "a", ""], "", true),
        (&["xbc", "bc"], &["axbc"], &["a"], "", true),
        (&[], &["a", "", "b"], &["a", "", "b"], "", false),
        (&["x"], &["x", "y"], &["", ""], "", true),
    ];
    for (stop, parts, expected, rest, stopped) in cases {
        assert_eq!(passed(stop, parts), (owned(expected), rest.to_string(), stopped), "{stop:?} {parts:?}");
    }
    assert_eq!(StopStrings::new(vec!["a".into(), String::new()]).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn characters_are_never_cut() {
    // A family of three joined people; a flag of two letters; a letter with a mark.
    let family = "👨\u{200d}👩\u{200d}👧";
    assert_eq!(passed(&["\u{200d}👧"], &["a👨", "\u{200d}👩\u{200d}", "👧 b"]).0.concat(), "a👨\u{200d}👩");
    assert_eq!(passed(&["👩"], &[family]).0.concat(), "👨\u{200d}");
    assert_eq!(passed(&["🇪"], &["🇩🇪 x"]).0.concat(), "🇩");
    assert_eq!(passed(&["\u{301}"], &["cafe", "\u{301}"]).0.concat(), "cafe");
    // The same first bytes, another character.
    assert_eq!(
        passed(&["😀!"], &["😁", "😀", "?"]),
        (vec!["😁".into(), String::new(), "😀?".into()], String::new(), false)
    );
}

proptest::proptest! {
    /// Expected: the same text in one part, and a search by each end.
    #[test]
    fn the_division_into_parts_does_not_matter(
        parts in proptest::collection::vec("[ab😀]{0,4}", 0..8),
        stop in proptest::collection::vec("[ab😀]{1,5}", 0..4),
    ) {
        let all = parts.concat();
        let names: Vec<&str> = stop.iter().map(String::as_str).collect();
        let ends = all.char_indices().map(|(at, c)| &all[..at + c.len_utf8()]);
        let before = |text: &str| names.iter().filter_map(|s| text.strip_suffix(s)).map(str::len).min();
        let found = ends.into_iter().find_map(before);
        let (given, rest, stopped) = passed(&names, &parts.iter().map(String::as_str).collect::<Vec<_>>());
        proptest::prop_assert_eq!(given.concat() + &rest, &all[..found.unwrap_or(all.len())]);
        proptest::prop_assert_eq!(stopped, found.is_some());
        // Nothing is held back that cannot begin a stop string.
        proptest::prop_assert!(rest.is_empty() || names.iter().any(|s| s.starts_with(&rest)));
    }
}
