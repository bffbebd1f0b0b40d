"""Checkpoints that cannot be read are recognised: one or two sentences that name them and what to do, no long list;
and names with a wrapper's prefixes are read as if they had none.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import build
from llama4rt.convert.formats.renamed import plain_name
from llama4rt.errors import CheckpointError, ConfigError
from random_checkpoints import SMALL, TINY, random_values, stored, write_config, write_tensors, write_values

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 4999802720\n"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_values(tmp_path_factory.mktemp("small") / "checkpoint", SMALL, random_values(SMALL))


@pytest.fixture
def source(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "source"))


def refusal(source: Path, tmp_path: Path) -> str:
    """The words of the error; they must be short, and nothing may have been written."""
    with pytest.raises((CheckpointError, ConfigError)) as error:
        build(source, tmp_path / "out.l4e")
    words = str(error.value)
    assert words.count("\n") <= 6 and len(words) < 1200, words
    assert not list(tmp_path.glob("out*"))
    return words


def tensors(source: Path, changes: dict[str, tuple[str, np.ndarray[Any, Any]]]) -> None:
    """The small model's tensors, of which `changes` replace those with the same module."""
    values = {name: stored(value, "BF16") for name, value in random_values(SMALL).items()}
    for name in changes:
        module = re.sub(r"\.[^.]+$", "", name.replace(".quant_state", ""))
        values = {other: v for other, v in values.items() if not other.startswith(f"{module}.")}
    write_tensors(source, values | changes)


# --- containers


def test_files_in_the_place_of_a_directory(tmp_path: Path) -> None:
    for name, content, words in (
        ("model.gguf", b"GGML\3\0\0\0", "does not begin as a GGUF file does"),
        ("model", b"GGUF\3\0\0\0", "the file ends inside the number of tensors"),
        ("consolidated.00.pth", b"PK\3\4", "name the directory it is in"),
        ("pytorch_model.bin", pickle.dumps({}), "only Meta's consolidated.*save_pretrained"),
        ("any", b"PK\3\4", "only Meta's consolidated"),
        (
            "model.safetensors",
            b"\0" * 8,
            "is a file; expected a checkpoint directory .the one this file is in",
        ),
        ("model.l4e", b"\0" * 8, "is an engine file already"),
        ("notes.txt", b"", "is a file; expected a checkpoint directory or a hub id"),
    ):
        (tmp_path / name).write_bytes(content)
        assert re.search(words, refusal(tmp_path / name, tmp_path), re.DOTALL), name


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["scout-Q4_K_M.gguf"], r"scout-Q4_K_M\.gguf does not begin as a GGUF file"),
        (["consolidated.00.pth", "consolidated.01.pth"], r"consolidated\.00\.pth: has no zip directory"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "save_pretrained it as safetensors"),
        (["model.pt"], "cannot be read; of PyTorch's own files llama4rt reads only Meta's"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
         r"2 shards .*not model\.safetensors\.index\.json.*download"),
        (["scout.safetensors"], "scout.safetensors is; if it is the whole model, call it model.safetensors"),
        ([], r"neither model\.safetensors nor model\.safetensors\.index\.json"),
    ],
)  # fmt: skip
def test_directories_of_other_things(names: list[str], words: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_config(source, SMALL)
    for name in names:
        (source / name).write_bytes(b"x" * 2000)
    assert re.search(words, refusal(source, tmp_path), re.DOTALL)


def test_adapters(source: Path, tmp_path: Path) -> None:
    adapter = {"base_model_name_or_path": "meta-llama/Llama-4-Scout-17B-16E", "peft_type": "LORA"}
    (source / "adapter_config.json").write_text(json.dumps(adapter))
    words = "adapter .LoRA. of 'meta-llama/Llama-4-Scout-17B-16E'.*merge"
    assert re.search(words, refusal(source, tmp_path))  # beside a whole model, which it would change
    (source / "model.safetensors").rename(source / "adapter_model.safetensors")
    assert re.search(words, refusal(source, tmp_path))
    (source / "adapter_config.json").unlink()
    (source / "adapter_model.safetensors").unlink()
    lora = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": stored(
            np.zeros((4, 8), np.float32), "F32"
        )
    }
    write_tensors(source, lora)
    assert re.search(r"lora_A\.weight is a tensor of an adapter", refusal(source, tmp_path))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.model", "tokenizer.json", "LICENSE", "model.safetensors"]
)
def test_lfs_pointers(name: str, source: Path, tmp_path: Path) -> None:
    (source / name).write_bytes(POINTER)
    assert re.search(rf"{name}: is a Git LFS pointer.*git lfs pull", refusal(source, tmp_path))


def test_lfs_pointers_of_shards(tmp_path: Path) -> None:
    source = write_values(tmp_path / "source", SMALL, random_values(SMALL), shards=3)
    for path in source.glob("model-*.safetensors"):
        path.write_bytes(POINTER)
    assert "model-00001-of-00003.safetensors: is a Git LFS pointer" in refusal(source, tmp_path)
    (source / "model.safetensors.index.json").unlink()
    assert "is a Git LFS pointer" in refusal(source, tmp_path)


def test_shards_that_are_missing_are_counted(tmp_path: Path) -> None:
    source = write_values(tmp_path / "source", SMALL, random_values(SMALL), shards=9)
    shards = sorted(source.glob("model-*.safetensors"))
    for shard in shards[1:]:
        shard.unlink()
    words = refusal(source, tmp_path)
    assert f"{shards[1]}: is missing" in words and "and 5 more of the 9 shards are missing" in words
    assert "download the checkpoint again" in words


# --- quantisations


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "aqlm"}, "'aqlm' .AQLM."),
        ({"quant_method": "hqq", "quant_config": {}}, "'hqq' .HQQ."),
        ({"quant_method": "mxfp4", "modules_to_not_convert": []}, "'mxfp4' .MXFP4."),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "marlin-24"),
        ({"quant_method": "compressed-tensors", "format": "mixed-precision",
          "config_groups": {"group_0": {"format": "sparse-bitmask"}}}, r"config_groups\.group_0\.format.*sparse"),
        ({"quant_method": "unheard-of"}, "'unheard-of'; llama4rt reads"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["top", "text_config"])
def test_quantisations_that_config_json_says(
    quantization: dict[str, Any], words: str, where: str, source: Path, tmp_path: Path
) -> None:
    if where == "top":
        write_config(source, SMALL, quantization_config=quantization)
    else:
        write_config(source, SMALL | {"quantization_config": quantization}, vision=True)
    found = refusal(source, tmp_path)
    assert re.search(words, found) and "unquantised checkpoint" in found, found


PROJ = "model.layers.0.self_attn.o_proj"


def zeros(dtype: str, *shape: int) -> tuple[str, np.ndarray[Any, Any]]:
    width = {"I32": np.int32, "I8": np.int8, "F32": np.float32}.get(dtype, np.uint8)
    return dtype, np.zeros(shape, width)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{PROJ}.weight": zeros("F8_E5M2", 64, 64), f"{PROJ}.weight_scale": zeros("F32", 1)}, "FP8"),
        ({f"{PROJ}.weight": zeros("U8", 64, 32), f"{PROJ}.weight_scale_2": zeros("F32", 1)}, "NVFP4"),
        ({f"{PROJ}.weight_blocks": zeros("U8", 64, 2, 16), f"{PROJ}.weight_scales": zeros("U8", 64, 2)}, "MXFP4"),
        ({f"{PROJ}.weight": zeros("F8_E4M3", 64, 64), f"{PROJ}.weight_scale": zeros("F32", 1),
          f"{PROJ}.pre_quant_scale": zeros("F32", 64)}, "a kind that scales activations before .*"),
        ({f"{PROJ}.weight": zeros("U8", 2048, 1), f"{PROJ}.weight.absmax": zeros("U8", 64)}, "bitsandbytes"),
        ({f"{PROJ}.weight": zeros("F32", 64, 64), f"{PROJ}.SCB": zeros("F32", 64)}, "bitsandbytes"),
        ({f"{PROJ}": zeros("I8", 64, 64)}, "int8"),
    ],
)  # fmt: skip
def test_quantisations_that_only_the_tensors_say(
    changes: dict[str, tuple[str, np.ndarray[Any, Any]]], words: str, source: Path, tmp_path: Path
) -> None:
    tensors(source, changes)
    found = refusal(source, tmp_path)
    assert re.search(rf"is quantised as {words} \({PROJ}", found) and "unquantised checkpoint" in found, found


# --- names


def meta_name(name: str) -> str:
    return (
        name.replace("model.embed_tokens", "tok_embeddings").replace("model.layers", "layers")
        .replace("self_attn.q_proj", "attention.wq").replace("self_attn.", "attention.")
    )  # fmt: skip


def rename(source: Path, change: Callable[[str], str]) -> None:
    """Writes the model's tensors under other names."""
    values = random_values(SMALL)
    write_tensors(source, {change(name): stored(value, "BF16") for name, value in values.items()})


def test_meta_s_own_names(source: Path, tmp_path: Path) -> None:
    rename(source, meta_name)
    assert re.search("Meta's own names .*read from consolidated", refusal(source, tmp_path))


def test_an_unknown_prefix_is_named_once(source: Path, tmp_path: Path) -> None:
    rename(source, lambda name: f"student.net.{name}")
    assert "they begin with 'student.net.'" in refusal(source, tmp_path)
    write_tensors(
        source, {f"blocks.{i}.kernel": stored(np.zeros((4, 4), np.float32), "F32") for i in range(500)}
    )
    assert re.search("none of the checkpoint's 500 tensors has a name of Llama 4", refusal(source, tmp_path))


def test_a_model_of_other_sizes_is_a_short_list(tmp_path: Path) -> None:
    source = write_values(tmp_path / "source", TINY, random_values(TINY))
    write_config(source, TINY | {"hidden_size": 192, "num_hidden_layers": 40})
    with pytest.raises(CheckpointError) as error:
        build(source, tmp_path / "out.l4e")
    lines = str(error.value).splitlines()
    assert len(lines) <= 22 and any("more like it" in line for line in lines)


WRAPPED: dict[str, Callable[[str], str]] = {
    "module": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "model twice": lambda name: f"model.{name}",
    "model thrice": lambda name: f"model.model.{name}",
    "peft": lambda name: f"base_model.model.{name}",
    "inside": lambda name: re.sub(
        r"layers\.(\d+)\.", r"layers.\1._orig_mod._checkpoint_wrapped_module.", name
    ),
    "fsdp": lambda name: f"_fsdp_wrapped_module.{name.replace('.layers.', '.layers._fsdp_wrapped_module.')}",
    "bare decoder": lambda name: name.removeprefix("model."),
    "multimodal": lambda name: f"language_model.{name}",
    "multimodal inside": lambda name: f"model.language_model.{name}",
    "multimodal of transformers 5": lambda name: (
        f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
    ),
    "multimodal bare": lambda name: f"language_model.{name.removeprefix('model.')}",
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_prefixes_are_taken_off(how: str, small: Path, source: Path, tmp_path: Path) -> None:
    rename(source, WRAPPED[how])
    build(source, tmp_path / "out.l4e", num_threads=1)
    build(small, tmp_path / "plain.l4e", num_threads=1)
    ours, plain = (weights(tmp_path / name) for name in ("out.l4e", "plain.l4e"))
    assert ours == plain


def weights(path: Path) -> dict[str, str]:
    from llama4rt._core import EngineFile

    file = EngineFile(str(path))
    return {
        name: hashlib.sha256(bytes(file.raw(name))).hexdigest()
        for name in file.names()
        if "files/" not in name
    }


def test_published_names_are_left_alone() -> None:
    for values in (random_values(SMALL), random_values(SMALL, vision=True)):
        for name in values:
            assert plain_name(name) == name
            assert plain_name(f"language_model.{name}") in (f"language_model.{name}", name)


def test_one_tensor_under_two_names_is_refused(source: Path, tmp_path: Path) -> None:
    values = {name: stored(value, "BF16") for name, value in random_values(SMALL).items()}
    write_tensors(source, values | {"module.model.norm.weight": values["model.norm.weight"]})
    assert re.search(r"model\.norm\.weight and .*are both model\.norm\.weight", refusal(source, tmp_path))


def test_problems_name_the_tensors_as_the_files_do(source: Path, tmp_path: Path) -> None:
    values = {f"module.{name}": stored(value, "BF16") for name, value in random_values(SMALL).items()}
    values["module.model.norm.weight"] = stored(np.full(SMALL["hidden_size"], np.nan, np.float32), "F32")
    write_tensors(source, values)
    assert "module.model.norm.weight: " in refusal(source, tmp_path)
