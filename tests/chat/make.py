"""Renders the chat templates of this folder with `transformers` and writes what it says to `renders.json`.

    python tests/chat/make.py                     # rewrites tests/chat/renders.json
    python tests/chat/make.py --folder DIR FILE   # the same for the *.jinja of another folder, into FILE

The second form is for templates whose licences do not allow a copy here, such as those within the wheels of `trl`
(trl/chat_templates) and `axolotl`. Set ACCLIMATE_CHAT_RENDERS to FILE, and the test in Rust checks it, too.
Needs: transformers 5, jinja2 3.1.
"""

import argparse
import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils as utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 3, 7, 9, 5, 3, tzinfo=datetime.timezone.utc)

# Special tokens by the start of the template's name; others get the first entry.
TOKENS = [
    ("", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}),
    ("qwen", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
    ("deepseek", {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}),
    ("gptoss", {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}),
    ("gemma", {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    ("own_gemma", {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    ("phi", {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>"}),
    ("own_llama3", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
]

SYSTEM = ("system", "You are a helpful assistant.")
HELLO = ("user", "Hello, how are you?")
FINE = ("assistant", "I am fine, thank you!")
CONVERSATIONS = {
    "single user": [HELLO],
    "system and user": [SYSTEM, HELLO],
    "three turns": [HELLO, FINE, ("user", "Who are you?")],
    "two answers": [SYSTEM, HELLO, FINE, ("user", "Who are you?"), ("assistant", "A model.")],
    "unicode": [("system", "Réponds 🙂 in «français»"), ("user", "Straße, 東京, e\u0301, \u200bנָא, \u0130"), ("assistant", "好 𝕏")],
    "spaces": [
        ("system", "  /no_think system \n"),
        ("user", "\n\n  leading and trailing\t \n"),
        ("assistant", " \n\u00a0\u3000answer\u2028 \x1c"),
        ("user", "a\r\nb\rc"),
    ],
    "marks": [
        ("user", "{{ messages }} {% raw %} {# no #} <b>\"q\" 'a' & \\n \\</b> %s {0} $1"),
        ("assistant", "<think>\nI {think}\n</think>\n\n{\"a\": [1, 2]}"),
        ("user", "<tool_response>no</tool_response>"),
        ("assistant", "<think>\n\nmore</think>the end"),
    ],
    "empty": [("user", ""), ("assistant", ""), ("user", "")],
    "two users": [HELLO, ("user", "Anybody?")],
    "other roles": [("developer", "Be brief."), HELLO, ("assistant", "Wait."), ("tool", "[1, 2.5, null]"), FINE],
    "assistant first": [FINE, HELLO],
    "no message": [],
}

# Kinds of Python and Jinja2 behaviour that templates rely on, and some at their edges. `x` is VALUES,
# as an expression of its own: Jinja2 reads what Python's `repr` writes.
VALUES = {
    "s": "  Añb 'c' \"d\"\n\t\\e ",
    "words": "one two  three two",
    "lines": "a\nb\r\nc\rd\u2028e\n",
    "list": [1, 2.5, True, None, "it's", [3], {"k": "v"}],
    "dict": {"zeta": 1, "alpha": {"b": [1, "ü"], "a": None}, "get": "key", "items": 3},
    "floats": [1.0, 0.1, 1e16, 1e15, 1e-5, 1e-4, 123456789.123, 1e300, -0.0, 2.5e-7],
    "big": 12345678901234567890,
    "people": [{"name": "bo", "age": 3}, {"name": "Al", "age": 1}, {"name": "cy"}],
    "html": "<a href='x'>&amp;</a>",
    "empty": "",
    "none": None,
    "astral": "😀 é \u007f \x01",
}
EXPRESSIONS = """
{{ x.list }}|{{ x.dict }}|{{ x.floats }}|{{ x.big }}|{{ x.none }}|{{ x.missing }}
{{ x.floats[2] }} {{ x.floats[3] }} {{ x.floats[4] }} {{ x.floats[6] }} {{ x.floats[8] }} {{ x.floats[9] }}
{{ x.list ~ x.dict ~ 1.0 ~ none ~ true ~ missing }}
{{ x.list | string }}|{{ 1e16 | string }}|{{ x.list | join('-') }}
{{ [x.s, x.astral, 'a"b', "it's", 'both \\'"'] }}
{{ x.dict | tojson }}|{{ x.list | tojson(indent=2) }}|{{ x.html | tojson }}|{{ x.floats | tojson }}
{{ x.dict | tojson(indent=4, sort_keys=true) }}|{{ [] | tojson(indent=4) }}|{{ {} | tojson(indent=4) }}
{{ x.dict | tojson(ensure_ascii=true) }}|{{ x.astral | tojson(ensure_ascii=true) }}|{{ x.astral | tojson }}
{{ x.dict | tojson(separators=(',', ':')) }}|{{ x.dict | tojson(indent=1, separators=(',', ': ')) }}
{{ x.missing | tojson }}
{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}
{{ x.s.strip() }}|{{ x.s.lstrip() }}|{{ x.s.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.lstrip('ab') }}|{{
'ab\\n\\n'.rstrip('\\n') }}
{{ '\\x1c\\u00a0a\\x1f'.strip() }}|{{ '\\x1c a \\x85' | trim }}|{{ 'xax' | trim('x') }}|{{ '\\u200ba\\u200b'.strip() }}
{{ x.words.split() }}|{{ x.words.split(' ') }}|{{ x.words.split('two') }}|{{ x.words.split(' ', 1) }}|{{
x.words.split(none, 1) }}
{{ x.words.rsplit(' ', 1) }}|{{ x.words.rsplit(none, 1) }}|{{ ''.split() }}|{{ ''.split(',') }}|{{
'a,b'.split(',')[-1] }}
{{ x.words.split('two', maxsplit=1) }}|{{ x.words.split(sep='two') }}
{{ x.words.split('') }}
{{ x.lines.splitlines() }}|{{ x.lines.splitlines(true) }}
{{ x.words.partition('two') }}|{{ x.words.rpartition('two') }}|{{ x.words.partition('none') }}|{{
x.words.rpartition('none') }}
{{ x.words.find('two') }} {{ x.words.rfind('two') }} {{ x.words.find('zzz') }} {{ '東京x'.find('x') }} {{
x.words.index('two') }}
{{ x.words.index('zzz') }}
{{ x.words.find('two', 5) }} {{ x.words.count('two') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }}
{{ x.words.replace('two', '2') }}|{{ x.words.replace('two', '2', 1) }}|{{ 'ab'.replace('', '-') }}|{{ x.words |
replace('two', '2', 1) }}
{{ x.words.startswith('one') }} {{ x.words.endswith(('x', 'two')) }} {{ x.words.startswith(('a', 'b')) }} {{
'abc'.startswith('b', 1) }}
{{ x.words.upper() }} {{ 'ÀÉ ß'.lower() }} {{ 'straße'.upper() }} {{ "they're BILL's".title() }} {{ 'hELLO
wORLD'.capitalize() }}
{{ "they're BILL's" | title }} {{ 'hELLO' | capitalize }} {{ 'aB' | upper }} {{ 'aB' | lower }} {{ 'aBc'.swapcase() }}
{{ ''.isdigit() }} {{ '12'.isdigit() }} {{ '1a'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ ''.isspace()
}} {{ 'A'.isupper() }} {{ 'a1'.islower() }} {{ '1'.islower() }} {{ '½'.isdigit() }} {{ '½'.isnumeric() }} {{
'²'.isdigit() }} {{ '²'.isdecimal() }}
{{ ', '.join(['a', 'b']) }}|{{ ''.join([]) }}|{{ '-'.join('abc') }}
{{ ', '.join([1, 2]) }}
{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'ab'.center(5) }}|{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}
{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removesuffix('x') }} {{ 'a\\tb'.expandtabs(4) }}
{{ '{} and {}'.format('a', 1) }}|{{ '{0}{1}{0}'.format('a', 'b') }}|{{ '{name}!'.format(name='x') }}|{{ '%s' |
format('z') }}
{{ '%s is %d' % ('a', 3) }}
{{ x.words[0] }}{{ x.words[-1] }}|{{ x.words[:3] }}|{{ x.words[::-1] }}|{{ x.words[2:-2] }}|{{ 'abc'[5:] }}|{{
'añb'[1:2] }}
{{ x.words[99] }}|{{ x.list[99] }}|{{ x.list[-1] }}|{{ x.list[1:3] }}|{{ x.list[::-1] }}|{{ x.list[:-5] }}
{{ x.list[1:][0] }} {{ x.list[1:] | length }} {{ x.list[1:] is sequence }} {{ x.list[1:] is iterable }} {{ x.list[1:]
is mapping }}
{{ (x.list[1:] + [1])[-1] }} {{ ([1] + x.list[4:]) | length }} {{ ([1, 2] * 2) }} {{ 'ab' * 2 }} {{ (1, 2) }} {{ (1,)
}} {{ () }}
{{ x.missing.more }}
{{ x.none.more }}|{{ x.s.more }}|{{ x.list.more }}|{{ (1).more }}|{{ x.dict['nope'] }}|{{ x.s['type'] }}
{{ missing is defined }} {{ x.missing is defined }} {{ x.none is defined }} {{ x.none is none }} {{ missing is none }}
{{ not missing }}
{{ missing | length }} {{ missing | default('d') }} {{ x.empty | default('d') }} {{ x.empty | default('d', true) }} {{
x.none | default('d') }} {{ x.none | default('d', boolean=true) }}
{{ 'a' in missing }} {{ 'a' not in 'abc' }} {{ 'zeta' in x.dict }} {{ 2.5 in x.list }} {{ none in x.list }} {{ 'k' in
{'k': 1} }}
{% if 1 in 'abc' %}a{% endif %}
{% for a in missing %}a{% else %}none{% endfor %}
{% for a in none %}a{% endfor %}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ 'a' + missing }}
{{ missing + 'a' }}
{{ 1 + 2.0 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 3 }} {{ 2 ** -1 }} {{ 1_000 }}
{{ 0.1 + 0.2 }} {{ -3 | abs }} {{ 5.0 // 2 }}
{{ 3.7 | int }} {{ '3' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ '3.5' | float }} {{ 2.567 | round(1) }} {{ 2.5 |
round }} {{ 7 | float }} {{ '0x1F' | int(base=16) }}
{{ 1 == 1.0 }} {{ '1' == 1 }} {{ true == 1 }} {{ none == false }} {{ missing == none }} {{ [1] == [1] }} {{ {'a': 1}
== {'a': 1} }} {{ (1, 2) == [1, 2] }} {{ missing == other }}
{{ 1 < 2 < 3 }} {{ 'a' < 'b' }} {{ 3 > 2 > 2 }}
{{ 1 < 'a' }}
{{ 'yes' if x.empty }}|{{ 'yes' if x.s else 'no' }}|{{ x.empty or 'or' }}|{{ x.s and 'and' }}|{{ x.none or x.missing
or 0 }}|{{ not x.empty }}
{{ x.s is string }} {{ x.dict is mapping }} {{ x.list is sequence }} {{ x.s is sequence }} {{ x.dict is sequence }} {{
x.s is iterable }} {{ 1 is iterable }} {{ x.none is iterable }} {{ missing is iterable }} {{ 1 is number }} {{ true is
number }} {{ true is boolean }} {{ 1 is boolean }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{
range is callable }} {{ x.s is callable }} {{ 3 is odd }} {{ 4 is divisibleby(2) }} {{ 1 is sameas(1) }} {{ true is
true }} {{ 1 is true }} {{ 'a' is in 'abc' }} {{ 'a' is eq 'a' }} {{ 'A' is upper }} {{ 'a' is lower }} {{ 'upper' is
filter }} {{ 'odd' is test }}
{{ x.dict.keys() | list }}|{{ x.dict.values() | list }}|{{ x.dict.items() | list }}|{{ x.dict | items | list }}|{{
x.dict | list }}|{{ x.dict | length }}
{{ x.dict.get('zeta') }} {{ x.dict.get('nope') }} {{ x.dict.get('nope', 'd') }} {{ x.dict['items'] }} {{ x.dict['get']
}}
{% for k, v in x.dict.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in x.dict %}{{ k }}{% endfor %}|{% for k, v in
x.dict | dictsort %}{{ k }}{% endfor %}
{{ x.dict.keys() }}
{{ {'a': 1, 'b': 2, 'a': 3} }}|{{ {1: 2, none: 3, 'x': [{}]} }}|{{ dict(a=1, b='c') }}|{{ dict(x.dict, z=1) | length }}
{{ x.people | map(attribute='name') | join(',') }}|{{ x.people | selectattr('age', 'defined') | map(attribute='age') |
list }}|{{ x.people | rejectattr('age', 'equalto', 3) | list }}
{{ x.people | sort(attribute='name') | map(attribute='name') | join }}|{{ x.people | map(attribute='age', default=0) |
sum }}|{{ x.people | join('+', attribute='name') }}|{{ x.people | groupby('name') | map('first') | list }}
{{ x.people | map('tojson') | join('\\n') }}|{{ ['b', 'a', 'B'] | sort }}|{{ ['b', 'a', 'B'] |
sort(case_sensitive=true, reverse=true) }}|{{ [1, 1, 2] | unique | list }}|{{ [3, 1] | min }}|{{ ['a', 'b'] | max }}
{{ x.list | first }} {{ x.list | last }} {{ [] | first }} {{ 'abc' | first }} {{ 'abc' | last }} {{ [1, 2, 3] |
reverse | list }} {{ 'abc' | reverse }} {{ [1, 2, 3] | batch(2) | list }} {{ 'abc' | list }} {{ x.words | wordcount }}
{{ 'a\\nb\\n\\nc' | indent(2) }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\nb' | indent(width=1, first=true) }}|{{
'a\\n\\nb' | indent(2, blank=true) }}
{{ x.html | escape }}|{{ x.html | e }}|{{ x.html | safe }}|{{ x.html }}|{{ ('<' | escape) ~ '<' }}|{{ 'a b' |
urlencode }}
{{ x.html | striptags }}
{% set ns = namespace(a=1, b=[]) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{%
endfor %}{{ ns.a }} {{ ns.b }} {{ ns.nope }} {{ ns.a is defined }}
{% set ns = namespace() %}{% set ns.__class__ = 1 %}
{% set a = 1 %}{% for i in range(2) %}{% set a = 2 %}{% endfor %}{% if true %}{% set b = 3 %}{% endif %}{{ a }}{{ b }}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ loop.index }}{{
loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}
{% for i in [1, 2, 3] %}{{ loop.previtem }}-{{ loop.nextitem }}{{ loop.previtem is defined }}{{ loop.cycle('a', 'b')
}}{{ loop.changed(i > 1) }};{% endfor %}
{% for i in [1, 2, 3, 4] if i is even %}{{ i }}{{ loop.index }}{{ loop.last }}{% else %}none{% endfor %}|{% for a, b
in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor %}
{% for i in [[1, [2]], 3] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}@{{ loop.depth }}{% endif
%}{% endfor %}
{% macro m(a, b='B', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}{{ m()
}}{{ m('x') | length }}{{ m('x') ~ '<' }}
{% macro m() %}{{ later }}{{ caller is defined }}{% endmacro %}{% set later = 'L' %}{{ m() }}
{% macro m(x) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}
{% macro m(x) %}{{ x }}{% endmacro %}{{ m(1, 2) }}
{% macro m() %}<{{ caller('in') }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}
{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}
{% macro m() %}{% set inner = 1 %}{{ inner }}{% endmacro %}{{ m() }}{{ inner is defined }}
{% set block %}  a {{ 1 }}{% endset %}[{{ block }}]{% set y | upper %}abc{% endset %}{{ y }}{% set p, q = 1, [2] %}{{
p }}{{ q }}{% with z = 5 %}{{ z }}{% endwith %}{{ z is defined }}
{% filter upper %}abc{{ 'd' }}{% endfilter %}{% raw %}{{ x }}{% endraw %}{# note #}{{- ' a ' -}}  {{+ 'b' }}
{% if x.s %} yes {% elif x.list %}no{% else %}no{% endif %}{% if not x.s is string %}a{% endif %}{% if x.s is not none
and 'b' in x.s %}b{% endif %}
a  {%- if true %}  b  {%- endif -%}  c {% if true -%} d {%+ endif %} e
{% generation %}a{% set inner = 1 %}{% endgeneration %}{{ inner is defined }}{%- generation -%} b {%- endgeneration
-%} c {% for i in [1, 2] %}{% generation %}{{ i }}{{ loop.last }}{% endgeneration %}{% endfor %}
{{ 'a' 'b' }}|{{ "\\u00e9\\x41\\101\\d\\'\\"" }}|{{ 'multi
line' }}
{{ '\\N{BULLET}' }}
{{ raise_exception('told: ' ~ 1) }}
{{ missing_function() }}
{{ x.s.nope() }}
{{ x.s | nope }}
{{ x is nope }}
{{ 1 / 0 }}
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now("%d %b %Y") }} {{ strftime_now is defined }} {{ tools is none }} {{
documents is none }} {{ tools is defined }} {{ enable_thinking is defined }} {{ bos_token }}
{{ messages is sequence }} {{ messages | length }} {{ messages[-1].content }} {{ messages[::-1][0]['role'] }} {{
messages | map(attribute='role') | list }} {{ messages[0].content is string }} {{ messages[0].tool_calls is defined }}
{{ 'tool_calls' in messages[0] }} {{ messages[0].get('name', 'x') }} {{ messages[0] is mapping }} {{
messages[0].items() | list }} {{ (messages + [{'role': 'x', 'content': 'y'}])[-1].role }} {{ messages[5] is defined }}
{{ messages[:1] + messages[1:] == messages }}
{{ x.list.append(1) }}
{{ x.dict.update({'a': 1}) }}
{{ x.list.index(2.5) }} {{ x.list.count(true) }} {{ [1].copy() }} {{ {'a': 1}.copy() }}
{{ x.s.__class__ }}
{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ range(3)[1] }} {{ range(10)[-1] }} {{
range(3) | length }} {{ range(3) | sum }}
{{ range(100001) | length }}
{{ 1 if 2 else 3 if 4 else 5 }} {{ (1 if none) is defined }} {{ true and false or true }} {{ not true == false }} {{
-2 ** 2 }} {{ 2 * 3 ** 2 }} {{ 1 ~ 2 * 3 }} {{ True }} {{ False }} {{ None }} {{ true }}
{{ 'x' is string and 'y' }} {{ 'a' if 'b' is defined else 'c' }} {{ x.list | length > 3 }} {{ x.list | length - 1 }}
{{ 'ab' | length * 2 }} {{ x.words.split(' ') | length == 5 }}
{{ x.words | truncate(7) }}
{{ 'a' | center(5) }}
{{ 'a b' | wordwrap(1) }}
{{ [1, [2, [3]]] | tojson }} {{ true | tojson }} {{ none | tojson }} {{ 'é\\u2028\\x7f' | tojson }} {{ 1.0 | tojson }}
{{ 1e16 | tojson }} {{ (1, 2) | tojson }} {{ range(2) | list | tojson }} {{ {1: 2, true: 3, none: 4} | tojson }}
{% set j = joiner(',') %}{{ j() }}a{{ j() }}b
{% include 'x' %}
{% extends 'x' %}
{% import 'x' as y %}
{% set messages = 3 %}{{ messages }}{% set x = x.list[1:] %}{% for y in x %}{% if loop.first %}{% continue %}{% endif
%}{{ y }}{% endfor %}
{{ caller() }}
{{ super() }}
{{ loop }}
{% endif %}
{% if %}
{{ 'unclosed }}
{{ 1 +
{% for %}
{% nope %}
""".strip("\n").replace("\\\\", "\\")

FORMATS = "%a %A %b %B %c %d %e %f %H %I %j %m %M %n %p %S %t %u %U %w %W %x %X %y %Y %Z %z %% %D %F %T %R %h %C %G %g %V %s %-d %-m %-H %-I %-j %_d".replace(" %s", "")
DATES = [0, 951_782_399, 951_782_400, 1_741_338_303, 1_735_689_599, 1_735_689_600, 4_107_542_400, -1, -2_208_988_800, 253_402_300_799]


class FixedDate(datetime.datetime):
    """`datetime.now()` at a fixed time."""

    moment = NOW

    @classmethod
    def now(cls, tz=None):
        return cls.moment.replace(tzinfo=None)


def tokens_of(name):
    return max((entry for entry in TOKENS if name.startswith(entry[0])), key=lambda entry: len(entry[0]))[1]


def render(template, messages, prompt, variables):
    """The text, or what was raised."""
    try:
        texts, _ = utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=prompt, **variables
        )
        return {"text": texts[0]}
    except Exception as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"raised": str(error)} if raised else {"error": f"{type(error).__name__}: {error}"}


def expressions():
    """One template a line; a line that does not start with a mark goes on from the one before."""
    lines = []
    for line in EXPRESSIONS.split("\n"):
        if line.startswith("{") or line.startswith("a "):
            lines.append(line)
        else:
            lines[-1] += "\n" + line
    return lines


def strftime():
    """Some dates at edges, and others all over the centuries."""
    spread = [-2_500_000_000 + i * 7_654_321 for i in range(1000)]
    for seconds in DATES + spread:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
        format = FORMATS if seconds in DATES else "%F %j %a %U %W %G-%V-%u %I%p"
        yield {"seconds": seconds, "format": format, "text": moment.strftime(format)}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--folder", nargs=2, metavar=("DIR", "FILE"))
    arguments = arguments.parse_args()
    utils.datetime = FixedDate
    folder, out = map(pathlib.Path, arguments.folder or (HERE / "templates", HERE / "renders.json"))
    conversations = {
        name: [{"role": role, "content": content} for role, content in turns] for name, turns in CONVERSATIONS.items()
    }
    templates = []
    for path in sorted(folder.glob("*.jinja")):
        template, tokens = path.read_text(encoding="utf-8"), tokens_of(path.stem)
        renders = {}
        for name, messages in conversations.items():
            renders[name] = [render(template, messages, prompt, tokens) for prompt in (False, True)]
        entry = {"name": path.stem, "tokens": tokens, "renders": renders}
        templates.append({**entry, "template": template} if arguments.folder else entry)
    result = {
        "transformers": transformers.__version__,
        "jinja2": jinja2.__version__,
        "now": int(NOW.timestamp()),
        "conversations": conversations,
        "templates": templates,
    }
    if not arguments.folder:
        messages, tokens = conversations["two answers"], TOKENS[0][1]
        values = "{% set x = " + repr(VALUES) + " %}"
        result["values"] = values
        result["expressions"] = [
            {"template": line, **render(values + line, messages, False, tokens)} for line in expressions()
        ]
        result["strftime"] = list(strftime())
    out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(templates)} templates, {len(templates) * len(conversations) * 2} renders: {out}")


if __name__ == "__main__":
    main()
