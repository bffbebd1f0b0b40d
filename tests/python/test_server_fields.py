"""Every request field that OpenAI's SDK, vLLM and llama-server document is obeyed, refused by name, or ignored for a
reason; and what the newer ones mean.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import random
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import numpy as np
import pytest

openai = pytest.importorskip("openai")

from llama4rt import Engine, RequestError, SamplingParams  # noqa: E402
from llama4rt.server import protocol  # noqa: E402
from llama4rt.server.api_errors import ApiError  # noqa: E402
from llama4rt.server.http import parse  # noqa: E402
from llama4rt.server.known_fields import IGNORED, REFUSED  # noqa: E402
from serving import RunningServer, engine_fixture, post, running_server  # noqa: E402

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
KINDS: dict[str, Any] = {
    CHAT: protocol.ChatRequest,
    COMPLETIONS: protocol.CompletionRequest,
    RESPONSES: protocol.ResponsesRequest,
}
MINIMAL: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 3, "temperature": 0},
    COMPLETIONS: {"prompt": "Hi", "max_tokens": 3, "temperature": 0},
    RESPONSES: {"input": "Hi", "max_output_tokens": 3, "temperature": 0},
}
OBEYED, REFUSES, IGNORES = "obeyed", "refused", "ignored"

# --- the tables: what each documents, and what becomes of it. A field is written once, with the first that has it.

# The parameters of the openai package, 3.57.0, 2026-11-30. A newer package may have more: the test says so.
OPENAI = {
    CHAT: {
        OBEYED: """frequency_penalty logit_bias logprobs max_completion_tokens max_tokens messages model n
            parallel_tool_calls prediction presence_penalty response_format seed stop stream stream_options temperature
            tool_choice tools top_logprobs top_p""",
        REFUSES: """audio function_call functions modalities moderation reasoning_effort verbosity
            web_search_options""",
        IGNORES: """metadata prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier service_tier
            store user""",
    },
    COMPLETIONS: {
        OBEYED: """best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed
            stop stream stream_options temperature top_p""",
        REFUSES: "suffix",
        IGNORES: "user",
    },
    RESPONSES: {
        OBEYED: """include input instructions conversation max_output_tokens metadata model parallel_tool_calls
            previous_response_id store stream stream_options temperature text tool_choice tools top_logprobs top_p""",
        REFUSES: """access_programs background background_options context_management image moderation prompt
            reasoning truncation""",
        IGNORES: """max_tool_calls prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
            service_tier user""",
    },
}
# vLLM's protocol.py of each endpoint, main, 2026-11-30, and the guided_* fields of its releases before.
_VLLM_BOTH = {
    OBEYED: """allowed_token_ids bad_words ignore_eos include_stop_str_in_output min_p min_tokens prompt_logprobs
        repetition_penalty skip_special_tokens stop_token_ids structured_outputs top_k truncate_prompt_tokens
        response_format guided_json guided_regex guided_choice guided_grammar""",
    REFUSES: """add_special_tokens cache_salt ec_transfer_params kv_transfer_params length_penalty logprob_token_ids
        priority repetition_detection return_token_ids return_tokens_as_token_ids routed_experts_prompt_start
        stream_interval thinking_token_budget truncation_side use_beam_search vllm_xargs watermarking logits_processors
        guided_whitespace_pattern""",
    IGNORES: """request_id return_mm_kwargs return_token_offsets session_id spaces_between_special_tokens
        guided_decoding_backend""",
}
VLLM = {
    CHAT: {
        OBEYED: _VLLM_BOTH[OBEYED] + " add_generation_prompt chat_template_kwargs continue_final_message",
        REFUSES: _VLLM_BOTH[REFUSES]
        + """ chat_template documents echo media_io_kwargs
            mm_processor_kwargs return_prompt_text""",
        IGNORES: _VLLM_BOTH[IGNORES] + " include_reasoning",
    },
    COMPLETIONS: {**_VLLM_BOTH, REFUSES: _VLLM_BOTH[REFUSES] + " prompt_embeds"},
    RESPONSES: {
        OBEYED: """ignore_eos include_stop_str_in_output logit_bias repetition_penalty seed skip_special_tokens stop
            structured_outputs top_k""",
        REFUSES: """cache_salt enable_response_messages mm_processor_kwargs previous_input_messages previous_response
            priority vllm_xargs""",
        IGNORES: "request_id",
    },
}
# llama-server's README, 2026-11-30: its completion fields, which its other endpoints take too. tfs_z, penalize_nl,
# n_discard and image_data are of older ones. `options` and the rest of the last line are Ollama's.
_LLAMA = {
    OBEYED: """frequency_penalty grammar ignore_eos json_schema logit_bias min_p n_cmpl n_predict presence_penalty
        repeat_penalty return_progress seed stop stream temperature top_k top_p typical_p""",
    REFUSES: """dry_multiplier dynatemp_range lora min_keep mirostat n_indent n_probs post_sampling_probs repeat_last_n
        response_fields return_tokens samplers sse_ping_interval t_max_predict_ms timings_per_token xtc_probability
        top_n_sigma adaptive_target tfs_z penalize_nl image_data multimodal_data reasoning_format reasoning_control
        options format think num_predict num_ctx""",
    IGNORES: """cache_prompt dry_allowed_length dry_base dry_penalty_last_n dry_sequence_breakers dynatemp_exponent
        id_slot mirostat_eta mirostat_tau n_cache_reuse n_keep n_discard xtc_threshold adaptive_decay keep_alive""",
}
LLAMA = dict.fromkeys(KINDS, _LLAMA)
SOURCES = {"openai": OPENAI, "vllm": VLLM, "llama.cpp": LLAMA}
ALL = [
    (path, field, verdict)
    for table in SOURCES.values()
    for path, verdicts in table.items()
    for verdict, names in verdicts.items()
    for field in names.split()
]


def verdict_of(path: str, field: str) -> str:
    kind = KINDS[path]
    found = [
        name
        for name, fields in (
            (OBEYED, kind.__struct_encode_fields__),
            (REFUSES, REFUSED[kind]),
            (IGNORES, IGNORED[kind]),
        )
        if field in fields
    ]
    assert len(found) <= 1, f"{path}: {field} is in two tables"
    return found[0] if found else "unknown"


def test_each_field_is_where_the_table_says() -> None:
    wrong = [
        f"{path}: {field} is {verdict_of(path, field)}, the table says {verdict}"
        for path, field, verdict in ALL
        if verdict_of(path, field) != verdict
    ]
    assert not wrong, "\n".join(wrong)


def test_each_field_of_the_server_is_in_a_table() -> None:
    """So that a field with a wrong name is not obeyed unheard of."""
    for path, kind in KINDS.items():
        documented = {field for _, field, _ in ALL}
        own = {*kind.__struct_encode_fields__, *REFUSED[kind], *IGNORED[kind]}
        assert own <= documented, f"{path}: {sorted(own - documented)}"


@pytest.mark.parametrize("path", KINDS)
def test_the_sdk_has_no_field_that_the_table_lacks(path: str) -> None:
    from openai.types import completion_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params

    params: Any = {
        CHAT: chat_create_params.CompletionCreateParamsStreaming,
        COMPLETIONS: completion_create_params.CompletionCreateParamsStreaming,
        RESPONSES: response_create_params.ResponseCreateParamsStreaming,
    }[path]
    sdk = set(get_type_hints(params))
    table = {field for names in OPENAI[path].values() for field in names.split()}
    assert sdk == table, f"new: {sorted(sdk - table)}, gone: {sorted(table - sdk)}"


# --- over HTTP ------------------------------------------------------------------------------------------------------


engine = engine_fixture(max_num_seqs=8)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine, served_model_names=("demo",)) as server:
        yield server


@pytest.fixture(scope="module")
def strict(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine, served_model_names=("demo",), strict_fields=True) as server:
        yield server


def error_of(reply: Any) -> dict[str, Any]:
    error: dict[str, Any] = reply.json()["error"]
    return error


def some_value(neutral: tuple[Any, ...]) -> Any:
    """Something that is asked for in earnest."""
    return (
        {bool: not neutral[0], int: 7, float: 0.5, str: "x" * 70, list: [1]}.get(type(neutral[0]), {"a": 1})
        if (neutral)
        else "x"
    )


@pytest.mark.parametrize("path", KINDS)
def test_refused_fields_are_refused_by_name(server: RunningServer, path: str) -> None:
    for field, (why, neutral) in REFUSED[KINDS[path]].items():
        reply = post(server, path, MINIMAL[path] | {field: some_value(neutral)})
        assert reply.status_code == 400, (field, reply.text)
        assert error_of(reply)["param"] == field
        assert error_of(reply)["message"] == f"{field} is not supported: {why}"


@pytest.mark.parametrize("path", KINDS)
def test_what_asks_for_nothing_is_taken(server: RunningServer, strict: RunningServer, path: str) -> None:
    plain = post(server, path, MINIMAL[path]).json()
    for field in REFUSED[KINDS[path]]:
        reply = post(strict, path, MINIMAL[path] | {field: None})
        assert reply.status_code == 200, (field, reply.text)
    everything = {field: neutral[0] for field, (_, neutral) in REFUSED[KINDS[path]].items() if neutral}
    everything |= dict.fromkeys(IGNORED[KINDS[path]], "x")
    reply = post(strict, path, MINIMAL[path] | everything)
    assert reply.status_code == 200, reply.text
    key = "output" if path == RESPONSES else "choices"
    without_ids = [json.dumps(r[key]).split('"status"')[-1].split('"id"')[0] for r in (plain, reply.json())]
    assert without_ids[0] == without_ids[1]


def test_a_number_that_is_equal_asks_for_nothing_too(server: RunningServer) -> None:
    assert post(server, CHAT, MINIMAL[CHAT] | {"mirostat": 0.0, "length_penalty": 1.0}).status_code == 200
    assert post(server, CHAT, MINIMAL[CHAT] | {"mirostat": False}).status_code == 400


@pytest.mark.parametrize(
    ("path", "more", "says"),
    [
        (CHAT, {"temprature": 1}, "unknown field 'temprature'; did you mean 'temperature'?"),
        (CHAT, {"max_token": 1}, "unknown field 'max_token'; did you mean 'max_tokens'?"),
        (COMPLETIONS, {"mirostatt": 1}, "unknown field 'mirostatt'; did you mean 'mirostat'?"),
        (RESPONSES, {"max_tokens": 5}, "unknown field 'max_tokens'; did you mean 'min_tokens'?"),
        (CHAT, {"zzzzzzzz": 1}, "unknown field 'zzzzzzzz'"),
        (CHAT, {"z" * 100_000: 1}, "unknown field 'zzz"),
        (CHAT, {"messages": [{"role": "user", "content": "a", "contents": "a"}]}, "did you mean 'content'?"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "texts": "a"}]}]},
            "messages.0.content.0: ",
        ),
        (CHAT, {"stream": True, "stream_options": {"include_usages": True}}, "did you mean 'include_usage'?"),
        (RESPONSES, {"input": [{"role": "user", "content": "a", "nmae": 1}]}, "did you mean 'name'?"),
        ("/tokenize", {"prompt": "a", "return_tokens_strs": True}, "did you mean 'return_token_strs'?"),
    ],
)
def test_strict_fields(
    server: RunningServer, strict: RunningServer, path: str, more: dict[str, Any], says: str
) -> None:
    body = MINIMAL.get(path, {}) | more
    reply = post(strict, path, body)
    assert reply.status_code == 400 and says in error_of(reply)["message"], reply.text
    assert len(error_of(reply)["message"]) < 300
    assert post(server, path, body).status_code == 200


def test_strict_fields_take_what_the_sdk_sends_back(strict: RunningServer) -> None:
    with openai.OpenAI(base_url=strict.url + "/v1", api_key="-", max_retries=0) as client:
        fields = {"model": "demo", "max_completion_tokens": 5, "temperature": 0}
        first = client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], **fields)
        said = first.choices[0].message.model_dump()
        client.chat.completions.create(
            messages=[{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "more"}], **fields
        )
        response = client.responses.create(model="demo", input="Hi", max_output_tokens=5)
        items = [item.model_dump() for item in response.output]
        client.responses.create(
            model="demo",
            input=[{"role": "user", "content": "Hi"}, *items, {"role": "user", "content": "more"}],
            max_output_tokens=5,
        )


def test_unknown_fields_are_logged_by_name_only(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "llama4rt.server"):
        assert (
            post(server, CHAT, MINIMAL[CHAT] | {"brand_new": "secret words", "user": "me"}).status_code == 200
        )
    said = [record.getMessage() for record in caplog.records if "unknown" in record.getMessage()]
    assert said == ["ignored unknown fields: brand_new"]


# --- what the newer fields mean -------------------------------------------------------------------------------------


def completion(server: RunningServer, prompt: Any = "Once upon a time", **fields: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "logprobs": 0} | fields
    reply = post(server, COMPLETIONS, body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_allowed_token_ids(server: RunningServer, engine: Engine) -> None:
    allowed = engine.tokenizer.encode("abc xyz")
    for fields in ({}, {"temperature": 1.5, "seed": 3}, {"temperature": 1, "top_p": 0.5, "seed": 1, "n": 3}):
        for choice in completion(server, allowed_token_ids=allowed, **fields)["choices"]:
            texts = {engine.tokenizer.decode([i]) for i in allowed}
            assert set(choice["logprobs"]["tokens"]) <= texts and len(choice["logprobs"]["tokens"]) == 12
    offline = engine.generate(
        "Once upon a time", SamplingParams(temperature=0, max_tokens=12, allowed_token_ids=allowed)
    )
    assert set(offline[0].outputs[0].token_ids) <= set(allowed)


def test_bad_words(server: RunningServer, engine: Engine) -> None:
    def text(banned: list[str]) -> str:
        reply = completion(server, max_tokens=40, ignore_eos=True, bad_words=banned)
        found: str = reply["choices"][0]["text"]
        return found

    banned: list[str] = []
    texts = [text([])]
    for _ in range(3):  # the best continuation, the next best, and the next
        banned.append(next(word for word in re.findall("[A-Za-z]+", texts[-1]) if word not in banned))
        texts.append(text(banned))
        ids = engine.tokenizer.encode(texts[-1])
        for word in banned:
            for form in (word, " " + word):
                sequence = engine.tokenizer.encode(form)
                assert all(ids[i : i + len(sequence)] != sequence for i in range(len(ids))), (form, texts[-1])
    assert len(set(texts)) == len(texts)


def test_a_bad_word_of_several_tokens_may_begin(engine: Engine) -> None:
    """Only its last token is forbidden, and only where the output ends with the others."""

    def tokens(bad: list[list[int]]) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        prepared = engine.prepare_request(engine.prepare("Once upon a time"), params)
        prepared.native.bad_words = bad
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        engine.submit(prepared, inbox.put)
        got: list[int] = []
        while (item := inbox.get(timeout=60)) is not None:
            got += item.token_ids
        return got

    free = tokens([])
    assert len(free) == 8 and len(set(free[:4])) == 4
    got = tokens([free[1:4]])
    assert got[:3] == free[:3] and got[3] != free[3]
    assert tokens([[free[2], free[1], free[3]]])[:4] == free[:4]  # the output does not end so


def typical_tokens(row: Any, temperature: float, mass: float) -> set[int]:
    """Meister et al. 2022, equation 5, in float64."""
    logits = row.astype(np.float64) / temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    surprise = -np.log(np.maximum(p, 1e-300))
    entropy = float((p * surprise).sum())
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    count = int(np.searchsorted(np.cumsum(p[order]), mass)) + 1
    return {int(i) for i in order[:count]}


@pytest.mark.parametrize(("temperature", "mass"), [(1.0, 0.2), (1.0, 0.9), (1.7, 0.5), (0.6, 0.95)])
def test_typical_p(server: RunningServer, engine: Engine, temperature: float, mass: float) -> None:
    prompt = engine.encode_prompt("The sum of 3 and 4")
    row = engine.score(prompt)[-1]
    expected = typical_tokens(row, temperature, mass)
    seen = set()
    for first in range(0, 256, 16):
        outputs = engine.generate(
            prompt, SamplingParams(temperature=temperature, typical_p=mass, max_tokens=1, n=16, seed=first)
        )[0].outputs
        seen |= {token for output in outputs for token in (output.token_ids or [output.stop_reason])}
    assert seen <= expected
    p = np.exp((row - row.max()) / temperature)
    likely = {i for i in expected if p[i] / sum(p[list(expected)]) > 0.08}
    assert likely <= seen  # each was missed 256 times with less than one in a billion
    free = completion(server, prompt, temperature=temperature, seed=5)
    assert (
        completion(server, prompt, temperature=temperature, seed=5, typical_p=1)["choices"] == free["choices"]
    )


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"repeat_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"n_predict": 5, "max_tokens": None}, {"max_tokens": 5}),
        ({"n_cmpl": 2, "temperature": 1, "seed": 1}, {"n": 2, "temperature": 1, "seed": 1}),
        ({"n_predict": 5, "max_tokens": 5}, {"max_tokens": 5}),
        ({"grammar": 'root ::= "yes" | "no"'}, {"guided_grammar": 'root ::= "yes" | "no"'}),
        ({"json_schema": {"enum": [1, 2]}}, {"guided_json": {"enum": [1, 2]}}),
    ],
)
def test_llama_cpp_s_names(server: RunningServer, fields: dict[str, Any], same: dict[str, Any]) -> None:
    assert completion(server, **fields)["choices"] == completion(server, **same)["choices"]


def test_n_predict_without_a_limit(server: RunningServer, engine: Engine) -> None:
    reply = completion(server, n_predict=-1, max_tokens=None, ignore_eos=True)
    assert reply["usage"]["total_tokens"] == engine.max_model_len


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty"),
        (CHAT, {"n_predict": 5}, "n_predict"),  # max_completion_tokens is 3
        (CHAT, {"n_predict": 0, "max_completion_tokens": None}, "n_predict"),
        (CHAT, {"n_cmpl": 2, "n": 3}, "n_cmpl"),
        (RESPONSES, {"n": 2}, "n"),
        (CHAT, {"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        (COMPLETIONS, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        (CHAT, {"typical_p": 0}, "typical_p"),
        (CHAT, {"allowed_token_ids": []}, "allowed_token_ids"),
        (CHAT, {"allowed_token_ids": [1 << 30]}, "allowed_token_ids"),
        (CHAT, {"allowed_token_ids": [-1]}, "allowed_token_ids.0"),
        (CHAT, {"allowed_token_ids": [1], "response_format": {"type": "json_object"}}, "allowed_token_ids"),
        (CHAT, {"bad_words": ["a"], "guided_regex": "b+"}, "bad_words"),
        (CHAT, {"bad_words": "a"}, "bad_words"),
        (CHAT, {"bad_words": [""]}, "bad_words.0"),
        (CHAT, {"bad_words": ["a"] * 129}, "bad_words"),
        (CHAT, {"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        (CHAT, {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        (CHAT, {"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        (CHAT, {"response_format": {"type": "regex", "regex": "a", "schema": {}}}, "response_format"),
        (
            CHAT,
            {"response_format": {"type": "json_schema", "schema": {}, "json_schema": {"schema": {}}}},
            "response_format",
        ),
        (CHAT, {"response_format": {"type": "json_object", "schema": {"minimun": 1}}}, "response_format"),
        (RESPONSES, {"text": {"verbosity": "low"}}, "text.verbosity"),
        (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, "prompt.0"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt.1"),
        (COMPLETIONS, {"prompt": ["a", 1]}, "prompt.1"),
        (COMPLETIONS, {"prompt": [[1], ["a"]]}, "prompt.1.0"),
        (COMPLETIONS, {"prompt": None}, "prompt"),
        (COMPLETIONS, {"prompt": {"a": 1}}, "prompt"),
    ],
)
def test_values_that_are_refused(
    server: RunningServer, path: str, fields: dict[str, Any], param: str
) -> None:
    reply = post(server, path, MINIMAL[path] | fields)
    assert reply.status_code == 400, reply.text
    assert error_of(reply)["param"] == param, reply.text


def test_no_token_left_is_refused() -> None:
    with pytest.raises(RequestError, match="allowed_token_ids is empty"):
        SamplingParams(allowed_token_ids=[])


def test_allowed_ends_with_min_tokens_are_refused(server: RunningServer, engine: Engine) -> None:
    ends = engine.config["eos_token_ids"]
    reply = post(server, CHAT, MINIMAL[CHAT] | {"allowed_token_ids": list(ends), "min_tokens": 2})
    assert reply.status_code == 400 and error_of(reply)["param"] == "allowed_token_ids"
    reply = post(server, CHAT, MINIMAL[CHAT] | {"allowed_token_ids": list(ends)})
    assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] <= 1


@pytest.mark.parametrize("keep", [1, 3, 10**6])
def test_truncate_prompt_tokens(server: RunningServer, engine: Engine, keep: int) -> None:
    ids = engine.encode_prompt("one two three four five six")
    short = ids[-keep:]
    for prompt in (ids, "one two three four five six"):
        got = completion(server, prompt, truncate_prompt_tokens=keep)
        assert got["choices"] == completion(server, short)["choices"]
        assert got["usage"]["prompt_tokens"] == len(short)
    chat = post(server, CHAT, MINIMAL[CHAT] | {"truncate_prompt_tokens": keep}).json()
    whole = len(engine.apply_chat_template(MINIMAL[CHAT]["messages"]))
    assert chat["usage"]["prompt_tokens"] == min(keep, whole)


def test_truncation_leaves_room_for_the_answer(server: RunningServer, engine: Engine) -> None:
    long = engine.tokenizer.encode("one two three ") * engine.max_model_len
    assert post(server, COMPLETIONS, {"prompt": long, "max_tokens": 5}).status_code == 400
    reply = completion(server, long, truncate_prompt_tokens=-1, max_tokens=5, ignore_eos=True, logprobs=None)
    assert reply["usage"]["prompt_tokens"] == engine.max_model_len - 5
    assert reply["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"],
                                           "additionalProperties": False}},
        {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"],
                                           "additionalProperties": False}},
    ],
)  # fmt: skip
def test_response_format_with_llama_cpp_s_schema(server: RunningServer, form: dict[str, Any]) -> None:
    body = MINIMAL[CHAT] | {"response_format": form, "max_completion_tokens": 40}
    assert json.loads(post(server, CHAT, body).json()["choices"][0]["message"]["content"]) == {"a": 7}


# --- a character over several tokens --------------------------------------------------------------------------------


def split_prompt(engine: Engine) -> list[int]:
    """Begin-of-text, and the bytes of two characters as tokens of one byte each."""
    single = {engine.tokenizer.token_bytes(i): i for i in range(engine.config["vocab_size"])}
    return [
        engine.config["bos_token_id"],
        *engine.tokenizer.encode("ab"),
        *(single[bytes([byte])] for byte in "é😀".encode()),
        *engine.tokenizer.encode("c"),
    ]


def texts_at(text: str, logprobs: dict[str, Any]) -> list[str]:
    return [text[a:b] for a, b in itertools.pairwise([*logprobs["text_offset"], len(text)])]


def test_text_offset_of_characters_over_several_tokens(server: RunningServer, engine: Engine) -> None:
    ids = split_prompt(engine)
    choice = completion(server, ids, echo=True, max_tokens=0)["choices"][0]
    assert choice["text"] == "abé😀c"
    pieces = texts_at(choice["text"], choice["logprobs"])
    assert "".join(pieces) == choice["text"] and len(pieces) == len(ids)
    assert pieces[0] == ""  # begin-of-text is not in the text
    at = len(ids) - len(engine.tokenizer.encode("c")) - 6  # of the first byte of the first character
    assert choice["logprobs"]["text_offset"][at : at + 7] == [2, 2, 3, 3, 3, 3, 4]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_offsets_of_a_text_prompt_lie_on_its_words(
    server: RunningServer, engine: Engine, stream: bool, n: int
) -> None:
    prompt = "one two é three"
    body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 6, "temperature": 1, "seed": 4, "n": n,
            "stream": stream, "ignore_eos": True}  # fmt: skip
    reply = post(server, COMPLETIONS, body)
    texts, offsets, tokens = [""] * n, [[] for _ in range(n)], [[] for _ in range(n)]  # type: ignore[var-annotated]
    replies = (
        [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]
        if stream
        else [reply.json()]
    )
    for chunk in replies:
        for choice in chunk["choices"]:
            i = choice["index"]
            texts[i] += choice["text"]
            offsets[i] += choice["logprobs"]["text_offset"]
            tokens[i] += choice["logprobs"]["tokens"]
    for i in range(n):
        assert texts[i].startswith(prompt)
        assert len(tokens[i]) == len(engine.encode_prompt(prompt)) + 6  # each choice has the prompt's
        for token, at in zip(tokens[i][1:], offsets[i][1:], strict=True):
            if "\ufffd" not in token and not token.startswith("<|"):
                assert texts[i][at : at + len(token)] == token, (i, token, at, texts[i])


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_character_that_the_prompt_begins_and_the_output_ends(
    server: RunningServer, engine: Engine, echo: bool, stream: bool
) -> None:
    ids = split_prompt(engine)
    single = {engine.tokenizer.token_bytes(i): i for i in range(engine.config["vocab_size"])}
    cut = len(ids) - len(engine.tokenizer.encode("c")) - 1  # before the last byte of the second character
    last = single["😀".encode()[-1:]]
    body = {"prompt": ids[:cut], "echo": echo, "allowed_token_ids": [last], "max_tokens": 1, "logprobs": 0,
            "stream": stream}  # fmt: skip
    reply = post(server, COMPLETIONS, body)
    chunks = (
        [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]
        if stream
        else [reply.json()]
    )
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == ("abé😀" if echo else "😀")
    offsets = [at for choice in choices for at in choice["logprobs"]["text_offset"]]
    assert offsets[-1] == (3 if echo else 0)
    # And when nothing ends it, it is one replacement character.
    body["allowed_token_ids"] = engine.tokenizer.encode("z")
    body["stream"] = False
    text = post(server, COMPLETIONS, body).json()["choices"][0]["text"]
    assert text == ("abé\ufffdz" if echo else "\ufffdz")


# --- text that cannot fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["tools", "arguments", "description", "content", "parts", "chat_template_kwargs"]
)
def test_what_cannot_fit_is_refused_before_it_is_tokenized(
    server: RunningServer, engine: Engine, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = engine.max_model_len * engine.tokenizer.max_token_bytes
    words = {f"k{i}": "word " * 20 for i in range(most // 100 + 100)}
    function: dict[str, Any] = {"name": "f"}
    message: dict[str, Any] = {"role": "user", "content": "a"}
    messages: list[dict[str, Any]] = [message]
    more: dict[str, Any] = {}
    if where == "tools":
        function["parameters"] = {"type": "object", "properties": {}, "description": "", "$comment": ""}
        function["parameters"] |= {"enum": list(words.values())}
    elif where == "description":
        function["description"] = "word " * (most // 5 + 10)
    elif where == "arguments":
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps(words)}}
        messages.append({"role": "assistant", "tool_calls": [call]})
    elif where == "content":
        message["content"] = "word " * (most // 5 + 10)
    elif where == "chat_template_kwargs":
        more[where] = words
    else:
        message["content"] = [{"type": "text", "text": "word " * 20}] * (most // 100 + 10)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the template was asked")

    monkeypatch.setattr(type(engine.prompts), "read_chat", never)
    tools = [{"type": "function", "function": function}]
    reply = post(server, CHAT, {"messages": messages, "max_tokens": 3, "tools": tools, **more})
    assert reply.status_code == 400 and error_of(reply)["code"] == "context_length_exceeded", reply.text


# --- what nests, and bodies that are nearly right -------------------------------------------------------------------

DEEP = 3000


def _call(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": _call('{"a":' * DEEP + "1" + "}" * DEEP)}),
        (CHAT, {"messages": _call("[" * DEEP + "]" * DEEP)}),
        (CHAT, {"messages": _call("[" * DEEP)}),
        (CHAT, {"messages": _call('{"a":[' * 33 + "1" + "]}" * 33)}),
        ("/tokenize", {"messages": _call('{"a":' * DEEP + "1" + "}" * DEEP)}),
        (
            RESPONSES,
            {"input": [{"type": "function_call", "name": "f", "arguments": "[" * DEEP + "]" * DEEP}]},
        ),
        (CHAT, {"guided_json": '{"not":' * DEEP + "{}" + "}" * DEEP}),
        (CHAT, {"json_schema": "[" * DEEP + "]" * DEEP}),
        (CHAT, {"structured_outputs": {"json": '{"items":' * DEEP + "{}" + "}" * DEEP}}),
        (CHAT, {"guided_regex": "(" * DEEP + "a" + ")" * DEEP}),
        (CHAT, {"messages": _call(nested(200))}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(200)}}]}),
        (CHAT, {"metadata": nested(200)}),
        (RESPONSES, {"metadata": nested(200)}),
        (COMPLETIONS, {"prompt": nested(200)}),
    ],
)
def test_what_nests_too_deep_is_the_client_s_mistake(
    server: RunningServer, path: str, fields: dict[str, Any]
) -> None:
    reply = post(server, path, MINIMAL.get(path, {}) | fields)
    assert reply.status_code == 400 and error_of(reply)["type"] == "invalid_request_error", reply.text
    assert len(error_of(reply)["message"]) < 1000


def test_a_recursion_error_anywhere_is_the_client_s_mistake(
    server: RunningServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deep(*_: Any, **__: Any) -> Any:
        raise RecursionError

    monkeypatch.setattr(type(engine.prompts), "read_chat", deep)
    for stream in (False, True):
        reply = post(server, CHAT, MINIMAL[CHAT] | {"stream": stream})
        assert reply.status_code == 400 and "nested too deep" in error_of(reply)["message"]


_PIECES = [b'"', b"\\", b"\\ud800", b"\xff", b"{", b"}", b"[", b"]", b",", b":", b"null", b"1e999", b"-", b'"\\u0000"',
           b"99999999999999999999999", b" "]  # fmt: skip
_BODIES = {
    CHAT: {"messages": [{"role": "user", "content": [{"type": "text", "text": "é"}]}, *_call("{}")], "suffix": None,
           "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}], "mirostat": 0,
           "logit_bias": {"1": 1.5}, "stop": ["a"], "response_format": {"type": "json_object", "schema": {}},
           "user": "x", "unknown": [1, {"a": "b"}]},
    COMPLETIONS: {"prompt": [[1, 2], [3]], "suffix": "", "stop_token_ids": [1], "guided_json": "{}", "lora": []},
    RESPONSES: {"input": [{"role": "user", "content": "a"}, {"type": "function_call", "name": "f", "arguments": "{}"}],
                "tools": [{"type": "function", "name": "f", "parameters": {}}], "reasoning": {}, "background": False,
                "text": {"format": {"type": "text"}}, "metadata": {"a": "b"}},
}  # fmt: skip


@pytest.mark.parametrize("strict_fields", [False, True])
@pytest.mark.parametrize("path", KINDS)
def test_bodies_that_are_nearly_right_are_read_or_refused(path: str, strict_fields: bool) -> None:
    whole = json.dumps(_BODIES[path]).encode()
    parse(KINDS[path], whole)
    chance = random.Random(13)
    refused = 0
    for _ in range(3000):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            at, how = chance.randrange(len(body)), chance.random()
            body[at : at + (0 if how < 0.4 else chance.randint(1, 4))] = (
                b"" if how > 0.7 else chance.choice(_PIECES)
            )
        try:
            parse(KINDS[path], bytes(body), strict=strict_fields)
        except ApiError as error:
            refused += error.status == 400
    assert refused > 1000
