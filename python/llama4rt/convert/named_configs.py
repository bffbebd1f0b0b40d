"""Model shapes by name, for planning and benchmarks without a checkpoint: the released ones, and a tiny one."""

import json
import os
from typing import Any

from llama4rt.errors import ConfigError

_VISION: dict[str, Any] = {
    "model_type": "llama4_vision_model",
    "hidden_act": "gelu",
    "hidden_size": 1408,
    "image_size": 336,
    "intermediate_size": 5632,
    "norm_eps": 1e-05,
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 34,
    "patch_size": 14,
    "pixel_shuffle_ratio": 0.5,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
    "rope_theta": 10000,
    "vision_output_dim": 4096,
}
_TEXT: dict[str, Any] = {
    "model_type": "llama4_text",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "attn_scale": 0.1,
    "floor_scale": 8192,
    "bos_token_id": 200000,
    "eos_token_id": [200001, 200007, 200008],
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_attention_heads": 40,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "vocab_size": 202048,
}


def _model(**text: Any) -> dict[str, Any]:
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": _TEXT | text,
        "image_token_index": 200092,
        "vision_config": _VISION,
    }


# Config files as the checkpoints have them (the instruct models).
CONFIGS: dict[str, dict[str, Any]] = {
    "scout": _model(
        num_local_experts=16,
        interleave_moe_layer_step=1,
        use_qk_norm=True,
        max_position_embeddings=10485760,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "maverick": _model(
        num_local_experts=128,
        interleave_moe_layer_step=2,
        use_qk_norm=False,
        max_position_embeddings=1048576,
        rope_scaling=None,
    ),
}
# Every kind of layer, 30 million parameters: for trying a command on any machine.
CONFIGS["tiny"] = {
    "architectures": ["Llama4ForCausalLM"],
    **_TEXT,
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 512,
    "intermediate_size_mlp": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 4,
    "interleave_moe_layer_step": 2,
    "use_qk_norm": True,
    "attention_chunk_size": 1024,
    "max_position_embeddings": 10_485_760,
    "bos_token_id": 1,
    "eos_token_id": [2],
}


def model_config(name: str) -> str:
    """The canonical config (JSON) of a name in CONFIGS, or of a config.json file. Raises ConfigError."""
    from llama4rt.convert.config import parse_config

    config = CONFIGS.get(name)
    if config is None:
        if not os.path.isfile(name):
            raise ConfigError(
                f"config is {name!r:.200}; it must be {', '.join(CONFIGS)} or the path of a config.json"
            )
        try:
            with open(name, "rb") as file:
                config = json.load(file)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        if not isinstance(config, dict):
            raise ConfigError(f"{name}: must be a JSON object")
    return json.dumps(parse_config(config).canonical())
