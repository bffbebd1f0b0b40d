"""What a step must at least read and multiply, counted from the engine file: the yardstick of `llama4rt bench`.

Deliberately optimistic for us to be measured against: every needed byte is read once, nothing else is.
"""

import json
import math
from typing import Any

from llama4rt import _core


class ModelCost:
    """Bytes and floating-point operations of one model: of_file or of_config makes one."""

    def __init__(
        self,
        weights: list[tuple[str, int, list[int]]],
        total_bytes: int,
        config: dict[str, Any],
        kv_dtype: str,
        kv_dtype_local: str | None = None,
    ) -> None:
        """weights: (name, bytes with companions, [E, N, K]). kv_dtype_local: of the layers that attend in chunks;
        None: as kv_dtype.
        """
        self._config = config
        formats = {format.name: format for format in _core.kv_formats()}

        def per_token(dtype: str) -> int:  # keys and values of one layer, all heads
            head = formats[dtype].head_bytes(int(config["head_dim"]))
            return int(2 * config["num_key_value_heads"] * head)

        kv_bytes = per_token(kv_dtype), per_token(kv_dtype_local or kv_dtype)
        self._kv_bytes_per_token = [kv_bytes[local] for local in config["chunked_layers"]]
        self.total_bytes = total_bytes
        self._weights = [
            (name, size, math.prod(shape))
            for name, size, shape in weights
            if not name.startswith("vision.")  # read when a picture comes, not for every token
        ]

    @classmethod
    def of_file(
        cls, path: str, config: dict[str, Any], kv_dtype: str, kv_dtype_local: str | None = None
    ) -> "ModelCost":
        """Of an engine file."""
        file = _core.EngineFile(path)
        names = set(file.names())
        weights = []
        for name, weight in json.loads(file.metadata["weights"]).items():
            sides = (f"{name}.{side}" for side in ("scales", "zeros", "offsets", "factors", "offset_factors"))
            parts = [name, *(side for side in sides if side in names)]
            weights.append((name, sum(file.info(part)[3] for part in parts), weight["shape"]))
        return cls(weights, sum(file.info(name)[3] for name in names), config, kv_dtype, kv_dtype_local)

    @classmethod
    def of_config(
        cls, config: str, options: dict[str, Any], kv_dtype: str, kv_dtype_local: str | None = None
    ) -> "ModelCost":
        """Of a model without a file: its canonical config (JSON) and the options of _core.list_weights."""
        weights = [(name, size, shape) for name, _, shape, size in _core.list_weights(config, **options)]
        total = sum(size for _, size, _ in weights)
        return cls(weights, total, json.loads(config), kv_dtype, kv_dtype_local)

    def decode_bytes(self, batch: int, context: int, expert_share: float | None = None) -> float:
        """Bytes read by one decode step of `batch` sequences, each with `context` tokens before it. expert_share: the
        part of the experts that were read; None: as expected of tokens that choose evenly.
        """
        total = 0.0
        for name, size, _ in self._weights:
            total += size * self._touched(name, batch, expert_share)
        seen = zip(self._kv_tokens(context), self._kv_bytes_per_token, strict=True)
        return total + batch * sum(tokens * size for tokens, size in seen)

    def prefill_flops(self, batch: int, tokens: int, depth: int) -> float:
        """Multiplications and additions of `batch` prompts of `tokens` tokens behind `depth` cached ones."""
        per_token = 0.0
        per_sequence = 0.0
        for name, _, elements in self._weights:
            if name == "lm_head":
                per_sequence += 2.0 * elements  # only the last position becomes logits
            elif name != "embed":
                per_token += 2.0 * elements * (self._expert_share() if _is_expert_stack(name) else 1.0)
        attention = sum(sum(self._kv_tokens(depth + i)) + len(self._chunks()) for i in range(tokens))
        q_dim = int(self._config["num_attention_heads"] * self._config["head_dim"])
        return batch * (tokens * per_token + per_sequence + 4.0 * q_dim * attention)

    def _touched(self, name: str, batch: int, expert_share: float | None) -> float:
        """The part of a weight that `batch` tokens read."""
        if name == "embed":
            return 0.0  # one row per token
        if _is_expert_stack(name):
            if expert_share is not None:
                return expert_share
            return 1.0 - (1.0 - self._expert_share()) ** batch
        return 1.0

    def _expert_share(self) -> float:
        return float(self._config["num_experts_per_tok"] / max(self._config["num_local_experts"], 1))

    def _kv_tokens(self, context: int) -> list[int]:
        """Cached tokens that one new token looks at, of each layer."""
        return [context % chunk if chunk else context for chunk in self._chunks()]

    def _chunks(self) -> list[int]:
        chunk = self._config["attention_chunk_size"]
        return [chunk if local else 0 for local in self._config["chunked_layers"]]


def _is_expert_stack(name: str) -> bool:
    return name.endswith((".moe.gate_up", ".moe.down"))
