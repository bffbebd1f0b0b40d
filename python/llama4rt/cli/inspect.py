"""`llama4rt inspect`: what an engine file holds, without running it."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llama4rt.cli.numbers import human_bytes as _size

if TYPE_CHECKING:
    from llama4rt._core import EngineFile

LICENSE_STARTS = ("LICENSE", "NOTICE", "USE_POLICY")
_WORST = 5
# Suffixes of the arrays beside a weight's codes (csrc/weights/weight_sides.h).
_SIDES = (".scales", ".zeros", ".offsets", ".factors", ".offset_factors")
_COMPONENTS = {  # by the part of the name that tells
    "embed": "embedding",
    "lm_head": "lm_head",
    "norm": "norms",
    "attn_norm": "norms",
    "ffn_norm": "norms",
    "attn": "attention",
    "mlp": "dense MLP",
    "moe.router": "router",
    "moe.shared": "shared experts",
    "moe.gate_up": "routed experts",
    "moe.down": "routed experts",
    "vision": "vision",
    "files": "files",
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "inspect",
        help="show what an engine file holds",
        description="Show an engine file's model, sizes, quantisation, errors, and the files that came with it.",
    )
    parser.add_argument("file", metavar="FILE", help="an engine file")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    parser.add_argument(
        "--all", action="store_true", help="list the errors of all weights, not of the worst five"
    )


def run(args: argparse.Namespace) -> int:
    from llama4rt._core import EngineFile

    facts = describe(EngineFile(args.file), args.file)
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(facts, every_weight=args.all)))
    return 0


def describe(file: "EngineFile", path: str) -> dict[str, Any]:
    """Everything inspect knows, as JSON values."""
    metadata = file.metadata
    config = json.loads(metadata["config"])
    weights = json.loads(metadata["weights"])
    files = {name: file.info(f"files/{name}")[3] for name in json.loads(metadata["files"])}
    return {
        "path": path,
        "bytes": os.path.getsize(path),
        "format_version": metadata["format_version"],
        "llama4rt_version": metadata.get("llama4rt_version"),
        "target": metadata["target"],
        "layout": metadata.get("layout"),
        "source": _optional_object(metadata, "source"),
        "config": config,
        "semantics": _semantics(config),
        "quantization": _optional_object(metadata, "quantization"),
        "components": _components(file, weights),
        "files": files,
        "licenses": [name for name in files if name.startswith(LICENSE_STARTS)],
        "weights": dict(sorted(weights.items(), key=lambda item: (-item[1]["rms_error"], item[0]))),
    }


def _optional_object(metadata: Mapping[str, str], key: str) -> dict[str, Any] | None:
    """A value that running the file does not depend on: null when it is missing or malformed."""
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _semantics(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the config means for attention, in words a person can compare with a model card."""
    rope = config["rope_layers"]
    scaling = config["rope_scaling"]
    return {
        "attention_chunk": config["attention_chunk_size"] or None,
        "chunked_layers": sum(config["chunked_layers"]),
        "nope_layers": [layer for layer, uses in enumerate(rope) if not uses],
        "nope_period": _period(rope),
        "qk_norm": config["use_qk_norm"],
        "temperature": {"scale": config["attn_scale"], "floor": config["floor_scale"]}
        if config["attn_temperature_tuning"]
        else None,
        "rope_theta": config["rope_theta"],
        "rope_scaling": scaling,
        "moe_layers": sum(config["moe_layers"]),
    }


def _period(rope_layers: list[int]) -> int | None:
    """n when exactly every n-th layer is without RoPE."""
    first = next((layer for layer, uses in enumerate(rope_layers) if not uses), None)
    if first is None:
        return None
    period = first + 1
    regular = all(bool(uses) == ((layer + 1) % period != 0) for layer, uses in enumerate(rope_layers))
    return period if regular else None


def _component(name: str) -> str:
    base = next((name.removesuffix(side) for side in _SIDES if name.endswith(side)), name)
    if base.startswith("files/"):
        return _COMPONENTS["files"]
    parts = base.split(".")
    inside = parts[2:] if parts[0] == "layers" else parts
    return _COMPONENTS.get(".".join(inside[:2])) or _COMPONENTS.get(inside[0] if inside else "") or "other"


def _components(file: "EngineFile", weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Component -> bytes and how its matrices are stored, largest first."""
    sizes: dict[str, int] = {}
    kinds: dict[str, set[str]] = {}
    for name in file.names():
        component = _component(name)
        sizes[component] = sizes.get(component, 0) + file.info(name)[3]
        if name in weights:
            weight = weights[name]
            group = f" g{weight['group_size']}" if weight["group_size"] else ""
            kinds.setdefault(component, set()).add(f"{weight['kind']}{group}{_sides(file.weight(name))}")
    kinds.setdefault("embedding", set()).add("bf16")
    ordered = sorted(sizes, key=lambda component: -sizes[component])
    return {c: {"bytes": sizes[c], "stored_as": sorted(kinds.get(c, ()))} for c in ordered}


def _sides(weight: Mapping[str, Any]) -> str:
    """What a weight has beside its scales."""
    sides = [
        words for key, words in (("has_zeros", "zero points"), ("has_offsets", "offsets")) if weight[key]
    ]
    return f" with {' and '.join(sides)}" if sides else ""


def _lines(facts: Mapping[str, Any], every_weight: bool) -> Iterable[str]:
    c, s = facts["config"], facts["semantics"]
    source = facts["source"] or {}
    yield f"{facts['path']}: {_size(facts['bytes'])}, engine format {facts['format_version']}, target {facts['target']}"
    yield f"built by llama4rt {facts['llama4rt_version']} from {source.get('name')} ({source.get('hash')})"
    yield ""
    yield f"model         {c['architecture']}: {c['num_hidden_layers']} layers, hidden {c['hidden_size']}"
    yield f"heads         {c['num_attention_heads']} query, {c['num_key_value_heads']} KV, {c['head_dim']} wide"
    yield f"vocabulary    {c['vocab_size']:,}{', tied embeddings' if c['tie_word_embeddings'] else ''}"
    if c["num_local_experts"]:
        yield (
            f"experts       {s['moe_layers']} layers with {c['num_local_experts']} experts, {c['num_experts_per_tok']} "
            f"per token and a shared one, width {c['intermediate_size']}"
        )
    if s["moe_layers"] < c["num_hidden_layers"]:
        yield f"dense         {c['num_hidden_layers'] - s['moe_layers']} layers, width {c['intermediate_size_mlp']}"
    yield f"attention     {_attention(s)}"
    yield f"NoPE          {_nope(s)}"
    yield f"RoPE          theta {s['rope_theta']:g}, {_scaling(s['rope_scaling'])}"
    yield f"QK norm       {'yes' if s['qk_norm'] else 'no'}"
    temperature = s["temperature"]
    yield (
        "temperature   none"
        if temperature is None
        else f"temperature   scale {temperature['scale']:g}, floor {temperature['floor']:g}, on NoPE layers"
    )
    yield f"positions     {c['max_position_embeddings']:,}"
    yield f"tokens        begin {c['bos_token_id']}, end {c['eos_token_ids']}"
    yield f"vision        {_vision(c.get('vision'), facts['components'])}"
    quantization = facts["quantization"]
    if quantization:
        yield f"quantisation  {', '.join(f'{key} {value}' for key, value in quantization.items())}"
    yield ""
    for component, part in facts["components"].items():
        yield f"{_size(part['bytes']):>12}  {component:<16}{', '.join(part['stored_as'])}".rstrip()
    yield ""
    yield from _errors(facts["weights"], every_weight)
    yield ""
    for name, size in facts["files"].items():
        yield f"{_size(size):>12}  {name}"
    for part in source.get("skipped") or []:
        yield f"left out: {part['part']} (tensors: {part['tensors']}, {_size(part['bytes'])})"
    for line in source.get("notes") or []:
        yield f"note: {line}"
    yield from _licenses(facts["licenses"])


def _vision(vision: Mapping[str, Any] | None, components: Mapping[str, Any]) -> str:
    if vision is None:
        return "none: text only"
    tile, patch = vision["image_size"], vision["patch_size"]
    return (
        f"{vision['num_hidden_layers']} layers, hidden {vision['hidden_size']}; tiles of {tile} x {tile} pixels, "
        f"{(tile // patch) ** 2 // 4} tokens each; {_size(components['vision']['bytes'])}"
    )


def _attention(semantics: Mapping[str, Any]) -> str:
    if semantics["attention_chunk"] is None:
        return "global in every layer"
    layers = semantics["chunked_layers"]
    return f"chunks of {semantics['attention_chunk']} tokens in {layers} layers, global in the others"


def _nope(semantics: Mapping[str, Any]) -> str:
    layers = semantics["nope_layers"]
    if not layers:
        return "no layer"
    if semantics["nope_period"]:
        return f"every {semantics['nope_period']}th layer: {', '.join(map(str, layers))}"
    return f"layers {', '.join(map(str, layers))}"


def _scaling(scaling: Mapping[str, Any] | None) -> str:
    if scaling is None:
        return "no scaling"
    return (
        f"llama3 scaling by {scaling['factor']:g} (low {scaling['low_freq_factor']:g}, high "
        f"{scaling['high_freq_factor']:g}, from {scaling['original_max_position_embeddings']:g})"
    )


def _errors(weights: Mapping[str, Any], every_weight: bool) -> Iterable[str]:
    quantized = {name: w for name, w in weights.items() if w["kind"] != "bf16"}
    if not quantized:
        yield "errors        none: nothing is quantised"
        return
    shown = list(quantized.items())[: None if every_weight else _WORST]
    more = "" if len(shown) == len(quantized) else f", the worst {len(shown)} of {len(quantized)} (--all)"
    yield f"errors        relative RMS and maximum, against the checkpoint{more}"
    for name, weight in shown:
        yield f"  {100 * weight['rms_error']:7.3f} %  {weight['max_error']:<10.4g} {name}"


def _licenses(names: list[str]) -> Iterable[str]:
    if names:
        yield f"These came with the checkpoint and bind its users: {', '.join(names)}"
    else:
        yield "No licence file came with the checkpoint; Llama 4 weights are under the Llama 4 Community License."
