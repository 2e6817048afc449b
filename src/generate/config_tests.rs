use std::fs;

use super::config::{DEFAULT_NEW_TOKENS, GenerationConfig};
use crate::error::ErrorKind;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn read(files: &[(&str, &str)]) -> crate::error::Result<GenerationConfig> {
    GenerationConfig::from_folder(folder(files).path())
}

#[test]
fn a_model_that_says_nothing_gets_the_defaults_of_transformers() {
    let config = read(&[]).unwrap();
    assert_eq!(config, GenerationConfig::default());
    assert!(!config.do_sample && config.temperature == 1.0 && config.top_k == 50 && config.top_p == 1.0);
    assert_eq!(config.new_tokens(1000).unwrap(), DEFAULT_NEW_TOKENS);
    let nothing = r#"{"top_k": null, "eos_token_id": null, "num_beams": 4, "temperature": null, "x": [1]}"#;
    assert_eq!(read(&[("generation_config.json", nothing), ("config.json", "{}")]).unwrap(), config);
}

#[test]
fn each_value_comes_from_the_first_file_that_has_it() {
    let config = r#"{"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": -1, "max_position_embeddings": 8192,
        "temperature": 0.3}"#;
    let genai = r#"{"model": {"eos_token_id": [7, 8], "context_length": 4096, "vocab_size": 32000, "pad_token_id": 9},
        "search": {"do_sample": true, "temperature": 0.6, "top_k": 1, "top_p": 0.9, "repetition_penalty": 1.1,
        "max_length": 2048}}"#;
    let generation = r#"{"eos_token_id": [32000, 32007], "top_k": 40, "temperature": 1, "min_p": 0.05,
        "stop_strings": "\nUser:", "max_new_tokens": 64}"#;
    let mut files = vec![("config.json", config)];
    let read_config = read(&files).unwrap();
    assert_eq!(
        (&read_config.eos_token_id[..], read_config.bos_token_id, read_config.pad_token_id),
        (&[2][..], Some(1), None)
    );
    assert_eq!((read_config.context_length, read_config.temperature), (Some(8192), 1.0));
    files.push(("genai_config.json", genai));
    let with_genai = read(&files).unwrap();
    assert_eq!(
        (&with_genai.eos_token_id[..], with_genai.bos_token_id, with_genai.pad_token_id),
        (&[7, 8][..], Some(1), Some(9))
    );
    assert_eq!((with_genai.do_sample, with_genai.temperature, with_genai.top_k), (true, 0.6, 1));
    assert_eq!((with_genai.max_length, with_genai.context_length), (Some(2048), Some(4096)));
    files.push(("generation_config.json", generation));
    let all = read(&files).unwrap();
    assert_eq!(all.eos_token_id, [32000, 32007]);
    assert_eq!((all.temperature, all.top_k, all.top_p, all.min_p), (1.0, 40, 0.9, Some(0.05)));
    assert_eq!((all.stop_strings, all.max_new_tokens), (vec!["\nUser:".to_string()], Some(64)));
    let nested = r#"{"eos_token_id": 5, "text_config": {"eos_token_id": 6, "n_positions": 100}}"#;
    let nested = read(&[("config.json", nested)]).unwrap();
    assert_eq!((nested.eos_token_id, nested.context_length), (vec![5], Some(100)));
}

#[test]
fn wrong_values_are_refused_by_file_and_key() {
    let values = [
        ("temperature", &["-0.1", "\"hot\"", "true", "[1]", "1e300", "{}"][..]),
        ("top_p", &["-0.1", "1.1", "\"1\"", "2"]),
        ("min_p", &["-1e-9", "1.0001", "false"]),
        ("repetition_penalty", &["0", "-1", "1e-60", "1e60", "[]"]),
        ("top_k", &["-1", "2.5", "\"50\"", "true", "1e30"]),
        ("do_sample", &["1", "\"true\"", "[true]"]),
        ("max_new_tokens", &["0", "-5", "1.5", "\"9\""]),
        ("max_length", &["0", "-5", "true"]),
        ("eos_token_id", &["-1", "4294967296", "1.5", "\"</s>\"", "[1, -2]", "[[1]]", "true"]),
        ("bos_token_id", &["[1]", "-1", "\"<s>\""]),
        ("pad_token_id", &["-2", "0.5"]),
        ("stop_strings", &["3", "\"\"", "[\"a\", \"\"]", "[null]", "{}"]),
    ];
    for (key, texts) in values {
        for text in texts {
            let e = read(&[("generation_config.json", &format!("{{\"{key}\": {text}}}"))]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadData);
            assert!(e.place().unwrap().ends_with(&format!("generation_config.json: {key}")), "{e}");
        }
    }
    for (file, text, place) in [
        ("genai_config.json", r#"{"search": {"top_p": 7}}"#, "genai_config.json: search.top_p"),
        ("genai_config.json", r#"{"model": {"context_length": 0}}"#, "genai_config.json: model.context_length"),
        ("genai_config.json", r#"{"model": 3}"#, "genai_config.json: model"),
        ("config.json", r#"{"max_position_embeddings": "long"}"#, "config.json: max_position_embeddings"),
        ("config.json", r#"{"text_config": {"eos_token_id": -3}}"#, "config.json: text_config.eos_token_id"),
    ] {
        let e = read(&[(file, text)]).unwrap_err();
        assert!(e.place().unwrap().ends_with(place), "{e}");
    }
    // A value is checked though another file's precedes it.
    let files = [("generation_config.json", r#"{"eos_token_id": 1}"#), ("config.json", r#"{"eos_token_id": "x"}"#)];
    assert!(read(&files).is_err());
}

#[test]
fn files_that_are_no_json_objects_are_refused() {
    let deep = "[".repeat(100_000);
    for text in ["", "[]", "3", "{", "{\"temperature\": NaN}", "{\"temperature\": 1e999}", "\u{feff}{}", &deep] {
        let e = read(&[("generation_config.json", text)]).unwrap_err();
        assert!(e.kind() == ErrorKind::BadData && e.place().unwrap().ends_with("generation_config.json"), "{e}");
    }
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(16 << 20));
    assert!(read(&[("config.json", &large)]).unwrap_err().to_string().contains("bytes"));
    let long = format!("{{\"top_p\": \"{}\"}}", "é".repeat(1000));
    assert!(read(&[("generation_config.json", &long)]).unwrap_err().to_string().len() < 400);
    let absent = folder(&[]).path().join("absent");
    assert_eq!(GenerationConfig::from_folder(&absent).unwrap_err().kind(), ErrorKind::Io);
    let folder = folder(&[]);
    fs::create_dir(folder.path().join("config.json")).unwrap();
    assert_eq!(GenerationConfig::from_folder(folder.path()).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn a_temperature_of_zero_is_for_greedy_search_alone() {
    assert!(read(&[("generation_config.json", r#"{"temperature": 0.0}"#)]).is_ok());
    let e = read(&[("generation_config.json", r#"{"temperature": 0.0, "do_sample": true}"#)]).unwrap_err();
    assert!(e.to_string().contains("temperature must be above 0"), "{e}");
}

#[test]
fn values_of_a_caller_are_checked() {
    let change: [fn(&mut GenerationConfig); 11] = [
        |c| c.temperature = f64::NAN,
        |c| c.temperature = f64::INFINITY,
        |c| (c.do_sample, c.temperature) = (true, 1e-60),
        |c| c.top_p = -0.0001,
        |c| c.top_p = f64::NAN,
        |c| c.min_p = Some(f64::NAN),
        |c| c.repetition_penalty = f64::NAN,
        |c| c.repetition_penalty = 0.0,
        |c| c.max_new_tokens = Some(0),
        |c| c.context_length = Some(0),
        |c| c.stop_strings = vec!["a".into(), String::new()],
    ];
    for change in change {
        let mut config = GenerationConfig::default();
        assert!(config.validate().is_ok());
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[test]
fn the_least_limit_of_length_counts() {
    let config = |max_new_tokens, max_length, context_length| GenerationConfig {
        max_new_tokens,
        max_length,
        context_length,
        ..GenerationConfig::default()
    };
    for (config, prompt, expected) in [
        (config(Some(30), None, None), 5, Some(30)),
        (config(Some(30), Some(10), None), 20, Some(30)),
        (config(Some(30), None, Some(100)), 90, Some(10)),
        (config(None, Some(30), None), 5, Some(25)),
        (config(None, Some(30), Some(20)), 5, Some(15)),
        (config(None, Some(30), None), 30, None),
        (config(None, Some(30), None), usize::MAX, None),
        (config(None, None, Some(25)), 10, Some(15)),
        (config(None, None, Some(25)), 25, None),
        (config(Some(0), None, None), 1, None),
        (config(Some(usize::MAX), None, None), usize::MAX, Some(usize::MAX)),
    ] {
        assert_eq!(config.new_tokens(prompt).ok(), expected, "{config:?} {prompt}");
    }
}
