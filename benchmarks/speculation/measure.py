"""What speculation gains: four kinds of work, each prompt answered without guesses and with them, in turn, in one run.

    python benchmarks/speculation/measure.py ENGINE.l4e [--threads 1] [--prompts 6] [--tokens 160] [--batch 1]
        [--behind 0] [--drafters auto ngram] [--out FILE]

Texts are Python's own: the pages of `help()` and the sources of its library, so that everybody has them. The answers
are compared: they must be the same. Two times for each token after the prompt: by the clock, and of the processor,
which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import statistics
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from llama4rt import Engine, SamplingParams, StructuredOutput
from llama4rt.cli.provenance import command_line, commit, machine

PEOPLE = {
    "type": "array",
    "minItems": 4,
    "maxItems": 6,
    "items": {
        "type": "object",
        "properties": {
            "full_name": {"type": "string", "maxLength": 30},
            "year_of_birth": {"type": "integer", "minimum": 1900, "maximum": 2020},
            "occupation": {"type": "string", "maxLength": 30},
            "home_town": {"type": "string", "maxLength": 30},
        },
        "required": ["full_name", "year_of_birth", "occupation", "home_town"],
        "additionalProperties": False,
    },
}
FUNCTIONS: list[Any] = [
    textwrap.dedent,
    textwrap.indent,
    textwrap.shorten,
    inspect.getdoc,
    inspect.cleandoc,
    statistics.mean,
    statistics.median,
    statistics.median_low,
    statistics.mode,
    inspect.getmodulename,
    random.choices,
    json.loads,
]


@dataclass
class Work:
    """Prompts of one kind, and how they are answered."""

    messages: list[str]
    params: dict[str, Any]


@dataclass
class Taken:
    """What all prompts of one kind took."""

    clock: list[float] = field(default_factory=list)  # seconds a token, of each prompt
    processor: list[float] = field(default_factory=list)
    tokens: int = 0
    steps: int = 0
    drafted: list[int] = field(default_factory=lambda: [0] * 16)
    accepted: list[int] = field(default_factory=lambda: [0] * 16)


def works(count: int) -> dict[str, Work]:
    rng = random.Random(1)
    places = ["Delft", "Oxford", "Turin", "Kyoto", "Lima", "Cork"]
    jobs = ["plumber", "pilot", "historian", "nurse", "baker", "engineer"]
    first, last = (
        ["Ada", "Ben", "Cleo", "Dirk", "Eva", "Finn"],
        ["Moor", "Stone", "Visser", "Okafor", "Lind", "Ruiz"],
    )
    records = []
    for _ in range(count):
        lines = [
            f"{rng.choice(first)} {rng.choice(last)}, born in {rng.randrange(1940, 2005)}, lives in "
            f"{rng.choice(places)} and works as a {rng.choice(jobs)}."
            for _ in range(5)
        ]
        records.append("List these people as JSON.\n\n" + "\n".join(lines))
    texts = [topics[name] for name in sorted(topics) if 1200 < len(topics[name]) < 6000]
    stories = ["a lighthouse", "a lost dog", "two brothers", "the last train", "a violin", "a storm", "an old map",
               "a garden", "a letter", "the moon", "a bridge", "winter"]  # fmt: skip
    codes = [inspect.getsource(function)[:1500] for function in FUNCTIONS]
    return {
        "free text": Work(
            [f"Write a short story about {story}." for story in stories[:count]], {"temperature": 1.0}
        ),
        "summary": Work(
            [f"Summarise this text.\n\n{text[:1500]}" for text in texts[:count]], {"temperature": 0}
        ),
        "editing code": Work(
            [
                f"Add a type hint to the first argument of this Python function and change nothing else. Reply with "
                f"the whole function.\n\n```python\n{code}```"
                for code in codes[:count]
            ],
            {"temperature": 0},
        ),
        "JSON extraction": Work(
            records, {"temperature": 0, "structured": StructuredOutput.json_schema(PEOPLE)}
        ),
    }


def counters(engine: Engine) -> dict[str, Any]:
    return dict(engine.stats()["speculation"])


def answer(engine: Engine, prompts: list[list[int]], params: SamplingParams, taken: Taken) -> list[list[int]]:
    """Prompts first, so that what is timed are steps of decoding."""
    engine.generate(prompts, SamplingParams(max_tokens=1, temperature=0))
    before = counters(engine)
    clock, processor = time.perf_counter(), time.process_time()
    outputs = engine.generate(prompts, params)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    tokens = [output.outputs[0].token_ids for output in outputs]
    count = sum(len(ids) for ids in tokens)
    taken.clock.append(clock / count)
    taken.processor.append(processor / count)
    after = counters(engine)
    taken.tokens += after["tokens"] - before["tokens"]
    taken.steps += after["sequence_steps"] - before["sequence_steps"]
    for i in range(16):
        taken.drafted[i] += after["drafted"][i] - before["drafted"][i]
        taken.accepted[i] += after["accepted"][i] - before["accepted"][i]
    return tokens


def row(plain: Taken, guessing: Taken) -> dict[str, Any]:
    clock = [a / b for a, b in zip(plain.clock, guessing.clock, strict=True)]
    processor = [a / b for a, b in zip(plain.processor, guessing.processor, strict=True)]
    return {
        "speedup_clock": round(statistics.median(clock), 3),
        "speedup_processor": round(statistics.median(processor), 3),
        "speedup_of_sums": round(sum(plain.clock) / sum(guessing.clock), 3),
        "ms_per_token_without": round(1000 * statistics.median(plain.clock), 3),
        "ms_per_token_with": round(1000 * statistics.median(guessing.clock), 3),
        "tokens_per_step": round(guessing.tokens / max(guessing.steps, 1), 3),
        "guessed": sum(guessing.drafted),
        "right": sum(guessing.accepted),
        "right_by_position": [
            round(a / d, 3) for a, d in zip(guessing.accepted, guessing.drafted, strict=True) if d
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=6, help="of each kind, at most 12")
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--batch", type=int, default=1, help="prompts at a time")
    parser.add_argument("--behind", type=int, default=0, help="tokens of other text in front of each prompt")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--drafters", nargs="+", default=["auto", "ngram"])
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/results")
    parser.add_argument("--note", default="", help="kept in it: what else the machine was doing")
    args = parser.parse_args()
    options = {
        "num_threads": args.threads,
        "max_num_seqs": args.batch,
        "kv_cache_memory": "1GiB",
        "max_model_len": 8000,
    }
    engines = {name: Engine(args.engine, speculate=name, **options) for name in ["off", *args.drafters]}
    report: dict[str, Any] = {
        "machine": machine(),
        "commit": commit(),
        "command": command_line(sys.argv),
        "note": args.note,
        "kinds": {},
    }
    plain_engine = engines["off"]
    filler = plain_engine.encode_prompt(" ".join(topics[name] for name in sorted(topics)[-40:]))[
        : args.behind
    ]
    for kind, work in works(args.prompts).items():
        prompts = [
            filler + plain_engine.apply_chat_template([{"role": "user", "content": message}])
            for message in work.messages
        ]
        taken = {name: Taken() for name in engines}
        for round_ in range(args.rounds + 1):
            for first in range(0, len(prompts), args.batch):
                params = SamplingParams(max_tokens=args.tokens, seed=first, **work.params)
                answers = {}
                for name, engine in engines.items():
                    into = taken[name] if round_ > 0 else Taken()  # the first round is for warming up
                    answers[name] = answer(engine, prompts[first : first + args.batch], params, into)
                if any(given != answers["off"] for given in answers.values()):
                    raise SystemExit(f"{kind}: the answers differ")
        report["kinds"][kind] = {name: row(taken["off"], taken[name]) for name in args.drafters}
        for name in args.drafters:
            print(kind, name, json.dumps(report["kinds"][kind][name]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
