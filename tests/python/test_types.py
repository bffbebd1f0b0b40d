"""The types of the Python API: a checker finds what people misspell, and accepts what they write."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from llama4rt import AsyncEngine, Engine, build
from llama4rt.convert import build_options
from llama4rt.engine import option_types
from llama4rt.engine.option_types import EngineOptions
from llama4rt.engine.report_types import EngineStats, ModelConfig

ROOT = Path(__file__).resolve().parents[2]

# Each line that ends in `# wrong` must be refused, and no other.
PROGRAM = """
import asyncio
import numpy as np
from llama4rt import AsyncEngine, Engine, SamplingParams, build
from llama4rt.engine.option_types import EngineOptions

AsyncEngine("m.l4e", kv_cache_mem="1")  # wrong
AsyncEngine("m.l4e", kv_cache_memory="1GiB", device="cuda:1")
Engine("m.l4e", device="cudua")  # wrong
Engine("m.l4e", kv_cache_dtype="q8_0")  # wrong
Engine("m.l4e", activations="int4")  # wrong
Engine("m.l4e", num_threads="2")  # wrong
Engine.from_pretrained("owner/name", weights="int5")  # wrong
Engine.from_pretrained("owner/name", weights="int8", group_size=64)
AsyncEngine.from_pretrained("owner/name", wieghts="int8")  # wrong
build("src", "m.l4e", weights="int5")  # wrong
build("src", "m.l4e", target="gpu")  # wrong
build("src", "m.l4e", group_size=100)  # wrong
build("src", "m.l4e", weights="int8", target="cuda", group_size=64, lm_head="bf16", vision="none")
engine = Engine()
messages = [{"role": "user", "content": "hi"}]
parts = [{"role": "user", "content": [{"type": "image", "path": "a.jpg"}, {"type": "text", "text": "?"}]}]
engine.prepare_chat(messages, tool=[1])  # wrong
engine.prepare_chat([], tools=[1])  # wrong
engine.chat(messages, {"max_tokens": 3})  # wrong
engine.chat({"role": "user", "content": "hi"})  # wrong
engine.chat(messages, SamplingParams(), add_generation_promt=True)  # wrong
engine.chat(messages, tools=[{"name": "f"}], continue_final_message=False, options={"date_string": "1 May"})
engine.chat([messages, parts])
engine.generate("x", SamplingParams(max_token=3))  # wrong
engine.generate(["x", "y"], [SamplingParams(), SamplingParams(n=2)])
engine.generate([[1, 2], [3]])
engine.generate(np.array([1, 2, 3]))
engine.generate(5)  # wrong
engine.generate("<|image|>", images=["a.jpg", np.zeros((2, 2, 3), np.uint8), b"x"])
engine.generate(["<|image|>"], images=[["a.jpg"], None])
engine.generate("x", images=[5])  # wrong
text: str = engine.chat(messages)[0].text
for delta in engine.stream_chat(messages, SamplingParams(), tools=[]):
    print(delta.text, delta.finish_reason == "stop")
    print(delta.finish_reason == "tool_calls")  # wrong
print(engine.stats()["running"], engine.config["hidden_size"])
print(engine.stats()["runing"])  # wrong
print(engine.config["hiden_size"])  # wrong
options: EngineOptions = {"max_model_len": 512, "devise": "cpu"}  # wrong
tokenizer = engine.tokenizer
assert tokenizer is not None
prompt: str = tokenizer.apply_chat_template(messages, tokenize=False)
ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
print(len(tokenizer), tokenizer("text").input_ids)


async def main() -> None:
    a = AsyncEngine()
    answers = await a.generate("x")
    print(answers[0].text)
    async for output in a.chat(messages, tools=[]):
        print(output.text)
    async for delta in a.stream_chat(messages):
        print(delta.text)
    await a.prepare_chat([], tool=[1])  # wrong
    a.stream_chat(messages, tols=[])  # wrong
    (await a.score("x")).shape
    a.score("x").shape  # wrong


asyncio.run(main())
"""


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="no mypy here: make check installs it")
def test_mypy_finds_every_mistake_and_nothing_else(tmp_path: Path) -> None:
    """Of the installed package, in the strictest way that mypy has."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT / 'python'}\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "mypy.ini",
        "--follow-imports=silent",
        "program.py",
    ]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "programs")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    found = {int(number) for number in re.findall(r"^program\.py:(\d+): error", done.stdout, re.M)}
    wrong = {number for number, line in enumerate(PROGRAM.split("\n"), 1) if line.endswith("# wrong")}
    assert len(wrong) >= 25 and found == wrong, done.stdout + done.stderr


def values(kind: object) -> tuple[object, ...]:
    return typing.get_args(kind)


def test_types_say_what_is_accepted() -> None:
    from llama4rt import _core
    from llama4rt.cli import common_options

    assert values(build_options.Target) == build_options.TARGETS
    assert sorted(map(str, values(build_options.WeightKind))) == sorted(build_options.WEIGHTS)
    assert values(build_options.GroupSize) == tuple(_core.group_sizes())
    assert values(build_options.Quantize) == build_options.QUANTIZE
    assert sorted(map(str, values(build_options.LmHead))) == sorted(build_options.LM_HEADS)
    assert values(build_options.Vision) == build_options.VISION
    assert values(option_types.KvCacheDtype) == common_options.KV_CACHE_DTYPES


def test_options_are_those_of_the_constructor() -> None:
    parameters = list(inspect.signature(Engine.__init__).parameters)
    assert parameters[:2] == ["self", "path"] and set(parameters[2:]) == set(EngineOptions.__annotations__)


def test_an_engine_s_reports_have_the_form_that_is_told() -> None:
    with Engine(num_threads=1, kv_cache_memory="16MiB") as engine:
        assert set(engine.stats()) == EngineStats.__required_keys__
        assert set(engine.config) == set(ModelConfig.__annotations__)


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
def test_nothing_that_people_call_takes_or_gives_anything(kind: type) -> None:
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and callable(member):
            signature = str(inspect.signature(member))
            assert "Any" not in signature, f"{name}{signature}"
    assert "Any" not in str(inspect.signature(build))


def test_both_engines_have_the_same_calls() -> None:
    """Beside what is for callers that wait for events themselves."""
    lower = {
        "stream_request",
        *("prompts", "prepare_request", "submit", "hold", "abandon", "reap", "native", "thread", "file"),
        "loaded_adapters",
    }
    public = {name for name in dir(Engine) if not name.startswith("_")} - lower
    assert public - set(dir(AsyncEngine)) == set()
