"""The accuracy table: the bf16 checkpoint under transformers beside the int4 engine under llama4rt.

    python -m tools.demo_model.evaluate --checkpoint tools/demo_model/checkpoint --engine demo.l4e --out FOLDER

Every answer is decoded greedily and must be exactly right, word for word. Either side may be left out, and kinds may
be measured one after the other: what the folder of --out already says about others is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tools.demo_model.chat import default_chat, prompt
from tools.demo_model.held_out import KINDS, Question, held_out, parses
from tools.demo_model.pixels import picture_tiles, tiling

# Questions in the model card; 100 of every other kind.
CARD = {
    "scene": 1000,
    "pair": 250,
    "sum": 400,
    "needle4": 200,
    "needle16": 200,
    "needle32": 60,
    "opening": 300,
}
MAX_TOKENS = 96
TOKENS_AT_ONCE = 4096  # of prompts that transformers answers together
Answer = Callable[[Sequence[Question]], list[str]]


def main() -> None:
    args = arguments()
    sides: dict[str, Answer] = {}
    if args.checkpoint:
        sides[f"transformers {args.dtype}"] = transformers_side(args.checkpoint, args.dtype, args.threads)
    if args.engine:
        sides["llama4rt"] = engine_side(args.engine, args.kv_cache_dtype, args.activations)
    table = {name: measure(answer, args.kinds, args.questions, args.seed) for name, answer in sides.items()}
    print(markdown(table))  # noqa: T201
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / "accuracy.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        table = {name: before.get(name, {}) | table.get(name, {}) for name in {**before, **table}}
        path.write_text(json.dumps(table, indent=1) + "\n")
        (args.out / "accuracy.md").write_text(markdown(table) + "\n")


def measure(answer: Answer, kinds: Sequence[str], count: int | None, seed: int) -> dict[str, Any]:
    """By kind: questions, percent exactly right, and for scenes the same by kind of question, with some misses."""
    result: dict[str, Any] = {}
    for kind in kinds:
        n = CARD.get(kind, 100) if count is None else count * 4 if kind == "scene" else count
        questions = held_out(kind, n, seed)
        start = time.monotonic()
        replies = answer(questions)
        right = [q.is_right(r) for q, r in zip(questions, replies, strict=True)]
        entry: dict[str, Any] = {
            "questions": n,
            "percent": round(100 * sum(right) / n, 1),
            "seconds": round(time.monotonic() - start, 1),
        }
        if kind in ("json", "tool"):
            entry["parsed"] = round(100 * sum(map(parses, replies)) / n, 1)
        if kind == "scene":
            parts: dict[str, list[bool]] = defaultdict(list)
            for q, ok in zip(questions, right, strict=True):
                parts[q.detail].append(ok)
                tiles = "several tiles" if tiling(q.pictures[0]).num_tiles > 1 else "one tile"
                parts[tiles].append(ok)
            entry["parts"] = {k: [len(v), round(100 * sum(v) / len(v), 1)] for k, v in sorted(parts.items())}
        entry["misses"] = [
            [q.answer, r] for q, r, ok in zip(questions, replies, right, strict=True) if not ok
        ][:8]
        result[kind] = entry
        print(f"{kind}: {entry['percent']} % of {n}, {entry['seconds']} s", flush=True)  # noqa: T201
    return result


def markdown(table: dict[str, Any]) -> str:
    """One row per kind, one column per side."""
    names = list(table)
    lines = [f"| questions | number | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for kind, entry in table[names[0]].items():
        if any(kind not in table[name] for name in names):
            continue  # one side has not answered these yet
        cells = " | ".join(f"{table[name][kind]['percent']} %" for name in names)
        lines.append(f"| {kind} | {entry['questions']} | {cells} |")
        for part, (n, _) in entry.get("parts", {}).items():
            cells = " | ".join(f"{table[name][kind]['parts'][part][1]} %" for name in names)
            lines.append(f"| - {part} | {n} | {cells} |")
    return "\n".join(lines)


def transformers_side(checkpoint: Path, dtype: str, threads: int) -> Answer:
    """The decoder's stock generate() over the embeddings of text and pictures (tools/stock_model.py says why not the
    whole model's). Questions of equal length go together, so that there is never any padding: it would move the
    temperature of the layers without rope.
    """
    import torch
    from transformers import Llama4ForConditionalGeneration

    from tools import stock_model

    torch.set_num_threads(threads)
    model: Any = Llama4ForConditionalGeneration.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype)
    ).eval()
    chat = default_chat()

    @torch.no_grad()
    def together(prompts: Sequence[list[int]], pictures: Sequence[Image.Image]) -> list[str]:
        ids, pixels = torch.tensor(prompts), None
        if pictures:
            pixels = torch.cat([torch.from_numpy(picture_tiles(p)) for p in pictures]).to(model.dtype)
        out = model.language_model.generate(  # of embeddings it returns the new tokens alone
            inputs_embeds=stock_model.embeddings(model, ids, pixels),
            attention_mask=torch.ones_like(ids),
            generation_config=model.generation_config,  # the checkpoint's: its end tokens
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
        )
        return [chat.tokenizer.decode(row.tolist()) for row in out]

    def answer(questions: Sequence[Question]) -> list[str]:
        prompts = [
            prompt(chat, q.messages, [tiling(p) for p in q.pictures], q.tools or None) for q in questions
        ]
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, ids in enumerate(prompts):
            by_length[len(ids)].append(i)
        replies = [""] * len(questions)
        for length, all_of_them in by_length.items():
            step = max(1, TOKENS_AT_ONCE // length)
            for start in range(0, len(all_of_them), step):
                some = all_of_them[start : start + step]
                pictures = [p for i in some for p in questions[i].pictures]
                for i, reply in zip(some, together([prompts[i] for i in some], pictures), strict=True):
                    replies[i] = reply
        return replies

    return answer


def engine_side(path: Path, kv_cache_dtype: Any = "auto", activations: Any = "auto") -> Answer:
    """The engine file under llama4rt, many conversations together: the same answers as one by one."""
    import llama4rt

    engine = llama4rt.Engine(path, kv_cache_dtype=kv_cache_dtype, activations=activations)
    params = llama4rt.SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)

    def answer(questions: Sequence[Question]) -> list[str]:
        prompts = [engine.prepare_chat(q.messages, tools=q.tools or None) for q in questions]
        return [output.outputs[0].text for output in engine.generate(prompts, params)]

    return answer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path)
    add("--engine", type=Path)
    add("--questions", type=int, help="of each kind, of scenes four times that; default: the card's")
    add("--kinds", nargs="+", default=[*KINDS])
    add("--seed", type=int, default=0)
    add("--dtype", default="bfloat16", help="what transformers computes in")
    add("--kv-cache-dtype", default="auto", help="of llama4rt: auto, bf16, fp8 or f32")
    add("--activations", default="auto", help="likewise: auto, int8 or int16")
    add("--threads", type=int, default=1)
    add("--out", type=Path, help="a folder for accuracy.json and accuracy.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
