"""Builds that a text calibrates: rounding errs less where the inputs are, in the same bits whatever the threads; with
experts that were seldom asked named, and bits kept to their budget.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import Engine, _core, build
from llama4rt.cli.inspect import describe
from llama4rt.convert.calibrate.budget import Choice, allocate
from llama4rt.convert.calibrate.options import FEWEST_EXPERT_TOKENS
from llama4rt.errors import ConfigError
from numpy.typing import NDArray
from random_checkpoints import TINY, VISION, bf16_values, random_values, unfuse, write_values
from tiny_checkpoints import write_byte_tokenizer

Floats = NDArray[np.float32]
SHAPE: dict[str, Any] = TINY | {
    "vocab_size": 461,
    "hidden_size": 128,
    "head_dim": 32,
    "intermediate_size": 96,
    "intermediate_size_mlp": 160,
    "num_local_experts": 4,
    "num_hidden_layers": 4,
    "bos_token_id": 256,
}
DENSE: dict[str, Any] = SHAPE | {"moe_layers": []}
MOE: dict[str, Any] = SHAPE | {"interleave_moe_layer_step": 2}
TOKENS = 1024


def text_of(seed: int, size: int = 6000) -> str:
    """Words that come again, as those of a language do."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("etaoinshrdlu"), rng.integers(1, 8))) for _ in range(60)]
    return " ".join(words[int(i) - 1] for i in rng.zipf(1.5, size // 4) if i <= len(words))[:size]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(text_of(1))
    return path


def checkpoint(directory: Path, config: dict[str, Any], **options: Any) -> Path:
    write_values(directory, config, random_values(config, vision=options.get("vision", False)), **options)
    write_byte_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("dense") / "source", DENSE)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("moe") / "source", MOE)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def facts(path: Path) -> dict[str, Any]:
    return describe(_core.EngineFile(str(path)), str(path))


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def correlated(rng: np.random.Generator, rows: int, k: int) -> Floats:
    """Inputs as a model has them: far from white, a few much louder than the others."""
    loud = np.exp(rng.standard_normal(k) * 1.2)
    x = rng.standard_normal((rows, k // 4)) @ rng.standard_normal((k // 4, k)) + rng.standard_normal(
        (rows, k)
    )
    return np.ascontiguousarray(x * loud, dtype=np.float32)


def values_of(codes: Any, grid: tuple[str, int, bool, str]) -> Floats:
    """The definition of docs/quantization.md, apart from the code that rounds."""
    kind, group_size, has_offsets, _ = grid
    numbers, scales, offsets = codes[:3]
    group = np.arange(numbers.shape[1]) // group_size
    zero = 0 if has_offsets else 8 if kind == "int4" else 128
    value: Floats = (numbers.astype(np.float32) - np.float32(zero)) * scales[:, group]
    return value + offsets[:, group] if has_offsets else value


@pytest.mark.parametrize("k", [96, 200])  # 200: the last group is short
@pytest.mark.parametrize(
    "grid",
    [
        ("int4", 32, False, "BF16"),
        ("int4", 128, False, "F32"),
        ("int4", 64, True, "BF16"),
        ("int8", 128, False, "BF16"),
    ],
)
def test_outputs_err_less_than_of_plain_rounding(k: int, grid: tuple[str, int, bool, str]) -> None:
    """On inputs that it did not see, of the same kind; and the reported costs are the errors of the outputs."""
    rng = np.random.default_rng(k)
    x = correlated(rng, 4096, k)
    seen, unseen = x[:3072], x[3072:]
    w = bf16_values(rng.standard_normal((50, k)) * 0.05)
    h = _core.gram(seen)
    np.testing.assert_allclose(
        h, seen.T.astype(np.float64) @ seen, rtol=1e-4, atol=1e-3 * float(np.abs(h).max())
    )
    importance = np.ascontiguousarray(np.diag(h) / np.diag(h).mean())
    damping = 0.01
    codes, scales, offsets, cost, plain_cost = _core.round_weights(w, h, importance, grid, damping, 1)
    value = values_of((codes, scales, offsets), grid)
    error = (w - value).astype(np.float64)
    damped = h.astype(np.float64) + damping * float(np.diag(h).mean()) * np.eye(k)
    np.testing.assert_allclose(cost, np.einsum("ni,ij,nj->n", error, damped, error), rtol=2e-3)
    assert (cost <= plain_cost).all()

    plain_grids = _core.round_weights(
        w, np.eye(k, dtype=np.float32), np.ones(k, np.float32), grid, damping, 1
    )
    plain = w - values_of(plain_grids[:3], grid)
    loss, plain_loss = (float(np.square(unseen @ e.T).sum()) for e in (error.astype(np.float32), plain))
    assert loss < (0.9 if grid[0] == "int8" else 0.6) * plain_loss
    assert _core.round_weights(w, h, importance, grid, damping, 2)[0].tobytes() == codes.tobytes()


def test_a_budget_is_kept_and_used() -> None:
    """Against every possible choice: nothing that fits loses much less."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        matrices = [
            [
                Choice(int(size), float(loss))
                for size, loss in zip(
                    np.cumsum(rng.integers(5, 60, 4)),
                    np.sort(rng.random(4))[::-1] * rng.integers(1, 9),
                    strict=True,
                )
            ]
            for _ in range(5)
        ]
        least, most = (sum(some[at].size for some in matrices) for at in (0, -1))
        budget = int(rng.integers(least, most + 1))
        chosen = allocate(matrices, budget)
        size = sum(some[at].size for some, at in zip(matrices, chosen, strict=True))
        loss = sum(some[at].loss for some, at in zip(matrices, chosen, strict=True))
        assert size <= budget
        best = min(
            total
            for at in np.ndindex(*(4,) * 5)
            if sum(some[i].size for some, i in zip(matrices, at, strict=True)) <= budget
            for total in [sum(some[i].loss for some, i in zip(matrices, at, strict=True))]
        )
        steps = max(a.loss - b.loss for some in matrices for a, b in pairwise(some))
        assert best <= loss <= best + steps
    with pytest.raises(ValueError, match="smallest"):
        allocate(matrices, least - 1)


# --- builds -----------------------------------------------------------------------------------------------------------


def divergence(path: Path, against: Path, ids: list[int]) -> float:
    """Mean Kullback-Leibler divergence from `against`, in nats per token."""
    logs = []
    for file in (against, path):
        with Engine(
            file, device="cpu", max_model_len=len(ids), kv_cache_dtype="f32", num_threads=1
        ) as engine:
            logits = np.asarray(engine.score(ids), dtype=np.float64)
        logits -= logits.max(1, keepdims=True)
        logs.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    true, other = logs
    return float((np.exp(true) * (true - other)).sum(1).mean())


@pytest.mark.parametrize("model", ["dense", "moe"])
def test_a_calibrated_model_is_nearer_to_its_checkpoint(
    model: str, text: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(model)
    files = {}
    for name, options in (
        ("exact", {"weights": "bf16"}),
        ("plain", {}),
        ("calibrated", {"calibrate": text, "calibrate_tokens": 4096}),
    ):
        files[name] = tmp_path / f"{name}.l4e"
        build(source, files[name], lm_head="bf16", num_threads=2, **options)
    assert files["calibrated"].stat().st_size < files["plain"].stat().st_size + 4096
    ids = list(text_of(2, 800).encode())  # another text
    plain, calibrated = (divergence(files[name], files["exact"], ids) for name in ("plain", "calibrated"))
    assert 0 < calibrated < 0.8 * plain


def test_the_same_bits_whatever_the_threads(moe: Path, text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"calibrate": text, "calibrate_tokens": TOKENS, "bits": 4.8}
    for threads in (1, 2):
        build(moe, tmp_path / f"{threads}.l4e", num_threads=threads, **options)
    assert digest(tmp_path / "1.l4e") == digest(tmp_path / "2.l4e")
    unfused = tmp_path / "unfused"
    write_values(unfused, MOE, unfuse(random_values(MOE)))
    write_byte_tokenizer(unfused)
    build(unfused, tmp_path / "unfused.l4e", num_threads=2, **options)
    engine_weights = [weights_of(tmp_path / name) for name in ("1.l4e", "unfused.l4e")]
    assert engine_weights[0] == engine_weights[1]


def test_the_same_bits_on_every_table(dense: Path, text: Path, tmp_path: Path) -> None:
    program = (
        "import sys, llama4rt; llama4rt.build(*sys.argv[1:3], calibrate=sys.argv[3], calibrate_tokens=256)"
    )
    digests = set()
    for isa in _core.build_info()["cpu_isas"]:
        out = tmp_path / f"{isa}.l4e"
        command = [sys.executable, "-W", "ignore", "-c", program, str(dense), str(out), str(text)]
        subprocess.run(command, check=True, env=os.environ | {"LLAMA4RT_CPU_ISA": isa})
        digests.add(digest(out))
    assert len(digests) == 1


def weights_of(path: Path) -> dict[str, int]:
    """Checksums of the tensors that are not files of the checkpoint."""
    checksums = json.loads(_core.EngineFile(str(path)).metadata["checksums"])
    return {name: value for name, value in checksums.items() if not name.startswith("files/")}


def test_experts_that_were_seldom_asked_are_named(text: Path, tmp_path: Path) -> None:
    values = random_values(MOE)
    for name, value in values.items():
        if name.endswith("router.weight"):
            value[2] = value[1]  # of equals the first is chosen
    source = write_values(tmp_path / "source", MOE, values)
    write_byte_tokenizer(source)
    report = build(source, tmp_path / "out.l4e", calibrate=text, calibrate_tokens=256)
    (gate_up, *rest) = [
        note for note in report.notes if "experts that saw fewer" in note and "gate_up" in note
    ]
    assert gate_up.startswith("layers.1.moe.gate_up: experts that saw fewer than ")
    assert len(rest) == 1 and rest[0].startswith("layers.3.moe.gate_up")
    named = {
        int(expert): int(count)
        for expert, count in (part.rstrip(")").split(" (") for part in gate_up.rsplit(": ", 1)[1].split(", "))
    }
    assert 2 in named and all(count < FEWEST_EXPERT_TOKENS for count in named.values())
    assert len(named) < MOE["num_local_experts"]
    # Such an expert is what a plain build makes of it.
    build(source, tmp_path / "plain.l4e")
    with_text, without = (
        _core.EngineFile(str(tmp_path / name)).dequantize("layers.1.moe.gate_up", 2)
        for name in ("out.l4e", "plain.l4e")
    )
    np.testing.assert_array_equal(with_text, without)


@pytest.mark.parametrize(
    ("bits", "offsets", "target"), [(4.5, False, "cpu"), (5.3, True, "cpu"), (7.0, False, "cuda")]
)
def test_bits_are_kept_and_used(
    bits: float, offsets: bool, target: str, moe: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.l4e"
    options: dict[str, Any] = {"calibrate": text, "calibrate_tokens": 512}
    report = build(moe, out, bits=bits, offsets=offsets, target=target, **options)
    size = weights = 0
    kinds = set()
    file = _core.EngineFile(str(out))
    for name in facts(out)["weights"]:
        weight = file.weight(name)
        if not name.startswith("layers.") or weight["kind"] == "bf16":
            continue
        kinds.add((weight["kind"], weight["group_size"], weight["has_offsets"]))
        size += sum(file.info(stored)[3] for stored in file.names() if f"{stored}.".startswith(f"{name}."))
        weights += weight["experts"] * weight["n"] * weight["k"]
    assert len(kinds) > 1
    assert f": {8 * size / weights:.3f} bits of a weight" in " ".join(report.notes)
    # The largest matrix is a ninth of the model, and may miss a step of four bits at most.
    assert bits - 0.3 < 8 * size / weights <= bits


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_the_same_weights_from_numbers_of_other_types(
    dtype: str, dense: Path, text: Path, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "source", DENSE, dtype=dtype)
    files = [tmp_path / "ours.l4e", tmp_path / "theirs.l4e"]
    for directory, file in zip((source, dense), files, strict=True):
        build(directory, file, calibrate=text, calibrate_tokens=256)
    assert weights_of(files[0]) == weights_of(files[1])


def test_codes_of_a_gguf_file_stay_beside_calibrated_numbers(
    text: Path, vision_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    from gguf_models import byte_tokenizer, write_llama4

    def type_of(name: str) -> str:
        if "gate_inp" in name:
            return "F32"
        return "Q8_0" if name.split(".")[2:3] in (["attn_q"], ["attn_k"], ["attn_v"]) else "BF16"

    write_llama4(vision_checkpoint("scout_vision"), tmp_path / "m.gguf", type_of, **byte_tokenizer())
    for name, options in (("plain", {}), ("calibrated", {"calibrate": text, "calibrate_tokens": 256})):
        build(tmp_path / "m.gguf", tmp_path / f"{name}.l4e", **options)
    plain, calibrated = (weights_of(tmp_path / f"{name}.l4e") for name in ("plain", "calibrated"))
    for name in plain:
        if ".attn.qkv" in name:
            assert plain[name] == calibrated[name], name
    assert all(
        plain[f"layers.{i}.moe.shared.down"] != calibrated[f"layers.{i}.moe.shared.down"] for i in (0, 1)
    )


def test_too_few_bits_are_refused(dense: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the narrowest codes of this model take 4\.\d+ bits"):
        build(dense, tmp_path / "out.l4e", calibrate=text, calibrate_tokens=TOKENS, bits=4.01)
    assert not list(tmp_path.iterdir())


def test_a_vision_tower_is_left_as_it_is(text: Path, tmp_path: Path) -> None:
    config = SHAPE | {"num_hidden_layers": 2, "vocab_size": 512}
    source = checkpoint(tmp_path / "source", config, vision=True)
    build(source, tmp_path / "plain.l4e")
    build(source, tmp_path / "out.l4e", calibrate=text, calibrate_tokens=TOKENS)
    plain, calibrated = (weights_of(tmp_path / name) for name in ("plain.l4e", "out.l4e"))
    tower = [name for name in plain if name.startswith("vision.")]
    assert tower and all(plain[name] == calibrated[name] for name in tower)
    assert plain["layers.0.attn.qkv"] != calibrated["layers.0.attn.qkv"]
    assert VISION["hidden_size"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "bf16"}, "nothing to calibrate"),
        ({"calibrate": "absent.txt"}, "cannot be read"),
        ({"calibrate_tokens": 255}, "calibrate_tokens is 255"),
        ({"bits": 3.0}, "bits is 3"),
        ({"bits": 5.0, "weights": "int8"}, "no choice"),
        ({"offsets": True, "weights": "int8"}, "offsets are of int4"),
        ({"offsets": True, "target": "cuda"}, "no kernels on a GPU"),
        ({"calibrate": None, "bits": 5.0}, "name a text"),
    ],
)
def test_what_cannot_be_done_is_said(
    options: dict[str, Any], said: str, dense: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        build(dense, tmp_path / "out.l4e", **({"calibrate": text} | options))
    assert not list(tmp_path.iterdir())


def test_a_text_that_is_none(dense: Path, tmp_path: Path) -> None:
    for content, said in ((b"\xff\xfe\x00", "not UTF-8"), (b"short", "needs 256")):
        path = tmp_path / "text"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            build(dense, tmp_path / "out.l4e", calibrate=path)


def test_measured_windows_are_like_all() -> None:
    from llama4rt.convert.calibrate.text import _LENGTHS, some_windows

    windows = [[i] * length for i, length in enumerate(_LENGTHS * 32)]
    some = some_windows(windows, 8192)
    assert sum(map(len, some)) == 8192 and sorted(map(len, some)) == sorted(_LENGTHS * 4)
    assert some[0][0] == 0 and some[-1][0] > 180  # spread over the text
    assert some_windows(windows[:20], 8192) == windows[:20]


def test_the_builtin_text_is_small_and_enough(dense: Path, tmp_path: Path) -> None:
    from llama4rt.convert.calibrate.text import read_text

    name, content = read_text("builtin")
    assert name == "builtin" and 60_000 < len(content) < 100_000
    report = build(dense, tmp_path / "out.l4e", calibrate="builtin", calibrate_tokens=2048)
    assert any(note.startswith("calibrated with ") and " tokens of builtin;" in note for note in report.notes)
    about = facts(tmp_path / "out.l4e")["quantization"]["calibration"]
    assert about["text"] == "builtin" and about["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


# --- interruptions ----------------------------------------------------------------------------------------------------


def interrupted(source: Path, out: Path, part: float, **options: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done > part * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, out, progress=stop, **options)
    assert not out.exists()


@pytest.mark.parametrize("bits", [None, 5.0])
def test_an_interrupted_build_goes_on_to_the_same_bytes(
    bits: float | None, moe: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama4rt.convert.calibrate.state._SECONDS", 0.0)
    options: dict[str, Any] = {"calibrate": text, "calibrate_tokens": TOKENS, "bits": bits, "num_threads": 2}
    build(moe, tmp_path / "whole.l4e", **options)
    out = tmp_path / "out.l4e"
    for part in (0.1, 0.3, 0.45, 0.7, 0.99):
        interrupted(moe, out, part, **options)
    assert Path(f"{out}.calibration").exists()
    calls: list[tuple[int, int]] = []
    build(moe, out, progress=lambda *call: calls.append(call), **options)
    assert digest(out) == digest(tmp_path / "whole.l4e")
    assert calls[0][0] > 0.2 * calls[0][1]  # what was calibrated is not calibrated again
    assert calls[-1][0] == calls[-1][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.l4e", "whole.l4e"]


@pytest.mark.parametrize("damage", ["stream", "line", "other text", "a directory"])
def test_what_is_left_is_not_believed(
    damage: str, dense: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama4rt.convert.calibrate.state._SECONDS", 0.0)
    options: dict[str, Any] = {"calibrate": text, "calibrate_tokens": TOKENS}
    build(dense, tmp_path / "whole.l4e", **options)
    interrupted_again = (
        pytest.warns(UserWarning, match="of another build") if damage == "other text" else nullcontext()
    )
    out, left = tmp_path / "out.l4e", tmp_path / "out.l4e.calibration"
    interrupted(dense, out, 0.6, **options)
    content = bytearray(left.read_bytes())
    if damage == "stream":
        content[-1] ^= 1
        left.write_bytes(content)
    elif damage == "line":
        left.write_bytes(content.replace(b'"layer":', b'"layer":1', 1))
    elif damage == "other text":
        other = tmp_path / "other.txt"
        other.write_text(text_of(7))
        with pytest.warns(UserWarning, match="of another build"):
            interrupted(dense, out, 0.6, **(options | {"calibrate": other}))
    else:
        left.unlink()
        left.mkdir()
    if damage == "a directory":
        with pytest.warns(UserWarning, match="cannot go on later"):
            build(dense, out, **options)
    else:
        with interrupted_again:
            build(dense, out, **options)
    assert digest(out) == digest(tmp_path / "whole.l4e")
