"""Checkpoints that llama4rt does not read, recognised by their files, config or tensors: what they are, what to do.

One or two sentences each, in the place of a list of all that is missing. Nothing here is read but small JSON and the
first bytes of a file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama4rt.convert.checkpoint import TensorInfo
from llama4rt.convert.files import check_weight_file, is_there, read_json_object
from llama4rt.convert.quantization_config import quantization_config
from llama4rt.errors import CheckpointError

_ORIGINAL = "build from the unquantised checkpoint (bf16) with --weights int4 or int8"
_SHARD = re.compile(r"(.+)-\d+-of-\d+\.safetensors")
_PICKLES = (".bin", ".pth", ".pt", ".ckpt")

# quantization_config.quant_method -> for people.
_METHODS = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "bitnet": "BitNet",
    "eetq": "EETQ",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "fp_quant": "FP-Quant",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "mxfp4": "MXFP4",
    "quanto": "Quanto",
    "quark": "AMD Quark",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
# Formats of compressed-tensors that are not read.
_COMPRESSED = {
    "marlin-24": "compressed-tensors marlin-24",
    "sparse-24-bitmask": "2:4 sparse (compressed-tensors)",
    "sparse-bitmask": "sparse (compressed-tensors)",
}


def refuse_file(path: Path) -> CheckpointError:
    """What a file in the place of a checkpoint directory is."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        return CheckpointError(f"{path}: {error.strerror}")
    if path.suffix == ".gguf":
        return CheckpointError(f"{path}: {_gguf('this')}")
    if path.suffix in _PICKLES or start.startswith(b"PK\x03\x04"):
        return CheckpointError(f"{path}: {_pickle('this', path.name)}")
    if path.suffix == ".l4e":
        return CheckpointError(
            f"{path}: is an engine file already; expected a checkpoint directory or a hub id"
        )
    inside = " (the one this file is in)" if path.suffix in (".safetensors", ".json") else ""
    return CheckpointError(f"{path}: is a file; expected a checkpoint directory{inside} or a hub id")


def check_directory(directory: Path) -> None:
    """Raises CheckpointError for an adapter, which may lie beside whole weights that it would change."""
    path = directory / "adapter_config.json"
    if not is_there(path):
        return
    base = read_json_object(path).get("base_model_name_or_path")
    of = f" of {base!r:.200}" if isinstance(base, str) and base else ""
    raise CheckpointError(
        f"{directory}: has adapter_config.json, so it is an adapter (LoRA){of}, not a whole model; name the base "
        "model in its place, and merge the adapter with --lora DIR"
    )


def refuse_directory(directory: Path, looked_for: Sequence[str]) -> CheckpointError:
    """Why a directory in which no container was found has nothing to read."""
    names = sorted(path.name for path in directory.iterdir())
    shards = [name for name in names if _SHARD.fullmatch(name)]
    tensors = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(_PICKLES)]
    gguf = [name for name in names if name.endswith(".gguf")]
    what = f"neither {' nor '.join(looked_for)} is there"
    if shards:
        for name in shards:
            check_weight_file(directory / name)
        base = re.sub(r"-\d+-of-\d+\.safetensors$", "", shards[0])
        what = (
            f"{len(shards)} shards are there ({shards[0]} and so on), but not {base}.safetensors.index.json, which "
            "says what is in them; download that file too"
        )
        if base != "model":
            what += ", and name them model-..."
    elif tensors:
        what += f" ({tensors[0]} is; if it is the whole model, call it model.safetensors)"
    elif gguf:
        check_weight_file(directory / gguf[0])
        what += f" ({_gguf(gguf[0])})"
    elif pickles:
        what += f" ({_pickle(pickles[0], pickles[0])})"
    return CheckpointError(f"{directory}: {what}")


def _gguf(name: str) -> str:
    return f"{name} does not begin as a GGUF file does; download it again"


def _pickle(name: str, file: str) -> str:
    if file.startswith("consolidated"):
        return (
            f"{name} is a file of Meta's own form; name the directory it is in, with all of its consolidated.NN.pth "
            "and params.json"
        )
    return (
        f"{name} cannot be read; of PyTorch's own files llama4rt reads only Meta's consolidated.NN.pth: load it with "
        "transformers and save_pretrained it as safetensors"
    )


def check_quantization(config: Mapping[str, Any], known: Iterable[str], titles: Iterable[str]) -> None:
    """Raises CheckpointError for what config.json says of a quantisation that no format reads.

    known, titles: quant_methods of the formats that read some, and their names for people. Which matrices are
    quantised, the tensors say.
    """
    quantization = quantization_config(config)
    if quantization is None:
        return
    method = quantization.get("quant_method")
    reads = f"llama4rt reads {', '.join(titles)} and checkpoints that are not quantised; {_ORIGINAL}"
    if method is not None and method not in known:
        title = _METHODS.get(method) if isinstance(method, str) else None
        named = f" ({title})" if title else ""
        raise CheckpointError(f"quantization_config.quant_method is {method!r:.80}{named}; {reads}")
    for where, form in _declared_formats(quantization):
        if isinstance(form, str) and form in _COMPRESSED:
            raise CheckpointError(f"{where}format is {form!r} ({_COMPRESSED[form]}); {reads}")


def _declared_formats(quantization: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(where, format) of each group."""
    whole = quantization.get("format")
    groups = quantization.get("config_groups")
    found = []
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        if not isinstance(group, Mapping):
            continue
        own = group.get("format")
        where = f"quantization_config.config_groups.{name:.40}." if own else "quantization_config."
        found.append((where, own or whole))
    return found or [("quantization_config.", whole)]


def check_tensors(tensors: Mapping[str, TensorInfo], source: str) -> None:
    """Raises CheckpointError where the tensors themselves are of a quantisation or naming that nothing here reads."""
    for title, found in (
        ("an adapter (LoRA)", _ending(tensors, ".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight")),
        ("a kind that scales activations before (SmoothQuant, ModelOpt's AWQ)", _ending(tensors, ".pre_quant_scale")),
        ("bitsandbytes", [n for n in tensors if ".quant_state.bitsandbytes__" in n or n.endswith((".absmax", ".SCB"))]),
        ("NVFP4", _nvfp4(tensors)),
        ("MXFP4", [n for n, info in tensors.items() if n.endswith("_blocks") and info.dtype == "U8"]),
        ("FP8", [n for n, info in tensors.items() if info.dtype.startswith("F8_E") and info.dtype != "F8_E8M0"]),
        ("int8", [n for n, i in tensors.items() if n.endswith((".weight", "_proj")) and i.dtype == "I8"]),
    ):  # fmt: skip
        if found and title.startswith("an adapter"):
            raise CheckpointError(
                f"{source}: {found[0]} is a tensor of {title}, not of a whole model; name the base "
                "model in its place, and merge the adapter with --lora DIR"
            )
        if found:
            info = tensors[found[0]]
            raise CheckpointError(
                f"{source}: is quantised as {title} ({found[0]} is {info}, and {len(found) - 1} more such tensors), "
                f"which llama4rt does not read; {_ORIGINAL}"
            )
    meta = [
        n for n in tensors if n == "tok_embeddings.weight" or ".attention.wq." in n or ".attention.wqkv." in n
    ]
    if meta:
        raise CheckpointError(
            f"{source}: the tensors have Meta's own names ({meta[0]}), which are read from consolidated.NN.pth with "
            "params.json beside them, not from safetensors; build from the files that Meta publishes"
        )


def _ending(tensors: Mapping[str, TensorInfo], *ends: str) -> list[str]:
    return [name for name in tensors if name.endswith(ends)]


def _nvfp4(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Two 4-bit numbers to a byte, with a scale of FP8 for each group and one for the whole matrix."""
    if not _ending(tensors, ".weight_global_scale", ".weight_scale_2"):
        return []
    return [n for n, i in tensors.items() if n.endswith((".weight_packed", ".weight")) and i.dtype == "U8"]


__all__ = ["check_directory", "check_quantization", "check_tensors", "refuse_directory", "refuse_file"]
