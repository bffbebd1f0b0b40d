"""Meta's own checkpoints: however many files one model is in, the engine is that of its Hugging Face form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert.config import parse_config
from llama4rt.convert.formats.meta_params import parse_params
from llama4rt.convert.named_configs import CONFIGS
from llama4rt.errors import CheckpointError, ConfigError
from meta_files import CONFIG, PARAMS, meta_values, native, save_pth, shard, write_meta
from random_checkpoints import VISION, write_values
from tiny_checkpoints import write_byte_tokenizer


def stored_bytes(path: Path) -> dict[str, bytes]:
    """Of every tensor that is no file."""
    file = EngineFile(str(path))
    return {
        name: np.array(file.raw(name)).tobytes() for name in file.names() if not name.startswith("files/")
    }


def config_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(EngineFile(str(path)).metadata["config"]))


@pytest.fixture(scope="module")
def hf_engines(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The engines of the Hugging Face form, without and with a tower."""
    root = tmp_path_factory.mktemp("hf")
    out = {}
    for vision in (False, True):
        values = meta_values(vision=vision)
        prefix = "language_model." if vision else ""
        named = {
            name if "vision" in name or "multi" in name else prefix + name: v for name, v in values.items()
        }
        source = write_values(root / f"source-{vision}", CONFIG, named, vision=vision)
        if vision:
            whole = json.loads((source / "config.json").read_text())
            whole["image_token_index"] = 256 + 92
            (source / "config.json").write_text(json.dumps(whole))
        write_byte_tokenizer(source)
        out[vision] = root / f"{vision}.l4e"
        build(source, out[vision], group_size=32)
    return out


@pytest.mark.parametrize("vision", [False, True], ids=["text", "vision"])
@pytest.mark.parametrize(("count", "fused"), [(1, True), (2, False), (4, True), (8, True), (8, False)])
def test_any_number_of_files_gives_the_same_engine(
    count: int, fused: bool, vision: bool, hf_engines: dict[bool, Path], tmp_path: Path
) -> None:
    source = write_meta(
        tmp_path / "source", meta_values(vision=vision), count, fused=fused, nested=count == 4
    )
    build(source, tmp_path / "out.l4e", group_size=32)
    assert stored_bytes(tmp_path / "out.l4e") == stored_bytes(hf_engines[vision])
    assert config_of(tmp_path / "out.l4e") == config_of(hf_engines[vision])


def test_what_is_taken_from_elsewhere_is_said(tmp_path: Path) -> None:
    source = write_meta(tmp_path / "source", meta_values(), 2)
    words = build(source, tmp_path / "out.l4e").notes
    assert any("attn_temperature_tuning" in line for line in words)
    assert any("max_position_embeddings is 1048576, that of most Llama 4" in line for line in words)


def test_kept_files_and_hash(tmp_path: Path) -> None:
    source = write_meta(tmp_path / "source", meta_values(), 2)
    (source / "LICENSE").write_text("a licence")
    build(source, tmp_path / "out.l4e")
    metadata = EngineFile(str(tmp_path / "out.l4e")).metadata
    assert json.loads(metadata["files"]) == ["LICENSE", "params.json", "tokenizer.model"]
    assert json.loads(metadata["source"])["hash"].startswith("sha256:")
    other = write_meta(tmp_path / "other", meta_values(), 4)
    build(other, tmp_path / "other.l4e")
    assert (
        json.loads(EngineFile(str(tmp_path / "other.l4e")).metadata["source"])["hash"]
        != json.loads(metadata["source"])["hash"]
    )


# --- params.json

SCOUT_PARAMS = {
    "dim": 5120, "n_layers": 48, "n_heads": 40, "n_kv_heads": 8, "vocab_size": 202048, "ffn_exp": 4.0,
    "ffn_dim_multiplier": 1.2, "multiple_of": 2048, "norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": True,
    "nope_layer_interval": 4, "attention_chunk_size": 8192, "use_qk_norm": True, "attn_temperature_tuning": False,
    "attn_scale": 0.1, "floor_scale": 8192.0,
    "moe_args": {"num_experts": 16, "top_k": 1, "capacity_factor": 1.0, "auto_scale_F": True,
                 "interleave_moe_layer_step": 1},
    "vision_args": {"image_size": {"height": 336, "width": 336}, "patch_size": {"height": 14, "width": 14},
                    "dim": 1408, "n_layers": 34, "n_heads": 16, "mlp_ratio": 4.0, "output_dim": 4096,
                    "pixel_shuffle_ratio": 0.5},
}  # fmt: skip
MAVERICK_PARAMS = SCOUT_PARAMS | {
    "use_scaled_rope": False,
    "use_qk_norm": False,
    "moe_args": SCOUT_PARAMS["moe_args"] | {"num_experts": 128, "interleave_moe_layer_step": 2},  # type: ignore[operator]
}


@pytest.mark.parametrize(("name", "params"), [("scout", SCOUT_PARAMS), ("maverick", MAVERICK_PARAMS)])
def test_published_sizes(name: str, params: dict[str, Any]) -> None:
    found = parse_params(params, None, 202_048)
    assert parse_config(found.config).canonical() == parse_config(CONFIGS[name]).canonical()
    assert any(f"that of Llama 4 {name.capitalize()}" in note for note in found.notes)
    assert parse_params({"model": params}, None, 202_048).config == found.config
    assert parse_params(params | {"vocab_size": -1}, None, 202_048).config == found.config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dim": "wide"}, "dim is 'wide'; it must be an integer"),
        ({"n_layers": None}, "n_layers is missing from params.json"),
        ({"moe_args": []}, r"moe_args is \[\]; it must be an object"),
        ({"moe_args": {"num_experts": 0}}, "moe_args.num_experts is 0"),
        ({"lora_args": {"rank": 16, "scale": 2.0}}, "lora_args is there"),
        ({"quantization_args": {"spinquant": True}}, "spinquant is true"),
        ({"ffn_dim_multiplier": 0.0}, "an MLP of width 0"),
        ({"ffn_dim_multiplier": float("nan")}, "ffn_dim_multiplier is nan"),
        ({"vision_args": SCOUT_PARAMS["vision_args"] | {"image_size": {"height": 1, "width": 2}}},  # type: ignore[operator]
         "vision_args.image_size is 1 x 2; it must be a square"),
    ],
)  # fmt: skip
def test_bad_params(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_params(SCOUT_PARAMS | change, None, 202_048)


def test_a_tower_without_a_tokenizer_has_no_patch_id() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.model is missing"):
        parse_params(SCOUT_PARAMS, None, 1000)


def test_models_without_experts_chunks_or_unrotated_layers() -> None:
    params = {key: value for key, value in PARAMS.items() if key not in ("moe_args", "nope_layer_interval")}
    config = parse_config(parse_params(params | {"attention_chunk_size": None}, None, 368).config)
    assert config.moe_layers == (0,) * 4 and config.rope_layers == (1,) * 4
    assert config.attention_chunk_size == 0 and not config.attn_temperature_tuning


# --- files that do not fit


@pytest.fixture
def four(tmp_path: Path) -> Path:
    return write_meta(tmp_path / "four", meta_values(), 4)


def refusal(source: Path) -> str:
    out = source.parent / "out.l4e"
    with pytest.raises((CheckpointError, ConfigError)) as error:
        build(source, out)
    assert not list(out.parent.glob("out.l4e*"))
    return str(error.value)


def test_missing_files(four: Path) -> None:
    (four / "consolidated.03.pth").unlink()  # nothing says how many there were, but the vocabulary does
    assert "embed_tokens.weight: is missing" not in (words := refusal(four))
    assert "tok_embeddings.weight: is BF16 [276, 128]; expected BF16, F16 or F32 [368, 128]" in words
    (four / "consolidated.01.pth").unlink()
    assert "consolidated.01.pth is missing; download the checkpoint again" in refusal(four)


def test_both_kinds_of_files(four: Path) -> None:
    shutil.copy(four / "consolidated.00.pth", four / "consolidated.pth")
    assert "expected one or the other kind" in refusal(four)


def test_params_must_be_there(four: Path) -> None:
    (four / "params.json").unlink()
    assert "params.json: is missing" in refusal(four)


def change_file(path: Path, change: Any) -> None:
    import torch

    tensors = torch.load(path, weights_only=False)
    change(tensors)
    torch.save(tensors, path)


def test_files_of_different_models(four: Path) -> None:
    def other_norm(tensors: dict[str, Any]) -> None:
        tensors["layers.1.attention.wqkv.layer_norm_weight"][3] += 1

    change_file(four / "consolidated.02.pth", other_norm)
    assert "layer_norm_weight: differs between consolidated.00.pth and consolidated.02.pth" in refusal(four)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.pop("norm.weight"),
            "norm.weight: is in consolidated.00.pth and not in consolidated.02.pth",
        ),
        (
            lambda t: t.update({"norm.weight": t["norm.weight"][:5]}),
            r"norm.weight: is BF16 \[128\] in .*\[5\] in",
        ),
        (
            lambda t: t.update({"norm.weight": t["norm.weight"].float()}),
            r"is BF16 \[128\] in .* F32 \[128\] in",
        ),
    ],
)
def test_files_that_disagree(change: Any, words: str, four: Path) -> None:
    import re

    change_file(four / "consolidated.02.pth", change)
    assert re.search(words, refusal(four))


def test_names_not_understood_are_listed(tmp_path: Path) -> None:
    source = write_meta(tmp_path / "source", meta_values(), 2)
    whole = native(meta_values(), fused=True)
    whole["layers.0.attention.gate.weight"] = whole["norm.weight"]
    whole["speech.weight"] = whole["norm.weight"]
    for rank in range(2):
        save_pth(source / f"consolidated.{rank:02d}.pth", shard(whole, rank, 2))
    words = refusal(source)
    assert "layers.0.attention.gate.weight: is BF16 [128]; no such tensor belongs to this model" in words
    assert "speech.weight: is BF16 [128]; no such tensor" in words


def test_two_names_of_one_tensor(tmp_path: Path) -> None:
    source = write_meta(tmp_path / "source", meta_values(), 1)
    whole = native(meta_values(), fused=True)
    whole["layers.0.attention_norm.weight"] = whole["norm.weight"]
    save_pth(source / "consolidated.pth", whole)
    assert "are both there, and both are model.layers.0.input_layernorm.weight" in refusal(source)


def test_bad_numbers_are_named_by_metas_names(tmp_path: Path) -> None:
    values = meta_values()
    values["model.layers.1.feed_forward.experts.down_proj"][2, 40, 5] = np.nan
    words = refusal(write_meta(tmp_path / "source", values, 4))
    assert "layers.1.feed_forward.experts.moe_w_out_eF_D" in words and "is NaN" in words


def test_a_sharded_router(tmp_path: Path, hf_engines: dict[bool, Path]) -> None:
    """One reading of Meta's code cuts the router too."""
    source = write_meta(tmp_path / "source", meta_values(), 2)
    whole = native(meta_values(), fused=True)
    for rank in range(2):
        part = shard(whole, rank, 2)
        for name in part:
            if name.endswith("router_DE"):
                part[name] = np.split(part[name], 2, axis=1)[rank]
        save_pth(source / f"consolidated.{rank:02d}.pth", part)
    build(source, tmp_path / "out.l4e", group_size=32)
    assert stored_bytes(tmp_path / "out.l4e") == stored_bytes(hf_engines[False])


def test_an_output_that_is_part_of_the_checkpoint(four: Path) -> None:
    for name in ("consolidated.01.pth", "params.json"):
        with pytest.raises(ConfigError, match="is part of the checkpoint"):
            build(four, four / name)
    assert (four / "consolidated.01.pth").stat().st_size > 1000


def test_vision_can_be_left_out(tmp_path: Path, hf_engines: dict[bool, Path]) -> None:
    source = write_meta(tmp_path / "source", meta_values(vision=True), 2)
    build(source, tmp_path / "out.l4e", group_size=32, vision="none")
    skipped = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["source"])["skipped"]
    assert [part["part"] for part in skipped] == ["vision_model", "multi_modal_projector"]
    text = {
        name: value
        for name, value in stored_bytes(hf_engines[True]).items()
        if not name.startswith("vision.")
    }
    assert stored_bytes(tmp_path / "out.l4e") == text
    assert VISION["num_hidden_layers"] == 2
