"""The evaluation harness itself runs on an engine file, and finds the log-likelihoods that transformers has of it."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from test_server_clients import environment

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

BEGIN, ENDS = 256, (257, 264)
# The harness in an environment of its own; llama4rt and what it imports come after it on the path, and are the same as
# `python -m llama4rt.lm_eval` where both are installed together.
PROGRAM = "import site, sys; site.addsitedir({site!r}); from llama4rt.lm_eval.__main__ import main; main()"


def write_tasks(folder: Path) -> None:
    rng = random.Random(5)
    words = ["sea", "wall", "stone", "boat", "north", "flood", "count", "story", "quarry", "number"]
    lines = [
        {
            "text": " ".join(rng.choices(words, k=6)),
            "choices": [f" {word}" for word in rng.sample(words, 3)],
            "label": rng.randrange(3),
        }
        for _ in range(10)
    ]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = f"dataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: {folder}/lines.jsonl\n"
    question = 'doc_to_text: "{{text}}"\n'
    tasks = {
        "choose": f"output_type: multiple_choice\n{question}doc_to_choice: choices\ndoc_to_target: label\n"
        'target_delimiter: ""\nmetric_list:\n  - metric: acc\n',
        "roll": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list:\n  - metric: bits_per_byte\n",
        "go_on": f'output_type: generate_until\n{question}doc_to_target: "{{{{text}}}}"\n'
        "generation_kwargs:\n  until: []\n  max_gen_toks: 8\n  do_sample: false\n"
        "metric_list:\n  - metric: exact_match\n",
    }
    for name, text in tasks.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{common}{text}")


def test_the_harness_finds_what_transformers_has(text_engine_file: Path, tmp_path: Path) -> None:
    from tiny_checkpoints import load_oracle, oracle_greedy

    python = environment("lm_eval")
    write_tasks(tmp_path)
    site = sysconfig.get_paths()["purelib"]
    command = [
        str(python), "-c", PROGRAM.format(site=site), "run", "--model", "llama4rt",
        "--model_args", f"file={text_engine_file},kv_cache_dtype=f32,kv_cache_memory=64MiB,max_model_len=128",
        "--tasks", "choose,roll,go_on", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"),
        "--log_samples",
    ]  # fmt: skip
    env = {
        "PATH": os.environ["PATH"],
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    oracle = load_oracle(text_engine_file.parent / "scout-text", "float32", "eager")

    def logprob(context: str, continuation: str) -> tuple[float, bool]:
        ids = [BEGIN, *(context + continuation).encode()]
        first = 1 + len(context.encode())
        with torch.no_grad():
            logits = oracle(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        places = range(first, len(ids))
        return (
            sum(float(logits[i - 1, ids[i]]) for i in places),
            all(int(logits[i - 1].argmax()) == ids[i] for i in places),
        )

    seen = 0
    for sample in samples(tmp_path, "choose"):
        for choice, response in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            value, greedy = logprob(sample["doc"]["text"], choice)
            assert float(response[0][0]) == pytest.approx(value, abs=2e-3)
            assert str(response[0][1]) == str(greedy)
            seen += 1
    assert seen == 30
    for sample in samples(tmp_path, "roll"):
        text = sample["doc"]["text"]
        assert float(sample["resps"][0][0]) == pytest.approx(logprob("", text)[0], abs=2e-3)
        seen += 1
    for sample in samples(tmp_path, "go_on"):
        own = oracle_greedy(oracle, (BEGIN, *sample["doc"]["text"].encode()), 8)
        words = itertools.takewhile(lambda token: token not in ENDS, own)
        text = bytes(token for token in words if token < BEGIN).decode("utf-8", "replace")
        assert sample["resps"][0][0] == text
        seen += 1
    assert seen == 50
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    bits = results["results"]["roll"]["bits_per_byte,none"]
    texts = [json.loads(line)["text"] for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    total = sum(logprob("", text)[0] for text in texts) / math.log(2)
    assert bits == pytest.approx(-total / sum(len(text.encode()) for text in texts), rel=1e-3)


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (path,) = (folder / "out").rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
