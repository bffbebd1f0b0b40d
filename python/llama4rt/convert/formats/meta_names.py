"""Meta's names of the tensors of Llama 4, and how the parts of several files become one tensor of Hugging Face's names.

A pure table over names and shapes: no bytes are read. What fits no line keeps its own name, so that the mapping to the
engine's tensors lists it as not understood.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llama4rt.convert.checkpoint import TensorInfo
from llama4rt.convert.formats.meta_codes import CODE_DTYPES, CodedPart, CodedStack, ScaleFiles
from llama4rt.convert.formats.meta_join import Array, JoinedTensor, Part
from llama4rt.convert.formats.meta_params import MetaParams
from llama4rt.convert.formats.torch_file import TorchFile

# Tables that are computed, states of training, and states of Transformer Engine's modules.
_DROPPED = re.compile(
    r"(?:^|\.)(?:rope\.freqs|freqs?_cis|\w*_extra_state|(?:global|running)_gate_stats_3E|expert_activation_DE)$"
)
_VISION = "vision_embeddings."

# Name in the file -> name in Hugging Face's layout, and the axis along which the files' parts are joined: 0 outputs,
# 1 inputs, None: whole in each file. {l} is a number, {model} the decoder's prefix.
_PLAIN: dict[str, tuple[str, int | None]] = {
    "tok_embeddings.weight": ("{model}model.embed_tokens.weight", 0),
    "output.weight": ("{model}lm_head.weight", 0),
    "norm.weight": ("{model}model.norm.weight", None),
    "vision_projection.weight": ("multi_modal_projector.linear_1.weight", 0),
}
_LAYER: dict[str, tuple[str, int | None]] = {
    "attention_norm.weight": ("input_layernorm.weight", None),
    "attention.wqkv.layer_norm_weight": ("input_layernorm.weight", None),
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
    "feed_forward.norm.weight": ("post_attention_layernorm.weight", None),
    "feed_forward.mlp.layer_norm_weight": ("post_attention_layernorm.weight", None),
    "feed_forward.mlp.fc2_weight": ("feed_forward.down_proj.weight", 1),
    "feed_forward.w1.weight": ("feed_forward.gate_proj.weight", 0),
    "feed_forward.w2.weight": ("feed_forward.down_proj.weight", 1),
    "feed_forward.w3.weight": ("feed_forward.up_proj.weight", 0),
    "feed_forward.w_in_shared_FD.weight": ("feed_forward.shared_expert.gate_proj.weight", 0),
    "feed_forward.w_swiglu_FD.weight": ("feed_forward.shared_expert.up_proj.weight", 0),
    "feed_forward.w_out_shared_DF.weight": ("feed_forward.shared_expert.down_proj.weight", 1),
    "feed_forward.shared_expert.w1.weight": ("feed_forward.shared_expert.gate_proj.weight", 0),
    "feed_forward.shared_expert.w3.weight": ("feed_forward.shared_expert.up_proj.weight", 0),
    "feed_forward.shared_expert.w2.weight": ("feed_forward.shared_expert.down_proj.weight", 1),
}
_ENCODER: dict[str, tuple[str, int | None]] = {
    "vision_encoder.conv1._linear.weight": ("patch_embedding.linear.weight", 0),
    "vision_encoder.class_embedding": ("class_embedding", None),
    "vision_encoder.positional_embedding_vlm": ("positional_embedding_vlm", None),
    "vision_encoder.ln_pre.weight": ("layernorm_pre.weight", None),
    "vision_encoder.ln_pre.bias": ("layernorm_pre.bias", None),
    "vision_encoder.ln_post.weight": ("layernorm_post.weight", None),
    "vision_encoder.ln_post.bias": ("layernorm_post.bias", None),
    "vision_adapter.mlp.c_fc.weight": ("vision_adapter.mlp.fc1.weight", 0),
    "vision_adapter.mlp.c_proj.weight": ("vision_adapter.mlp.fc2.weight", 1),
}
_ENCODER_LAYER: dict[str, tuple[str, int | None]] = {
    **{f"attn.w{p}.{kind}": (f"self_attn.{p}_proj.{kind}", 0) for p in "qkv" for kind in ("weight", "bias")},
    "attn.wo.weight": ("self_attn.o_proj.weight", 1),
    "attn.wo.bias": ("self_attn.o_proj.bias", None),
    "mlp.c_fc.weight": ("mlp.fc1.weight", 0),
    "mlp.c_fc.bias": ("mlp.fc1.bias", 0),
    "mlp.c_proj.weight": ("mlp.fc2.weight", 1),
    "mlp.c_proj.bias": ("mlp.fc2.bias", None),
    **{f"ln_1.{kind}": (f"input_layernorm.{kind}", None) for kind in ("weight", "bias")},
    **{f"ln_2.{kind}": (f"post_attention_layernorm.{kind}", None) for kind in ("weight", "bias")},
}
_IN_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_IN_ENCODER_LAYER = re.compile(r"vision_encoder\.transformer\.resblocks\.(\d+)\.(.+)")

QKV = "attention.wqkv.weight"
FC1 = "feed_forward.mlp.fc1_weight"
ROUTER = "feed_forward.router_DE"
EXPERTS = "feed_forward.experts."
GATE, UP, DOWN = "moe_w_in_eD_F", "moe_w_swiglu_eD_F", "moe_w_out_eF_D"
SCALES = {GATE: "w1", UP: "w3", DOWN: "w2"}  # what the files of scales call them
MetaTensor = JoinedTensor | CodedStack


def joined_tensors(
    files: Sequence[TorchFile], params: MetaParams, scales: ScaleFiles
) -> tuple[dict[str, MetaTensor], list[str]]:
    """(Hugging Face's name -> tensor, problems). files: of one checkpoint, by rank; scales: those of its codes."""
    joiner = _Joiner(files, params, scales)
    joiner.run()
    return joiner.tensors, joiner.problems


def is_dropped(key: str, info: TensorInfo) -> bool:
    """Whether a model does without a tensor. Empty ones of the tower stand for biases that it does not have."""
    return _DROPPED.search(key) is not None or (key.startswith(_VISION) and info.shape == (0,))


@dataclass
class _Joiner:
    files: Sequence[TorchFile]
    params: MetaParams
    scales: ScaleFiles
    tensors: dict[str, MetaTensor] = field(default_factory=dict)
    used_scales: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = self._common_keys()
        self.model = "language_model." if self.params.has_vision else ""

    def run(self) -> None:
        for key, info in self.keys.items():
            layer = _IN_LAYER.fullmatch(key)
            if key in _PLAIN:
                name, axis = _PLAIN[key]
                self._add(name.format(model=self.model), key, info, axis)
            elif layer is not None:
                self._in_layer(key, info, f"{self.model}model.layers.{layer[1]}.", layer[2])
            elif key.startswith(_VISION):
                self._in_encoder(key, info, key.removeprefix(_VISION))
            else:
                self._add(key, key, info, None)
        self.problems += [
            f"{key}: is in {self.scales.files[0].path.name}, and no shard has codes for it"
            for key in (self.scales.files[0].infos if self.scales.files else ())
            if key not in self.used_scales
        ]

    def _common_keys(self) -> Mapping[str, TensorInfo]:
        """Those of all files, which must have the same, each of one shape."""
        wanted = {key: info for key, info in self.files[0].infos.items() if not is_dropped(key, info)}
        for file in self.files[1:]:
            found = {key: info for key, info in file.infos.items() if not is_dropped(key, info)}
            for key in sorted(wanted.keys() ^ found.keys()):
                where, other = (self.files[0], file) if key in wanted else (file, self.files[0])
                self.problems.append(f"{key}: is in {where.path.name} and not in {other.path.name}")
            for key in wanted.keys() & found.keys():
                if found[key] != wanted[key]:
                    self.problems.append(
                        f"{key}: is {wanted[key]} in {self.files[0].path.name} and {found[key]} in {file.path.name}"
                    )
        return {} if self.problems else wanted

    def _add(self, name: str, key: str, info: TensorInfo, axis: int | None) -> None:
        shape = info.shape
        if axis is not None and axis < len(shape):
            shape = tuple(n * len(self.files) if i == axis else n for i, n in enumerate(shape))
        elif axis is not None:
            self.problems.append(f"{key}: is {info}; expected a matrix")
            return
        self._put(name, JoinedTensor(self.files, [Part(key)], TensorInfo(info.dtype, shape), axis))

    def _put(self, name: str, tensor: MetaTensor) -> None:
        if name in self.tensors:
            others = self.tensors[name].info.stored + tensor.info.stored
            self.problems.append(f"{' and '.join(others)} are both there, and both are {name}")
        self.tensors[name] = tensor

    def _in_layer(self, key: str, info: TensorInfo, layer: str, rest: str) -> None:
        if rest in _LAYER:
            name, axis = _LAYER[rest]
            self._add(layer + name, key, info, axis)
        elif rest == QKV:
            self._qkv(key, info, layer)
        elif rest == FC1:
            self._rows_of(key, info, layer + "feed_forward.{}_proj.weight", {"gate": 1, "up": 1})
        elif rest == ROUTER:
            self._router(key, info, layer + "feed_forward.router.weight")
        elif rest.startswith(EXPERTS) and rest.removeprefix(EXPERTS) in (GATE, UP, DOWN):
            if rest.endswith(DOWN):
                self._down(key, info, layer)
            elif rest.endswith(GATE):
                self._gate_up(key, info, layer)
            elif key.replace(UP, GATE) not in self.keys:
                self.problems.append(f"{key.replace(UP, GATE)}: is missing beside {key}")
        else:
            self._add(key, key, info, None)

    def _in_encoder(self, key: str, info: TensorInfo, rest: str) -> None:
        layer = _IN_ENCODER_LAYER.fullmatch(rest)
        if rest in _ENCODER:
            name, axis = _ENCODER[rest]
            self._add(f"vision_model.{name}", key, info, axis)
        elif layer is not None and layer[2] in _ENCODER_LAYER:
            name, axis = _ENCODER_LAYER[layer[2]]
            self._add(f"vision_model.model.layers.{layer[1]}.{name}", key, info, axis)
        else:
            self._add(key, key, info, None)

    def _qkv(self, key: str, info: TensorInfo, layer: str) -> None:
        """Each file has rows of q, then of k, then of v: its own heads of each."""
        q, kv = self.params.q_dim, self.params.kv_dim
        self._rows_of(key, info, layer + "self_attn.{}_proj.weight", {"q": q, "k": kv, "v": kv})

    def _rows_of(self, key: str, info: TensorInfo, pattern: str, shares: Mapping[str, int]) -> None:
        """Several matrices, one after another along the outputs in each file. shares: of each in the rows."""
        whole = sum(shares.values())
        if len(info.shape) != 2 or any(info.shape[0] * share % whole for share in shares.values()):
            self.problems.append(f"{key}: is {info}; its rows cannot be cut into {', '.join(shares)}")
            return
        begin = 0
        for name, share in shares.items():
            count = info.shape[0] * share // whole
            view = _rows_view(begin, begin + count)
            shape = (count * len(self.files), info.shape[1])
            self._put(
                pattern.format(name),
                JoinedTensor(self.files, [Part(key, view)], TensorInfo(info.dtype, shape), 0),
            )
            begin += count

    def _router(self, key: str, info: TensorInfo, name: str) -> None:
        """[in, experts]: whole in each file, or, by its shape, a part of the experts in each."""
        if len(info.shape) != 2:
            self.problems.append(f"{key}: is {info}; expected a matrix")
            return
        into, out = info.shape
        split = out != self.params.num_experts and out * len(self.files) == self.params.num_experts
        shape = (out * len(self.files) if split else out, into)
        part = Part(key, lambda array, expert: array.T)
        axis = 0 if split else None
        self._put(
            name, JoinedTensor(self.files, [part], TensorInfo(info.dtype, shape), axis, transposed=True)
        )

    def _gate_up(self, key: str, info: TensorInfo, layer: str) -> None:
        """[experts * in, out / files] of gate, and of up, as one stack [experts, in, 2 * out]."""
        up = key.replace(GATE, UP)
        if self.keys.get(up) != info:
            self.problems.append(f"{up}: is {self.keys.get(up, 'missing')}; expected {info}, as {key}")
            return
        self._stack(layer + "feed_forward.experts.gate_up_proj", [key, up], info, 0)

    def _down(self, key: str, info: TensorInfo, layer: str) -> None:
        """[experts * in / files, out] as a stack [experts, in, out]."""
        self._stack(layer + "feed_forward.experts.down_proj", [key], info, 1)

    def _stack(self, name: str, keys: Sequence[str], info: TensorInfo, axis: int) -> None:
        """axis: along which the files' parts are joined."""
        experts = self.params.num_experts
        if len(info.shape) != 2 or experts == 0 or info.shape[0] % experts:
            self.problems.append(
                f"{keys[0]}: is {info}; expected the rows of {experts} experts, one after another"
            )
            return
        into, out = info.shape[0] // experts, info.shape[1]
        if info.dtype in CODE_DTYPES:
            self._coded_stack(name, keys, info, into, out, axis)
            return
        count = len(self.files)
        shape = (
            (experts, into, len(keys) * out * count)
            if axis == 0
            else (experts, into * count, len(keys) * out)
        )
        parts = [Part(key, _expert_view(experts)) for key in keys]
        self._put(name, JoinedTensor(self.files, parts, TensorInfo(info.dtype, shape), axis, transposed=True))

    def _coded_stack(
        self, name: str, keys: Sequence[str], info: TensorInfo, into: int, out: int, axis: int
    ) -> None:
        """into: rows of one expert in one file; of int4, two inputs to a row."""
        scale_keys = [
            key.replace(kind, SCALES[kind]) for key in keys for kind in SCALES if key.endswith(kind)
        ]
        missing = [scale for scale in scale_keys if scale not in self.scales]
        if missing:
            self.problems.append(
                f"{keys[0]}: is {info}, codes whose scales ({missing[0]}) are in no fp8_scales_N.pt or int4_scales_N.pt"
            )
            return
        self.used_scales.update(scale_keys)
        inputs = 2 * into if self.scales.kind == "int4" else into
        parts = [CodedPart(key, scale, inputs, out) for key, scale in zip(keys, scale_keys, strict=True)]
        self._put(name, CodedStack(self.files, self.scales, self.params.num_experts, parts, axis))


def _rows_view(begin: int, end: int) -> Callable[[Array, int | None], Array]:
    return lambda array, expert: array[begin:end]


def _expert_view(experts: int) -> Callable[[Array, int | None], Array]:
    """[experts * in, out] to [out, in] of one."""

    def view(array: Array, expert: int | None) -> Array:
        assert expert is not None
        height = array.shape[0] // experts
        part: Array = array[expert * height : (expert + 1) * height]
        return np.asarray(part.T)

    return view


__all__ = ["is_dropped", "joined_tensors"]
