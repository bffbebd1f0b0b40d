"""Stacks of experts as their programs store them, quantised: fused ones [E, in, out] and split ones [E, out, in]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from quantised_writers import E2M1, E4M3, Written, four_bit, mlx, mlx_mode, nearest, rounded
from random_checkpoints import Floats, Stored, stored


def fbgemm(values: Floats, scale_axis: int) -> Written:
    """transformers' Llama4 experts with FbgemmFp8Config. values [E, in, out]; the scale of an output lies on the last
    axis of gate_up_proj (scale_axis 2), and on the middle one of down_proj (1).
    """
    scales = np.abs(values).max(1) / 448
    codes = nearest(E4M3, values / scales[:, None, :])
    kept = scales[:, None, :] if scale_axis == 2 else scales[:, :, None]
    config = {"quantization_config": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}}
    tensors = {"": ("F8_E4M3", codes), "_scale": stored(kept, "F32")}
    return Written(tensors, E4M3[codes] * scales[:, None, :], config)


def modelopt_fp8(values: Floats, scales: str = "one") -> Written:
    """One scale for all experts, for each of them, or for each output of each."""
    experts = values.shape[0]
    largest = {
        "one": np.abs(values).max(),
        "expert": np.abs(values).max((1, 2)),
        "output": np.abs(values).max(1),
    }
    found = np.asarray(largest[scales] / 448, np.float32)
    of_each = {
        "one": lambda: np.broadcast_to(found, values.shape),
        "expert": lambda: np.broadcast_to(found.reshape(experts, 1, 1), values.shape),
        "output": lambda: np.broadcast_to(found[:, None, :], values.shape),
    }[scales]()
    codes = nearest(E4M3, values / of_each)
    tensors = {"": ("F8_E4M3", codes), "_weight_scale": stored(found, "F32"), **_input_scale()}
    return Written(tensors, E4M3[codes] * of_each, _modelopt("FP8"))


def modelopt_nvfp4(values: Floats, own: bool = False) -> Written:
    """Pairs and blocks of 16 along the middle axis; own: a scale of the whole for each expert."""
    experts, into, out = values.shape
    whole = np.abs(values).max((1, 2)) / (448 * 6) if own else np.abs(values).max() / (448 * 6)
    whole = np.asarray(whole, np.float32)
    of_expert = np.broadcast_to(whole.reshape(-1, 1, 1), (experts, 1, 1))
    blocks = np.abs(values.reshape(experts, into // 16, 16, out)).max(2) / 6
    scale_codes = nearest(E4M3, blocks / of_expert)
    of_each = np.repeat(E4M3[scale_codes] * of_expert, 16, axis=1)
    codes = nearest(E2M1, np.divide(values, of_each, out=np.zeros_like(values), where=of_each != 0))
    tensors: dict[str, Stored] = {
        "": ("U8", codes[:, 0::2] | (codes[:, 1::2] << 4)),
        "_weight_scale": ("F8_E4M3", scale_codes),
        "_weight_scale_2": stored(whole, "F32"),
        **_input_scale(),
    }
    return Written(tensors, E2M1[codes] * of_each, _modelopt("NVFP4"))


def _input_scale() -> dict[str, Stored]:
    return {"_input_scale": stored(np.asarray(0.5, np.float32), "F32")}


def _modelopt(algorithm: str) -> dict[str, object]:
    quantization = {"quant_algo": algorithm, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    return {"quantization_config": {"quant_method": "modelopt", **quantization}}


# [E, in, out] and the axis of a scale per output -> tensors by what follows the stack's name.
FUSED: dict[str, Callable[[Floats, int], Written]] = {
    "fbgemm": fbgemm,
    "modelopt-fp8": lambda v, axis: modelopt_fp8(v),
    "modelopt-fp8-expert": lambda v, axis: modelopt_fp8(v, "expert"),
    "modelopt-fp8-output": lambda v, axis: modelopt_fp8(v, "output"),
    "modelopt-nvfp4": lambda v, axis: modelopt_nvfp4(v),
    "modelopt-nvfp4-own": lambda v, axis: modelopt_nvfp4(v, own=True),
}


def stacked(write: Callable[[Floats], Written], values: Floats) -> Written:
    """Each expert written alone, and its tensors put together with an axis of experts before them."""
    alone = [write(matrix) for matrix in values]
    parts = {
        part: (dtype, np.stack([one.tensors[part][1] for one in alone]))
        for part, (dtype, _) in alone[0].tensors.items()
    }
    return Written(parts, np.stack([one.meant for one in alone]), alone[0].config, alone[0].bound)


# [E, out, in] of one projection -> tensors by what follows `experts.gate_proj.`.
SPLIT: dict[str, Callable[[Floats], Written]] = {
    "mlx": lambda v: stacked(mlx, v),
    "mlx-3": lambda v: stacked(lambda one: mlx(one, 3, 32), v),
    "mlx-nvfp4": lambda v: stacked(lambda one: mlx_mode(one, "nvfp4"), v),
    "mlx-mxfp8": lambda v: stacked(lambda one: mlx_mode(one, "mxfp8"), v),
    "bf16": lambda v: Written({"weight": stored(rounded(v, "BF16"), "BF16")}, rounded(v, "BF16")),
    "nf4": four_bit,
    "nf4-nested": lambda v: four_bit(v, nested=True),
}

__all__ = ["FUSED", "SPLIT", "fbgemm", "modelopt_fp8", "modelopt_nvfp4", "stacked"]
