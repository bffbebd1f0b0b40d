"""How likely an engine finds the right answers: what rounding costs, finer than counting right answers can show.

    python -m tools.demo_model.likelihood bf16.l4e demo.l4e,activations=int16 demo.l4e,activations=int8

Each argument is an engine file and options of llama4rt.Engine. Held-out questions are followed by their right answers;
over the tokens of the answers, in nats per token:

    loss        mean of -log p(right token)
    divergence  mean of KL(p first || p this): how far the whole distribution is from the first engine's
    same top    how often the likeliest token is the first engine's, in percent
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.demo_model.chat import default_chat
from tools.demo_model.held_out import KINDS, Question, held_out

HEADER = "| engine | tokens | loss | ± | divergence | same top |\n|---|---:|---:|---:|---:|---:|"
_LEFT_OUT = ("needle32",)  # long, and like needle16


@dataclass
class Totals:
    loss: list[float] = field(default_factory=list)  # of one token each
    divergence: list[float] = field(default_factory=list)
    same_top: list[bool] = field(default_factory=list)


def main() -> None:
    args = arguments()
    questions = [
        q
        for kind in args.kinds
        for q in held_out(kind, args.questions * (4 if kind == "scene" else 1), args.seed)
    ]
    first: list[NDArray[np.float64]] = []
    print(HEADER, flush=True)  # noqa: T201
    for spec in args.engines:
        path, *options = spec.split(",")
        totals = Totals()
        for i, (log_p, ids) in enumerate(answers(path, dict(o.split("=", 1) for o in options), questions)):
            if len(first) <= i:
                first.append(log_p)
            add(totals, log_p, first[i], ids)
        print(row(spec, totals), flush=True)  # noqa: T201


def answers(
    path: str, options: dict[str, Any], questions: list[Question]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Of each question, in front of each token of its answer: log p [tokens, vocabulary], and the tokens [tokens]."""
    import llama4rt

    chat = default_chat()
    with llama4rt.Engine(Path(path), **options) as engine:
        for question in questions:
            prompt = engine.prepare_chat(question.messages, tools=question.tools or None)
            asked = len(prompt.token_ids)
            prompt.token_ids.extend([*chat.encode(question.answer), chat.special["<|eot|>"]])
            logits = engine.score(prompt)[asked - 1 : -1].astype(np.float64)
            top = logits.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
            yield logits - top - log_sum, np.array(prompt.token_ids[asked:])


def add(
    totals: Totals, log_p: NDArray[np.float64], first: NDArray[np.float64], ids: NDArray[np.int64]
) -> None:
    totals.loss += (-log_p[np.arange(len(ids)), ids]).tolist()
    totals.divergence += (np.exp(first) * (first - log_p)).sum(axis=1).tolist()
    totals.same_top += (first.argmax(axis=1) == log_p.argmax(axis=1)).tolist()


def row(spec: str, totals: Totals) -> str:
    """± is the standard error of the loss."""
    n = len(totals.loss)
    return (
        f"| {spec} | {n} | {np.mean(totals.loss):.5f} | {np.std(totals.loss) / n**0.5:.5f} "
        f"| {np.mean(totals.divergence):.2e} | {100 * np.mean(totals.same_top):.3f} |"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engines", nargs="+", metavar="ENGINE[,OPTION=VALUE..]")
    parser.add_argument("--kinds", nargs="+", default=[k for k in KINDS if k not in _LEFT_OUT])
    parser.add_argument("--questions", type=int, default=100, help="of each kind, of scenes four times that")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
