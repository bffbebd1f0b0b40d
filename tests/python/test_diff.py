"""llama4rt diff: sound files of every kind are explained (test_diff_mistakes.py has the others)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama4rt import RequestError, _core, build
from llama4rt.quality.diff.diff import diff
from quantised_checkpoints import RECIPES, write_quantised


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("scout", {"weights": "bf16"}),
        ("scout", {"weights": "int4", "group_size": 32}),
        ("scout", {"weights": "fp8"}),
        ("maverick", {"weights": "int8"}),  # from fp32
        ("maverick", {"weights": "bf16"}),
        ("top2", {"weights": "int4", "group_size": 64}),
        ("odd_heads", {"weights": "int4"}),  # from fp16
        ("tied", {"weights": "int8", "group_size": 32, "lm_head": "int4"}),
        ("mixed_layers", {"weights": "int4"}),
        ("all_nope", {"weights": "bf16"}),
        ("int4", {"weights": "int4"}),
    ],
)
def test_a_sound_file_is_explained(
    kind: str, options: dict[str, Any], checkpoint: Callable[[str], Path], engine_file: Callable[..., Path]
) -> None:
    report = diff(checkpoint(kind), engine_file(kind, **options), transformers=kind in ("scout", "top2"))
    assert report.agrees, (report.config_differences, [(s.name, s.problem) for s in report.problems])
    assert len({step.name for step in report.steps}) == len(report.steps)
    assert report.steps[0].name == "embed" and report.steps[-1].name == "lm_head"
    if report.transformers is not None:
        assert len(report.transformers) == 8 - 3 * (kind == "top2") and max(report.transformers) < 1e-5
    if options["weights"] != "bf16":
        errors = [s.weights.error for s in report.steps if s.weights and s.weights.reported > 0]
        assert errors and min(errors) > 1e-4  # what the file reports has been measured, too
        assert max(s.of_weights for s in report.steps) > 1e-3


@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "f32", "fp8", "int8", "int16"])
def test_every_cache_is_explained(
    kv_cache_dtype: str, checkpoint: Callable[[str], Path], engine_file: Callable[..., Path]
) -> None:
    report = diff(
        checkpoint("chunk64"), engine_file("chunk64"), kv_cache_dtype=kv_cache_dtype, transformers=False
    )
    assert report.agrees, [(s.name, s.problem) for s in report.problems]
    errors = [s.error for s in report.steps if s.op == "paged_attention"]
    low, high = {
        "bf16": (1e-4, 1e-2),
        "f32": (0, 1e-6),
        "fp8": (1e-3, 0.1),
        "int8": (1e-4, 0.1),
        "int16": (1e-6, 1e-3),
    }[kv_cache_dtype]
    assert low <= min(errors) and max(errors) < high


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_every_device_and_activation_is_explained(
    device: str, activations: str, checkpoint: Callable[[str], Path], engine_file: Callable[..., Path]
) -> None:
    if device == "reference" and activations == "int16":
        pytest.skip("of a CPU only")
    file = engine_file("int4", weights="int4")
    report = diff(checkpoint("int4"), file, device=device, activations=activations, transformers=False)
    assert report.agrees, [(s.name, s.problem) for s in report.problems]
    rest = max(s.rest for s in report.steps if s.op in ("linear", "linear_add"))
    assert (
        rest
        < {"reference": 1e-5, "int16": 1e-4, "int8": 3e-2}[device if device == "reference" else activations]
    )


def test_models_with_pictures_and_text_of_their_own(
    vision_checkpoint: Callable[[str], Path], vision_engine_file: Callable[..., Path]
) -> None:
    source, file = vision_checkpoint("scout_vision"), vision_engine_file("scout_vision")
    report = diff(source, file, text="Some words to look at", transformers=False)
    assert report.agrees and report.tokens == 16  # an attention chunk
    assert diff(source, file, text=[256, 1, 2], transformers=False).tokens == 3
    for bad in ([], [256]):
        with pytest.raises(RequestError, match="two tokens"):
            diff(source, file, text=bad, transformers=False)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fp8-block", "fp8"),
        ("nvfp4", "table4"),
        ("nf4", "table4"),
        ("llm-int8", "int8"),
        ("gptq", "int4"),
        ("awq", "int4"),  # zero points
        ("mlx", "int4"),  # offsets
        ("packed-8-asymmetric", "int8"),  # zero points
        ("gptq-desc-act", "bf16"),  # no codes
    ],
)
def test_a_file_of_a_checkpoints_own_codes_is_explained(
    name: str, kind: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    write_quantised(RECIPES[name], checkpoint("int4"), tmp_path / name)
    build(tmp_path / name, tmp_path / "m.l4e", weights="bf16", num_threads=1)
    described = json.loads(_core.EngineFile(str(tmp_path / "m.l4e")).metadata["weights"])
    assert described["layers.1.attn.o"]["kind"] == kind
    report = diff(tmp_path / name, tmp_path / "m.l4e", transformers=False)
    assert report.agrees, (report.config_differences, [(s.name, s.problem) for s in report.problems])
    if RECIPES[name].exact and name not in ("nf4", "mlx"):  # of these two some matrices are rounded
        assert max(s.of_weights for s in report.steps) < 1e-6
