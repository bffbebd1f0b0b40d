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
from llama4rt.quality.diff.file_values import FileValues
from llama4rt.quality.diff.rounding import BF16, FP32, MatrixRounding, attention_variance, transform_variance
from llama4rt.quality.diff.step import Step, StepSums, WeightError, WeightSums

Array = NDArray[np.float32]
Operands = Mapping[str, NDArray[Any]]
Slices = Iterator[tuple[int, Array]]

_DENSE = (".mlp.gate_up", ".moe.shared.gate_up")  # no stacks


class StepComparer:
    """file: the engine file's values. kv_dtypes: of (global, chunked) layers. tell: takes each step when it is done."""

    def __init__(
        self,
        values: CheckpointValues,
        config: ModelConfig,
        file: FileValues,
        device: str,
        activations: str,
        kv_dtypes: tuple[str, str],
        tell: Callable[[Step], None],
    ) -> None:
        self._values, self._config, self._file = values, config, file
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
        rounded = bool((self._x.view(np.uint32) & 0xFFFF).any())  # the file has bf16
        variance = (BF16 * self._x.astype(np.float64)) ** 2 if rounded else 0.0
        sums.add(result["out"], self._x, variance, self._x)
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
            self._matrix(name, "linear", self._values.head(), given["x"], self._h[rows], out, name)
            return
        begin = 0
        self._qkv = []
        for i, (part, count) in enumerate((("q", c.q_dim), ("k", c.kv_dim), ("v", c.kv_dim))):
            slices = self._values.matrix(f"layers.{self._layer}.self_attn.{part}_proj", count, c.hidden_size)
            columns = out[:, begin : begin + count]
            step = f"layers.{self._layer}.attn.{part}"
            self._qkv.append(self._matrix(name, "linear", slices, given["x"], self._h, columns, step, part=i))
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
        part, columns = ("feed_forward.down_proj", c.intermediate_size_mlp)
        if name.endswith(".attn.o"):
            part, columns = ("self_attn.o_proj", c.q_dim)
        slices = self._values.matrix(f"layers.{self._layer}.{part}", c.hidden_size, columns)
        self._matrix(name, "linear_add", slices, given["a"], self._a, result["x"], name, before=given["x"])

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
        c, weights = self._config, self._weights(name)
        of_engine, of_file, own = [], [], []
        router = f"layers.{self._layer}.feed_forward.router"
        rounding = np.zeros((len(self._h), 0))
        for first, rows in self._values.matrix(router, c.num_local_experts, c.hidden_size):
            stored = self._file.rows(name, 0, first, first + len(rows))
            weights.add(stored, rows, first)
            of_engine.append(given["h"] @ rows.T)
            of_file.append(given["h"] @ stored.T)
            own.append(self._h @ rows.T)
            rounding = np.concatenate([rounding, self._rounding(name).variance(given["h"], stored)], axis=1)
        logits, file_logits = np.concatenate(of_engine, axis=1), np.concatenate(of_file, axis=1)
        count = c.num_experts_per_tok
        self._own_experts, self._own_scores = ref.route(np.concatenate(own, axis=1), count)
        chosen = result["expert_ids"].astype(np.int64)
        picked = chosen.shape[1]
        experts, _ = ref.route(file_logits, picked)

        def of_chosen(x: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(np.take_along_axis(x, chosen, 1))

        # Experts whose logits are as good as equal may change places.
        behind = np.take_along_axis(file_logits, experts, 1) - of_chosen(file_logits)
        wrong = np.argwhere(behind > 10 * np.sqrt(of_chosen(rounding) + FP32**2))
        fault = ""
        if picked != count:
            fault = f"tokens go to {picked} experts, and the checkpoint says {count}"
        elif len(wrong):
            token, place = (int(i) for i in wrong[0])
            fault = (
                f"token {token} goes to expert {chosen[token, place]}, and belongs to {experts[token, place]}"
            )
        flips = sum(
            len(set(a) - set(b)) for a, b in zip(self._own_experts.tolist(), chosen.tolist(), strict=True)
        )
        sums = StepSums()
        # A sigmoid is at most a quarter as steep as its argument.
        variance = of_chosen(rounding) / 16 + (4 * FP32) ** 2
        own_scores = None if flips or picked != count else self._own_scores
        expected, from_file = (ref.sigmoid(of_chosen(x)) for x in (logits, file_logits))
        sums.add(result["scores"], expected, variance, own_scores, from_file)
        note = f"{flips} picks differ from those of the reference's own pass" if flips else ""
        self._tell(sums.step(name, "route", weights.found(whole=True), note, fault))

    def _moe_gate_up(self, name: str, given: Operands, result: Operands) -> None:
        c, at = self._config, f"layers.{self._layer}"
        self._a = self._swiglu(
            f"{at}.moe.shared.gate_up", "moe_gate_up", f"{at}.feed_forward.shared_expert.", c.intermediate_size,
            given["h"], result["shared_a"],
        )  # fmt: skip
        assert self._own_experts is not None and self._own_scores is not None
        K, own_K = given["expert_ids"].shape[1], c.num_experts_per_tok
        self._own_picks = np.zeros((len(self._h) * own_K, c.intermediate_size), np.float32)
        sums, weights, seen = StepSums(), self._weights(name), 0
        for expert in range(c.num_local_experts):
            mine, own = _picks(given["expert_ids"], expert), _picks(self._own_experts, expert)
            if not len(mine) + len(own):
                continue
            seen += 1
            score = given["scores"].reshape(-1, 1)[mine]
            self._own_picks[own] = self._swiglu_slices(
                name, expert, (self._values.expert(self._layer, expert, part) for part in ("gate", "up")),
                given["h"][mine // K], result["a"][mine], score, self._h[own // own_K],
                self._own_scores.reshape(-1, 1)[own], sums, weights,
            )  # fmt: skip
        found = weights.found(whole=seen == c.num_local_experts)
        self._tell(sums.step(name, "moe_gate_up", found))

    def _moe_down_add(self, name: str, given: Operands, result: Operands) -> None:
        c, at = self._config, f"layers.{self._layer}"
        assert self._own_experts is not None
        K, own_K = given["expert_ids"].shape[1], c.num_experts_per_tok
        shape, shared = self._x.shape, f"{at}.moe.shared.down"
        expected, from_file, own = (np.zeros(shape, np.float32) for _ in range(3))
        variance = np.zeros(shape)
        weights, shared_weights, seen = self._weights(name), self._weights(shared), 0

        def add(
            weight: str, expert: int, slices: Slices, a: Array, rows_of: Any, a_own: Array, own_rows: Any
        ) -> None:
            sums, of = (shared_weights, "") if weight == shared else (weights, f" of expert {expert}")
            for first, rows in slices:
                columns = slice(first, first + len(rows))
                stored = self._file.rows(weight, 0, first, first + len(rows), expert)
                sums.add(stored, rows, first, of)
                # A token picks an expert once: no row is named twice.
                expected[rows_of, columns] += a @ rows.T
                from_file[rows_of, columns] += a @ stored.T
                variance[rows_of, columns] += self._rounding(weight).variance(a, stored)
                own[own_rows, columns] += a_own @ rows.T

        every = slice(None)
        matrix = f"{at}.feed_forward.shared_expert.down_proj"
        slices = self._values.matrix(matrix, c.hidden_size, c.intermediate_size)
        add(shared, 0, slices, given["shared_a"], every, self._a, every)
        for expert in range(c.num_local_experts):
            mine, theirs = _picks(given["expert_ids"], expert), _picks(self._own_experts, expert)
            if not len(mine) + len(theirs):
                continue
            seen += 1
            slices = self._values.expert(self._layer, expert, "down")
            add(name, expert, slices, given["a"][mine], mine // K, self._own_picks[theirs], theirs // own_K)
        self._x = self._x + own
        found = weights.found(whole=seen == c.num_local_experts)
        of_shared = shared_weights.found(whole=True)
        self._tell_added(
            name, "moe_down_add", result["x"], given["x"], expected, from_file, variance,
            of_shared if of_shared.problem else found,
        )  # fmt: skip

    # --- matrices -------------------------------------------------------------------------------------------

    def _rounding(self, name: str) -> MatrixRounding:
        return MatrixRounding.of(self._file.described(name), self._device, self._activations)

    def _weights(self, name: str) -> WeightSums:
        return WeightSums(float(self._file.described(name)["rms_error"]))

    def _matrix(
        self,
        weight: str,
        op: str,
        slices: Slices,
        x: Array,
        x_own: Array,
        out: Array,
        step: str,
        part: int | None = None,
        before: Array | None = None,
    ) -> Array:
        """The product with a matrix, or with a part of the file's fused one. before: what it was added to. Returns the
        reference's own product.
        """
        rounding, weights = self._rounding(weight), self._weights(weight)
        expected, from_file, variance, own = [], [], [], []
        for first, rows in slices:
            stored = self._file.rows(weight, part or 0, first, first + len(rows))
            weights.add(stored, rows, first)
            expected.append(x @ rows.T)
            from_file.append(x @ stored.T)
            variance.append(rounding.variance(x, stored))
            own.append(x_own @ rows.T)
        product = np.concatenate(own, axis=1)
        found = weights.found(whole=part is None)
        exact, given, explained = (np.concatenate(x, axis=1) for x in (expected, from_file, variance))
        if before is not None:
            self._x = self._x + product
            self._tell_added(step, op, out, before, exact, given, explained, found)
            return product
        sums = StepSums()
        sums.add(out, exact, explained, product, given)
        self._tell(sums.step(step, op, found))
        return product

    def _tell_added(
        self, name: str, op: str, after: Array, before: Array, expected: Any, from_file: Any, variance: Any,
        weights: WeightError,
    ) -> None:  # fmt: skip
        """What was added to the residual stream, with the rounding of that sum; its drift is the stream's."""
        sums = StepSums()
        rounding = FP32**2 * (after.astype(np.float64) ** 2 + before.astype(np.float64) ** 2)
        added = (after.astype(np.float64) - before).astype(np.float32)
        sums.add(added, expected, variance + rounding, None, from_file)
        size = float(np.sqrt(np.mean(self._x.astype(np.float64) ** 2)))
        away = float(np.sqrt(np.mean((after.astype(np.float64) - self._x) ** 2)))
        self._tell(replace(sums.step(name, op, weights), drift=away / size if size > 0 else away))

    def _swiglu(self, name: str, op: str, at: str, width: int, h: Array, out: Array) -> Array:
        """Gate and up of a dense MLP or a shared expert. Returns the reference's own."""
        sums, weights = StepSums(), self._weights(name)
        parts = (self._values.matrix(f"{at}{part}_proj", width, h.shape[1]) for part in ("gate", "up"))
        one = np.ones((len(h), 1), np.float32)
        own = self._swiglu_slices(name, 0, parts, h, out, one, self._h, one, sums, weights)
        self._tell(sums.step(name, op, weights.found(whole=True)))
        return own

    def _swiglu_slices(
        self, name: str, expert: int, parts: Iterator[Slices], h: Array, out: Array, score: Array, h_own: Array,
        score_own: Array, sums: StepSums, weights: WeightSums,
    ) -> Array:  # fmt: skip
        rounding, own = self._rounding(name), []
        owner = "" if name.endswith(_DENSE) else f"expert {expert}'s "
        for (first, gate), (_, up) in zip(*parts, strict=True):
            last = first + len(gate)
            stored = [self._file.rows(name, part, first, last, expert) for part in (0, 1)]
            for part, file_rows, rows in zip(("gate", "up"), stored, (gate, up), strict=True):
                weights.add(file_rows, rows, first, f" of {owner}{part}")
            g, u, file_g, file_u = (score * (h @ rows.T) for rows in (gate, up, *stored))
            variances = (score.astype(np.float64) ** 2 * rounding.variance(h, rows) for rows in stored)
            own.append(ref.swiglu(score_own * (h_own @ gate.T), score_own * (h_own @ up.T)))
            sums.add(
                out[:, first:last], ref.swiglu(g, u), _swiglu_variance(file_g, file_u, *variances),
                own[-1] if score is score_own else None,  # the same tokens
                ref.swiglu(file_g, file_u),
            )  # fmt: skip
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


def _head_growth(before: Array, after: Array, dim: int) -> NDArray[np.float64]:
    """[T, heads * D]: by how much each head was enlarged."""

    def size(x: Array) -> NDArray[np.float64]:
        return np.asarray(np.sqrt((x.reshape(len(x), -1, dim).astype(np.float64) ** 2).sum(axis=-1)))

    old, new = size(before), size(after)
    growth = np.where(old > 0, new / np.where(old > 0, old, 1), 1.0)
    return np.asarray(np.repeat(np.maximum(growth, 1.0), dim, axis=1))


__all__ = ["StepComparer"]
