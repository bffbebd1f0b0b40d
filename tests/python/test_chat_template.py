"""The chat format against transformers, and what templates and users must not be able to do."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama4rt import EngineFileError, Llama4RTError, RequestError
from llama4rt.convert.files import kept_files
from llama4rt.text.chat_template import RENDER_LIMITS, ChatTemplate
from llama4rt.text.llama4_format import render_llama4
from llama4rt.text.tokenizer import TiktokenTokenizer
from llama4rt.workers.child_pool import ChildPool
from llama4rt.workers.child_process import ChildAbandoned
from llama4rt.workers.client import Client, working_for

# A template unlike Llama 4's: what other checkpoints do with the same environment.
OTHER = """\
{%- if not tools is defined %}{% set tools = none %}{% endif -%}
{{ bos_token }}
{% set state = namespace(count=0) %}
{% for message in messages %}
    {% set state.count = state.count + 1 %}
    {% if message.role == 'stop' %}{% break %}{% endif %}
[{{ state.count }}|{{ message['role'] | upper }}]{% generation %}
{{ message.content if message.content is string else message.content | map(attribute='text') | join('/') }}
    {% endgeneration %}
    {% if message.tool_calls is defined %}{{ message.tool_calls | tojson }}{% endif %}
{% endfor %}
{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{{ strftime_now('%Y') | length }}
{% if add_generation_prompt %}[GO]{% endif %}"""


@pytest.fixture(scope="module")
def tokenizer() -> TiktokenTokenizer:
    meta = pytest.importorskip("llama_models.llama4.tokenizer")
    return TiktokenTokenizer((Path(meta.__file__).parent / "tokenizer.model").read_bytes())


@pytest.fixture(scope="module")
def standard() -> str:
    """The template that transformers carries for Llama 4."""
    return str(pytest.importorskip("transformers.models.llama4.processing_llama4").chat_template)


def by_transformers(template: str, messages: Any, tools: Any, prompt: bool, **options: Any) -> str:
    module = pytest.importorskip("transformers.utils.chat_template_utils")
    rendered, _ = module.render_jinja_template(
        conversations=[messages],
        tools=tools,
        chat_template=template,
        add_generation_prompt=prompt,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot|>",
        **options,
    )
    return str(rendered[0])


TEXT = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "  Hi \n", "<|eot|>", "{{ 7 * 7 }}", '"quoted" \\ é 東 🤗'])
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)
PARTS = st.lists(
    st.one_of(TEXT.map(lambda t: {"type": "text", "text": t}), st.just({"type": "image"})),
    min_size=1,
    max_size=3,
)
NAME = st.sampled_from(["get_weather", "f"])
CALL = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    NAME,
    st.dictionaries(TEXT, JSON, max_size=2),
)
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXT | PARTS}
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": TEXT, "tool_calls": st.lists(CALL, min_size=1)}
    ),
    st.fixed_dictionaries(
        {"role": st.sampled_from(["tool", "ipython"]), "content": TEXT | st.lists(JSON, max_size=2)}
    ),
)
TOOL = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.dictionaries(TEXT, JSON, max_size=3)}
)


@settings(max_examples=400)
@given(
    system=st.none() | TEXT,
    first=TEXT,
    messages=st.lists(MESSAGE, max_size=4),
    tools=st.none() | st.lists(TOOL, min_size=1, max_size=2),
    prompt=st.booleans(),
    in_user=st.booleans(),
)
def test_the_built_in_format_is_transformers(
    standard: str, system: str | None, first: str, messages: Any, tools: Any, prompt: bool, in_user: bool
) -> None:
    conversation = [{"role": "system", "content": system}] if system is not None else []
    conversation += [{"role": "user", "content": first}, *messages]
    expected = by_transformers(standard, conversation, tools, prompt, tools_in_user_message=in_user)
    ours = ChatTemplate(standard)
    options = {"tools_in_user_message": in_user}
    assert ours.render(conversation, tools, add_generation_prompt=prompt, options=options) == expected
    assert not ours._child.pids(), "the standard template needs no child"


@settings(max_examples=60)
@given(
    messages=st.lists(MESSAGE, min_size=1, max_size=4),
    tools=st.none() | st.lists(TOOL, min_size=1, max_size=2),
)
def test_other_templates_are_rendered_like_transformers_does(
    shared_worker: ChatTemplate, messages: Any, tools: Any
) -> None:
    assert shared_worker.render(messages, tools) == by_transformers(OTHER, messages, tools, True)


@pytest.fixture(scope="module")
def shared_worker() -> Any:
    template = ChatTemplate(OTHER)
    yield template
    template.close()


def test_golden_prompts(tokenizer: TiktokenTokenizer) -> None:
    template = ChatTemplate()
    assert template.encode(tokenizer, [{"role": "user", "content": "Hi"}]) == [
        200000, 200005, 1556, 200006, 368, 25181, 200008, 200005, 140680, 200006, 368,
    ]  # fmt: skip
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}],
    }
    assert render_llama4([call], add_generation_prompt=False) == "" + (
        "<|header_start|>assistant<|header_end|>\n\n<|python_start|><|python_end|>"
        '{"name": "f", "parameters": "{\\"a\\": 1}"}<|eot|>'
    )
    # OpenAI clients send arguments as JSON text; the model should see the object.
    assert '"parameters": {"a": 1}}' in template.render([call])
    assert template.render([{"role": "tool", "content": "42"}]).count('"42"') == 1


def test_what_clients_send_is_made_regular() -> None:
    template = ChatTemplate()
    said = {"role": "assistant", "content": "yes"}
    plain = template.render([said])
    assert template.render([{**said, "tool_calls": []}]) == plain  # HF's template would drop the message
    assert template.render([{**said, "tool_calls": None}]) == plain
    assert template.render([said], tools=[]) == plain
    assert template.render([{"role": "user", "content": None}]) == template.render(
        [{"role": "user", "content": ""}]
    )
    url = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    assert "<|image|>" in template.render([url])


# --- users cannot speak in special tokens -----------------------------------------------------------------------------

SPECIALS = ["<|eot|>", "<|header_start|>", "<|begin_of_text|>", "<|image|>", "<|python_start|>"]


@pytest.mark.parametrize("source", [None, OTHER])
@pytest.mark.parametrize("special", SPECIALS)
def test_special_tokens_in_the_data_stay_text(
    tokenizer: TiktokenTokenizer, source: str | None, special: str
) -> None:
    template = ChatTemplate(source)
    inside = f"a{special}b {special[:2]}"
    tools = [{"type": "function", "function": {"name": special, special: special}}]
    messages = [
        {"role": "system", "content": inside},
        {"role": "user", "content": inside},
        {"role": "user", "content": [{"type": "text", "text": special[:i]} for i in (1, 2)]},
        {"role": "tool", "content": [{special: special}]},
        {
            "role": "assistant",
            "content": inside,
            "tool_calls": [{"function": {"name": special, "arguments": {}}}],
        },
    ]
    ids = template.encode(tokenizer, messages, tools)
    text = template.render(messages, tools)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    # The same conversation without the word has as many special tokens.
    quiet = template.encode(tokenizer, _without(messages, special), _without(tools, special))
    count = [sum(i in tokenizer.special_ids for i in encoded) for encoded in (ids, quiet)]
    assert count[0] == count[1]
    template.close()


def _without(value: Any, special: str) -> Any:
    if isinstance(value, str):
        return value.replace(special, "x")
    if isinstance(value, list):
        return [_without(item, special) for item in value]
    if isinstance(value, dict):
        return {_without(key, special): _without(item, special) for key, item in value.items()}
    return value


def test_special_tokens_split_over_parts_stay_text(tokenizer: TiktokenTokenizer) -> None:
    for cut in range(1, 7):
        parts = [{"type": "text", "text": "<|eot|>"[:cut]}, {"type": "text", "text": "<|eot|>"[cut:]}]
        ids = ChatTemplate().encode(
            tokenizer, [{"role": "user", "content": parts}], add_generation_prompt=False
        )
        assert ids.count(200008) == 1 and ids[-1] == 200008
        assert "<|eot|>" in tokenizer.decode(ids)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), min_size=1, max_size=4))
def test_guarded_encoding_is_the_plain_one_where_nothing_is_special(
    tokenizer: TiktokenTokenizer, turns: list[tuple[str, str]]
) -> None:
    turns = [(role, text.replace("<|", "")) for role, text in turns]
    messages = [{"role": role, "content": text} for role, text in turns]
    template = ChatTemplate()
    assert template.encode(tokenizer, messages) == tokenizer.encode(template.render(messages), special=True)


# --- hostile templates and data ---------------------------------------------------------------------------------------

ESCAPES = [
    "{{ ''.__class__.__mro__ }}{{ 1 / 0 }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ self._TemplateReference__context }}{{ 1 / 0 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ '%s' | attr('format') }}{{ ('{0.__class__.__init__.__globals__}').format(namespace) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].clear() }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ raise_exception('no') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ undefined_name.x }}",
    "{{ unclosed",
]
COSTLY = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 3000000000 }}",
    "{{ 'x' | center(2000000000) }}",
    "{{ '%01500000000d' % 1 }}",
    "{{ '{:1500000000d}'.format(1) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ (range(99999) | list) * 99999 }}",
]


class Worker:
    """The template's child by itself: any template, any variables."""

    def __init__(self) -> None:
        limits = dataclasses.replace(RENDER_LIMITS, seconds=1.0)
        self.pool = ChildPool("llama4rt.text.template_child", 1, limits, "the chat template")

    def render(self, template: str, variables: dict[str, Any]) -> str:
        message = {"template": template, "texts": {}, "variables": variables, "flat": []}
        return "".join(text for text, _ in json.loads(self.pool.call(json.dumps(message).encode())))


@pytest.fixture(scope="module")
def worker() -> Any:
    worker = Worker()
    yield worker
    worker.pool.close()


@pytest.mark.parametrize("template", ESCAPES)
def test_templates_cannot_leave_the_sandbox(worker: Worker, template: str) -> None:
    with pytest.raises(RequestError, match="chat template"):
        worker.render(template, {"messages": [{"role": "user", "content": "hi"}]})
    assert worker.render("{{ x }}", {"x": "still here"}) == "still here"


@pytest.mark.parametrize("template", COSTLY)
def test_templates_cannot_cost_more_than_their_limits(worker: Worker, template: str) -> None:
    worker.render("warm", {})
    start = time.monotonic()
    with pytest.raises(RequestError, match="chat template"):
        worker.render(template, {"messages": []})
    assert time.monotonic() - start < 5
    assert worker.render("{{ x }}", {"x": "still here"}) == "still here"


def test_one_worker_serves_many_threads_and_long_texts(worker: Worker) -> None:
    long = "字" * 300_000
    results: list[str] = []

    def render(i: int) -> None:
        results.append(worker.render("{{ i }}{{ text }}", {"i": i, "text": long}))

    threads = [threading.Thread(target=render, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(f"{i}{long}" for i in range(6))


def test_a_dead_child_is_replaced(worker: Worker) -> None:
    worker.render("warm", {})
    pid = worker.pool.pids()[0]
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1]:
        time.sleep(0.01)
    assert worker.render("{{ 1 + 1 }}", {}) == "2"
    assert worker.pool.pids() != [pid]


def test_nothing_renders_after_close() -> None:
    template = ChatTemplate(OTHER)
    template.render([{"role": "user", "content": "x"}])
    pid = template._child.pids()[0]
    template.close()
    template.close()
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(Llama4RTError, match="closed"):
        template.render([{"role": "user", "content": "x"}])


def test_a_forked_child_gets_a_worker_of_its_own(worker: Worker) -> None:
    worker.render("warm", {})
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if worker.render("{{ 1 + 1 }}", {}) == "2" else 1
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert worker.render("{{ 2 + 2 }}", {}) == "4"


@pytest.mark.parametrize(
    "messages",
    [
        [], None, "hi", 5, [5], ["hi"], [{}], [{"role": 5, "content": ""}], [{"role": "", "content": ""}],
        [{"role": "us<|eot|>er", "content": ""}], [{"role": "user", "content": 5}], [{"role": "user", "content": [5]}],
        [{"role": "user", "content": [{"type": "video"}]}], [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": "x", "extra": object()}], [{"role": "assistant", "tool_calls": 5}],
        [{"role": "assistant", "tool_calls": [{}]}], [{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}],
    ],
)  # fmt: skip
def test_bad_messages_are_typed_errors(messages: Any) -> None:
    with pytest.raises(RequestError):
        ChatTemplate().render(messages)


def test_bad_tools_and_depth_are_typed_errors() -> None:
    user = [{"role": "user", "content": "x"}]
    for tools in ("x", 5, [5], [lambda: None]):
        with pytest.raises(RequestError):
            ChatTemplate().render(user, tools)  # type: ignore[arg-type]
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(RequestError, match="nested deeper"):
        ChatTemplate().render([{"role": "tool", "content": deep}])
    with pytest.raises(RequestError, match="there is none"):
        ChatTemplate().render([{"role": "system", "content": "x"}], [{"type": "function"}])
    with pytest.raises(RequestError, match="does not know"):
        ChatTemplate().render(user, options={"unknown": 1})


# --- which form of content a template takes ------------------------------------------------------------------

STRING = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
CONCATENATED = "{% for m in messages %}{{ '[' + m.role + ']' + m.content | trim }}{% endfor %}"
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}"
    "{% if p.type == 'text' %}{{ p.text }}{% else %}<|image|>{% endif %}{% endfor %}{% endfor %}"
)
FIRST_PART = "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text }}{% endfor %}"
EITHER = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}{% endfor %}"
)
BY_MACRO = (
    "{% macro text(c) %}{% set ns = namespace(t='') %}{% for p in c %}{% set ns.t = ns.t ~ p.get('text', '') %}"
    "{% endfor %}{{ ns.t }}{% endmacro %}{% for m in messages %}[{{ m.role }}]{{ text(m.content) }}{% endfor %}"
)
SYSTEM_STRING = (  # a string for the system, parts for everybody else
    "{% if messages[0].role == 'system' %}[system]{{ messages[0].content | trim }}{% set messages = messages[1:] %}"
    "{% endif %}" + PARTS
)
STRICT = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}{% if loop.index0 is divisibleby 2 and m.role != 'user' %}{{ raise_exception('turns') }}"
    "{% endif %}{% endfor %}" + PARTS
)
UPPER = "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "joined"),
    [
        (STRING, "Hello\nyou"), (CONCATENATED, "Hello\nyou"), (PARTS, "Helloyou"), (FIRST_PART, "Hello\nyou"),
        (EITHER, "Helloyou"), (BY_MACRO, "Helloyou"), (SYSTEM_STRING, "Helloyou"), (STRICT, "Helloyou"),
        (UPPER, "HELLO\nYOU"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool", "critic"])
def test_content_gets_the_form_the_template_takes(source: str, joined: str, role: str) -> None:
    template = ChatTemplate(source)
    before = (
        []
        if role == "user" or (role == "system" and source != STRICT)
        else [{"role": "user", "content": "x"}]
    )
    hello = joined.partition("\n")[0].removesuffix("you")
    if source == SYSTEM_STRING and role == "system":
        joined = "Hello\nyou"
    try:
        text = template.render([*before, {"role": role, "content": "Hello"}])
        assert text.endswith(f"[{role}]{hello}")
        parts = [{"type": "text", "text": word} for word in ("Hello", "you")]
        assert template.render([*before, {"role": role, "content": parts}]).endswith(f"[{role}]{joined}")
    finally:
        template.close()


def test_a_client_that_leaves_says_nothing_of_the_template() -> None:
    """The first to ask pays for trying the forms; when he had left, all after him were given the wrong one."""
    hello = [{"role": "user", "content": "Hello"}]
    template = ChatTemplate(PARTS)
    gone = Client("gone")
    gone.gone.set()
    try:
        with working_for(gone), pytest.raises(ChildAbandoned):
            template.render(hello)
        assert template.render(hello) == "[user]Hello"
    finally:
        template.close()


def test_pictures_in_a_template_of_strings(tokenizer: TiktokenTokenizer) -> None:
    template = ChatTemplate(STRING)
    parts = [{"type": "image"}, {"type": "text", "text": "<|image|>?"}, {"type": "image"}]
    ids = template.encode(tokenizer, [{"role": "user", "content": parts}])
    assert ids.count(tokenizer.special_tokens["<|image|>"]) == 2
    assert tokenizer.decode(ids, skip_special_tokens=False) == "[user]<|image|>\n<|image|>?\n<|image|>"
    template.close()


def test_other_lists_of_a_tool_stay_as_they_are() -> None:
    template = ChatTemplate(STRING)
    assert template.render([{"role": "tool", "content": [1, {"a": 2}]}]).endswith("[1, {'a': 2}]")
    template.close()


# --- answers that go on ----------------------------------------------------------------------------------------

TRIMMED = "{% for m in messages %}<|header_start|>{{ m.role }}: {{ m.content | trim }}<|eot|>{% endfor %}"


@settings(max_examples=60)
@given(text=st.sampled_from(["Sure, ", "Sure", "  Sure\n", "", "<|eot|>x", "é東"]), parts=st.booleans())
def test_the_final_message_is_continued_like_transformers_does(
    standard: str, continued: dict[str, ChatTemplate], text: str, parts: bool
) -> None:
    content: Any = [{"type": "text", "text": text}] if parts else text
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    for source in (standard, TRIMMED, OTHER):
        ours = continued.setdefault(source, ChatTemplate(source))
        if parts and source == TRIMMED:
            continue  # transformers prints the list
        expected = by_transformers(source, messages, None, False, continue_final_message=True)
        assert ours.render(messages, continue_final_message=True) == expected


@pytest.fixture(scope="module")
def continued() -> Any:
    templates: dict[str, ChatTemplate] = {}
    yield templates
    for template in templates.values():
        template.close()


def test_what_cannot_be_continued_is_refused() -> None:
    template = ChatTemplate()
    hi = {"role": "user", "content": "Hi"}
    call = {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    picture = {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}
    for last in (call, picture, {"role": "tool", "content": "x"}):
        with pytest.raises(RequestError, match="continue_final_message"):
            template.render([hi, last], continue_final_message=True)
    with pytest.raises(RequestError, match="one of them"):
        template.render([hi], add_generation_prompt=True, continue_final_message=True)
    closed = template.render([hi], add_generation_prompt=False)
    assert template.render([hi], add_generation_prompt=False, continue_final_message=True) == closed[:-7]
    assert template.render([hi]) == template.render([hi], add_generation_prompt=True) != closed
    without = ChatTemplate("{% for m in messages[:-1] %}{{ m.content }}{% endfor %}")
    with pytest.raises(RequestError, match="leaves out"):
        without.render([hi, hi], continue_final_message=True)
    without.close()


def test_options_are_the_templates_variables(tokenizer: TiktokenTokenizer) -> None:
    hi = [{"role": "user", "content": "Hi"}]
    template = ChatTemplate("{{ mode }}{{ documents }}")
    assert template.render(hi, options={"mode": {"a": 1}, "documents": [2]}) == "{'a': 1}[2]"
    for taken in ("messages", "tools", "add_generation_prompt", "chat_template"):
        with pytest.raises(RequestError, match=rf"chat_template_kwargs .*{taken}"):
            template.render(hi, options={taken: 1})
    for odd in ([1], "x", {"a": object()}):
        with pytest.raises(RequestError, match="chat_template_kwargs"):
            template.render(hi, options=odd)  # type: ignore[arg-type]
    template.close()


def test_the_template_named_tool_use_is_for_tools() -> None:
    hi = [{"role": "user", "content": "Hi"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "with {{ tools | length }}"},
    ]
    files = [
        {"tokenizer_config.json": json.dumps({"chat_template": named}).encode()},
        {
            "chat_template.json": json.dumps(
                {"chat_template": {n["name"]: n["template"] for n in named}}
            ).encode()
        },
        {"chat_template.jinja": b"plain", "chat_template.tool_use.jinja": b"with {{ tools | length }}"},
    ]
    for each in files:
        template = ChatTemplate.from_files(each.get)
        assert template.render(hi) == template.render(hi, []) == "plain"
        assert template.render(hi, tools) == "with 1"
        template.close()


def test_a_build_keeps_the_template_for_tools(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("x")
    assert kept_files(tmp_path) == {"chat_template.tool_use.jinja": b"x"}


# --- where templates come from ----------------------------------------------------------------------------------------


def test_the_template_is_found_in_any_of_its_files() -> None:
    messages = [{"role": "user", "content": "x"}]
    config = b'{"bos_token": {"content": "B"}, "chat_template": "from config"}'
    assert ChatTemplate.from_files({"tokenizer_config.json": config}.get).render(messages) == "from config"
    files = {
        "tokenizer_config.json": config,
        "chat_template.json": b'{"chat_template": "from json {{ bos_token }}"}',
    }
    assert ChatTemplate.from_files(files.get).render(messages) == "from json B"
    files["chat_template.jinja"] = b"from jinja"
    assert ChatTemplate.from_files(files.get).render(messages) == "from jinja"
    several = (
        b'{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]}'
    )
    assert ChatTemplate.from_files({"tokenizer_config.json": several}.get).render(messages) == "yes"
    assert (
        ChatTemplate.from_files({}.get).render(messages).startswith("<|begin_of_text|><|header_start|>user")
    )
    with pytest.raises(EngineFileError, match=r"tokenizer_config\.json"):
        ChatTemplate.from_files({"tokenizer_config.json": b"{"}.get)
