"""Adapters of a server are models to its clients: listed with their parent, chosen by `model`, unknown ones refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("uvicorn")

from llama4rt import Engine, SamplingParams
from llama4rt.demo import engine_path
from loaded_adapters import write_adapter
from serving import CHAT, HELLO, RunningServer, post, running_server


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(engine_path(), num_threads=1, kv_cache_memory="64MiB", adapter_memory="64MiB") as opened:
        folder = tmp_path_factory.mktemp("adapters") / "loud"
        write_adapter(folder, opened.config, seed=1, rank=8, lora_alpha=64)
        opened.load_adapter("loud", folder)
        yield opened


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine) as server:
        yield server


def expected(engine: Engine, adapter: str | None) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=8, adapter=adapter)
    return list(engine.chat(HELLO["messages"], params)[0].outputs[0].token_ids)


def test_models(server: RunningServer) -> None:
    models: Any = httpx2.get(f"{server.url}/v1/models").json()
    base, loud = models["data"]
    assert loud["id"] == "loud" == models["last_id"] and loud["parent"] == base["id"] and "parent" not in base
    assert httpx2.get(f"{server.url}/v1/models/loud").json() == loud


def test_a_request_names_one(server: RunningServer, engine: Engine) -> None:
    own, plain = expected(engine, "loud"), expected(engine, None)
    assert own != plain
    tokenizer: Any = engine.tokenizer
    for model, ids in (("loud", own), (None, plain)):
        reply: Any = post(server, CHAT, HELLO | ({"model": model} if model else {})).json()
        assert reply["choices"][0]["message"]["content"] == tokenizer.decode(ids, skip_special_tokens=True)
    prompt = engine.apply_chat_template(HELLO["messages"])
    for path, body in (
        ("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 8}),
        ("/v1/responses", {"input": "Hello", "temperature": 0, "max_output_tokens": 16}),
    ):
        replies = [post(server, path, body | {"model": name}) for name in ("loud", server.service.model)]
        assert [reply.status_code for reply in replies] == [200, 200]
        loud, other = (reply.json() for reply in replies)
        key = "choices" if "choices" in loud else "output"
        texts = [str(reply[key]) for reply in (loud, other)]
        assert loud["model"] == "loud" and texts[0] != texts[1]
    refused = post(server, CHAT, HELLO | {"model": "quiet"})
    assert refused.status_code == 404 and "loud" in refused.json()["error"]["message"]


def test_commands(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llama4rt.cli.main import main

    folder = tmp_path / "adapter"
    write_adapter(folder, engine.config, seed=1, rank=8, lora_alpha=64)
    asked = ["generate", "--token-ids", "300,301,302", "-n", "8", "--temperature", "0", "--json"]
    outputs = []
    for more in ([], ["--lora", f"x={folder}"], ["--lora", f"x={folder}", "--adapter", "x"]):
        assert main([*asked, *more]) == 0
        outputs.append(capsys.readouterr().out.split('"token_ids": ')[1].split("]")[0])
    assert outputs[0] == outputs[1] != outputs[2]
    for more in (["--lora", str(folder)], ["--adapter", "x"], ["--lora", "x=nowhere"]):
        assert main([*asked, *more]) != 0
