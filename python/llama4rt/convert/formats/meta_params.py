"""params.json of Meta's own checkpoints, in the words of a Hugging Face config.json.

What the file leaves to the code that loads it has Meta's own default here; what it does not know at all (the longest
context, the ids of special tokens) comes from the published models and from tokenizer.model, and notes() says so.
Widths of MLPs are rules over several numbers there; they are computed and given with the rest, and tensors of another
width are then refused as they are for any checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama4rt.convert.fields import Fields, shown
from llama4rt.errors import CheckpointError, ConfigError, EngineFileError
from llama4rt.text.tokenizer import llama4_special_tokens, read_tokenizer_model

_FILE = "params.json"
_MAX = 1 << 24
_MAX_LAYERS = 1024
_MAX_MODEL_PARALLEL_WIDTH = 1 << 30
_PUBLISHED_RANKS = 200_000
_PUBLISHED_VOCAB = 202_048
# Context of the published instruct models by their number of experts; params.json has none.
_CONTEXTS = {16: ("Llama 4 Scout", 10_485_760), 128: ("Llama 4 Maverick", 1_048_576)}
_OTHER_CONTEXT = 1_048_576
# The rule of Llama 3.1, whose numbers Meta's code has in itself.
_SCALING = {"rope_type": "llama3", "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class MetaParams:
    """The sizes that the mapping of tensors needs, and the config."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_experts: int  # 0: no layer is MoE
    has_vision: bool
    config: Mapping[str, Any]
    notes: tuple[str, ...]  # what is taken from elsewhere, one sentence each

    @property
    def q_dim(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_key_value_heads * self.head_dim


def parse_params(values: Mapping[str, Any], tokenizer_model: bytes | None, vocab_rows: int) -> MetaParams:
    """values: of params.json. vocab_rows: rows of the embedding, for files that leave vocab_size to the tokenizer.

    Raises ConfigError, or CheckpointError for an unreadable tokenizer.model.
    """
    inner = values.get("model")
    if isinstance(inner, Mapping) and "dim" not in values:
        values = inner
    return _Parser(Fields(values, file=_FILE), _special_ids(tokenizer_model, vocab_rows), vocab_rows).parsed()


def _special_ids(tokenizer_model: bytes | None, vocab_rows: int) -> Mapping[str, int]:
    """Name -> id; empty where nothing says them."""
    if tokenizer_model is not None:
        try:
            return read_tokenizer_model(tokenizer_model).special
        except EngineFileError as error:
            raise CheckpointError(str(error)) from None
    return llama4_special_tokens(_PUBLISHED_RANKS) if vocab_rows == _PUBLISHED_VOCAB else {}


@dataclass
class _Parser:
    f: Fields
    special: Mapping[str, int]
    vocab_rows: int
    notes: list[str] = field(default_factory=list)

    def parsed(self) -> MetaParams:
        self._refuse_other_forms()
        f = self.f
        hidden = f.integer("dim", 1, _MAX)
        heads = f.integer("n_heads", 1, _MAX)
        kv_heads = f.integer("n_kv_heads", 1, heads, default=heads)
        head_dim = f.integer("head_dim", 1, _MAX, default=max(1, hidden // heads))
        moe = self._part("moe_args")
        vision = self._part("vision_args")
        experts = 0 if moe is None else moe.integer("num_experts", 1, _MAX)
        layers = f.integer("n_layers", 1, _MAX_LAYERS)
        text = {
            "model_type": "llama4_text",
            "vocab_size": self._vocab_size(),
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "intermediate_size_mlp": self._rounded(int(2 * (4 * hidden) / 3), 1.0),
            "rms_norm_eps": f.real("norm_eps", 0, 1, default=1e-5),
            "rope_theta": f.real("rope_theta", 0, 1e15, default=500_000.0),
            "rope_scaling": self._scaling(),
            "use_qk_norm": f.flag("use_qk_norm", default=False),
            "attention_chunk_size": f.get("attention_chunk_size"),
            "attn_scale": f.real("attn_scale", 0, 1e6, default=0.1),
            "floor_scale": f.real("floor_scale", 0, 1e12, default=8192.0),
            "max_position_embeddings": self._context(experts),
            "tie_word_embeddings": False,
            **self._positions(layers),
            **self._experts(moe, hidden),
            **self._text_ids(),
        }
        config: dict[str, Any] = {"architectures": ["Llama4ForCausalLM"], **text}
        if vision is not None:
            config = {
                "architectures": ["Llama4ForConditionalGeneration"],
                "model_type": "llama4",
                "text_config": text,
                "vision_config": self._vision(vision),
                "image_token_index": self._patch_id(),
            }
        return MetaParams(
            hidden, heads, kv_heads, head_dim, experts, vision is not None, config, tuple(self.notes)
        )

    def _part(self, name: str) -> Fields | None:
        value = self.f.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {shown(value)}; it must be an object")
        return Fields(value, f"{name}.", _FILE)

    def _refuse_other_forms(self) -> None:
        """Forms of the smaller Llama 3.2 that change what is computed."""
        if self.f.get("lora_args") is not None:
            raise ConfigError(
                "lora_args is there: the weights lack an adapter that lies beside them; llama4rt reads adapters of "
                "PEFT only (--lora)"
            )
        quantization = self._part("quantization_args")
        if quantization is not None and quantization.flag("spinquant", default=False):
            raise ConfigError(
                "quantization_args.spinquant is true: activations would have to be rotated when the model runs, which "
                "llama4rt does not do; build from the unrotated checkpoint"
            )

    def _vocab_size(self) -> int:
        if self.f.get("vocab_size") in (None, -1):  # "what the tokenizer has", in Meta's code
            return self.vocab_rows
        return self.f.integer("vocab_size", 1, _MAX)

    def _positions(self, layers: int) -> dict[str, Any]:
        """Which layers rotate, and the temperature of those that do not."""
        interval = self.f.get("nope_layer_interval")
        if interval is None:
            return {"no_rope_layers": [1] * layers, "attn_temperature_tuning": False}
        every = self.f.integer("nope_layer_interval", 1, _MAX)
        if not self.f.flag("attn_temperature_tuning", default=False):
            self.notes.append(
                "params.json does not ask for attn_temperature_tuning, and the published models were made for it: it "
                "is on, and changes only what comes after floor_scale tokens"
            )
        rotates = [int((layer + 1) % every != 0) for layer in range(layers)]
        return {"no_rope_layers": rotates, "attn_temperature_tuning": True}

    def _scaling(self) -> dict[str, Any] | None:
        f = self.f
        if not f.flag("use_scaled_rope", default=False):
            return None
        factor = f.real("rope_scaling_factor", 1e-6, 1e6, default=16.0)
        high = f.real("rope_high_freq_factor", 1e-6, 1e6, default=1.0)
        return {**_SCALING, "factor": factor, "high_freq_factor": high}

    def _context(self, experts: int) -> int:
        name, context = _CONTEXTS.get(experts, ("", _OTHER_CONTEXT))
        known = f"that of {name}" if name else "that of most Llama 4, for a size that was not published"
        self.notes.append(
            f"params.json names no longest context: max_position_embeddings is {context}, {known}"
        )
        return context

    def _experts(self, moe: Fields | None, hidden: int) -> dict[str, Any]:
        if moe is None:
            return {"moe_layers": [], "num_local_experts": 0, "interleave_moe_layer_step": 1}
        wide = int(2 * int(self.f.real("ffn_exp", 0, _MAX, default=4.0) * hidden) / 3)
        capacity = moe.real("capacity_factor", 0, _MAX, default=1.0)
        shared = capacity + 1 if moe.flag("auto_scale_F", default=True) else 1.0
        return {
            "num_local_experts": moe.integer("num_experts", 1, _MAX),
            "num_experts_per_tok": moe.integer("top_k", 1, _MAX, default=1),
            "interleave_moe_layer_step": moe.integer("interleave_moe_layer_step", 1, _MAX, default=1),
            "intermediate_size": self._rounded(wide, shared),
        }

    def _rounded(self, width: int, divisor: float) -> int:
        """The width of an MLP: scaled, divided by what the experts share, and made a multiple."""
        multiplier = self.f.real("ffn_dim_multiplier", 0, _MAX, default=1.0)
        width = int(int(multiplier * width) / divisor)
        multiple = self.f.integer("multiple_of", 1, _MAX, default=256)
        rounded = -(-width // multiple) * multiple
        if not 0 < rounded <= _MAX_MODEL_PARALLEL_WIDTH:
            raise ConfigError(f"params.json gives an MLP of width {rounded}")
        return rounded

    def _text_ids(self) -> dict[str, Any]:
        ends = [self.special.get(f"<|{name}|>") for name in ("end_of_text", "eom", "eot")]
        return {
            "bos_token_id": self.special.get("<|begin_of_text|>"),
            "eos_token_id": [i for i in ends if i is not None],
        }

    def _patch_id(self) -> int:
        found = self.special.get("<|patch|>")
        if found is None:
            raise ConfigError(
                "tokenizer.model is missing; with a vision tower it says which id is <|patch|> (or build with the "
                "tokenizer.model that Meta publishes beside the weights)"
            )
        return found

    def _vision(self, f: Fields) -> dict[str, Any]:
        hidden = f.integer("dim", 1, _MAX)
        output = f.integer("output_dim", 1, _MAX)
        ratio = f.real("mlp_ratio", 0, 1 << 10, default=4.0)
        return {
            "model_type": "llama4_vision_model",
            "hidden_size": hidden,
            "num_hidden_layers": f.integer("n_layers", 1, _MAX_LAYERS),
            "num_attention_heads": f.integer("n_heads", 1, _MAX),
            "intermediate_size": int(ratio * hidden),
            "image_size": _side(f, "image_size"),
            "patch_size": _side(f, "patch_size"),
            "pixel_shuffle_ratio": f.real("pixel_shuffle_ratio", 0, 1, default=0.5),
            "vision_output_dim": output,
            "projector_input_dim": output,
            "projector_output_dim": output,
            "rope_theta": 10_000.0,
        }


def _side(f: Fields, name: str) -> int:
    """{"height": n, "width": n}, or n."""
    value = f.get(name)
    if isinstance(value, Mapping):
        size = Fields(value, f"{f.prefix}{name}.", _FILE)
        height, width = size.integer("height", 1, _MAX), size.integer("width", 1, _MAX)
        if height != width:
            raise ConfigError(f"{f.prefix}{name} is {height} x {width}; it must be a square")
        return height
    return f.integer(name, 1, _MAX)


__all__ = ["MetaParams", "parse_params"]
