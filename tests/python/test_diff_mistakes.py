"""llama4rt diff: a planted mistake is found at its step, and nowhere before it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_bytes import changed_copy
from llama4rt import _core, build
from llama4rt.cli.main import main
from llama4rt.quality.diff import diff as diff_module
from llama4rt.quality.diff import reference
from llama4rt.quality.diff.compare_steps import StepComparer
from llama4rt.quality.diff.diff import DiffReport, diff
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def mutated(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """mutated("scout", change) -> an engine file built from the checkpoint after change(tensors); options of build."""
    root = tmp_path_factory.mktemp("mutated")
    count = iter(range(1000))

    def make(
        kind: str,
        change: Callable[[Tensors], None] = lambda tensors: None,
        config: Callable[[dict[str, Any]], None] | None = None,
        **options: Any,
    ) -> Path:
        directory = root / str(next(count))
        shutil.copytree(checkpoint(kind), directory)
        for shard in directory.glob("*.safetensors"):
            tensors = load_file(shard)
            change(tensors)
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, shard, {"format": "pt"}
            )
        if config:
            path = directory / "config.json"
            values = json.loads(path.read_text())
            config(values)
            path.write_text(json.dumps(values))
        build(directory, directory / "m.l4e", **({"weights": "bf16"} | options))
        return directory / "m.l4e"

    return make


def first_problem(report: DiffReport) -> str:
    return report.problems[0].name if report.problems else ""


def with_problems(report: DiffReport) -> set[str]:
    return {step.name for step in report.problems}


# --- wrong weights ----------------------------------------------------------------------------------


def permute_q(tensors: Tensors) -> None:
    """Rows of every head as halves in place of pairs: the order of other model families."""
    name = "model.layers.2.self_attn.q_proj.weight"
    heads = tensors[name].unflatten(0, (4, 16))
    tensors[name] = torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1).flatten(0, 1)


def swap_two_rows(tensors: Tensors) -> None:
    k = tensors["model.layers.1.self_attn.k_proj.weight"]
    k[[3, 7]] = k[[7, 3]]


def scale_o(tensors: Tensors) -> None:
    tensors["model.layers.3.self_attn.o_proj.weight"] *= 1.05


def swap_gate_and_up(tensors: Tensors) -> None:
    gate_up = tensors["model.layers.0.feed_forward.experts.gate_up_proj"]
    tensors["model.layers.0.feed_forward.experts.gate_up_proj"] = torch.cat(
        gate_up.chunk(2, dim=2)[::-1], dim=2
    )


def swap_dense_gate_and_up(tensors: Tensors) -> None:
    at = "model.layers.2.feed_forward."
    gate, up = tensors[f"{at}gate_proj.weight"], tensors[f"{at}up_proj.weight"]
    tensors[f"{at}gate_proj.weight"], tensors[f"{at}up_proj.weight"] = up, gate


def swap_experts(tensors: Tensors) -> None:
    tensors["model.layers.1.feed_forward.experts.down_proj"] = tensors[
        "model.layers.1.feed_forward.experts.down_proj"
    ].roll(1, dims=0)


def scale_shared(tensors: Tensors) -> None:
    tensors["model.layers.0.feed_forward.shared_expert.down_proj.weight"] *= 0.9


def change_router(tensors: Tensors) -> None:
    router = tensors["model.layers.0.feed_forward.router.weight"]
    tensors["model.layers.0.feed_forward.router.weight"] = router.flip(0)


def change_norm(tensors: Tensors) -> None:
    tensors["model.layers.2.post_attention_layernorm.weight"] += 0.01


def change_embedding(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].roll(1, dims=0)


def change_head(tensors: Tensors) -> None:
    tensors["lm_head.weight"][100] *= -1


@pytest.mark.parametrize("weights", ["bf16", "int4"])
@pytest.mark.parametrize(
    ("kind", "change", "step"),
    [
        ("dense", permute_q, "layers.2.attn.q"),
        ("dense", swap_two_rows, "layers.1.attn.k"),
        ("dense", scale_o, "layers.3.attn.o"),
        ("scout", swap_gate_and_up, "layers.0.moe.gate_up"),
        ("dense", swap_dense_gate_and_up, "layers.2.mlp.gate_up"),
        ("scout", swap_experts, "layers.1.moe.down"),
        ("scout", scale_shared, "layers.0.moe.down"),
        ("scout", change_router, "layers.0.moe.router"),
        ("dense", change_norm, "layers.2.ffn_norm"),
        ("dense", change_embedding, "embed"),
        ("dense", change_head, "lm_head"),
    ],
)
def test_wrong_weights_are_found_at_their_step(
    kind: str, change: Callable[[Tensors], None], step: str, weights: str,
    checkpoint: Callable[[str], Path], mutated: Callable[..., Path],
) -> None:  # fmt: skip
    if weights != "bf16" and change in (change_norm, change_embedding, change_router):
        pytest.skip("not quantised")
    file = (
        mutated(kind, change, weights=weights, group_size=32) if weights != "bf16" else mutated(kind, change)
    )
    report = diff(checkpoint(kind), file, transformers=False)
    assert first_problem(report) == step and not report.agrees
    assert with_problems(report) == {step}  # what follows it computes rightly from what it is given


def test_a_scale_changed_in_the_file_is_found(
    checkpoint: Callable[[str], Path], engine_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = engine_file("dense", weights="int4", group_size=32)
    stored = next(
        n for n in _core.EngineFile(str(file)).names() if n.startswith("layers.1.attn.o") and "scale" in n
    )
    raw = _core.EngineFile(str(file)).raw(stored).view(np.uint16)
    exponents = (raw + np.uint16(1 << 7)).tobytes()  # of bf16: twice as large
    report = diff(
        checkpoint("dense"), changed_copy(file, tmp_path / "m.l4e", stored, exponents), transformers=False
    )
    assert with_problems(report) == {"layers.1.attn.o"} and "the weights are" in report.problems[0].problem


@pytest.mark.parametrize("factor", [2.0, 1.125])
def test_a_scale_of_one_expert_changed_in_the_file_is_found(
    factor: float, checkpoint: Callable[[str], Path], engine_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = engine_file("int4", weights="int4", group_size=32)
    opened = _core.EngineFile(str(file))
    stored = next(n for n in opened.names() if n.startswith("layers.1.moe.down") and "scale" in n)
    scales = (opened.raw(stored).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    of_expert = np.split(scales, json.loads(opened.metadata["config"])["num_local_experts"])[2]
    of_expert *= np.float32(factor)  # a few bits: bf16 holds it but for the rounding
    changed = ((scales.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).tobytes()
    report = diff(
        checkpoint("int4"), changed_copy(file, tmp_path / "m.l4e", stored, changed), transformers=False
    )
    assert with_problems(report) == {"layers.1.moe.down"}
    assert "expert 2" in report.problems[0].problem and "as large as" in report.problems[0].problem


# --- wrong steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "step"),
    [
        ("scout", lambda c: c["rope_parameters"].update(rope_theta=400000.0), "layers.0.attn.q_ready"),
        ("scout", lambda c: c["rope_parameters"].update(factor=8.0), "layers.0.attn.q_ready"),
        ("scout", lambda c: c.update(use_qk_norm=False), "layers.0.attn.q_ready"),
        ("scout", lambda c: c.update(attn_scale=0.2), "layers.3.attn.q_ready"),
        ("scout", lambda c: c.update(no_rope_layers=[0, 1, 1, 1, 1, 1, 1, 0]), "layers.0.attn.q_ready"),
        ("dense", lambda c: c.update(rms_norm_eps=1e-3), "layers.0.attn_norm"),
        ("top2", lambda c: c.update(num_experts_per_tok=1), "layers.0.moe.router"),
    ],
)
def test_wrong_settings_are_found_at_their_step(
    kind: str, change: Callable[[dict[str, Any]], None], step: str,
    checkpoint: Callable[[str], Path], mutated: Callable[..., Path],
) -> None:  # fmt: skip
    report = diff(checkpoint(kind), mutated(kind, config=change), transformers=False)
    assert first_problem(report) == step and report.config_differences and not report.agrees


@pytest.mark.parametrize(
    ("op", "name", "step"),
    [
        ("embed", "out", "embed"),
        ("rmsnorm", "out", "layers.0.attn_norm"),
        ("linear", "out", "layers.0.attn.q"),
        ("prepare_qkv", "k", "layers.0.attn.k_ready"),
        ("paged_attention", "out", "layers.0.attn.context"),
        ("linear_add", "x", "layers.0.attn.o"),
        ("gate_up", "a", "layers.0.mlp.gate_up"),
        ("route", "scores", "layers.1.moe.router"),
        ("moe_gate_up", "a", "layers.1.moe.gate_up"),
        ("moe_gate_up", "shared_a", "layers.1.moe.shared.gate_up"),
        ("moe_down_add", "x", "layers.1.moe.down"),
        ("gather_rows", "out", "last_layer"),
    ],
)
@pytest.mark.parametrize("weights", ["bf16", "int4"])
def test_a_wrong_result_is_found_at_its_step(
    op: str, name: str, step: str, weights: str, checkpoint: Callable[[str], Path],
    engine_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The first time the op runs, what it is said to have given is wrong in one place of each row."""
    done = []

    class Tampered(StepComparer):
        def __call__(self, op_run: str, names: Any, given: Any, result: Any) -> None:
            if op_run == op and not done:
                done.append(op_run)
                result[name][:, 0] = result[name][:, 0] * 1.5 + 0.5
            super().__call__(op_run, names, given, result)

    monkeypatch.setattr(diff_module, "StepComparer", Tampered)
    report = diff(checkpoint("int4"), engine_file("int4", weights=weights), transformers=False)
    assert done and first_problem(report) == step


def test_a_wrong_expert_is_found(
    checkpoint: Callable[[str], Path], engine_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tampered(StepComparer):
        def __call__(self, op: str, names: Any, given: Any, result: Any) -> None:
            if op == "route":
                result["expert_ids"][5] = (result["expert_ids"][5] + 1) % 4
            super().__call__(op, names, given, result)

    monkeypatch.setattr(diff_module, "StepComparer", Tampered)
    report = diff(checkpoint("scout"), engine_file("scout"), transformers=False)
    assert first_problem(report) == "layers.0.moe.router" and "token 5 goes to" in report.problems[0].problem


def test_a_wrong_reference_is_told_by_transformers(
    checkpoint: Callable[[str], Path], engine_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should both the engine and our reference be wrong alike, somebody else says so."""
    right = reference.rmsnorm
    monkeypatch.setattr(reference, "rmsnorm", lambda x, gain, eps: right(x, gain, eps) * np.float32(1.001))
    report = diff(checkpoint("dense"), engine_file("dense"), transformers=True)
    assert report.transformers is not None and max(report.transformers) > 1e-4 and not report.agrees


def test_what_the_observer_raises_reaches_the_caller(engine_file: Callable[..., Path]) -> None:
    def observer(op: str, names: Any, given: Any, result: Any) -> None:
        if op == "linear":
            raise KeyError("looked for in vain")

    engine = _core.ObservedEngine(str(engine_file("dense")), observer)
    for _ in range(2):
        with pytest.raises(KeyError, match="looked for in vain"):
            engine.run([1, 2, 3])
    engine.close()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(
    checkpoint: Callable[[str], Path], engine_file: Callable[..., Path], mutated: Callable[..., Path],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [
        "diff",
        str(checkpoint("dense")),
        str(engine_file("dense")),
        "--no-transformers",
        "--tokens",
        "12",
    ]
    assert main([*words, "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    assert "all 59 steps are what rounding explains" in shown and "12 tokens on cpu" in shown
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["agrees"] and len(report["steps"]) == 59 and report["checkpoint"] == "dense"
    assert str(tmp_path) not in json.dumps(report)
    wrong = mutated("dense", permute_q)
    assert main([*words[:2], str(wrong), *words[3:], "--all"]) == 1
    shown = capsys.readouterr().out
    assert "first leaves the checkpoint at layers.2.attn.q: the weights are" in shown
    assert shown.count("\nlayers.4.attn") == 8
    assert main([*words[:2], str(wrong), *words[3:], "--json", "-"]) == 1
    assert not json.loads(capsys.readouterr().out)["agrees"]
    assert main(["diff", str(tmp_path / "none"), str(wrong)]) == 1
    assert "error:" in capsys.readouterr().err
