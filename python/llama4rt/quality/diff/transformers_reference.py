"""Our fp32 reference beside the layers of transformers, where that is installed: somebody else's reading of the model.

Each layer is made alone, filled with the checkpoint's values and given what the reference gave its own.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.config import ModelConfig
from llama4rt.convert.stored_rows import Codes

# Relative RMS of a layer's output. Both compute in fp32 and add in other orders: about 1e-6.
LARGEST = 1e-4


def missing() -> str:
    """What is not installed; empty when nothing is."""
    found = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(found)}: not installed" if found else ""


def layer_errors(
    checkpoint: Checkpoint, config: ModelConfig, states: Sequence[NDArray[np.float32]]
) -> tuple[float, ...]:
    """states: the reference's residual stream before each layer and behind the last, [T, H]."""
    import torch
    from transformers import Llama4TextConfig
    from transformers.models.llama4 import modeling_llama4 as llama4

    whole = checkpoint.config()
    text: Mapping[str, Any] = whole.get("text_config", whole)
    theirs = Llama4TextConfig.from_dict(dict(text), attn_implementation="eager")
    tokens = len(states[0])
    mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)[None, None]
    positions = torch.arange(tokens)[None]
    names = checkpoint.names()
    prefix = "language_model." if any(name.startswith("language_model.") for name in names) else ""
    errors = []
    with torch.no_grad():
        rotary = llama4.Llama4TextRotaryEmbedding(theirs)
        for layer in range(config.num_hidden_layers):
            module = llama4.Llama4TextDecoderLayer(theirs, layer).float().eval()
            at = f"{prefix}model.layers.{layer}."
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(_values(checkpoint, at, name, tuple(parameter.shape))))
            x = torch.from_numpy(states[layer])[None]
            out = module(
                x, attention_mask=mask, position_ids=positions, position_embeddings=rotary(x, positions)
            )
            got = (out if isinstance(out, torch.Tensor) else out[0])[0].numpy().astype(np.float64)
            size = float(np.sqrt(np.mean(got**2)))
            errors.append(float(np.sqrt(np.mean((states[layer + 1] - got) ** 2))) / max(size, 1e-30))
    return tuple(errors)


def _values(checkpoint: Checkpoint, at: str, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A parameter of a layer in its own shape; stacks of experts are [E, in, out], stored as one or one by one."""
    names = checkpoint.names()
    if len(shape) < 3:
        rows = _rows(checkpoint, at + name, None)
        return np.ascontiguousarray(rows.reshape(shape))
    out = np.empty(shape, np.float32)
    for expert in range(shape[0]):
        if at + name in names:
            out[expert] = _rows(checkpoint, at + name, expert).T
            continue
        parts = ("gate", "up") if name.endswith("gate_up_proj") else ("down",)
        single = [f"{at}feed_forward.experts.{expert}.{part}_proj.weight" for part in parts]
        out[expert] = np.concatenate([_rows(checkpoint, one, None) for one in single]).T
    return out


def _rows(checkpoint: Checkpoint, name: str, expert: int | None) -> NDArray[np.float32]:
    """[out, in]"""
    found = checkpoint.rows(name, expert=expert)
    values = found.values() if isinstance(found, Codes) else found
    array = values.as_float32()
    return array.T if values.transposed else array


__all__ = ["LARGEST", "layer_errors", "missing"]
