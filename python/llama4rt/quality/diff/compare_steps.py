"""StepComparer: takes the engine's steps as they happen and compares each with the reference.

`reference` is a second forward pass, of the checkpoint's values alone from the embedding on. Both passes share what is
read of a matrix, which is let go at once. One sequence from position 0, in one step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.config import ModelConfig
from llama4rt.errors import Llama4RTError
from llama4rt.quality.diff import reference as ref
from llama4rt.quality.diff.checkpoint_values import CheckpointValues
from llama4rt.quality.diff.rounding import FP32, MatrixRounding, attention_variance, transform_variance
from llama4rt.quality.diff.step import Step, StepSums

Array = NDArray[np.float32]
Operands = Mapping[str, NDArray[Any]]
Slices = Iterator[tuple[int, Array]]

_ROUTING_TIE = 1e-4  # of logits: experts whose logits lie nearer may change places


class StepComparer:
    """weights: the engine file's list of its weights by name. kv_dtypes: (of global, of chunked layers)."""

    def __init__(
        self,
        values: CheckpointValues,
        config: ModelConfig,
        weights: Mapping[str, Mapping[str, Any]],
        device: str,
        activations: str,
        kv_dtypes: tuple[str, str],
        tell: Callable[[Step], None],
    ) -> None:
        self._values, self._config, self._weights = values, config, weights
        self._device, self._activations, self._kv = device, activations, kv_dtypes
        self._tell = tell
        self._layer = -1
        self._head_rows = 0  # of the head, done
        self._x = np.zeros((0, 0), np.float32)  # the reference's residual stream [T, H]
        self._h = self._x  # of it, normalised
        self._qkv: list[Array] = []  # the reference's q, k, v
        self._engine_qkv: list[Array] = []  # the engine's, transformed
        self._a: Array = self._x  # inputs of the last matrix of a block, in the reference
        self._own_experts: NDArray[np.int64] | None = None
        self._own_scores: Array | None = None
        self._own_picks: Array = self._x  # [T * K, F]
        self.layer_states: list[Array] = []  # the reference's stream before each layer, and behind the last

    def __call__(self, op: str, names: Sequence[str], given: Operands, result: Operands) -> None:
        """As _core.ObservedEngine calls it."""
        name = names[0] if names else ""
        steps: Mapping[str, Callable[[str, Operands, Operands], None]] = {
            "embed": self._embed,
            "rmsnorm": self._rmsnorm,
            "linear": self._linear,
            "prepare_qkv": self._prepare_qkv,
            "paged_attention": self._attention,
            "linear_add": self._linear_add,
            "gate_up": self._gate_up,
            "route": self._route,
            "moe_gate_up": self._moe_gate_up,
            "moe_down_add": self._moe_down_add,
            "gather_rows": self._gather_rows,
        }
        if op not in steps:
            raise Llama4RTError(f"the engine ran {op}, which is no step of a text decoder")
        steps[op](name, given, result)

    # --- steps ----------------------------------------------------------------------------------------------

    def _embed(self, name: str, given: Operands, result: Operands) -> None:
        self._x = self._values.embedding(given["ids"].tolist())
        sums = StepSums()
        # To the nearest bf16: nothing where the checkpoint has bf16.
        exact = self._x.astype(np.float64)
        error = float(self._weights.get(name, {}).get("rms_error", 2.0**-9 / 3**0.5))
        lossy = (self._x.view(np.uint32) & 0xFFFF).any()
        sums.add(result["out"], self._x, error**2 * exact**2 if lossy else 0.0, self._x)
        self._tell(sums.step("embed", "embed"))

    def _rmsnorm(self, name: str, given: Operands, result: Operands) -> None:
        if name == "norm":
            gain = self._values.gain("norm")
        else:
            _, layer, which = name.split(".")
            if which == "attn_norm":
                self._layer = int(layer)
                self.layer_states.append(self._x)
            hf_name = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}[which]
            gain = self._values.gain(f"layers.{layer}.{hf_name}")
        eps = self._config.rms_norm_eps
        expected = ref.rmsnorm(given["x"], gain, eps)
        self._h = ref.rmsnorm(self._x, gain, eps)
        sums = StepSums()
        sums.add(result["out"], expected, (8 * FP32) ** 2 * expected.astype(np.float64) ** 2 + 1e-60, self._h)
        self._tell(sums.step(name, "rmsnorm"))

    def _linear(self, name: str, given: Operands, result: Operands) -> None:
        c, out = self._config, result["out"]
        if name == "lm_head":  # some rows at a time, where the vocabulary is large
            rows = slice(self._head_rows, self._head_rows + len(out))
            self._head_rows = rows.stop
            self._compare(name, "linear", self._values.head(), given["x"], self._h[rows], out, name)
            return
        begin = 0
        self._qkv = []
        for part, count in (("q", c.q_dim), ("k", c.kv_dim), ("v", c.kv_dim)):
            slices = self._values.matrix(f"layers.{self._layer}.self_attn.{part}_proj", count, c.hidden_size)
            own = self._compare(
                name, "linear", slices, given["x"], self._h, out[:, begin : begin + count],
                f"layers.{self._layer}.attn.{part}",
            )  # fmt: skip
            self._qkv.append(own)
            begin += count

    def _prepare_qkv(self, name: str, given: Operands, result: Operands) -> None:
        for i, part in enumerate(("q", "k")):
            before, query = np.ascontiguousarray(given[part]), part == "q"
            expected = ref.transform_heads(before, self._config, self._layer, query)
            self._qkv[i] = ref.transform_heads(self._qkv[i], self._config, self._layer, query)
            # Unit RMS may enlarge a head, and what was rounded in it.
            grown = _head_growth(before, expected, self._config.head_dim)
            sums = StepSums()
            variance = grown**2 * transform_variance(before, self._config) + 1e-60
            sums.add(result[part], expected, variance, self._qkv[i])
            self._tell(sums.step(f"layers.{self._layer}.attn.{part}_ready", "prepare_qkv"))
        self._engine_qkv = [result["q"], result["k"], np.ascontiguousarray(given["v"])]

    def _attention(self, name: str, given: Operands, result: Operands) -> None:
        kv_dtype = self._kv[1 if self._config.chunked_layers[self._layer] else 0]
        q, k, v = self._engine_qkv
        expected = ref.attention(q, k, v, self._config)
        variance = attention_variance(q, k, v, self._config, kv_dtype, self._device)
        self._a = ref.attention(self._qkv[0], self._qkv[1], self._qkv[2], self._config)
        sums = StepSums()
        sums.add(result["out"], expected, variance, self._a)
        self._tell(sums.step(f"layers.{self._layer}.attn.context", "paged_attention"))

    def _linear_add(self, name: str, given: Operands, result: Operands) -> None:
        c = self._config
        attention = name.endswith(".attn.o")
        part, columns = (
            ("self_attn.o_proj", c.q_dim)
            if attention
            else ("feed_forward.down_proj", c.intermediate_size_mlp)
        )
        slices = self._values.matrix(f"layers.{self._layer}.{part}", c.hidden_size, columns)
        self._x = self._x + self._compare(
            name, "linear_add", slices, given["a"], self._a, result["x"], name, given["x"]
        )

    def _gate_up(self, name: str, given: Operands, result: Operands) -> None:
        at, width = f"layers.{self._layer}.feed_forward.", self._config.intermediate_size_mlp
        self._a = self._swiglu(name, "gate_up", at, width, given["h"], result["a"])

    def _gather_rows(self, name: str, given: Operands, result: Operands) -> None:
        """All rows: the prompt's logits are wanted at every place."""
        self.layer_states.append(self._x)
        sums = StepSums()
        sums.add(result["out"], given["x"], 0.0, self._x)
        self._tell(sums.step("last_layer", "gather_rows"))

    # --- experts --------------------------------------------------------------------------------------------

    def _route(self, name: str, given: Operands, result: Operands) -> None:
        c = self._config
        router = f"layers.{self._layer}.feed_forward.router"

        def logits(h: Array) -> Array:
            slices = self._values.matrix(router, c.num_local_experts, c.hidden_size)
            return np.concatenate([h @ rows.T for _, rows in slices], axis=1)

        of_engine, own = logits(given["h"]), logits(self._h)
        experts, _ = ref.route(of_engine, c.num_experts_per_tok)
        self._own_experts, self._own_scores = ref.route(own, c.num_experts_per_tok)
        chosen = result["expert_ids"].astype(np.int64)
        wrong = np.argwhere(chosen != experts)
        near = np.abs(
            np.take_along_axis(of_engine, chosen, 1) - np.take_along_axis(of_engine, experts, 1)
        ) <= _ROUTING_TIE * (1 + np.abs(of_engine).max())
        notes = [f"!token {t} goes to expert {chosen[t, i]}, the checkpoint says {experts[t, i]}"
                 for t, i in wrong if not near[t, i]]  # fmt: skip
        flips = int((np.sort(self._own_experts) != np.sort(chosen)).sum())
        note = notes[0] if notes else (f"{flips} picks differ from the reference's own" if flips else "")
        expected = np.asarray(ref.sigmoid(np.take_along_axis(of_engine, chosen, 1)), np.float32)
        size = np.sqrt(np.mean(given["h"].astype(np.float64) ** 2, axis=1, keepdims=True) * c.hidden_size)
        sums = StepSums()
        variance = c.hidden_size * FP32**2 * size**2 + self._router_rounding(name) * size**2
        sums.add(result["scores"], expected, variance, self._own_scores if not flips else None)
        self._tell(sums.step(name, "route", note))

    def _router_rounding(self, name: str) -> float:
        """A checkpoint in fp32 or fp16 is rounded to bf16."""
        return float(self._weights[name]["rms_error"]) ** 2 if name in self._weights else 0.0

    def _moe_gate_up(self, name: str, given: Operands, result: Operands) -> None:
        c, at = self._config, f"layers.{self._layer}"
        self._a = self._swiglu(
            f"{at}.moe.shared.gate_up", "moe_gate_up", f"{at}.feed_forward.shared_expert.", c.intermediate_size,
            given["h"], result["shared_a"],
        )  # fmt: skip
        assert self._own_experts is not None and self._own_scores is not None
        K, rounding = c.num_experts_per_tok, self._rounding(name)
        self._own_picks = np.zeros((len(self._h) * K, c.intermediate_size), np.float32)
        sums = StepSums()
        for expert in range(c.num_local_experts):
            mine = _picks(given["expert_ids"], expert)
            own = _picks(self._own_experts, expert)
            if not len(mine) + len(own):
                continue
            x, x_own = given["h"][mine // K], self._h[own // K]
            score = given["scores"].reshape(-1, 1)[mine]
            score_own = self._own_scores.reshape(-1, 1)[own]
            parts = zip(
                *(self._values.expert(self._layer, expert, part) for part in ("gate", "up")), strict=True
            )
            for (first, gate_rows), (_, up_rows) in parts:
                gate, up = score * (x @ gate_rows.T), score * (x @ up_rows.T)
                variance = _swiglu_variance(
                    gate, up, score.astype(np.float64) ** 2 * rounding.variance(x, gate_rows),
                    score.astype(np.float64) ** 2 * rounding.variance(x, up_rows),
                )  # fmt: skip
                columns = slice(first, first + len(gate_rows))
                sums.add(result["a"][mine][:, columns], ref.swiglu(gate, up), variance)
                own_gate, own_up = score_own * (x_own @ gate_rows.T), score_own * (x_own @ up_rows.T)
                self._own_picks[own, columns] = ref.swiglu(own_gate, own_up)
        self._tell(sums.step(name, "moe_gate_up"))

    def _moe_down_add(self, name: str, given: Operands, result: Operands) -> None:
        c, at = self._config, f"layers.{self._layer}"
        assert self._own_experts is not None
        K, T = c.num_experts_per_tok, len(self._x)
        shared_name = f"{at}.moe.shared.down"
        expected = np.zeros((T, c.hidden_size), np.float32)
        own = np.zeros_like(expected)
        variance = np.zeros((T, c.hidden_size))
        slices = self._values.matrix(
            f"{at}.feed_forward.shared_expert.down_proj", c.hidden_size, c.intermediate_size
        )
        for first, rows in slices:
            columns = slice(first, first + len(rows))
            expected[:, columns] = given["shared_a"] @ rows.T
            own[:, columns] = self._a @ rows.T
            variance[:, columns] = self._rounding(shared_name).variance(given["shared_a"], rows)
        for expert in range(c.num_local_experts):
            mine, theirs = _picks(given["expert_ids"], expert), _picks(self._own_experts, expert)
            if not len(mine) + len(theirs):
                continue
            for first, rows in self._values.expert(self._layer, expert, "down"):
                columns = slice(first, first + len(rows))
                a = given["a"][mine]
                # A token picks an expert once: no row is named twice.
                expected[mine // K, columns] += a @ rows.T
                variance[mine // K, columns] += self._rounding(name).variance(a, rows)
                own[theirs // K, columns] += self._own_picks[theirs] @ rows.T
        self._x = self._x + own
        sums = StepSums()
        sums.add(*_added(result["x"], given["x"], expected, variance), own=None)
        self._tell(_with_drift(sums.step(name, "moe_down_add"), result["x"], self._x))

    # --- matrices -------------------------------------------------------------------------------------------

    def _rounding(self, name: str) -> MatrixRounding:
        return MatrixRounding.of(self._weights[name], self._device, self._activations)

    def _compare(
        self,
        weight: str,
        op: str,
        slices: Slices,
        x: Array,
        x_own: Array,
        out: Array,
        step: str,
        before: Array | None = None,
    ) -> Array:
        """One matrix of the file's tensor `weight`. before: what the product was added to. Returns the reference's own
        product.
        """
        rounding, sums, own = self._rounding(weight), StepSums(), []
        for first, rows in slices:
            columns = slice(first, first + len(rows))
            expected, variance = x @ rows.T, rounding.variance(x, rows)
            own.append(x_own @ rows.T)
            if before is None:
                sums.add(out[:, columns], expected, variance, own[-1])
            else:
                sums.add(*_added(out[:, columns], before[:, columns], expected, variance), own=None)
        product = np.concatenate(own, axis=1)
        found = sums.step(step, op)
        self._tell(found if before is None else _with_drift(found, out, self._x + product))
        return product

    def _swiglu(self, name: str, op: str, at: str, width: int, h: Array, out: Array) -> Array:
        """Gate and up of a dense MLP or a shared expert. Returns the reference's own."""
        rounding, sums, own = self._rounding(name), StepSums(), []
        hidden = self._config.hidden_size
        parts = (self._values.matrix(f"{at}{part}_proj", width, hidden) for part in ("gate", "up"))
        for (first, gate_rows), (_, up_rows) in zip(*parts, strict=True):
            gate, up = h @ gate_rows.T, h @ up_rows.T
            variance = _swiglu_variance(
                gate, up, rounding.variance(h, gate_rows), rounding.variance(h, up_rows)
            )
            own.append(ref.swiglu(self._h @ gate_rows.T, self._h @ up_rows.T))
            sums.add(out[:, first : first + len(gate_rows)], ref.swiglu(gate, up), variance, own[-1])
        self._tell(sums.step(name, op))
        return np.concatenate(own, axis=1)


def _picks(experts: NDArray[Any], expert: int) -> NDArray[np.int64]:
    """token * K + i, of those that chose the expert."""
    return np.flatnonzero(experts.reshape(-1) == expert)


def _swiglu_variance(gate: Array, up: Array, of_gate: Any, of_up: Any) -> NDArray[np.float64]:
    """To first order, and the rounding of the exponential and the products."""
    by_gate, by_up = ref.swiglu_slopes(gate, up)
    own = (8 * FP32) ** 2 * ref.swiglu(gate, up).astype(np.float64) ** 2
    # Second order, where errors are as large as gates: silu bends by at most a half.
    second = 0.25 * of_gate**2 * (up.astype(np.float64) ** 2) + of_gate * of_up
    return np.asarray(
        by_gate.astype(np.float64) ** 2 * of_gate + by_up.astype(np.float64) ** 2 * of_up + second + own
    )


def _added(after: Array, before: Array, expected: Array, variance: Any) -> tuple[Array, Array, Any]:
    """What was added to the residual stream, and with it the rounding of the sum."""
    rounding = FP32**2 * (after.astype(np.float64) ** 2 + before.astype(np.float64) ** 2)
    added = (after.astype(np.float64) - before).astype(np.float32)
    return added, expected, variance + rounding


def _with_drift(step: Step, engine: Array, own: Array) -> Step:
    size = float(np.sqrt(np.mean(own.astype(np.float64) ** 2)))
    difference = float(np.sqrt(np.mean((engine.astype(np.float64) - own) ** 2)))
    return replace(step, drift=difference / size if size > 0 else difference)


def _head_growth(before: Array, after: Array, dim: int) -> NDArray[np.float64]:
    """[T, heads * D]: by how much each head was enlarged."""

    def size(x: Array) -> NDArray[np.float64]:
        return np.asarray(np.sqrt((x.reshape(len(x), -1, dim).astype(np.float64) ** 2).sum(axis=-1)))

    old, new = size(before), size(after)
    growth = np.where(old > 0, new / np.where(old > 0, old, 1), 1.0)
    return np.asarray(np.repeat(np.maximum(growth, 1.0), dim, axis=1))


__all__ = ["StepComparer"]
