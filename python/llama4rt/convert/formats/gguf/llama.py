"""Architecture `llama` of a GGUF file as a dense Llama 4: its decoder is one whose layers all rotate, without chunks,
experts, norms on queries and keys, or temperature.

Writers of this architecture put the rows of q and k in the order of adjacent pairs, which is Llama 4's.
"""

from typing import Any

from llama4rt.convert.formats.gguf.sizes import Decoder

ARCHITECTURE = "llama"
_READ = frozenset({"attention.sliding_window", "expert_count", "expert_used_count"})


def llama_config(decoder: Decoder) -> dict[str, Any]:
    """The config.json of the Llama 4 that computes the same. Raises CheckpointError for what is none."""
    if decoder.integer("expert_count", default=0):
        raise decoder.error(
            f"{decoder.key('expert_count')} is {decoder.integer('expert_count')}; of architecture llama only dense "
            "models are Llama 4's algebra: other models route by softmax and have no shared expert"
        )
    decoder.check_known(_READ)
    config = decoder.common_config()
    window = decoder.integer("attention.sliding_window", default=0)
    if 0 < window < config["max_position_embeddings"]:
        raise decoder.error(
            f"{decoder.key('attention.sliding_window')} is {window}; llama4rt attends to all positions or to chunks, "
            "and has no sliding window"
        )
    width = decoder.width("feed_forward_length")
    return config | {
        "model_type": "llama4_text",
        "architectures": ["Llama4ForCausalLM"],
        "moe_layers": [],
        "num_local_experts": 0,
        "intermediate_size": width,
        "intermediate_size_mlp": width,
        "no_rope_layers": [1] * config["num_hidden_layers"],
        "attention_chunk_size": None,
        "use_qk_norm": False,
        "attn_temperature_tuning": False,
    }


__all__ = ["ARCHITECTURE", "llama_config"]
