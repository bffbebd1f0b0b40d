"""Clients that nobody here wrote, each in its own environment under build/clients: their needs contradict ours."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from llama4rt import Engine, SamplingParams
from serving import RunningServer, engine_fixture, running_server

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "build/clients"
REQUIREMENTS = ROOT / "requirements"
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def environment(name: str) -> Path:
    """The python of an environment with requirements/client-{name}.txt; skips when the index does not have them."""
    python = CLIENTS / name / "bin/python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", CLIENTS / name], check=True)
    if subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode != 0:
        for lock, *flags in (["sdist-build"], [f"client-{name}", "--no-build-isolation"]):
            install = [python, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", *flags]
            done = subprocess.run(
                [*install, "-r", REQUIREMENTS / f"{lock}.txt"], capture_output=True, text=True
            )
            if done.returncode != 0:
                pytest.skip(f"{lock}.txt cannot be installed: {done.stderr[-200:]}")
    return python


engine = engine_fixture(kv_cache_memory="128MiB")


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine) as server:
        yield server


LITELLM = """
import json, sys
import litellm
url, texts = sys.argv[1], json.loads(sys.argv[2])
fields = dict(model="openai/demo", api_base=url, api_key="-", temperature=0, max_tokens=24)
out = []
for text in texts:
    messages = [{"role": "user", "content": text}]
    out.append(litellm.completion(messages=messages, **fields).choices[0].message.content)
    chunks = litellm.completion(messages=messages, stream=True, **fields)
    out.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
tool = {"type": "function", "function": {"name": "f", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}
reply = litellm.completion(messages=messages, tools=[tool], tool_choice="required", **fields)
call = reply.choices[0].message.tool_calls[0]
out.append(call.function.name)
out.append(json.loads(call.function.arguments)["a"])
try:
    litellm.completion(messages=messages, **{**fields, "model": "openai/none"})
except litellm.NotFoundError:
    out.append("not found")
print(json.dumps(out))
"""


def test_litellm(server: RunningServer, engine: Engine) -> None:
    python = environment("litellm")
    texts = ["Hello", "What can you do?"]
    command = [python, "-c", LITELLM, server.url + "/v1", json.dumps(texts)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    *answers, name, argument, missing = json.loads(done.stdout.splitlines()[-1])
    params = SamplingParams(temperature=0, max_tokens=24)
    own = [
        engine.chat([{"role": "user", "content": t}], params)[0].outputs[0].text
        for t in texts
        for _ in range(2)
    ]
    assert answers == own and name == "f" and isinstance(argument, int) and missing == "not found"


def test_lm_evaluation_harness(server: RunningServer, engine: Engine, tmp_path: Path) -> None:
    """local-completions on a task of our own: every log-likelihood equals the one from the engine's logits."""
    python = environment("lm_eval")
    rng = random.Random(3)
    documents = []
    for _ in range(12):
        a, b = rng.randrange(1, 9), rng.randrange(1, 9)
        choices = [f" {n}" for n in rng.sample(range(1, 19), 3)]
        documents.append(
            {"question": f"What is {a} plus {b}?", "choices": choices, "label": rng.randrange(3)}
        )
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path}/sums.jsonl\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: choices\ndoc_to_target: label\ntarget_delimiter: ""\n'
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    command = [
        python, "-m", "lm_eval", "--model", "local-completions", "--tasks", "sums", "--include_path", tmp_path,
        "--model_args", f"model=demo,base_url={server.url}/v1/completions,num_concurrent=4,max_retries=1",
        "--output_path", tmp_path / "out", "--log_samples",
    ]  # fmt: skip
    env = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "OPENAI_API_KEY": "-"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1800, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_sums*.jsonl")
    seen = 0
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    for sample in map(json.loads, samples.read_text().splitlines()):
        for choice, response in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            whole = tokenizer.encode(sample["doc"]["question"] + choice)
            start = len(tokenizer.encode(sample["doc"]["question"]))
            logits = engine.score(whole).astype("float64")
            own = sum(log_softmax(logits[i - 1], whole[i]) for i in range(start, len(whole)))
            assert float(response[0][0]) == pytest.approx(own, abs=1e-2)
            seen += 1
    assert seen == 36


def log_softmax(row: Any, token: int) -> float:
    top = float(row.max())
    return float(row[token]) - top - math.log(sum(math.exp(float(x) - top) for x in row))
