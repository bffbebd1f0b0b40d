"""config.json, in any spelling Llama 4 checkpoints have used, to the one the engine file stores.

Decides what missing and null keys mean; the numbers' bounds are those of csrc/format/model_config.cpp, checked here too
so that a bad config is refused before an hour of quantising. The vision tower's settings are vision_config.py's.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llama4rt.convert.fields import Fields, shown
from llama4rt.convert.rope import MAX_POSITIONS, RopeScaling, override_scaling, parse_rope
from llama4rt.convert.vision_config import VisionConfig, parse_vision
from llama4rt.errors import ConfigError

_ARCHITECTURES = ("Llama4ForConditionalGeneration", "Llama4ForCausalLM")
_MODEL_TYPES = ("llama4", "llama4_text")
_MAX_VOCAB = 1 << 24
_MAX_WIDTH = 1 << 20
_MAX_MLP_WIDTH = 1 << 24
_MAX_LAYERS = 1024
_MAX_HEADS = 4096
_MAX_HEAD_DIM = 512
_MAX_EXPERTS = 4096
_MAX_END_TOKENS = 1024


@dataclass(frozen=True)
class ModelConfig:
    """What the engine file's `config` says; field for field the ModelConfig of csrc/format/model_config.h."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    intermediate_size_mlp: int
    num_local_experts: int  # 0: no layer is MoE
    num_experts_per_tok: int
    rope_layers: tuple[int, ...]  # 1: the layer uses RoPE
    chunked_layers: tuple[int, ...]
    moe_layers: tuple[int, ...]
    attention_chunk_size: int  # 0: no layer is chunked
    use_qk_norm: bool
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    attn_temperature_tuning: bool
    attn_scale: float
    floor_scale: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int  # -1: none
    eos_token_ids: tuple[int, ...]
    vision: VisionConfig | None = None  # None: text only

    @property
    def q_dim(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def canonical(self) -> dict[str, Any]:
        """For JSON: plain numbers, lists and dicts, keys in the order above; `vision` only where there is one."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if not (key == "vision" and value is None)
        }


def parse_config(
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None = None,
    *,
    rope_scaling: Mapping[str, float] | None = None,
    vision: bool = True,
) -> ModelConfig:
    """Reads a checkpoint's config.json. End tokens come from generation_config where it has some.

    rope_scaling: numbers that replace those of the config (an empty mapping: no scaling at all). vision: False leaves
    the vision tower's settings unread. Raises ConfigError.
    """
    text = _text_config(config)
    f = Fields(text)
    layers = f.integer("num_hidden_layers", 1, _MAX_LAYERS)
    vocab = f.integer("vocab_size", 1, _MAX_VOCAB)
    hidden = f.integer("hidden_size", 1, _MAX_WIDTH)
    heads = f.integer("num_attention_heads", 1, _MAX_HEADS)
    kv_heads = f.integer("num_key_value_heads", 1, _MAX_HEADS, default=heads)
    if heads % kv_heads:
        raise ConfigError(
            f"num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads})"
        )
    head_dim = f.integer("head_dim", 2, _MAX_HEAD_DIM, default=hidden // heads)
    if head_dim % 2:
        raise ConfigError(f"head_dim is {head_dim}; it must be even, because RoPE turns pairs")
    _check_unsupported(f)

    rope_layers = _rope_layers(f, layers)
    chunk, chunked_layers = _chunks(f, rope_layers)
    moe_layers = _moe_layers(f, layers)
    experts = experts_per_token = 0
    if any(moe_layers):
        experts = f.integer("num_local_experts", 1, _MAX_EXPERTS)
        experts_per_token = f.integer("num_experts_per_tok", 1, experts, default=1)
    temperature = f.flag("attn_temperature_tuning", default=True)
    floor_scale = f.real("floor_scale", 0, MAX_POSITIONS, default=8192.0)
    if temperature and floor_scale == 0:
        raise ConfigError("floor_scale is 0; it must be positive when attn_temperature_tuning is true")
    theta, scaling = parse_rope(f, default_theta=500_000.0)
    if rope_scaling is not None:
        scaling = override_scaling(scaling, rope_scaling)
    elif scaling is not None:
        _warn_of_early_scout(scaling, experts)
    bos, ends = _special_ids(config, text, generation_config or {}, vocab)
    return ModelConfig(
        architecture=_architecture(config),
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=f.integer("intermediate_size", 1, _MAX_MLP_WIDTH) if experts else 0,
        intermediate_size_mlp=0 if all(moe_layers) else f.integer("intermediate_size_mlp", 1, _MAX_MLP_WIDTH),
        num_local_experts=experts,
        num_experts_per_tok=experts_per_token,
        rope_layers=rope_layers,
        chunked_layers=chunked_layers,
        moe_layers=moe_layers,
        attention_chunk_size=chunk,
        use_qk_norm=f.flag("use_qk_norm", default=True),
        rms_norm_eps=f.real("rms_norm_eps", 1e-30, 1, default=1e-5),
        rope_theta=theta,
        rope_scaling=scaling,
        attn_temperature_tuning=temperature,
        attn_scale=f.real("attn_scale", 0, 1e6, default=0.1),
        floor_scale=floor_scale,
        max_position_embeddings=f.integer("max_position_embeddings", 1, MAX_POSITIONS),
        tie_word_embeddings=(f if "tie_word_embeddings" in text else Fields(config)).flag(
            "tie_word_embeddings", default=False
        ),
        bos_token_id=bos,
        eos_token_ids=ends,
        vision=parse_vision(config, vocab) if vision else None,
    )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The decoder's part: `text_config` of a multimodal checkpoint, everything of a text-only one."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"config.json holds {shown(config)}; it must be an object")
    model_type = config.get("model_type")
    if model_type not in _MODEL_TYPES:
        raise ConfigError(
            f"model_type is {shown(model_type)}; llama4rt runs {' and '.join(_MODEL_TYPES)} only"
        )
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, Mapping):
        raise ConfigError(f"text_config is {shown(text)}; it must be an object")
    return text


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not names:
        return _ARCHITECTURES[0] if config.get("text_config") is not None else _ARCHITECTURES[1]
    if not isinstance(names, list) or names[0] not in _ARCHITECTURES:
        raise ConfigError(f"architectures is {shown(names)}; llama4rt runs {' and '.join(_ARCHITECTURES)}")
    return str(names[0])


def _check_unsupported(f: Fields) -> None:
    """Settings that no Llama 4 uses and that would silently change the results."""
    if f.flag("attention_bias", default=False):
        raise ConfigError("attention_bias is true; Llama 4 has no biases, and llama4rt computes none")
    if f.get("hidden_act") not in (None, "silu"):
        raise ConfigError(f"hidden_act is {shown(f.get('hidden_act'))}; it must be 'silu'")


def _rope_layers(f: Fields, layers: int) -> tuple[int, ...]:
    """From no_rope_layers, whose 1 means that the layer *does* rotate; empty or null is the interval rule."""
    listed = f.integers("no_rope_layers", 0, 1)
    if listed:
        if len(listed) < layers:
            raise ConfigError(f"no_rope_layers has {len(listed)} entries for {layers} layers")
        return tuple(listed[:layers])
    interval = f.integer("no_rope_layer_interval", 1, MAX_POSITIONS, default=4)
    return tuple(int((layer + 1) % interval != 0) for layer in range(layers))


def _chunks(f: Fields, rope_layers: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """(chunk size, 1 for every chunked layer); (0, zeros) without chunks. A missing size is 8192, null means none."""
    kinds = f.get("layer_types")
    if kinds is None:
        chunked = tuple(rope_layers)
    else:
        if not isinstance(kinds, list) or len(kinds) != len(rope_layers):
            raise ConfigError(
                f"layer_types is {shown(kinds)}; it must be a list of {len(rope_layers)} entries"
            )
        for i, kind in enumerate(kinds):
            if kind not in ("chunked_attention", "full_attention"):
                raise ConfigError(
                    f"layer_types[{i}] is {shown(kind)}; it must be 'chunked_attention' or 'full_attention'"
                )
        chunked = tuple(int(kind == "chunked_attention") for kind in kinds)
    null = "attention_chunk_size" in f.values and f.get("attention_chunk_size") is None
    if null or not any(chunked):
        return 0, (0,) * len(rope_layers)
    return f.integer("attention_chunk_size", 1, MAX_POSITIONS, default=8192), chunked


def _moe_layers(f: Fields, layers: int) -> tuple[int, ...]:
    """An explicit list wins, even an empty one; else every interleave_moe_layer_step-th layer."""
    listed = f.integers("moe_layers", 0, layers - 1)
    if listed is None:
        step = f.integer("interleave_moe_layer_step", 1, MAX_POSITIONS, default=1)
        listed = list(range(step - 1, layers, step))
    return tuple(int(layer in set(listed)) for layer in range(layers))


def _warn_of_early_scout(scaling: RopeScaling, experts: int) -> None:
    early = RopeScaling(8.0, 1.0, 4.0, 8192.0)
    if scaling == early and experts == 16:
        warnings.warn(
            "rope_scaling says factor 8, high_freq_factor 4, as the first upload of Llama 4 Scout did; it was "
            "corrected to factor 16, high_freq_factor 1. If this is Scout, build it with "
            "--rope-scaling factor=16,high_freq_factor=1",
            stacklevel=3,
        )


def _special_ids(
    config: Mapping[str, Any], text: Mapping[str, Any], generation: Mapping[str, Any], vocab: int
) -> tuple[int, tuple[int, ...]]:
    """(begin-of-text id or -1, end ids): generation_config first, then the text config, then the top level."""

    def first(name: str) -> Any:
        return next((m[name] for m in (generation, text, config) if m.get(name) is not None), None)

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab:
            raise ConfigError(f"{name} is {shown(value)}; it must be a token id in 0..{vocab - 1}")
        return value

    bos = first("bos_token_id")
    ends = first("eos_token_id")
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if len(listed) > _MAX_END_TOKENS:
        raise ConfigError(f"eos_token_id has {len(listed)} entries; at most {_MAX_END_TOKENS} are allowed")
    unique = tuple(dict.fromkeys(check("eos_token_id", value) for value in listed))
    return -1 if bos is None else check("bos_token_id", bos), unique


def parse_rope_scaling(text: str) -> dict[str, float]:
    """`none`, or `factor=16,high_freq_factor=1`: the command line's form of parse_config's rope_scaling."""
    if text == "none":
        return {}
    numbers = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            numbers[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not math.isfinite(numbers[name.strip()]):
            raise ConfigError(
                f"rope scaling is {text!r:.80}; it must be none or like factor=16,high_freq_factor=1"
            )
    return numbers


__all__ = ["ModelConfig", "RopeScaling", "parse_config", "parse_rope_scaling"]
