"""The llama4rt command: results on stdout, words on stderr, exit codes, one-line errors."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama4rt import SamplingParams, _core
from llama4rt.cli.common_options import GROUP_SIZES, KV_CACHE_DTYPES, WEIGHT_KINDS
from llama4rt.cli.main import _parser
from llama4rt.cli.numbers import Integer, Integers, Quantity, Real, Tokens
from llama4rt.errors import RequestError


def llama4rt(*args: Any, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llama4rt", *map(str, args)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def test_version_and_help() -> None:
    import llama4rt as package

    done = llama4rt("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"llama4rt {package.__version__}\n", "")
    done = llama4rt("--help")
    assert done.returncode == 0
    for command in ("build", "inspect", "plan", "verify", "generate", "chat", "serve", "bench", "doctor"):
        assert command in done.stdout
        assert llama4rt(command, "--help").returncode == 0


def test_choices_are_those_of_the_native_tables() -> None:
    assert set(KV_CACHE_DTYPES) == {"auto", *(format.name for format in _core.kv_formats())}
    assert set(WEIGHT_KINDS) == {format.name for format in _core.weight_formats() if format.from_values}
    assert list(GROUP_SIZES) == _core.group_sizes()


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from llama4rt.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"numpy", "tiktoken", "jinja2", "huggingface_hub", "tqdm", "asyncio", "llama4rt._core"} & set(sys.modules)
sys.exit(1 if heavy else 0)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


@pytest.mark.parametrize(
    "args", [[], ["fly"], ["generate"], ["generate", "x.l4e"], ["bench", "x", "-p", "many"]]
)
def test_a_wrong_command_line_is_2(args: list[str]) -> None:
    done = llama4rt(*args)
    assert done.returncode == 2 and done.stdout == "" and "usage: llama4rt" in done.stderr


# --- numbers

NUMBERS = (Integer, Integers, Real, Quantity, Tokens)
# Options that take text; every other one with a value must have a range or choices.
TEXTS = {
    "file", "source", "--output", "--rope-scaling", "--device", "--prompt", "--image", "--stop", "--system", "--host",
    "--api-key", "--api-key-file", "--served-model-name", "--config", "--sheet", "--folder", "--base-url",
    "--allowed-hosts", "--allowed-origins", "--trusted-proxies", "--lora", "--mmproj",
    "checkpoint", "name", "--text", "--against", "--json", "--calibrate", "--speculate", "--kv-store", "--session",
    "action", "--adapter", "--response-store", "--plot",
}  # fmt: skip


def options() -> list[tuple[str, str, Any]]:
    """(command, option, its argparse action) of all parsers."""
    (commands,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [
        (command, max(action.option_strings, key=len, default=action.dest), action)
        for command, parser in commands.choices.items()
        for action in parser._actions
    ]


def numeric() -> list[tuple[str, str, Any]]:
    return [item for item in options() if isinstance(item[2].type, NUMBERS)]


def test_every_option_has_a_range_or_is_known_as_text() -> None:
    for command, option, action in options():
        if action.nargs == 0 or action.choices or isinstance(action.type, NUMBERS):
            continue
        assert option in TEXTS and action.type not in (int, float), f"{command} {option}"
    assert {command for command, _, _ in numeric()} >= {
        "build",
        "serve",
        "bench",
        "plan",
        "generate",
        "verify",
    }
    assert len(numeric()) >= 50


def required(command: str, option: str) -> list[str]:
    """What a command line needs beside `option`."""
    return {
        "build": ["x", "-o", "y"], "generate": ["x"] if option == "--token-ids" else ["x", "-p", "x"],
        "chat": ["x"], "pull": ["x"], "verify": ["x"], "bench": ["x"], "plan": ["x"],
        "eval": ["x", "--text", "x"], "diff": ["x", "x"],
    }.get(command, [])  # fmt: skip


def outside(kind: Any) -> list[str]:
    """Texts that the type must refuse."""
    texts = [
        "",
        "x",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e999",
        "1_0",
        "0x10",
        "\u0663",
        " ",
        "1 2",
        "9" * 40,
    ]
    if isinstance(kind, Quantity):
        return [*texts, "-1", "0", "1.5.2", "3 furlongs", "1e3"]
    if isinstance(kind, Integers):
        return [*outside(kind.each), "1,,2", ",", "1;2"]
    if isinstance(kind, Real):
        step = max(1e-3, abs(kind.high) * 1e-6)
        return [
            *texts,
            *map(repr, (kind.low - step, kind.high + step)),
            *([repr(kind.low)] if kind.above_low else []),
        ]
    return [*texts, "1.5", "1e3", str(kind.low - 1), str(kind.high + 1)]


def inside(kind: Any) -> list[str]:
    if isinstance(kind, Quantity):
        return ["8192", "128k"]
    if isinstance(kind, Integers):
        return [f"{kind.each.low},{kind.each.high}"]
    if isinstance(kind, Real):
        return [
            repr(kind.high),
            repr((kind.low + kind.high) / 2),
            *([] if kind.above_low else [repr(kind.low)]),
        ]
    return [str(kind.low), str(kind.high)]


@pytest.mark.parametrize(
    ("command", "option", "action"), numeric(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_numbers_outside_their_range_are_usage_errors(
    command: str, option: str, action: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the option, the value and the range."""
    parser = _parser()
    for text in outside(action.type):
        with pytest.raises(SystemExit) as end:
            pytest.fail(
                f"{text!r} became {parser.parse_args([command, *required(command, option), f'{option}={text}'])}"
            )
        words = capsys.readouterr().err.splitlines()[-1]
        assert end.value.code == 2
        assert f"error: argument {'/'.join(action.option_strings)}: " in words, (text, words)
        shown = [part.strip() for part in text.split(",")] if isinstance(action.type, Integers) else [text]
        assert any(repr(part)[:38] in words for part in shown), (text, words)
        if isinstance(action.type, (Integer, Real)):
            assert f"{action.type.low:{'' if isinstance(action.type, Integer) else 'g'}}" in words
            assert f"{action.type.high:{'' if isinstance(action.type, Integer) else 'g'}}" in words
    for text in inside(action.type):
        if action.choices and int(text) not in action.choices:
            continue
        args = parser.parse_args([command, *required(command, option), f"{option}={text}"])
        assert getattr(args, action.dest) is not None


def test_the_ranges_are_those_of_what_reads_the_numbers(text_engine_file: Path) -> None:
    """What the command line takes, SamplingParams takes too, and what it refuses is refused there."""
    parser = _parser()
    for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"):
        option = f"--{name.replace('_', '-')}"
        (kind,) = (a.type for c, o, a in numeric() if (c, o) == ("generate", option))
        for text in inside(kind):
            args = parser.parse_args(["generate", "x", "-p", "x", f"{option}={text}"])
            assert getattr(SamplingParams(**{name: getattr(args, name)}), name) == getattr(args, name)
        for text in outside(kind)[-2:]:
            with pytest.raises(RequestError, match=name):
                SamplingParams(**{name: float(text) if "." in text else int(text)})


@pytest.mark.parametrize(
    "url", ["http://localhost:80000", "http://h:0", "localhost:8000", "http://:80", "http://h:x"]
)
def test_base_urls_have_a_port_that_exists(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["bench-serve", "--base-url", url])
    assert f"argument --base-url: {url!r} is not like http://host:port" in capsys.readouterr().err


def test_a_port_that_does_not_exist_is_refused() -> None:
    done = llama4rt("serve", "--port", "80000")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("argument --port: '80000' is not an integer in 0..65535")


def test_failures_are_one_line_and_1(text_engine_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.l4e"
    broken.write_bytes(b"\x10" * 100)
    for args, word in [
        (["generate", tmp_path / "missing.l4e", "-p", "x"], r"missing\.l4e"),
        (["generate", broken, "-p", "x"], r"broken\.l4e"),
        (["generate", text_engine_file, "-p", ""], "empty"),
        (["generate", text_engine_file, "-p", "x", "--device", "tpu"], "tpu"),
        (["generate", tmp_path, "-p", "x"], r"neither model\.safetensors"),
    ]:
        done = llama4rt(*args, LLAMA4RT_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 1, done
        assert done.stdout == "" and "Traceback" not in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and re.search(word, last), done.stderr
    done = llama4rt("generate", broken, "-p", "x", LLAMA4RT_DEBUG="1")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_generate_prints_the_text(text_engine_file: Path) -> None:
    from llama4rt import Engine, SamplingParams

    with Engine(text_engine_file) as engine:
        expected = engine.generate("Hello", SamplingParams(temperature=0.0, max_tokens=20))[0].outputs[0]
    common = ["-n", "20", "--temperature", "0", "--threads", "1"]
    done = llama4rt("generate", text_engine_file, "-p", "Hello", *common)
    assert done.returncode == 0 and done.stdout == expected.text + "\n"
    assert "tokens/s" in done.stderr
    assert llama4rt("generate", text_engine_file, "-p", "-", *common, stdin="Hello").stdout == done.stdout
    ids = ",".join(str(i) for i in [256, *b"Hello"])
    assert llama4rt("generate", text_engine_file, "--token-ids", ids, *common).stdout == done.stdout
    result = json.loads(llama4rt("generate", text_engine_file, "-p", "Hello", *common, "--json").stdout)
    assert result["text"] == expected.text and result["token_ids"] == expected.token_ids
    assert result["finish_reason"] == expected.finish_reason
    assert result["prompt_token_ids"] == [256, *b"Hello"]


def test_sampling_options_reach_the_engine(text_engine_file: Path) -> None:
    options = [
        "-n",
        "30",
        "--seed",
        "3",
        "--top-k",
        "50",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--temperature",
        "1.2",
    ]
    done = [llama4rt("generate", text_engine_file, "-p", "Hello", *options).stdout for _ in range(2)]
    assert done[0] == done[1]
    stop = done[0].rstrip("\n")[3:5]
    cut = llama4rt(
        "generate", text_engine_file, "-p", "Hello", *options, "--stop", "no", "--stop", stop
    ).stdout
    assert cut == done[0][: done[0].index(stop)] + "\n"


def test_without_a_tokenizer_ids_are_printed(engine_file: Callable[..., Path]) -> None:
    done = llama4rt(
        "generate", engine_file("scout"), "--token-ids", "1,20,30", "-n", "4", "--temperature", "0"
    )
    assert done.returncode == 0 and all(0 <= int(i) < 331 for i in done.stdout.split())


def test_a_checkpoint_is_built_once_into_the_cache(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    args = ["generate", checkpoint("scout"), "--token-ids", "1,20", "-n", "2", "--temperature", "0"]
    cache = tmp_path / "cache"
    first = llama4rt(*args, LLAMA4RT_CACHE=str(cache))
    assert first.returncode == 0, first.stderr
    (engine,) = cache.iterdir()
    assert engine.suffix == ".l4e" and "building" in first.stderr
    state = engine.stat().st_mtime_ns
    again = llama4rt(*args, LLAMA4RT_CACHE=str(cache))
    assert again.stdout == first.stdout and "building" not in again.stderr
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [state]
    other = llama4rt(*args, "--weights", "int8", LLAMA4RT_CACHE=str(cache))
    assert other.returncode == 0 and len(list(cache.iterdir())) == 2


def test_chat_reads_lines(text_engine_file: Path) -> None:
    lines = "hello\n\n/help\n/reset\nhello\n/exit\nnever\n"
    options = ["-n", "10", "--temperature", "0", "--system", "Be brief."]
    done = llama4rt("chat", text_engine_file, *options, stdin=lines)
    assert done.returncode == 0 and "/reset" in done.stderr
    answer = llama4rt("chat", text_engine_file, *options, stdin="hello\n").stdout
    assert done.stdout == answer * 2  # the same question after /reset, the same answer


def test_bench_measures(text_engine_file: Path) -> None:
    args = ["bench", text_engine_file, "-p", "16", "-n", "8", "-d", "0,64", "-b", "1,2", "-r", "2", "-t", "1"]
    done = llama4rt(*args, "-o", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["test"] for row in report["results"]] == [
        "pp16", "tg8", "pp16, b2", "tg8, b2", "pp16 @ d64", "tg8 @ d64", "pp16 @ d64, b2", "tg8 @ d64, b2",
    ]  # fmt: skip
    for row in report["results"]:
        assert len(row["samples"]) == 2 and row["mean"] > 0
        fraction = row["fma_fraction"] if row["kind"] == "prefill" else row["bandwidth_fraction"]
        assert fraction > 0  # a tiny model lives in the processor's caches: more than 1 is possible
    assert report["limits"]["read_gbps"] > 0 and report["threads"] == 1 and report["machine"]["cpu"]
    table = llama4rt(*args[:6], "-r", "1", "-t", "1").stdout
    assert "| pp16 |" in table and "| tg8 |" in table and "±" in table and "GB/s" in table


def test_bench_says_when_the_context_is_too_short(text_engine_file: Path) -> None:
    done = llama4rt("bench", text_engine_file, "-d", "100000", "-r", "1")
    assert done.returncode == 1 and "of context" in done.stderr


def test_ctrl_c_is_130(text_engine_file: Path) -> None:
    args = [sys.executable, "-m", "llama4rt", "generate", str(text_engine_file), "-p", "x", "-n", "100000"]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    # One page of pipe: it cannot write all it has before somebody reads on.
    fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err


def test_a_reader_that_leaves_is_no_traceback(text_engine_file: Path) -> None:
    args = [sys.executable, "-m", "llama4rt", "generate", str(text_engine_file), "-p", "x", "-n", "2000"]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) in (0, 1) and "Traceback" not in err and "Exception" not in err
