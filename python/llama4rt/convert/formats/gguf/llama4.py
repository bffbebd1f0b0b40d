"""Architecture `llama4` of a GGUF file.

The file does not hold the size of attention chunks, which layers rotate, whether queries and keys are normalised, or
the temperature of attention. llama.cpp has the published models' values in its code; here they come from a config.json
beside the file where its sizes are the same, else from the published model of these sizes, else from llama.cpp's rule.
Whichever it is, is said aloud.
"""

from collections.abc import Mapping
from typing import Any

from llama4rt.convert.formats.gguf.sizes import Decoder
from llama4rt.convert.named_configs import CONFIGS

ARCHITECTURE = "llama4"
_READ = frozenset(
    {
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        "expert_gating_func",
        "expert_shared_count",
        "expert_shared_feed_forward_length",
        "interleave_moe_layer_step",
        "leading_dense_block_count",
        "rope.freq_base_swa",
    }
)
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_local_experts",
)
_UNSAID = (
    "attention_chunk_size",
    "no_rope_layers",
    "no_rope_layer_interval",
    "layer_types",
    "use_qk_norm",
    "attn_temperature_tuning",
    "attn_scale",
    "floor_scale",
)
_SIGMOID = 2  # expert_gating_func
_ROPE_INTERVAL = 4  # of the published models, and all that llama.cpp computes
_WITHOUT_NORM = 128  # experts of the one published model that does not normalise queries and keys


def llama4_config(decoder: Decoder, beside: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """(config.json, notes). beside: the object in a config.json that lies beside the file. Raises CheckpointError."""
    decoder.check_known(_READ)
    _check_experts(decoder)
    config = decoder.common_config() | _feed_forward(decoder)
    config |= {"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"]}
    theta = decoder.real("rope.freq_base_swa", default=config["rope_theta"])
    if theta != config["rope_theta"]:
        raise decoder.error(
            f"{decoder.key('rope.freq_base_swa')} is {theta}; all layers of Llama 4 rotate alike"
        )
    pattern = decoder.integer("attention.sliding_window_pattern", default=_ROPE_INTERVAL)
    if pattern != _ROPE_INTERVAL:
        raise decoder.error(
            f"{decoder.key('attention.sliding_window_pattern')} is {pattern}; every fourth layer of Llama 4 sees all "
            "positions"
        )
    # 0 means no chunks; any other number, and none, means those of the published models.
    chunked = not decoder.has("attention.sliding_window") or decoder.integer("attention.sliding_window") > 0
    unsaid, note = _unsaid(config, beside, chunked)
    return config | unsaid, [note]


def _check_experts(decoder: Decoder) -> None:
    for name, wanted, why in (
        ("expert_gating_func", _SIGMOID, "Llama 4 routes by the sigmoid, 2"),
        ("expert_shared_count", 1, "a layer with experts has one that all tokens share"),
        (
            "leading_dense_block_count",
            0,
            "which layers have experts, interleave_moe_layer_step and the tensors say",
        ),
    ):
        found = decoder.integer(name, default=wanted)
        if found != wanted:
            raise decoder.error(f"{decoder.key(name)} is {found}; {why}")


def _feed_forward(decoder: Decoder) -> dict[str, Any]:
    """Experts and dense widths. Which layers have experts the tensors say, and the step confirms."""
    layers = decoder.layers
    moe = [i for i in range(layers) if f"blk.{i}.ffn_gate_inp.weight" in decoder.tensors]
    step = decoder.integer("interleave_moe_layer_step", default=0)
    if step and moe != list(range(step - 1, layers, step)):
        raise decoder.error(
            f"{decoder.key('interleave_moe_layer_step')} is {step}, but the layers with a router are "
            f"{', '.join(map(str, moe[:8])) or 'none'}{' and more' if len(moe) > 8 else ''}"
        )
    config: dict[str, Any] = {"moe_layers": moe, "num_local_experts": 0, "intermediate_size": 0}
    if moe:
        width = decoder.width("expert_feed_forward_length")
        shared = decoder.integer("expert_shared_feed_forward_length", default=width)
        if shared != width:
            raise decoder.error(
                f"{decoder.key('expert_shared_feed_forward_length')} is {shared}, and routed experts are {width} "
                "wide; in Llama 4 they are equal"
            )
        config["intermediate_size"] = width
        config["num_local_experts"] = decoder.integer("expert_count")
        config["num_experts_per_tok"] = decoder.integer("expert_used_count", default=1)
    config["intermediate_size_mlp"] = decoder.width("feed_forward_length", default=0) or None
    return config


def _unsaid(
    config: Mapping[str, Any], beside: Mapping[str, Any] | None, chunked: bool
) -> tuple[dict[str, Any], str]:
    """(what the file does not say, a sentence on where it is from)."""
    if not chunked:  # sliding_window 0: models such as MobileLLM
        layers = config["num_hidden_layers"]
        unsaid = {"no_rope_layers": [1] * layers, "attention_chunk_size": None, "use_qk_norm": True}
        return unsaid | {"attn_temperature_tuning": False}, (
            "the GGUF file does not say whether queries and keys are normalised: assumed that they are, as llama.cpp "
            "does for models without chunks"
        )
    known = beside.get("text_config", beside) if beside else None
    if isinstance(known, Mapping) and _same_sizes(config, known):
        unsaid = {name: known[name] for name in _UNSAID if name in known}
        return (
            unsaid,
            f"{_what(unsaid)}: taken from the config.json beside the GGUF file, which does not hold them",
        )
    for title, name in (("Llama 4 Scout", "scout"), ("Llama 4 Maverick", "maverick")):
        published = CONFIGS[name]["text_config"]
        if _same_sizes(config, published):
            unsaid = {name: published[name] for name in _UNSAID if name in published}
            return (
                unsaid,
                f"{_what(unsaid)}: of {title}, whose sizes these are; the GGUF file does not hold them",
            )
    published = CONFIGS["scout"]["text_config"]
    unsaid = {name: published[name] for name in _UNSAID if name in published}
    unsaid["use_qk_norm"] = config["num_local_experts"] != _WITHOUT_NORM
    return unsaid, (
        f"{_what(unsaid)}: assumed as llama.cpp does; the GGUF file does not hold them, and its sizes are of no "
        "published model. A config.json beside it would be taken"
    )


def _same_sizes(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Old config files leave head_dim out; those of dense models may name a number of experts all the same."""
    unclear = {"head_dim"} - other.keys() | ({"num_local_experts"} if not config["moe_layers"] else set())
    return all(config[name] == other.get(name) for name in _SIZES if name not in unclear)


def _what(unsaid: Mapping[str, Any]) -> str:
    """The facts in words; of lists that go by layer only that they are there."""
    words = [
        f"{name} {'by layer' if isinstance(value, list) else value}"
        for name, value in unsaid.items()
        if name != "no_rope_layer_interval"
    ]
    if "no_rope_layers" not in unsaid:
        words.append(
            f"RoPE in all layers but every {unsaid.get('no_rope_layer_interval') or _ROPE_INTERVAL}th"
        )
    return ", ".join(words)


__all__ = ["ARCHITECTURE", "llama4_config"]
