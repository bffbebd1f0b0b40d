"""Sessions: what they take and give, and that going on with one gives the tokens that a run without a break gives."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import ConfigError, Engine, RequestError, SamplingParams, StructuredOutput
from llama4rt.cli.main import main

OPTIONS: dict[str, Any] = {"kv_cache_memory": "32MiB", "max_model_len": 2048, "num_threads": 2}
RANDOM = SamplingParams(
    temperature=1.0,
    seed=5,
    max_tokens=40,
    ignore_eos=True,
    presence_penalty=0.8,
    frequency_penalty=0.3,
    repetition_penalty=1.2,
    logprobs=2,
)
TEXT = "It was a dark and stormy night. " * 12


def opened(path: Path, store: Path, **options: Any) -> Engine:
    return Engine(path, kv_store=store, kv_store_size="64MiB", **OPTIONS, **options)


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 0.0, "max_tokens": 12, "ignore_eos": True} | fields))


def test_the_example_of_the_page(text_engine_file: Path, tmp_path: Path) -> None:
    with opened(text_engine_file, tmp_path / "kv") as engine:
        session = engine.session("notes")
        assert session.append(TEXT) == 0
        answer = session.generate("What is the code?", params(max_tokens=50))
        assert answer.num_cached_tokens >= len(TEXT) // 16 * 16 - 16
        assert len(answer.outputs[0].token_ids) == 50
        branch = session.fork("notes-2")
        assert branch.token_ids == session.token_ids
        assert session.export(tmp_path / "notes.l4s") > 0
        tokens = session.token_ids
        session.close()
        branch.close()
    with opened(text_engine_file, tmp_path / "kv") as engine:
        assert [info.name for info in engine.sessions()] == ["notes", "notes-2"]
        with engine.session("notes") as session:
            assert session.token_ids == tokens
            more = session.generate(" And then?", params())
            assert more.num_cached_tokens >= (len(tokens) - 1) // 16 * 16
    with opened(text_engine_file, tmp_path / "elsewhere") as engine:
        with engine.session(tmp_path / "notes.l4s") as session:
            assert session.name is None and session.token_ids == tokens
            again = session.generate(" And then?", params())
            assert again.outputs == more.outputs
            assert again.num_cached_tokens == more.num_cached_tokens
        assert engine.sessions() == []
        assert engine.import_session(tmp_path / "notes.l4s") == "notes"
        with pytest.raises(RequestError, match="already"):
            engine.import_session(tmp_path / "notes.l4s")
        engine.delete_session("notes")
        assert engine.sessions() == []


@pytest.mark.parametrize("breaks", [(40,), (1, 39), (7, 16, 17), (20, 20)])
def test_an_answer_in_parts_is_the_answer(
    breaks: tuple[int, ...], text_engine_file: Path, tmp_path: Path
) -> None:
    with Engine(text_engine_file, **OPTIONS) as engine:
        (whole,) = engine.generate(TEXT, RANDOM)
    output = whole.outputs[0]
    parts = []
    for number, count in enumerate(breaks):
        with opened(text_engine_file, tmp_path / "kv") as engine, engine.session("s") as session:
            content = TEXT if number == 0 else None
            parts.append(session.generate(content, replace(RANDOM, max_tokens=count)))
            if number > 0:
                assert parts[-1].num_cached_tokens == (session.num_tokens - count - 1) // 16 * 16
    assert [i for part in parts for i in part.outputs[0].token_ids] == output.token_ids
    # A part that ends inside a character cannot show it, and the next one shows it whole.
    texts = ["".join(part.outputs[0].text for part in parts), output.text]
    assert len({text.replace("\ufffd", "") for text in texts}) == 1, texts
    logprobs = [entry for part in parts for entry in part.outputs[0].logprobs or ()]
    assert logprobs == output.logprobs  # every bit


def test_without_a_seed_the_session_has_one(text_engine_file: Path, tmp_path: Path) -> None:
    loose = SamplingParams(temperature=1.0, max_tokens=30, ignore_eos=True)
    with opened(text_engine_file, tmp_path / "kv") as engine, engine.session("a") as session:
        session.append(TEXT)
        fork = session.fork("b")
        whole = session.generate(params=loose).outputs[0].token_ids
        fork.close()
    with opened(text_engine_file, tmp_path / "kv") as engine, engine.session("b") as session:
        first = session.generate(params=replace(loose, max_tokens=11)).outputs[0].token_ids
        second = session.generate(params=replace(loose, max_tokens=19)).outputs[0].token_ids
        assert first + second == whole
        session.append("more")
        assert session.generate(params=loose).outputs[0].token_ids != whole


def test_conversations_are_the_template_s(text_engine_file: Path, tmp_path: Path) -> None:
    turns = ["hello", "and again", "the third"]
    with opened(text_engine_file, tmp_path / "kv") as engine:
        messages: list[dict[str, Any]] = [{"role": "system", "content": "be brief"}]
        session = engine.session("talk")
        session.append(messages)
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            answer = session.generate([messages[-1]], params())
            tokens = session.token_ids[: -len(answer.outputs[0].token_ids)]
            # Apart from the answers' own tokens, which need not be those that its text is encoded to.
            if turn == turns[0]:
                assert tokens == engine.apply_chat_template(messages)
            messages.append({"role": "assistant", "content": answer.outputs[0].text})
        whole = engine.apply_chat_template(messages, add_generation_prompt=False)
        assert session.messages == messages
        eot = engine.apply_chat_template([messages[0]], add_generation_prompt=False)[-1]
        assert session.token_ids.count(eot) == whole.count(eot) - 1  # the latest answer is open
        session.close()
    with opened(text_engine_file, tmp_path / "kv") as engine, engine.session("talk") as session:
        assert session.messages == messages
        assert session.generate([{"role": "user", "content": "last"}], params()).num_cached_tokens > 16
        with pytest.raises(RequestError, match="is open already"):
            engine.session("talk")
        with engine.session("words") as words:
            words.append("words")
            with pytest.raises(RequestError, match="began with messages"):
                words.append([{"role": "user", "content": "x"}])


def test_pictures_come_back(vision_engine_file: Callable[..., Path], tmp_path: Path) -> None:
    path = vision_engine_file("micro_vision")
    noise = np.random.default_rng(3).integers(0, 256, (8, 24, 3), dtype=np.uint8)
    other = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    prompt = "look: <|image|> and " + "so on " * 8
    with Engine(path, **OPTIONS) as engine:
        (whole,) = engine.generate(prompt, RANDOM, images=[noise])
    with opened(path, tmp_path / "kv") as engine:
        session = engine.session("seen")
        session.append(prompt, images=[noise])
        first = session.generate(params=replace(RANDOM, max_tokens=15))
        session.export(tmp_path / "seen.l4s")
        session.close()
    for store in ("kv", "elsewhere"):
        with opened(path, tmp_path / store) as engine:
            session = engine.session("seen" if store == "kv" else tmp_path / "seen.l4s")
            fork = session.fork()
            second = fork.generate(params=replace(RANDOM, max_tokens=25))
            # This model has no global layers: nothing of a closed attention chunk is needed, nor exported.
            assert second.num_cached_tokens >= 48 or store == "elsewhere"
            tokens = first.outputs[0].token_ids + second.outputs[0].token_ids
            assert tokens == whole.outputs[0].token_ids
            assert fork.generate("<|image|>?", params(), images=[other]).outputs[0].token_ids
            session.close()
    assert list((tmp_path / "kv/pictures").iterdir())
    with opened(path, tmp_path / "kv") as engine:
        with engine.session("talk") as talk:
            part = {"type": "image", "image": other}
            for _ in range(2):
                talk.generate([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}], params())
            assert talk.messages is not None and talk.messages[0]["content"][0] == {"type": "image"}
        with engine.session("talk") as talk:
            assert talk.generate([{"role": "user", "content": "and?"}], params()).num_cached_tokens > 0
        engine.delete_session("seen")
        engine.delete_session("talk")
    assert not list((tmp_path / "kv/pictures").iterdir())


def test_what_is_refused(text_engine_file: Path, engine_file: Callable[..., Path], tmp_path: Path) -> None:
    with Engine(text_engine_file, **OPTIONS) as engine, pytest.raises(ConfigError, match="kv_store"):
        engine.session("x")
    with pytest.raises(ConfigError, match="prefix_cache"):
        opened(text_engine_file, tmp_path / "kv", prefix_cache=False)
    with pytest.raises(ConfigError, match="kv_store_size"):
        Engine(text_engine_file, kv_store=tmp_path / "kv", kv_store_size="1KiB", **OPTIONS)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no directory"):
        opened(text_engine_file, tmp_path / "file")
    with opened(text_engine_file, tmp_path / "kv") as engine:
        for name in ("", "../x", "a" * 101, ".x", "x\n"):
            with pytest.raises(RequestError, match=r"session name|cannot be read"):
                engine.session(name)
        with pytest.raises(RequestError, match="no session"):
            engine.delete_session("nobody")
        session = engine.session("x")
        with pytest.raises(RequestError, match="empty"):
            session.generate()
        with pytest.raises(RequestError, match="n is 2"):
            session.generate("x", SamplingParams(n=2))
        session.append("hello " * 20)
        with pytest.raises(RequestError, match="max_model_len"):
            session.append("x" * 3000)
        assert session.num_tokens == 121  # as before
        session.export(tmp_path / "x.l4s")
        session.close()
        with pytest.raises(RequestError, match="closed"):
            session.append("x")
    with opened(engine_file("scout"), tmp_path / "kv") as engine:
        for what in ("x", tmp_path / "x.l4s"):
            with pytest.raises(RequestError, match="SHA-256"):
                engine.session(what)
        engine.session("x2").close()


def test_a_refusal_leaves_the_session_as_it_was(text_engine_file: Path, tmp_path: Path) -> None:
    """Also on disk: a token that the model does not have would otherwise be refused for ever after."""
    refused: list[tuple[Any, dict[str, Any], str]] = [
        ([10**6], {}, "10"),
        ("again", {"logit_bias": {10**6: 1}}, "logit_bias"),
        ("again", {"stop_token_ids": [10**6]}, "stop_token_ids"),
        ("again", {"ignore_eos": False, "structured": StructuredOutput.grammar("start: nowhere")}, "nowhere"),
    ]
    with opened(text_engine_file, tmp_path / "kv") as engine:
        with engine.session("x") as session:
            session.append("hello")
            kept = session.token_ids
            with pytest.raises(RequestError, match="token ids of this model"):
                session.append([5, 10**6])
            assert session.token_ids == kept
            for content, fields, says in refused:
                with pytest.raises(RequestError, match=says):
                    session.generate(content, params(**fields))
                assert session.token_ids == kept
            for wrong in (None, 5, object()):
                with pytest.raises(RequestError):
                    session.append(wrong)  # type: ignore[arg-type]
            with pytest.raises(RequestError, match="SamplingParams"):
                session.generate("x", {"max_tokens": 3})  # type: ignore[arg-type]
            assert session.token_ids == kept
        with engine.session("x") as session:
            assert session.token_ids == kept
            assert session.generate("again", params()).outputs[0].token_ids
        for wrong in (None, 5):
            with pytest.raises(RequestError, match="name"):
                engine.session(wrong)  # type: ignore[arg-type]
            with pytest.raises(RequestError, match="path"):
                engine.import_session(wrong)  # type: ignore[arg-type]


def test_a_stream_that_is_held_open_is_not_talked_over(text_engine_file: Path, tmp_path: Path) -> None:
    with opened(text_engine_file, tmp_path / "kv") as engine, engine.session("x") as session:
        session.append("hello")
        before = session.num_tokens
        stream = session.stream(None, params(max_tokens=20, ignore_eos=True))
        said = next(stream).token_ids
        with pytest.raises(RequestError, match="is answering"):
            session.append("more")
        stream.close()  # type: ignore[attr-defined]
        assert session.token_ids[before:] == list(said)
        session.append("more")


def test_hostile_files_are_refused(text_engine_file: Path, tmp_path: Path) -> None:
    with opened(text_engine_file, tmp_path / "kv") as engine:
        with engine.session("x") as session:
            session.append(TEXT)
            expected = session.fork().generate(params=params()).outputs[0].token_ids
            session.export(tmp_path / "x.l4s")
        whole = (tmp_path / "x.l4s").read_bytes()
        random = np.random.default_rng(1)
        refused = 0
        for round_ in range(40):
            changed = bytearray(whole)
            for at in random.integers(0, len(changed), 3):
                changed[at] ^= 1 << int(random.integers(8))
            if round_ % 4 == 0:
                del changed[int(random.integers(len(changed))) :]
            (tmp_path / "y.l4s").write_bytes(changed)
            try:
                session = engine.session(tmp_path / "y.l4s")
            except RequestError:
                refused += 1
                continue
            if session.token_ids == tokens_of(engine, "x"):
                assert session.generate(params=params()).outputs[0].token_ids == expected
            session.close()
        assert refused > 20
        with zipfile.ZipFile(tmp_path / "z.l4s", "w") as archive:
            archive.writestr("session.json", '{"format": "llama4rt session", "version": 2}')
        with pytest.raises(RequestError, match="version"):
            engine.session(tmp_path / "z.l4s")


def tokens_of(engine: Engine, name: str) -> list[int]:
    with engine.session(name) as session:
        return session.token_ids


def test_damage_is_said_in_the_log(
    text_engine_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(text_engine_file, tmp_path / "kv") as engine:
        (before,) = engine.generate(TEXT, params())
    for segment in (tmp_path / "kv").glob("*.kvs"):
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 4
        segment.write_bytes(data)
    with (
        caplog.at_level(logging.WARNING, "llama4rt.kv_store"),
        opened(text_engine_file, tmp_path / "kv") as engine,
    ):
        (after,) = engine.generate(TEXT, params())
        assert engine.stats()["store"]["damaged"] > 0
    assert after.outputs == before.outputs
    assert after.num_cached_tokens < (len(before.prompt_token_ids) - 1) // 16 * 16
    assert "computed again" in caplog.text


WORKER = """
import sys
from llama4rt import Engine, SamplingParams
path, store, text = sys.argv[1:]
engine = Engine(path, kv_store=store, kv_store_size="64MiB", kv_cache_memory="32MiB", max_model_len=2048,
                num_threads=2, max_batched_tokens=32)
print("ready", flush=True)
session = engine.session("s")
if session.num_tokens == 0:
    session.append(text * 4)
print(session.generate(params=SamplingParams(temperature=1.0, seed=3, max_tokens=20, ignore_eos=True)), flush=True)
"""


def stored(store: Path) -> int:
    return sum(path.stat().st_size for path in store.glob("*.kvs"))


def test_kill_9_loses_nothing_but_time(text_engine_file: Path, tmp_path: Path) -> None:
    text = TEXT + "x"
    strict = SamplingParams(temperature=1.0, seed=3, max_tokens=20, ignore_eos=True)
    with Engine(text_engine_file, **OPTIONS) as engine:
        expected = engine.generate(text * 4, strict)[0].outputs[0].token_ids
    reused = 0
    for size in (0, 20_000, 60_000, 120_000):  # bytes of blocks at the time of the kill
        store = tmp_path / f"kv-{size}"
        command = [sys.executable, "-c", WORKER, str(text_engine_file), str(store), text]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 30
            while stored(store) < size and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)
        with opened(text_engine_file, store) as engine:
            (out,) = engine.generate(text * 4, strict)
            assert out.outputs[0].token_ids == expected
            reused += out.num_cached_tokens
            assert engine.stats()["store"]["damaged"] == 0
            with engine.session("s") as session:
                prompt = 1 + 4 * len(text)
                if session.num_tokens == 0:
                    session.append(text * 4)
                if session.num_tokens == prompt:
                    session.generate(params=strict)
                assert session.token_ids[prompt:] == expected
    assert reused > 0


def test_a_full_disk_stops_nothing(text_engine_file: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)); "  # a file cannot grow past that: EFBIG
        "from llama4rt import Engine, SamplingParams; import logging; logging.basicConfig(level=logging.WARNING); "
        "engine = Engine(sys.argv[1], kv_store=sys.argv[2], kv_store_size='64MiB', kv_cache_memory='32MiB', "
        "max_model_len=2048, num_threads=2); "
        "p = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True); "
        "print(engine.generate(sys.argv[3] * 3, p)[0].outputs[0].token_ids); engine.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(text_engine_file), str(tmp_path / "kv"), TEXT],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    with opened(text_engine_file, tmp_path / "kv") as engine:
        (out,) = engine.generate(TEXT * 3, params())
    assert done.stdout.strip() == str(out.outputs[0].token_ids)
    assert "no blocks are kept" in done.stderr


def test_two_threads_share_one_session(text_engine_file: Path, tmp_path: Path) -> None:
    with opened(text_engine_file, tmp_path / "kv") as engine, engine.session("s") as session:
        session.append(TEXT)
        threads = [
            threading.Thread(target=session.generate, args=(None, params(max_tokens=5))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.num_tokens == 1 + len(TEXT) + 20


def test_the_command_line(
    text_engine_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kv = ["--kv-store", str(tmp_path / "kv"), "--kv-store-size", "64MiB"]
    memory = ["--max-model-len", "2048", "--kv-cache-memory", "32MiB"]
    chat = ["chat", str(text_engine_file), "--session", "talk", "--temperature", "0", "-n", "8", *kv, *memory]
    for line in ("hello, this is a first line\n", "and a second\n"):
        monkeypatch.setattr("sys.stdin", StringIO(line))
        assert main(chat) == 0
    said = capsys.readouterr()
    assert "reused" in said.err
    assert main(["sessions", "list", *kv[:2]]) == 0
    assert capsys.readouterr().out.startswith("talk")
    exported = str(tmp_path / "talk.l4s")
    assert main(["sessions", "export", "talk", exported, str(text_engine_file), *kv, *memory]) == 0
    imported = ["sessions", "import", exported, str(text_engine_file), "--name", "other", *kv, *memory]
    assert main(imported) == 0
    assert main(imported) == 1  # it is there
    capsys.readouterr()
    assert main(["sessions", "list", *kv[:2]]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["other", "talk"]
    assert main(["sessions", "delete", "talk", *kv[:2]]) == 0
    assert main(["sessions", "delete", "talk", *kv[:2]]) == 1
