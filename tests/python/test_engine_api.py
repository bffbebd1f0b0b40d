"""llama4rt.Engine: what the calls take, return and refuse. Numbers are the parity tests' business."""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import (
    CheckpointError,
    ConfigError,
    DeviceLostError,
    Engine,
    EngineFileError,
    Llama4RTError,
    RequestError,
    SamplingParams,
    _core,
)
from llama4rt.demo import engine_path
from llama4rt.engine.engine_options import parse_bytes
from llama4rt.engine.engine_thread import THREAD_NAME, EngineThread

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 0.0, "max_tokens": 12, "ignore_eos": True} | fields))


@pytest.fixture(scope="module")
def engine(text_engine_file: Path) -> Iterator[Engine]:
    with Engine(text_engine_file, kv_cache_memory="64MiB", max_model_len=512) as engine:
        yield engine


@pytest.fixture(scope="module")
def ids_only(engine_file: Callable[..., Path]) -> Iterator[Engine]:
    with Engine(engine_file("scout"), kv_cache_memory="64MiB", max_model_len=512) as engine:
        yield engine


# --- results ----------------------------------------------------------------------------------------------------------


def test_text_and_ids_give_what_the_readme_shows(engine: Engine) -> None:
    outs = engine.generate(["Hello", [256, 72]], GREEDY)
    assert [out.prompt for out in outs] == ["Hello", None]
    assert outs[0].prompt_token_ids == [256, *b"Hello"] and outs[1].prompt_token_ids == [256, 72]
    for out in outs:
        (completion,) = out.outputs
        assert out.finished and completion.index == 0 and completion.finish_reason == "length"
        assert (
            len(completion.token_ids) == 12 and completion.logprobs is None and completion.stop_reason is None
        )
        assert engine.tokenizer is not None and completion.text == engine.tokenizer.decode(
            completion.token_ids
        )


def test_one_prompt_and_many_are_the_same(engine: Engine) -> None:
    alone = [engine.generate(prompt, GREEDY)[0] for prompt in ("a", "Hello", [256, 3])]
    together = engine.generate(["a", "Hello", [256, 3]], [GREEDY] * 3)
    arrays = engine.generate([np.array(out.prompt_token_ids) for out in alone], GREEDY)
    for a, b, c in zip(alone, together, arrays, strict=True):
        assert a.outputs == b.outputs == c.outputs
    assert engine.generate(np.array([256, 3]), GREEDY)[0].outputs == alone[2].outputs  # type: ignore[arg-type]


def test_begin_of_text_is_added_once(engine: Engine) -> None:
    assert engine.encode_prompt("Hi") == [256, 72, 105]
    assert engine.encode_prompt("<|begin_of_text|>Hi") == [256, 72, 105]
    assert engine.encode_prompt([72, 105]) == [72, 105]
    assert engine.encode_prompt("<|eot|>") == [256, *b"<|eot|>"]


def test_stream_is_generate_in_pieces(engine: Engine) -> None:
    whole = engine.generate("Hello", params(max_tokens=40, logprobs=2))[0].outputs[0]
    deltas = list(engine.stream("Hello", params(max_tokens=40, logprobs=2)))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [i for delta in deltas for i in delta.token_ids] == whole.token_ids
    assert [entry for delta in deltas for entry in delta.logprobs or ()] == whole.logprobs
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]
    assert deltas[-1].finish_reason == "length" and deltas[0].num_cached_tokens is not None


def test_logprobs_belong_to_their_tokens(engine: Engine) -> None:
    out = engine.generate("Hello", params(logprobs=3, prompt_logprobs=1))[0]
    entries = out.outputs[0].logprobs
    assert entries is not None and [entry.token_id for entry in entries] == out.outputs[0].token_ids
    for entry in entries:
        assert len(entry.top) == 3 and entry.top[0] == (entry.token_id, entry.logprob) and entry.logprob <= 0
    assert out.prompt_logprobs is not None and out.prompt_logprobs[0] is None
    assert [entry.token_id for entry in out.prompt_logprobs if entry] == out.prompt_token_ids[1:]
    scores = engine.score(out.prompt_token_ids)
    for position, entry in enumerate(out.prompt_logprobs[1:]):
        assert entry is not None
        row = scores[position].astype(np.float64)
        expected = row[entry.token_id] - row.max() - np.log(np.exp(row - row.max()).sum())
        assert entry.logprob == pytest.approx(expected, abs=1e-4)


def test_score_is_teacher_forced(engine: Engine) -> None:
    scores = engine.score([256, 72, 105, 33])
    assert scores.dtype == np.float32 and scores.shape == (4, engine.config["vocab_size"])
    assert (
        int(scores[-1].argmax())
        == engine.generate([256, 72, 105, 33], params(max_tokens=1))[0].outputs[0].token_ids[0]
    )
    assert np.array_equal(engine.score("Hi!"), scores)


def test_n_outputs_differ_and_repeat_with_a_seed(engine: Engine) -> None:
    sampled = SamplingParams(temperature=1.5, max_tokens=16, ignore_eos=True, n=3, seed=7)
    first, again = (engine.generate("Hello", sampled)[0].outputs for _ in range(2))
    assert first == again and [output.index for output in first] == [0, 1, 2]
    assert len({tuple(output.token_ids) for output in first}) == 3


def test_without_max_tokens_the_context_is_the_limit(text_engine_file: Path) -> None:
    with Engine(text_engine_file, max_model_len=48, kv_cache_memory="16MiB") as engine:
        assert engine.max_model_len == 48
        output = engine.generate("Hello", params(max_tokens=None))[0].outputs[0]
        assert output.finish_reason == "length" and 6 + len(output.token_ids) in (48, 49)
        clamped = engine.generate("Hello", params(max_tokens=1000))[0].outputs[0]
        assert clamped == output


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_strings_end_the_text(engine: Engine) -> None:
    sampled = {"temperature": 1.0, "seed": 5, "max_tokens": 60}
    text = engine.generate("Hello", params(**sampled))[0].outputs[0].text
    stop = text[20:23]
    at = text.index(stop)
    cut = engine.generate("Hello", params(**sampled, stop=["never there", stop]))[0].outputs[0]
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (text[:at], "stop", stop)
    kept = engine.generate("Hello", params(**sampled, stop=stop, include_stop_str_in_output=True))[0].outputs[
        0
    ]
    assert kept.text == text[:at] + stop and kept.token_ids == cut.token_ids
    streamed = list(engine.stream("Hello", params(**sampled, stop=stop)))
    assert "".join(delta.text for delta in streamed) == text[:at]
    late = engine.generate("Hello", params(**sampled, stop=stop, min_tokens=60))[0].outputs[0]
    assert late.finish_reason in ("length", "stop") and len(late.token_ids) == 60


def test_stop_tokens_end_the_tokens(engine: Engine) -> None:
    tokens = engine.generate("Hello", GREEDY)[0].outputs[0].token_ids
    stop = tokens[4]
    first = tokens.index(stop)
    cut = engine.generate("Hello", params(stop_token_ids=[stop]))[0].outputs[0]
    assert (cut.token_ids, cut.finish_reason, cut.stop_reason) == (tokens[:first], "stop", stop)


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("first", [0, 20])
@pytest.mark.parametrize("n", [1, 2])
def test_what_a_stop_string_ended_is_not_computed_on(
    engine: Engine, logprobs: int | None, first: int, n: int
) -> None:
    """Text alone would not tell: its end is cut off either way. first: 0 stops in the first event of an output."""
    sampled = {"temperature": 1.0, "seed": 5, "max_tokens": 400, "n": n, "logprobs": logprobs}
    whole = engine.generate("Hello", params(**sampled | {"max_tokens": 60}))[0].outputs
    stops = [output.text[first : first + 3 if first else 1] for output in whole]
    before = engine.stats()["generated_tokens"]
    outputs = engine.generate("Hello", params(**sampled, stop=stops))[0].outputs
    assert [output.finish_reason for output in outputs] == ["stop"] * n
    wait_until(lambda: engine.stats()["running"] == 0)
    delivered = sum(len(output.token_ids) for output in outputs)
    assert engine.stats()["generated_tokens"] - before <= delivered + 2 * n


def test_leaving_a_stream_ends_its_request(text_engine_file: Path) -> None:
    with Engine(text_engine_file, max_model_len=2048, kv_cache_memory="64MiB") as engine:
        slow_down(engine)  # by itself it would take six seconds
        for _ in engine.stream("Hello", params(max_tokens=2000)):
            break
        wait_until(lambda: engine.stats()["running"] == 0 and engine.stats()["waiting"] == 0)
        assert engine.stats()["generated_tokens"] < 1000


# --- chat -------------------------------------------------------------------------------------------------------------


def test_chat_answers_conversations(engine: Engine) -> None:
    hi = [{"role": "user", "content": "hi"}]
    (out,) = engine.chat(hi, GREEDY, tools=None)
    assert out.prompt_token_ids == engine.apply_chat_template(hi)
    assert out.prompt_token_ids[:2] == [256, 261] and len(out.outputs[0].token_ids) == 12
    two = engine.chat([hi, [*hi, {"role": "assistant", "content": "yes"}]], GREEDY)
    assert len(two) == 2 and two[0].outputs == out.outputs
    with pytest.raises(RequestError, match="image"):
        engine.chat([{"role": "user", "content": [{"type": "image"}]}])
    assert engine.chat([]) == [] and engine.generate([]) == [] and engine.score_tokens([]) == []
    for wrong, says in (
        (hi[0], "one message"),
        ("hi", "is a text"),
        (5, "messages is a int"),
        ([[]], "non-empty"),
    ):
        with pytest.raises(RequestError, match=says):
            engine.chat(wrong)  # type: ignore[arg-type]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        *[
            "",
            [[]],
            [""],
            5,
            None,
            [1.5],
            ["a", 5],
            [True],
            [-1],
            [2**31],
            [331],
            {"a": 1},
            [[1], []],
            [None],
        ],
        *[b"ab", [b"ab"]],
    ],
)
def test_bad_prompts_are_typed_errors(engine: Engine, prompt: Any) -> None:
    with pytest.raises(RequestError):
        engine.generate(prompt, GREEDY)
    assert engine.stats()["running"] == 0


def test_prompts_over_the_limit_name_both_numbers(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"600.*512"):
        engine.generate([5] * 600, GREEDY)
    with pytest.raises(RequestError, match="512"):
        engine.generate("x" * 100_000_000, GREEDY)


def test_bad_params_are_typed_errors(engine: Engine) -> None:
    for bad in ({"max_tokens": 5}, "x", [GREEDY, GREEDY], [None]):
        with pytest.raises(RequestError):
            engine.generate("Hello", bad)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="331"):
        engine.generate("Hello", params(logit_bias={331: 1.0}))


def test_without_a_tokenizer_only_ids_work(ids_only: Engine) -> None:
    out = ids_only.generate([1, 20, 30], GREEDY)[0].outputs[0]
    assert out.text == "" and len(out.token_ids) == 12 and ids_only.tokenizer is None
    for call in (
        lambda: ids_only.generate("Hello"),
        lambda: ids_only.chat([{"role": "user", "content": "hi"}]),
        lambda: ids_only.generate([1, 2], params(stop="x")),
    ):
        with pytest.raises(RequestError, match="llama4rt build"):
            call()


@pytest.mark.parametrize(
    "dtype", [format.name for format in _core.kv_formats() if format.bits < 16 or not format.on_gpu]
)
def test_caches_answer_alike_in_any_company(dtype: str, text_engine_file: Path) -> None:
    prompts: list[Any] = ["Hello", "a" * 70, "Hello there"]
    if dtype == "int4":  # for heads of a multiple of 32 dimensions
        text_engine_file = engine_path()
    with Engine(text_engine_file, kv_cache_dtype=dtype, max_batched_tokens=32) as engine:
        together = [out.outputs[0].token_ids for out in engine.generate(prompts, GREEDY)]
    with Engine(text_engine_file, kv_cache_dtype=dtype, num_threads=1) as engine:
        assert [engine.generate(prompt, GREEDY)[0].outputs[0].token_ids for prompt in prompts] == together


def test_bad_options_are_typed_errors(text_engine_file: Path, tmp_path: Path) -> None:
    for options in (
        {"num_threads": 0}, {"num_threads": True}, {"max_model_len": -1}, {"max_num_seqs": 1.5},
        {"kv_cache_memory": "lots"}, {"kv_cache_memory": 0}, {"kv_cache_memory": True}, {"kv_cache_memory": "4 XB"},
        {"device": "tpu"}, {"device": "cuda:x"}, {"kv_cache_dtype": "int1"}, {"block_size": 7},
        {"activations": "int4"}, {"activations": "int8", "device": "reference"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            Engine(text_engine_file, **options)
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        Engine(tmp_path)
    with pytest.raises(ConfigError, match="weights says how a checkpoint is built"):
        Engine(text_engine_file, weights="int8")
    with pytest.raises(EngineFileError, match=r"missing\.l4e"):
        Engine(tmp_path / "missing.l4e")


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_bytes("x", "4GiB") == parse_bytes("x", "4 GiB") == parse_bytes("x", "4g") == 4 << 30
    assert parse_bytes("x", "512MB") == 512_000_000 and parse_bytes("x", "1.5KiB") == 1536
    assert parse_bytes("x", 12345) == parse_bytes("x", "12345") == 12345 and parse_bytes("x", None) == 0


# --- many users, one engine -------------------------------------------------------------------------------------------


def test_many_threads_share_one_engine(engine: Engine) -> None:
    prompts = [f"thread {i}" for i in range(8)]
    alone = {prompt: engine.generate(prompt, GREEDY)[0].outputs for prompt in prompts}
    wrong: list[str] = []

    def work(prompt: str) -> None:
        for _ in range(5):
            streamed = [i for delta in engine.stream(prompt, GREEDY) for i in delta.token_ids]
            if (
                engine.generate(prompt, GREEDY)[0].outputs != alone[prompt]
                or streamed != alone[prompt][0].token_ids
            ):
                wrong.append(prompt)

    run_threads([lambda prompt=prompt: work(prompt) for prompt in prompts])  # type: ignore[misc]
    assert not wrong


def test_more_prompts_than_places_all_finish(engine: Engine) -> None:
    outs = engine.generate([[5, i % 300] for i in range(600)], params(max_tokens=3))
    assert all(len(out.outputs[0].token_ids) == 3 for out in outs)


def test_closing_ends_what_runs(text_engine_file: Path) -> None:
    engine = Engine(text_engine_file, max_model_len=2048, kv_cache_memory="64MiB")
    errors: list[BaseException] = []
    started = threading.Event()

    def work() -> None:
        try:
            for _ in engine.stream("Hello", params(max_tokens=None)):
                started.set()
        except Llama4RTError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(30)
    engine.close()
    thread.join(10)
    assert not thread.is_alive() and "closed" in str(errors[0])
    engine.close()
    for call in (
        lambda: engine.generate("x"),
        engine.stats,
        lambda: engine.score("x"),
        lambda: next(engine.stream("x")),
    ):
        with pytest.raises(Llama4RTError, match="closed"):
            call()


def test_a_dropped_engine_stops_its_thread(text_engine_file: Path) -> None:
    before = engine_threads()
    engine = Engine(text_engine_file)
    assert engine_threads() == before  # the first request starts it
    engine.generate("x", params(max_tokens=1))
    assert engine_threads() == before + 1
    del engine
    gc.collect()
    wait_until(lambda: engine_threads() == before)


# --- failures of the engine's thread ----------------------------------------------------------------------------------


def test_a_thread_that_cannot_start_is_an_error_and_the_next_request_tries_again(
    text_engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    with Engine(text_engine_file, kv_cache_memory="16MiB") as engine:
        with monkeypatch.context() as patched:
            patched.setattr("_thread.start_new_thread", refuse)
            for call in (
                lambda: engine.generate("x", GREEDY),
                lambda: list(engine.stream("x", GREEDY)),
                lambda: engine.score("x"),
            ):
                with pytest.raises(Llama4RTError, match="thread cannot be started"):
                    call()
        assert engine.stats()["waiting"] == 0
        assert engine.generate("x", GREEDY)[0].finished
    engine = Engine(text_engine_file, kv_cache_memory="16MiB")
    with monkeypatch.context() as patched:
        patched.setattr("_thread.start_new_thread", refuse)
        with pytest.raises(Llama4RTError):
            engine.generate("x", GREEDY)
    engine.close()


class Panic(BaseException):
    """As libraries written in Rust raise it: no Exception."""


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("broken"), Panic("called unwrap on None")])
@pytest.mark.parametrize("where", ["_wait_for_work", "_dispatch", "_survived", "_stop_sequence"])
def test_a_thread_that_dies_tells_everybody(
    text_engine_file: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    """Wherever in the thread it comes from: readers, later calls and close() return, and the native engine is freed."""

    def fail(*_: Any) -> Any:
        if fails.is_set():
            raise error
        return untouched(*_)

    fails = threading.Event()
    engine = Engine(text_engine_file, max_model_len=2048, kv_cache_memory="64MiB")
    core = slow_down(engine)
    untouched = getattr(engine._thread, where)
    monkeypatch.setattr(engine._thread, where, fail)
    stop = "abcdefghijklmnopqrstuvwxyz"[0] if where == "_stop_sequence" else ()
    errors: queue.Queue[BaseException] = queue.Queue()

    def read(prompt: str) -> None:
        try:
            for _ in engine.stream(prompt, params(max_tokens=None, temperature=1.0, stop=stop)):
                fails.set()
                if where == "_survived":
                    core.error = ValueError("a step that fails")
        except BaseException as caught:
            errors.put(caught)

    readers = [threading.Thread(target=read, args=(prompt,)) for prompt in ("one", "two")]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()
    caught = [errors.get_nowait() for _ in readers]
    assert all(isinstance(one, Llama4RTError) for one in caught), caught
    words = "out of memory|broken|called unwrap"
    if where == "_stop_sequence":  # only the requests are lost
        engine.check_usable()
    else:
        with pytest.raises(Llama4RTError, match=f"opened anew: ({words})"):
            engine.check_usable()
        with pytest.raises(Llama4RTError, match="opened anew"):
            engine.generate("x")
    run_threads([engine.close])


def test_a_reader_that_could_not_be_told_is_told_later() -> None:
    class Deaf(Waiter):
        times = 0

        def fail(self, error: BaseException) -> None:
            self.times += 1
            if self.times < 3:
                raise MemoryError
            super().fail(error)

    thread = EngineThread(FailingCore([RuntimeError("bad step")]))  # type: ignore[arg-type]
    deaf = Deaf()
    thread.submit(None, deaf)  # type: ignore[arg-type]
    wait_until(lambda: deaf.times == 1)
    thread.reap()
    assert deaf.times == 2 and thread._handlers
    thread.reap()
    assert "ended" in str(deaf.errors.get(timeout=10)) and not thread._handlers
    thread.close()


def test_lack_of_memory_in_a_step_gives_the_engine_up_at_once() -> None:
    core = FailingCore([MemoryError()])
    thread = EngineThread(core)  # type: ignore[arg-type]
    waiter = Waiter()
    thread.submit(None, waiter)  # type: ignore[arg-type]
    assert "out of memory" in str(waiter.errors.get(timeout=10))
    with pytest.raises(Llama4RTError, match="opened anew: out of memory"):
        wait_until(lambda: thread.check_usable() or False)
    thread.close()
    assert core.closed == 1


# --- failures of the native engine, by a stand-in ---------------------------------------------------------------------


class SlowCore:
    """The native engine, with steps that take three milliseconds and fail when told."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def step(self) -> Any:
        time.sleep(0.003)
        if self.error is not None:
            raise self.error
        return self._core.step()


def slow_down(engine: Engine) -> SlowCore:
    core = SlowCore(engine._core)
    engine._thread._core = core  # type: ignore[assignment]
    return core


class FailingCore:
    """Answers like the native engine; steps do what the script says."""

    def __init__(self, script: list[Exception | None]) -> None:
        self.script = script
        self.requests: list[int] = []
        self.aborted: list[int] = []
        self.closed = 0

    def submit(self, request: Any) -> int:
        self.requests.append(len(self.requests) + 1)
        return self.requests[-1]

    def has_work(self) -> bool:
        return bool(self.script) and bool(self.requests)

    def step(self) -> list[Any]:
        time.sleep(0.001)
        error = self.script.pop(0)
        if error is not None:
            raise error
        return []

    def abort(self, request_id: int) -> None:
        self.aborted.append(request_id)

    def close(self) -> None:
        self.closed += 1


class Waiter:
    def __init__(self) -> None:
        self.errors: queue.Queue[BaseException] = queue.Queue()
        self.finished = False

    def on_event(self, event: Any, end_sequence: Any) -> None: ...

    def fail(self, error: BaseException) -> None:
        self.finished = True
        self.errors.put(error)


def test_a_failed_step_ends_its_requests_only() -> None:
    core = FailingCore([None, RuntimeError("bad step")])
    thread = EngineThread(core)  # type: ignore[arg-type]
    waiter = Waiter()
    thread.submit(None, waiter)  # type: ignore[arg-type]
    assert "bad step" in str(waiter.errors.get(timeout=10)) and core.aborted == [1]
    thread.check_usable()
    thread.close()
    assert core.closed == 1


def test_a_second_failure_soon_after_gives_the_engine_up() -> None:
    core = FailingCore([RuntimeError("one"), None, RuntimeError("two")])
    thread = EngineThread(core)  # type: ignore[arg-type]
    first, second = Waiter(), Waiter()
    thread.submit(None, first)  # type: ignore[arg-type]
    assert "one" in str(first.errors.get(timeout=10))
    try:
        thread.submit(None, second)  # type: ignore[arg-type]
        assert "two" in str(second.errors.get(timeout=10))
    except Llama4RTError:
        pass  # it had failed before the second came
    with pytest.raises(Llama4RTError, match="opened anew: two"):
        wait_until(lambda: thread.check_usable() or False)
    thread.close()
    assert core.closed == 1


def test_a_lost_device_gives_the_engine_up_at_once() -> None:
    core = FailingCore([None, DeviceLostError("a kernel failed"), None])
    thread = EngineThread(core)  # type: ignore[arg-type]
    waiter = Waiter()
    thread.submit(None, waiter)  # type: ignore[arg-type]
    error = waiter.errors.get(timeout=10)
    assert isinstance(error, DeviceLostError) and "a kernel failed" in str(error)
    with pytest.raises(Llama4RTError, match="opened anew: a kernel failed"):
        thread.check_usable()
    assert core.script == [None]  # no step after it
    thread.close()
    assert core.closed == 1


def engine_threads() -> int:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return names.count(THREAD_NAME)


def run_threads(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
