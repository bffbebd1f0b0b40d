"""The factors of an adapter that is used as it is, for an engine file: what a running engine adds to its products.

The same reader and the same rules as of adapters that are merged at a build; there is no checkpoint here, and its names
follow from the engine's config.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import TensorInfo, raise_problems
from llama4rt.convert.files import is_there
from llama4rt.convert.lora.lora_config import FILE
from llama4rt.convert.lora.lora_deltas import Delta
from llama4rt.convert.lora.lora_files import LoraFiles
from llama4rt.convert.lora.lora_match import match
from llama4rt.convert.names import tensors_of
from llama4rt.errors import CheckpointError

# Layer, "q", "k", "v" or "o", A [rank, in], B [out, rank], scale.
Change = tuple[int, str, NDArray[np.float32], NDArray[np.float32], float]

_ATTENTION = re.compile(r"model\.layers\.(?P<layer>\d+)\.self_attn\.(?P<part>[qkvo])_proj\.weight")


def read_changes(directory: Path, name: str, config: Mapping[str, Any]) -> list[Change]:
    """config: the engine's, canonical. Raises CheckpointError or ConfigError; one error lists all that is not taken."""
    if not is_there(directory / FILE):
        raise CheckpointError(f"{directory}: has no {FILE}, so it is no adapter of PEFT")
    files = LoraFiles(directory, name)
    names = {tensor: TensorInfo("BF16", shape) for tensor, shape in tensors_of(json.dumps(config))}
    found = match(files, names, 1.0)
    problems: list[str] = []
    changes = [
        change
        for tensor, deltas in found.items()
        for delta in deltas
        for change in _changes(tensor, delta, problems)
    ]
    raise_problems(
        problems,
        f"the adapter {name} changes what adapters of requests cannot change yet; `llama4rt build --lora` merges it",
    )
    return changes


def _changes(tensor: str, delta: Any, problems: list[str]) -> Iterator[Change]:
    place = _ATTENTION.fullmatch(tensor)
    if place is None:
        problems.append(f"{tensor}: is not q_proj, k_proj, v_proj or o_proj of attention")
    elif not isinstance(delta, Delta):
        problems.append(f"{tensor}: is replaced as a whole (modules_to_save)")
    elif delta.magnitude is not None:
        problems.append(f"{tensor}: is of DoRA, whose lengths need the merged rows")
    else:
        factors = delta.factors(None)
        assert factors is not None  # only experts of a stack may have none
        right = np.ascontiguousarray(factors.right())
        left = np.ascontiguousarray(factors.left(0, delta.rows))
        yield int(place["layer"]), place["part"], right, left, delta.scale


__all__ = ["Change", "read_changes"]
