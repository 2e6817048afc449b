//! Templates that would take a machine down, and those that are broken.

use std::time::{Duration, Instant};

use super::limits::FUEL;
use super::{ChatTemplate, MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES, Message, Moment, SpecialTokens};
use crate::error::{Error, ErrorKind, Result};

/// More than any of these takes on a slow machine in a debug build.
const SLOW: Duration = Duration::from_secs(60);

fn render(source: &str) -> Result<String> {
    let messages = [Message::new("user", "Hello"), Message::new("assistant", "Hi")];
    let template = ChatTemplate::new(source, SpecialTokens::default())?;
    template.render(&messages, false, Moment::from_unix_seconds(0).unwrap())
}

fn refused(source: &str) -> Error {
    let start = Instant::now();
    let shown: String = source.chars().take(80).collect();
    let e = render(source).map(|text| text.len()).expect_err(&shown);
    assert!(start.elapsed() < SLOW, "{shown}: {:?}", start.elapsed());
    assert!(e.kind() == ErrorKind::UnsupportedModel && e.next_step().is_some(), "{shown}: {e:?}");
    assert!(e.to_string().len() < 400, "{shown}: {e}");
    e
}

#[test]
fn endless_loops_end() {
    let nested = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}\
        {% endfor %}{% endfor %}{% endfor %}";
    let cases = [
        nested,
        "{% for a in range(100000) %}{% set x = range(100000) | list %}{% endfor %}",
        "{% for a in range(100000) %}{% if 'x' in messages[0].content * 1000 %}{% endif %}{% endfor %}",
        "{% for a in range(100000) %}{% set x = range(100000) | sort | join('-') %}{% endfor %}",
        "{% set s = 'ab ' * 100000 %}{% for a in range(100000) %}{% set x = s.split() %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for a in range(100000) %}{% set x = s.replace('a', 'b') %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for a in range(100000) %}{% set x = s.count('') + s.find('x') %}{% endfor %}",
        "{% set s = [range(100000) | list] * 5 %}{% for a in range(100000) %}{% set x = s | tojson %}{% endfor %}",
        "{% set s = range(100000) | list %}{% for a in range(100000) %}{% set x = s | string %}{% endfor %}",
        "{% set s = range(100000) | list %}{% for a in range(100000) %}{% set x = s.index(99999) %}{% endfor %}",
        "{% set s = range(100000) | list %}{% for a in range(100000) %}{% set x = s.count(1) %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for a in range(100000) %}{% set x = s | trim | string | e %}{% endfor %}",
    ];
    for source in cases {
        let e = refused(source);
        assert!(e.to_string().contains("does not end within the work"), "{source}: {e}");
    }
}

#[test]
fn huge_output_ends() {
    let cases = [
        "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ 'x' * 5000000 }}",
        "{{ 'x' * 99999999999999 }}",
        "{% set ns = namespace(x='ab') %}{% for a in range(200) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='ab') %}{% for a in range(200) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(22) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | string }}",
        "{% set ns = namespace(x='ab') %}{% for a in range(200) %}{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(200) %}{% set ns.x = ns.x | replace('a', 'aaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(200) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        "{% macro m(n, s) %}{% if n %}{{ m(n - 1, s ~ s) }}{% endif %}{% endmacro %}{{ m(40, 'abcdefgh') }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{{ 'a'.center(99999999999) }}",
        "{{ 'a'.zfill(99999999999) }}",
        "{{ '\t'.expandtabs(99999999999) }}",
        "{{ ('x' * 3000).join('y' * 3000) }}",
        "{{ ('y' * 3000) | join('x' * 3000) }}",
        "{{ messages | tojson(indent=9999999999) }}",
        "{{ messages | tojson(indent='x' * 4000000) }}",
        "{{ messages | tojson(separators=('x' * 4000000, 'x')) }}",
        "{{ 'a\nb' | indent(99999999999) }}",
        "{{ range(999999999999) | list }}",
        "{{ [1] * 999999999999 }}",
        "{{ '%999999999999d' | format(1) }}",
        "{{ strftime_now('%c' * 5000000) }}",
    ];
    for source in cases {
        refused(source);
    }
    let e = refused("{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}");
    assert!(e.to_string().contains(&format!("more than {MAX_RENDERED_BYTES} bytes")), "{e}");
}

#[test]
fn deep_recursion_ends() {
    let cases = [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}".to_owned(),
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}".to_owned(),
        "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}".to_owned(),
        format!("{{{{ {}1{} }}}}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(60_000), ")".repeat(60_000)),
        "{% if true %}".repeat(5_000) + &"{% endif %}".repeat(5_000),
    ];
    for source in cases {
        refused(&source);
    }
    let deep = "{% set ns = namespace(x=1) %}{% for a in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for use_ in ["{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x | string }}"] {
        let e = refused(&format!("{deep}{use_}"));
        assert!(e.to_string().contains("nested too deep"), "{e}");
    }
}

/// Long chains of operators, and deep values that are only made, compared and dropped: they may render or
/// not.
#[test]
fn long_expressions_and_deep_values_end() {
    for source in [
        format!("{{{{ {} 1 }}}}", "not ".repeat(32_000)),
        format!("{{{{ {} 1 }}}}", "-".repeat(120_000)),
        format!("{{% set x = {} 1 %}}", "1+".repeat(60_000)),
        format!("{{{{ 'a' {} }}}}", "|e".repeat(60_000)),
        format!("{{{{ messages{} }}}}", "[0]".repeat(40_000)),
        format!("{{{{ x{} }}}}", ".a".repeat(60_000)),
        "{% set ns = namespace(x=1) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for a in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for a in range(100000) %}{% set ns.x = (ns.x, 1) %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for a in range(100000) %}{% set ns.x = ns.x | list + [ns.x] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=namespace()) %}{% for a in range(99999) %}{% set ns.x = namespace(a=ns.x) %}{% endfor %}".to_owned(),
        "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns | tojson }}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for a in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == [ns.x] }}".to_owned(),
        "{% set ns = namespace(x=1) %}{% for a in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ 'a' ~ ns.x }}".to_owned(),
    ] {
        let shown: String = source.chars().take(120).collect();
        let start = Instant::now();
        let result = render(&source);
        let (took, _) = (start.elapsed(), result.is_ok());
        assert!(took < SLOW, "{shown}: {took:?}");
    }
}

#[test]
fn other_files_are_not_read() {
    for source in [
        "{% include '/etc/passwd' %}",
        "a\n{% include ['/etc/passwd', 'x'] ignore missing %}",
        "{% import '/etc/passwd' as x %}",
        "{% from '/etc/passwd' import x %}",
        "{% extends '/etc/passwd' %}",
    ] {
        let e = refused(source);
        assert!(e.next_step().unwrap().contains("cannot read other templates"), "{source}: {e:?}");
    }
}

#[test]
fn broken_templates_are_named_with_their_line() {
    for (source, line, said) in [
        ("a\nb {{ 1 + }}\n", "line 2", "unexpected"),
        ("{% if x %}\n\n", "line 1", "unexpected end of input"),
        ("{{ 'a' }}\r\n{% endfor %}", "line 2", "unknown statement endfor"),
        ("\n\n{{ 'unclosed }}", "line 3", "unexpected end of string"),
        ("{% generation %}a", "line 1", "unexpected end of input"),
        ("\n{{ x | nope }}", "line 2", "filter nope is unknown"),
        ("\n\n{{ x.a.b }}", "line 3", "undefined"),
        ("\n{{ nope() }}", "line 2", "nope is unknown"),
        ("{{ messages[0].content.nope() }}", "line 1", "no method named nope"),
        ("{% macro m() %}\n{{ 1 / 0 }}{% endmacro %}\n{{ m() }}", "line 2", "1 / 0"),
        ("{{ strftime_now('%Q') }}", "line 1", "the date directive \"%Q\" is not known"),
    ] {
        let e = refused(source);
        assert_eq!(e.place(), Some(line), "{source:?}: {e}");
        assert!(e.to_string().contains(said), "{source:?}: {e}");
    }
    let e = refused(&" ".repeat(MAX_TEMPLATE_BYTES + 1));
    assert!(e.to_string().contains("at most 131072 are read"), "{e}");
}

#[test]
fn what_a_template_raises_is_repeated() {
    for source in [
        "{{ raise_exception('Roles must alternate') }}",
        "{% macro m() %}{{ raise_exception('Roles must alternate') }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ raise_exception('Roles must alternate') }}{% endcall %}",
        "{% for m in messages recursive %}{{ raise_exception('Roles must alternate') }}{% endfor %}",
        "{% set x %}{{ raise_exception('Roles must alternate') }}{% endset %}",
    ] {
        let e = render(source).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BadData, "{source}");
        assert_eq!(e.to_string(), "the chat template refuses the conversation: Roles must alternate", "{source}");
    }
}

/// What an ordinary long conversation takes is far from the limit.
#[test]
fn long_conversations_render() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat/templates");
    for name in ["qwen3", "gptoss", "gemma4_v5", "deepseekv3", "mistral_v3_tekken"] {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(
            &source,
            SpecialTokens(vec![("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())]),
        );
        let turn = |i: usize| Message::new(["user", "assistant"][i % 2], "ten words of text ".repeat(5));
        let messages: Vec<Message> = (0..301).map(turn).collect();
        let text = template.unwrap().render(&messages, true, Moment::from_unix_seconds(0).unwrap()).unwrap();
        assert!(text.len() > 25_000, "{name} of {FUEL}: {}", text.len());
    }
}
