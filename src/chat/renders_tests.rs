//! Against what `transformers` renders: `tests/chat/renders.json`, which `tests/chat/make.py` writes.

use std::path::Path;

use serde_json::Value as Json;

use super::{ChatTemplate, Message, Moment, SpecialTokens};
use crate::error::Result;

const RENDERS: &str = include_str!("../../tests/chat/renders.json");

fn renders() -> Json {
    serde_json::from_str(RENDERS).unwrap()
}

fn now(renders: &Json) -> Moment {
    Moment::from_unix_seconds(renders["now"].as_i64().unwrap()).unwrap()
}

fn tokens(tokens: &Json) -> SpecialTokens {
    let pair = |(name, text): (&String, &Json)| (name.clone(), text.as_str().unwrap().to_owned());
    SpecialTokens(tokens.as_object().unwrap().iter().map(pair).collect())
}

/// What differs from what is expected: nothing if both are the same text, or both are errors.
fn difference(expected: &Json, got: &Result<String>) -> Option<String> {
    let same = match (expected["text"].as_str(), expected["raised"].as_str(), got) {
        (Some(text), _, Ok(got)) => text == got,
        (None, Some(raised), Err(e)) => e.what() == format!("the chat template refuses the conversation: {raised}"),
        (None, None, Err(_)) => true,
        _ => false,
    };
    (!same).then(|| format!("expected {expected}\n     got {got:?}"))
}

/// Checks all templates of a file of renders; the number of templates and of renders.
fn check(renders: &Json) -> (usize, usize) {
    let templates = renders["templates"].as_array().unwrap();
    let (now, mut checked, mut failures) = (now(renders), 0, vec![]);
    for template in templates {
        let name = template["name"].as_str().unwrap();
        let source = match template["template"].as_str() {
            Some(source) => source.to_owned(),
            None => {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat/templates");
                std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap()
            }
        };
        let compiled = match ChatTemplate::new(&source, tokens(&template["tokens"])) {
            Ok(compiled) => compiled,
            Err(e) => {
                failures.push(format!("{name}: {e:?}"));
                continue;
            }
        };
        for (conversation, expected) in template["renders"].as_object().unwrap() {
            let messages: Vec<Message> =
                serde_json::from_value(renders["conversations"][conversation].clone()).unwrap();
            for (i, prompt) in [false, true].into_iter().enumerate() {
                let got = compiled.render(&messages, prompt, now);
                let difference = difference(&expected[i], &got);
                failures.extend(difference.map(|d| format!("{name}, {conversation}, prompt {prompt}: {d}")));
                checked += 1;
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    (templates.len(), checked)
}

#[test]
fn templates_of_common_models_render_as_in_transformers() {
    let (templates, renders) = check(&renders());
    assert!(templates >= 30 && renders >= 24 * templates, "{templates} templates, {renders} renders");
}

/// Templates that are not in this repository: see `tests/chat/make.py`.
#[test]
fn templates_of_another_file_render_as_in_transformers() {
    let Some(path) = std::env::var_os("ACCLIMATE_CHAT_RENDERS") else { return };
    let renders = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (templates, renders) = check(&renders);
    println!("{templates} templates, {renders} renders");
}

/// What Python evaluates, or refuses, and the template engine does not. Each one is checked to differ.
const DIFFERS: &[&str] = &[
    "{{ '%s is %d' % ('a', 3) }}",
    "{{ x.dict.keys() }}",
    "{% if 1 in 'abc' %}a{% endif %}",
    "{% for a in none %}a{% endfor %}",
    "{{ 1 < 'a' }}",
    "{{ x.html | striptags }}",
    "{{ '\\N{BULLET}' }}",
    "{{ x.words | truncate(7) }}",
    "{{ 'a' | center(5) }}",
    "{{ 'a b' | wordwrap(1) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% macro m(x) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}",
    "{% set j = joiner(',') %}{{ j() }}a{{ j() }}b",
];

#[test]
fn expressions_evaluate_as_in_jinja2() {
    let renders = renders();
    let (now, mut failures, mut differ) = (now(&renders), vec![], vec![]);
    let values = renders["values"].as_str().unwrap();
    let messages: Vec<Message> = serde_json::from_value(renders["conversations"]["two answers"].clone()).unwrap();
    let expressions = renders["expressions"].as_array().unwrap();
    for expected in expressions {
        let source = expected["template"].as_str().unwrap();
        let template = ChatTemplate::new(&format!("{values}{source}"), tokens(&renders["templates"][0]["tokens"]));
        let got = template.and_then(|template| template.render(&messages, false, now));
        match difference(expected, &got) {
            Some(_) if DIFFERS.contains(&source) => differ.push(source),
            Some(difference) => failures.push(format!("{source}: {difference}")),
            None => (),
        }
    }
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), expressions.len(), failures.join("\n"));
    let same: Vec<_> = DIFFERS.iter().filter(|source| !differ.contains(source)).collect();
    assert!(same.is_empty(), "listed as different, but not so: {same:?}");
    assert!(expressions.len() > 120, "{}", expressions.len());
}
