"""Perplexity and divergence against their definitions in numpy; statistics, windows, and the command `eval`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_bytes import changed_copy
from llama4rt import Engine, NumericError, RequestError, _core
from llama4rt.cli.main import main
from llama4rt.cli.provenance import command_line
from llama4rt.quality import paired_logits
from llama4rt.quality.evaluate import EngineChoice, evaluate
from llama4rt.quality.statistics import Mean, mean_of
from llama4rt.quality.windows import read_texts, spread_windows
from numpy.typing import NDArray

TEXT = "".join(chr(32 + (7 * i * i + 3 * i) % 90) for i in range(1000))


@pytest.fixture(scope="module")
def int4_file(text_engine_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llama4rt import build

    path = tmp_path_factory.mktemp("quality") / "int4.l4e"
    build(text_engine_file.parent / "scout-text", path, weights="int4", group_size=32)
    return path


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))


# --- windows and texts ------------------------------------------------------------------------------------------------


def test_windows_are_spread_evenly_and_begin_where_they_should() -> None:
    ids = list(range(1000))
    windows = spread_windows(ids, 4, 50)
    assert [window[0] for window in windows.tokens] == [0, 250, 500, 750] and windows.length == 50
    assert all(window == list(range(window[0], window[0] + 50)) for window in windows.tokens)
    every = spread_windows(ids, None, 300)
    assert [window[0] for window in every.tokens] == [0, 333, 666] and every.total == 1000
    begun = spread_windows(ids, 2, 50, begin=7777)
    assert all(window[0] == 7777 and len(window) == 50 for window in begun.tokens)
    assert [window[1] for window in begun.tokens] == [0, 500]
    overlapping = spread_windows(ids, 40, 100)
    assert len(overlapping.tokens) == 37 and overlapping.tokens[-1][-1] == 999  # the last ones would be equal
    assert spread_windows(ids[:30], 5, 100).tokens == [ids[:30]]
    for bad in ((ids, 0, 50), (ids, 1, 1), (ids[:1], 1, 50)):
        with pytest.raises(RequestError):
            spread_windows(*bad)


def test_texts_of_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "docs/deep").mkdir(parents=True)
    (tmp_path / "docs/.hidden").mkdir()
    for name, data in {
        "docs/b.txt": b"second", "docs/a.rst": "fürst".encode(), "docs/deep/c": b"third", "docs/.hidden/d.txt": b"no",
        "docs/.e": b"no", "docs/picture.png": b"\x89PNG\xff\xfe", "docs/zero": b"a\0b", "one.txt": b"alone",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    text, names = read_texts([tmp_path / "one.txt", tmp_path / "docs"])
    assert text == "alone\n\nfürst\n\nsecond\n\nthird"
    assert names == ["one.txt", "docs/a.rst", "docs/b.txt", "docs/deep/c"]
    for path in ("docs/picture.png", "docs/zero", "missing"):
        with pytest.raises(RequestError):
            read_texts([tmp_path / path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError):
        read_texts([tmp_path / "empty"])


# --- statistics -------------------------------------------------------------------------------------------------------


def test_errors_over_tokens_and_over_windows() -> None:
    rng = np.random.default_rng(1)
    windows = [rng.normal(i % 3, 1, 100) for i in range(30)]
    mean = mean_of(windows)
    every = np.concatenate(windows)
    assert mean.value == pytest.approx(every.mean())
    assert mean.error_tokens == pytest.approx(every.std(ddof=1) / math.sqrt(3000))
    means = np.array([w.mean() for w in windows])
    assert mean.error_windows == pytest.approx(means.std(ddof=1) / math.sqrt(30))
    assert mean.error == mean.error_windows and mean.error_windows > 3 * mean.error_tokens
    assert mean.exp().value == pytest.approx(math.exp(mean.value))
    assert mean.exp().error == pytest.approx(mean.error * math.exp(mean.value))
    alone = mean_of(windows[:1])
    assert alone.error_windows is None and alone.error == alone.error_tokens
    single = mean_of([np.array([2.0])])
    assert single == Mean(2.0, None, None)
    json.dumps(mean.as_json(), allow_nan=False)


def test_the_error_over_windows_is_how_much_measurements_differ() -> None:
    """The same measurement again and again, of tokens that depend on their window: the spread of its means."""
    rng = np.random.default_rng(2)

    def once() -> Mean:
        return mean_of([rng.normal(rng.normal(0, 1), 1, int(n)) for n in rng.integers(20, 60, 25)])

    found = [once() for _ in range(400)]
    spread = np.std([mean.value for mean in found])
    assert np.mean([mean.error_windows for mean in found]) == pytest.approx(spread, rel=0.15)
    assert np.mean([mean.error_tokens for mean in found]) < 0.3 * spread


# --- evaluate ---------------------------------------------------------------------------------------------------------


def by_hand(path: Path, windows: list[list[int]]) -> list[NDArray[np.float64]]:
    """Log-probabilities over the vocabulary, of each place that predicts."""
    with Engine(path, kv_cache_memory="64MiB", max_model_len=512, prefix_cache=False) as engine:
        return [log_softmax(engine.score(window))[:-1] for window in windows]


def test_perplexity_is_that_of_the_logits(text_engine_file: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = evaluate(
        text_engine_file, TEXT, windows=5, window_length=70, progress=lambda *done: seen.append(done)
    )
    windows = [[256, *TEXT[i * 200 :][:69].encode()] for i in range(5)]
    rows = by_hand(text_engine_file, windows)
    losses = [-r[np.arange(69), w[1:]] for r, w in zip(rows, windows, strict=True)]
    assert found.loss.value == pytest.approx(np.concatenate(losses).mean(), abs=1e-6)
    assert found.perplexity.value == pytest.approx(math.exp(found.loss.value))
    assert found.loss.error_windows == pytest.approx(mean_of(losses).error_windows, rel=1e-4)
    assert (found.windows, found.window_length, found.predictions) == (5, 70, 5 * 69)
    assert found.comparison is None and seen == [(5, 5)]


def test_context_begin_token_and_ids(text_engine_file: Path) -> None:
    ids = list(TEXT[:300].encode())
    text = evaluate(text_engine_file, TEXT[:300], window_length=100, begin_token=False, context=40)
    same = evaluate(text_engine_file, ids, window_length=100, begin_token=False, context=40)
    assert text.loss == same.loss and text.tokens_sha256 == same.tokens_sha256 and text.predictions == 180
    rows = by_hand(text_engine_file, [ids[i : i + 100] for i in (0, 100, 200)])
    losses = [-r[np.arange(39, 99), ids[i + 40 : i + 100]] for i, r in zip((0, 100, 200), rows, strict=True)]
    assert same.loss.value == pytest.approx(np.concatenate(losses).mean(), abs=1e-6)
    other = evaluate(text_engine_file, ids, window_length=100, begin_token=True, context=40)
    assert other.tokens_sha256 != same.tokens_sha256
    for bad in ({"context": 0}, {"context": 100}, {"window_length": 1}, {"windows": 0}):
        with pytest.raises(RequestError):
            evaluate(text_engine_file, ids, **({"window_length": 100} | bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [7, 64, 512])
def test_divergence_is_that_of_the_logits(
    text_engine_file: Path, int4_file: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama4rt.quality.evaluate.chunk_rows", lambda vocabulary: rows)
    ids = list(TEXT[:400].encode())
    found = evaluate(int4_file, ids, windows=3, window_length=90, against=text_engine_file, context=5)
    windows = [[256, *ids[i : i + 89]] for i in (0, 133, 266)]
    p, q = by_hand(text_engine_file, windows), by_hand(int4_file, windows)
    divergence = [(np.exp(a) * (a - b)).sum(axis=1)[4:] for a, b in zip(p, q, strict=True)]
    same = [(a.argmax(axis=1) == b.argmax(axis=1))[4:].astype(float) for a, b in zip(p, q, strict=True)]
    p_loss = [-a[np.arange(89), w[1:]][4:] for a, w in zip(p, windows, strict=True)]
    q_loss = [-b[np.arange(89), w[1:]][4:] for b, w in zip(q, windows, strict=True)]
    c = found.comparison
    assert c is not None and found.predictions == 3 * 85
    assert (
        c.divergence.value == pytest.approx(np.concatenate(divergence).mean(), abs=1e-6)
        and c.divergence.value > 1e-4
    )
    assert c.divergence.error_windows == pytest.approx(mean_of(divergence).error_windows, rel=1e-2)
    assert c.divergence_quantiles["100"] == pytest.approx(np.concatenate(divergence).max(), abs=1e-6)
    assert c.same_best.value == np.concatenate(same).mean()
    assert c.loss.value == pytest.approx(np.concatenate(p_loss).mean(), abs=1e-6)
    assert found.loss.value == pytest.approx(np.concatenate(q_loss).mean(), abs=1e-6)
    assert c.loss_difference.value == pytest.approx(found.loss.value - c.loss.value, abs=1e-9)
    alone = evaluate(int4_file, ids, windows=3, window_length=90, context=5)
    assert alone.loss == found.loss  # the same bits


def test_a_file_is_its_own_equal_and_formats_of_the_cache_are_told_apart(text_engine_file: Path) -> None:
    ids = list(TEXT[:200].encode())
    same = evaluate(text_engine_file, ids, window_length=100, against=text_engine_file).comparison
    assert same is not None and same.divergence.value == 0 and same.same_best.value == 1
    rounded = evaluate(
        text_engine_file, ids, window_length=100, against=text_engine_file, choice=EngineChoice("fp8")
    ).comparison
    assert rounded is not None and rounded.divergence.value > 1e-6
    back = evaluate(
        text_engine_file, ids, window_length=100, against=text_engine_file,
        choice=EngineChoice("fp8"), against_choice=EngineChoice("fp8"),
    ).comparison  # fmt: skip
    assert back is not None and back.divergence.value == 0


def test_no_more_than_a_chunk_is_there(text_engine_file: Path) -> None:
    options = {"kv_cache_bytes": 1 << 24, "max_num_seqs": 1, "prefix_cache": False}
    p = _core.Engine(str(text_engine_file), max_batched_tokens=16, **options)
    q = _core.Engine(str(text_engine_file), max_batched_tokens=11, **options)
    ids = [256, *range(100)]
    places, rows = [], 0
    for place, p_rows, q_rows in paired_logits.paired_chunks(p, q, ids):
        assert place == rows and len(p_rows) == len(q_rows) <= 11 and np.array_equal(p_rows, q_rows)
        places.append(place)
        rows += len(p_rows)
    assert rows == 101 and len(places) > 9
    assert paired_logits.chunk_rows(202_048) * 202_048 * 4 <= 64 << 20
    assert paired_logits.chunk_rows(100) == 512 and paired_logits.chunk_rows(1 << 24) == 16


def test_other_vocabularies_are_refused(
    text_engine_file: Path, engine_file: Callable[..., Path], vision_engine_file: Callable[..., Path]
) -> None:
    with pytest.raises(RequestError, match="one vocabulary"):
        evaluate(text_engine_file, [256, 1, 2, 3], against=vision_engine_file("scout_vision"))
    with pytest.raises(RequestError, match="tokenizer"):
        evaluate(engine_file("scout"), "text needs a tokenizer")


def test_logits_that_are_not_finite_are_said(tmp_path: Path, text_engine_file: Path) -> None:
    broken = changed_copy(
        text_engine_file, tmp_path / "broken.l4e", "norm", np.full(64, np.inf, dtype="<f4").tobytes()
    )
    with pytest.raises(NumericError, match="position"):
        evaluate(broken, [256, 1, 2, 3], against=text_engine_file)
    with pytest.raises(RequestError, match="NaN or infinity"):
        evaluate(broken, [256, 1, 2, 3])


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(
    text_engine_file: Path, int4_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    text, out = tmp_path / "text.txt", tmp_path / "report.json"
    text.write_text(TEXT)
    words = [
        "eval", str(int4_file), "--text", str(text), "--windows", "3", "--window-length", "64",
        "--against", str(text_engine_file), "--kv-cache-dtype", "int8", "--json", str(out), "-t", "1",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["llama4rt", *words])
    assert main(words) == 0
    shown = capsys.readouterr()
    for part in (
        "int4.l4e: 3 windows of 64 tokens, 189 predictions",
        "perplexity",
        "divergence",
        "±",
        "likeliest token",
    ):
        assert part in shown.out
    report: dict[str, Any] = json.loads(out.read_text())
    own = evaluate(
        int4_file, TEXT, windows=3, window_length=64, against=text_engine_file, choice=EngineChoice("int8")
    )
    result = report["result"]
    assert result | {"seconds": 0} == own.as_json() | {"seconds": 0}
    assert report["file"] == {"name": "int4.l4e", "bytes": int4_file.stat().st_size}
    assert report["text"] == ["text.txt"] and {"machine", "build", "commit"} <= set(report)
    assert report["command"].startswith("llama4rt eval int4.l4e --text text.txt --windows 3")
    assert str(tmp_path) not in out.read_text() and str(int4_file.parent) not in out.read_text()
    assert main([*words[:-4], "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["against"] == result["against"]


def test_the_command_refuses(
    text_engine_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(text_engine_file), "--text", str(tmp_path / "missing.txt")]) == 1
    assert "missing.txt" in capsys.readouterr().err
    for words in (["--windows", "0"], ["--kv-cache-dtype", "int3"], []):
        with pytest.raises(SystemExit):
            main(["eval", str(text_engine_file), *(["--text", "x"] if words else []), *words])


def test_paths_are_no_part_of_a_command_line() -> None:
    words = ["llama4rt", "eval", "/data/models/a.l4e", "rel/b.txt", "--json=/x/y/out.json", "~/c"]
    assert command_line(words) == "llama4rt eval a.l4e rel/b.txt --json=out.json '~/c'"
