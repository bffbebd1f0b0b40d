"""From a quantised checkpoint to logits: the engine's weights are what the checkpoint means, and so are its answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from driver import Driver
from llama4rt import build
from llama4rt._core import EngineFile
from numpy_reference import NumpyLlama4, from_checkpoint, from_engine_file
from quantised_checkpoints import RECIPES, write_quantised
from test_parity_text import (
    CPU,
    CPU_QUANTISED_LIMIT,
    FP32_LIMIT,
    INT8_LIMIT,
    REFERENCE,
    ids_with_margin,
    relative,
    relative_rms,
)
from tiny_checkpoints import KINDS

# What reports of builds say, by some words of it.
NOTES = ("scales of activations", "scales of the cache", "not runs of inputs", "table of 16 fractions")
Files = Callable[..., Path]


def matrices(model: NumpyLlama4) -> dict[str, np.ndarray]:
    found = {"embed": model.weights.embed, "lm_head": model.weights.lm_head, "norm": model.weights.norm}
    for at, layer in enumerate(model.weights.layers):
        found |= {f"{at}.{part}": getattr(layer, part) for part in ("q", "k", "v", "o")}
        for name, mlp in (("mlp", layer.mlp), *((f"expert {e}", one) for e, one in enumerate(layer.experts))):
            found |= {f"{at}.{name}.{part}": getattr(mlp, part) for part in ("gate", "up", "down")}
        if layer.router is not None:
            found[f"{at}.router"] = layer.router
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_a_quantised_checkpoint(name: str, checkpoint: Files, tmp_path: Path) -> None:
    """Weights to the bit, or within the kind's bound; logits of the reference within 1e-4 of those of the numbers
    meant, of the CPU within 1e-3 relative, and within a tenth where activations are 8 bits.
    """
    recipe = RECIPES[name]
    meant, bound = write_quantised(recipe, checkpoint("int4"), tmp_path / name)
    path = tmp_path / "out.l4e"
    report = build(tmp_path / name, path, weights="bf16", num_threads=1)
    ours, theirs = from_engine_file(path), from_checkpoint(meant)
    found = matrices(ours)
    for matrix, value in matrices(theirs).items():
        rounds = not recipe.exact or matrix == "embed" or "router" in matrix  # what is stored as bf16
        if bound or rounds:
            most = bound + 2**-8 * rounds
            assert np.abs(found[matrix] - value).max() <= most * np.abs(value).max(), matrix
        else:
            np.testing.assert_array_equal(found[matrix], value, err_msg=matrix)
    described = json.loads(EngineFile(str(path)).metadata["weights"])
    kinds = {described[f"layers.{weight}"]["kind"] for weight in ("1.moe.gate_up", "0.mlp.down")}
    assert (kinds == {"bf16"}) != recipe.exact
    assert sorted(words for words in NOTES if any(words in note for note in report.notes)) == sorted(
        recipe.notes
    )
    reference = ours if bound or not recipe.exact or recipe.also else theirs
    ids = ids_with_margin(reference, KINDS["int4"], 101, tries=8)
    expected = reference.logits(ids)
    with Driver(path, **REFERENCE) as driver:
        assert np.abs(driver.score(ids) - expected).max() < FP32_LIMIT
    with Driver(path, **CPU) as driver:
        assert relative(driver.score(ids), expected) < CPU_QUANTISED_LIMIT
    with Driver(path, **CPU | {"activations": "int8"}) as driver:
        error = np.median([relative_rms(a, b) for a, b in zip(driver.score(ids), expected, strict=True)])
        assert error < INT8_LIMIT


def test_a_head_that_was_left_alone_stays_so(checkpoint: Files, tmp_path: Path) -> None:
    """--lm-head auto: also where the codes of the other matrices could not go in."""
    write_quantised(RECIPES["gptq-desc-act"], checkpoint("int4"), tmp_path / "source")
    build(tmp_path / "source", tmp_path / "out.l4e", weights="int8", num_threads=1)
    described = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    assert described["layers.1.moe.down"]["kind"] == "int8"
    assert described["lm_head"]["kind"] == "bf16"
