"""`llama4rt demo`: the model that ships with llama4rt looks at pictures, reads, answers, and is timed."""

import argparse
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llama4rt.cli.numbers import THREADS

if TYPE_CHECKING:
    from llama4rt.demo import Needle, Picture, Question
    from llama4rt.engine.engine import Engine
    from llama4rt.engine.report_types import ModelConfig

_MAX_ANSWER = 160  # tokens
_PICTURE_COLUMNS, _PICTURE_ROWS = 30, 12  # of the terminal
_SCOUT = """\
Llama 4 Scout (109 billion parameters) runs by the same three commands. Its licence is accepted once at
huggingface.co/meta-llama/Llama-4-Scout-17B-16E-Instruct; the download takes 217 GB, the int4 engine file 60 GB of disk
and as much memory:

  hf auth login
  llama4rt build meta-llama/Llama-4-Scout-17B-16E-Instruct -o scout.l4e
  llama4rt generate scout.l4e --image photo.jpg -p "What is in this picture?"
  llama4rt chat scout.l4e

Talk with the demo model itself: llama4rt chat"""


@dataclass(frozen=True)
class Answered:
    question: str
    expected: str | None  # None: any sensible reply is right
    answer: str

    @property
    def right(self) -> bool | None:
        return None if self.expected is None else self.answer == self.expected


@dataclass(frozen=True)
class FoundNeedle:
    answered: Answered
    tokens: int  # of the whole prompt
    chunk: int  # attention chunk, tokens; 0: the model has none
    place: int | None  # where the fact stands, in tokens from the start
    seconds: float  # until the first token of the answer


@dataclass(frozen=True)
class Speed:
    prefill: float  # tokens per second
    decode: float
    read_gbps: float  # of weights and keys, while decoding
    machine_gbps: float

    @property
    def share(self) -> str:
        """What part of the memory's bandwidth that is, in words."""
        percent = 100 * self.read_gbps / self.machine_gbps
        cached = " (a model of this size stays in the processor's caches)" if percent > 100 else ""
        return f"{percent:.0f} % of the {self.machine_gbps:.1f} GB/s that this machine's memory gives{cached}"


@dataclass(frozen=True)
class Report:
    """All that was asked and measured."""

    model: str
    pictures: tuple[tuple[Path, tuple[Answered, ...]], ...]
    texts: tuple[Answered, ...]
    needle: FoundNeedle
    speed: Speed

    def answers(self) -> Iterator[Answered]:
        for _, answered in self.pictures:
            yield from answered
        yield from self.texts
        yield self.needle.answered


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="see it work: the model that ships with llama4rt",
        description="Show pictures to the small trained Llama 4 that ships with llama4rt, ask about them, hide a fact "
        "in a long text, and measure the speed. Nothing is downloaded.",
    )
    parser.add_argument("--sheet", metavar="FILE.png", help="also draw everything asked and answered here")
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="pictures in the terminal"
    )
    parser.add_argument("-t", "--threads", type=THREADS, metavar="N", help="processor threads (default: all)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="another demo.l4e and showcase.json than those shipped"
    )


def run(args: argparse.Namespace) -> int:
    from llama4rt.demo import FOLDER, engine_path, load_showcase
    from llama4rt.engine.engine import Engine

    folder = args.folder or FOLDER
    path, showcase = engine_path(folder), load_showcase(folder)
    color = args.color == "always" or (args.color == "auto" and _truecolour())
    page = _Page(color)
    with Engine(path, num_threads=args.threads) as engine:
        model = describe_model(path, engine.config)
        page.paragraph(f"The demo model: {model}. None of these pictures was in its training.")
        pictures = []
        for picture in showcase.pictures:
            answered = look(engine, picture)
            page.picture(picture.path, answered)
            pictures.append((picture.path, answered))
        texts = ask(engine, [(question, question.question) for question in showcase.texts])
        page.questions(texts)
        needle = find_needle(engine, showcase.needle)
        page.needle(needle)
    speed = measure(path, args.threads or 0)
    page.speed(speed)
    report = Report(model, tuple(pictures), texts, needle, speed)
    page.score(list(report.answers()))
    if args.sheet:
        from llama4rt.cli.contact_sheet import draw_sheet

        draw_sheet(report).save(args.sheet, format="PNG", optimize=True)
        print(f"Pictures, questions and answers: {args.sheet}\n")
    print(_SCOUT)
    return 0


def describe_model(path: Path, config: "ModelConfig") -> str:
    """A line of facts: parameters, layers, experts, chunks, size of the file."""
    import json
    import math

    from llama4rt._core import EngineFile

    file = EngineFile(str(path))
    weights = json.loads(file.metadata["weights"])
    parameters = sum(math.prod(weight["shape"]) for weight in weights.values())
    parameters += math.prod(file.info("embed")[1])
    words = [
        f"a Llama 4 of {parameters / 1e6:.1f} million parameters",
        f"{config['num_hidden_layers']} layers",
    ]
    if config["num_local_experts"]:
        words.append(f"{config['num_local_experts']} experts")
    if config["attention_chunk_size"]:
        words.append(f"attention in chunks of {config['attention_chunk_size']} tokens")
    return f"{', '.join(words)}, in a file of {path.stat().st_size / 1e6:.1f} MB"


def ask(engine: "Engine", asked: Sequence[tuple["Question", Any]]) -> tuple[Answered, ...]:
    """Each question in a conversation of its own, all of them together; greedy, so the same every time."""
    from llama4rt.engine.sampling_params import SamplingParams

    if not asked:
        return ()
    conversations = [[{"role": "user", "content": content}] for _, content in asked]
    outputs = engine.chat(conversations, SamplingParams(temperature=0.0, max_tokens=_MAX_ANSWER))
    return tuple(
        Answered(question.question, question.answer, _printable(output.outputs[0].text))
        for (question, _), output in zip(asked, outputs, strict=True)
    )


def _printable(text: str) -> str:
    """On one line, and without what a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def look(engine: "Engine", picture: "Picture") -> tuple[Answered, ...]:
    """The answers to all questions about one picture, which is encoded once."""
    part = {"type": "image", "path": str(picture.path)}
    return ask(engine, [(q, [part, {"type": "text", "text": q.question}]) for q in picture.questions])


def find_needle(engine: "Engine", needle: "Needle") -> FoundNeedle:
    from llama4rt.engine.sampling_params import SamplingParams

    content = f"{needle.text} {needle.asked.question}"
    ids = engine.apply_chat_template([{"role": "user", "content": content}])
    start = time.perf_counter()
    first = None
    texts = []
    for delta in engine.stream(ids, SamplingParams(temperature=0.0, max_tokens=_MAX_ANSWER)):
        first = first or time.perf_counter()
        texts.append(delta.text)
    # The fact is where the last word of the right answer stands.
    value = (needle.asked.answer or "").rstrip(".").rpartition(" ")[2]
    before = needle.text.find(value) if value else -1
    place = None
    if before >= 0:
        until = [{"role": "user", "content": needle.text[:before]}]
        place = len(engine.apply_chat_template(until, add_generation_prompt=False)) - 1  # the turn's end
    return FoundNeedle(
        Answered(needle.asked.question, needle.asked.answer, _printable("".join(texts))),
        len(ids),
        engine.config["attention_chunk_size"],
        place,
        (first or time.perf_counter()) - start,
    )


def measure(path: Path, threads: int) -> Speed:
    """As `llama4rt bench` does, with fewer repetitions."""
    from llama4rt import _core
    from llama4rt.cli.bench import Bench, Result, summed_up
    from llama4rt.cli.bench_cost import ModelCost

    limits = _core.measure_machine(threads)
    core = _core.Engine(str(path), num_threads=threads, max_num_seqs=1)
    bench = Bench(core)
    cost = ModelCost.of_file(
        str(path), core.config, _core.auto_kv_format(core.device, core.config["head_dim"])
    )
    room = core.max_model_len // 4
    prefill, decode = min(512, room), min(128, room)
    read = fmean([bench.prefill(prefill, 0, 1) for _ in range(3)])
    result = Result("", "decode", decode, 0, 1, [bench.decode(decode, 0, 1) for _ in range(3)])
    summed_up(result, cost, limits)
    core.close()
    return Speed(read, result.mean, result.gbps or 0.0, limits["read_gbps"])


def _truecolour() -> bool:
    """Whether standard output is a terminal that says it can show 24-bit colours and half blocks."""
    says = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") or "direct" in os.environ.get(
        "TERM", ""
    )
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return sys.stdout.isatty() and says and utf8 and not os.environ.get("NO_COLOR")


class _Page:
    """Prints what happens, with pictures beside their questions where the terminal can."""

    def __init__(self, color: bool) -> None:
        self._color = color
        self._width = min(shutil.get_terminal_size((100, 24)).columns, 120)

    def paragraph(self, text: str) -> None:
        print(textwrap.fill(text, self._width) + "\n", flush=True)

    def picture(self, path: Path, answered: Sequence[Answered]) -> None:
        from PIL import Image

        from llama4rt.cli.half_blocks import half_blocks

        with Image.open(path) as image:
            width, height = image.size
            rows = half_blocks(image.convert("RGB"), _PICTURE_COLUMNS, _PICTURE_ROWS) if self._color else []
        if not self._color:
            self.paragraph(f"{path} ({width} x {height} pixels)")
        indent = _PICTURE_COLUMNS + 3 if rows else 2
        lines = [line for qa in answered for line in self._question(qa, self._width - indent)]
        for i in range(max(len(rows), len(lines))):
            left = rows[i] if i < len(rows) else (" " * _PICTURE_COLUMNS if rows else "")
            right = lines[i] if i < len(lines) else ""
            print(f"{left}{'   ' if rows else '  '}{right}".rstrip(" "))
        print(flush=True)

    def questions(self, answered: Sequence[Answered]) -> None:
        for qa in answered:
            print("\n".join(f"  {line}".rstrip() for line in self._question(qa, self._width - 2)))
        print(flush=True)

    def needle(self, needle: FoundNeedle) -> None:
        where = ""
        if needle.chunk and needle.place is not None:
            where = (
                f", {-(-needle.tokens // needle.chunk)} attention chunks; the fact stands in chunk "
                f"{needle.place // needle.chunk + 1}"
            )
        self.paragraph(
            f"One fact in a text of {needle.tokens:,} tokens{where}. Read in {needle.seconds:.2f} s "
            f"({needle.tokens / needle.seconds:,.0f} tokens/s):"
        )
        self.questions([needle.answered])

    def speed(self, speed: Speed) -> None:
        self.paragraph(
            f"Speed: reads {speed.prefill:,.0f} tokens/s, writes {speed.decode:,.0f} tokens/s. Writing reads "
            f"{speed.read_gbps:.2f} GB/s of weights and cache, {speed.share}."
        )

    def score(self, answers: Sequence[Answered]) -> None:
        judged = [qa.right for qa in answers if qa.right is not None]
        self.paragraph(f"{sum(judged)} of {len(judged)} answers are right.")

    def _question(self, qa: Answered, width: int) -> list[str]:
        lines = textwrap.wrap(qa.question, width)
        answer = textwrap.wrap(qa.answer or "(nothing)", width - 10)
        mark = {True: "right", False: "wrong", None: ""}[qa.right]
        if mark and self._color:
            mark = "\x1b[32m✓\x1b[0m" if qa.right else "\x1b[31m✗\x1b[0m"
        elif mark:
            mark = f"[{mark}]"
        answer[-1] = f"{answer[-1]}  {mark}".rstrip()
        lines += [f"  {line}" for line in answer]
        if qa.right is False:
            lines += [f"  expected: {line}" for line in textwrap.wrap(str(qa.expected), width - 12)]
        return [*lines, ""]
