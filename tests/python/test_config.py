"""Every spelling of config.json that Llama 4 checkpoints have used means what transformers makes of it."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama4rt.convert.config import ModelConfig, RopeScaling, parse_config, parse_rope_scaling
from llama4rt.errors import ConfigError
from random_checkpoints import TINY

SCOUT: dict[str, Any] = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": 8192,
        "attn_scale": 0.1,
        "attn_temperature_tuning": 4,
        "bos_token_id": 200000,
        "eos_token_id": [200001, 200007, 200008],
        "floor_scale": 8192,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "interleave_moe_layer_step": 1,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "max_position_embeddings": 10485760,
        "no_rope_layers": [],
        "num_attention_heads": 40,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 16.0,
            "high_freq_factor": 1.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "use_qk_norm": True,
        "vocab_size": 202048,
    },
    "vision_config": {"hidden_size": 1408},
}


def scout(**changes: Any) -> dict[str, Any]:
    """Scout's config with changed text keys; ... removes one."""
    config = copy.deepcopy(SCOUT)
    for key, value in changes.items():
        if value is ...:
            config["text_config"].pop(key, None)
        else:
            config["text_config"][key] = value
    return config


def test_scout() -> None:
    c = parse_config(SCOUT)
    assert (c.architecture, c.vocab_size, c.num_local_experts) == (
        "Llama4ForConditionalGeneration",
        202048,
        16,
    )
    assert c.rope_layers == (1, 1, 1, 0) * 12
    assert c.chunked_layers == c.rope_layers
    assert c.moe_layers == (1,) * 48
    assert c.intermediate_size_mlp == 0  # no dense layer
    assert c.attn_temperature_tuning is True
    assert c.tie_word_embeddings is False
    assert c.rope_scaling == RopeScaling(16, 1, 1, 8192)
    assert c.eos_token_ids == (200001, 200007, 200008)
    assert json.loads(json.dumps(c.canonical()))["rope_scaling"]["factor"] == 16


def test_flat_is_the_same_as_nested() -> None:
    flat = {**SCOUT["text_config"], "architectures": ["Llama4ForCausalLM"]}
    nested, text = parse_config(SCOUT).canonical(), parse_config(flat).canonical()
    assert text.pop("architecture") == "Llama4ForCausalLM"
    nested.pop("architecture")
    assert text == nested


def test_rope_parameters_are_rope_theta_and_rope_scaling() -> None:
    parameters = {**SCOUT["text_config"]["rope_scaling"], "rope_theta": 1234.5}
    new = parse_config(scout(rope_scaling=..., rope_theta=..., rope_parameters=parameters))
    old = parse_config(scout(rope_theta=1234.5))
    assert new == old
    plain = parse_config(scout(rope_scaling=..., rope_parameters={"rope_type": "default", "rope_theta": 5e5}))
    assert plain == parse_config(scout(rope_scaling=None))
    assert plain.rope_scaling is None
    early = {**SCOUT["text_config"]["rope_scaling"], "type": "llama3"}
    del early["rope_type"]
    assert parse_config(scout(rope_scaling=early)) == parse_config(SCOUT)


@pytest.mark.parametrize("value", [..., None, []])
def test_no_rope_layers_default_to_the_interval(value: Any) -> None:
    assert parse_config(scout(no_rope_layers=value)).rope_layers == (1, 1, 1, 0) * 12
    assert parse_config(scout(no_rope_layers=value, no_rope_layer_interval=2)).rope_layers == (1, 0) * 24


def test_no_rope_layers_say_1_where_rope_is_used() -> None:
    listed = [0, *[1] * 60]  # longer than the model is fine, as in transformers
    assert parse_config(scout(no_rope_layers=listed)).rope_layers == (0, *[1] * 47)


def test_layer_types_win_over_rope_layers() -> None:
    kinds = ["full_attention", "chunked_attention"] * 24
    c = parse_config(scout(layer_types=kinds))
    assert c.chunked_layers == (0, 1) * 24
    assert c.rope_layers == (1, 1, 1, 0) * 12


def test_chunk_size() -> None:
    assert parse_config(scout(attention_chunk_size=...)).attention_chunk_size == 8192
    none = parse_config(scout(attention_chunk_size=None))
    assert (none.attention_chunk_size, any(none.chunked_layers)) == (0, False)
    unused = parse_config(scout(layer_types=["full_attention"] * 48))
    assert unused.attention_chunk_size == 0


def test_moe_layers() -> None:
    assert parse_config(scout(moe_layers=None, interleave_moe_layer_step=2)).moe_layers == (0, 1) * 24
    assert parse_config(scout(moe_layers=[3])).moe_layers == (0, 0, 0, 1, *[0] * 44)
    dense = parse_config(scout(moe_layers=[], num_local_experts=..., intermediate_size=...))
    assert (dense.num_local_experts, dense.num_experts_per_tok, dense.intermediate_size) == (0, 0, 0)
    assert dense.intermediate_size_mlp == 16384


@pytest.mark.parametrize(
    ("value", "meaning"), [(4, True), (True, True), (..., True), (0, False), (False, False)]
)
def test_temperature_tuning(value: Any, meaning: bool) -> None:
    assert parse_config(scout(attn_temperature_tuning=value)).attn_temperature_tuning is meaning


def test_missing_keys_mean_the_model_s_defaults() -> None:
    optional = (
        "attn_scale", "floor_scale", "rms_norm_eps", "rope_theta", "use_qk_norm", "num_experts_per_tok",
        "interleave_moe_layer_step", "head_dim", "attention_bias", "hidden_act",
    )  # fmt: skip
    assert parse_config(scout(**dict.fromkeys(optional, ...))) == parse_config(SCOUT)


def test_tied_embeddings_are_read_where_they_are_said() -> None:
    assert parse_config(scout(tie_word_embeddings=True)).tie_word_embeddings
    assert parse_config({**SCOUT, "tie_word_embeddings": True}).tie_word_embeddings
    assert not parse_config(
        {**scout(tie_word_embeddings=False), "tie_word_embeddings": True}
    ).tie_word_embeddings


def test_end_tokens_come_from_the_generation_config_first() -> None:
    assert parse_config(SCOUT, {"eos_token_id": [5, 6, 5], "bos_token_id": 1}).eos_token_ids == (5, 6)
    assert parse_config(SCOUT, {"eos_token_id": [5], "bos_token_id": 1}).bos_token_id == 1
    assert parse_config(scout(eos_token_id=7)).eos_token_ids == (7,)
    assert parse_config({**scout(eos_token_id=...), "eos_token_id": 8}).eos_token_ids == (8,)
    none = parse_config(scout(eos_token_id=None, bos_token_id=None), {"eos_token_id": None})
    assert (none.bos_token_id, none.eos_token_ids) == (-1, ())


def test_early_scout_rope_is_warned_of_and_can_be_overridden() -> None:
    early = scout(
        rope_scaling=SCOUT["text_config"]["rope_scaling"] | {"factor": 8.0, "high_freq_factor": 4.0}
    )
    with pytest.warns(UserWarning, match="factor=16,high_freq_factor=1"):
        assert parse_config(early).rope_scaling == RopeScaling(8, 1, 4, 8192)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = parse_rope_scaling("factor=16,high_freq_factor=1")
        assert parse_config(early, rope_scaling=numbers) == parse_config(SCOUT)
        assert parse_config(early, rope_scaling=parse_rope_scaling("none")).rope_scaling is None
        assert parse_config(SCOUT).rope_scaling == RopeScaling(16, 1, 1, 8192)


@pytest.mark.parametrize("text", ["factor", "factor=", "factor=x", "=3", "factor=inf", "", "None"])
def test_rope_scaling_option_is_checked(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(SCOUT, rope_scaling=parse_rope_scaling(text))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 7}, "num_attention_heads (40) is not a multiple of num_key_value_heads (7)"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"hidden_size": 0}, "hidden_size is 0; it must be an integer in 1.."),
        ({"hidden_size": -5120}, "hidden_size is -5120"),
        ({"hidden_size": 1 << 40}, "hidden_size is 1099511627776"),
        ({"hidden_size": "5120"}, "hidden_size is '5120'"),
        ({"hidden_size": 5120.5}, "hidden_size is 5120.5"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"head_dim": 127}, "head_dim is 127; it must be even"),
        ({"num_local_experts": ...}, "num_local_experts is missing"),
        ({"num_experts_per_tok": 17}, "num_experts_per_tok is 17; it must be an integer in 1..16"),
        ({"intermediate_size": None}, "intermediate_size is missing"),
        ({"moe_layers": [48]}, "moe_layers[0] is 48; it must be an integer in 0..47"),
        ({"moe_layers": "all"}, "moe_layers is 'all'; it must be a list"),
        ({"moe_layers": [0], "intermediate_size_mlp": ...}, "intermediate_size_mlp is missing"),
        ({"no_rope_layers": [1]}, "no_rope_layers has 1 entries for 48 layers"),
        ({"no_rope_layers": [2] * 48}, "no_rope_layers[0] is 2"),
        ({"layer_types": ["full_attention"]}, "it must be a list of 48 entries"),
        ({"layer_types": ["sliding_attention"] * 48}, "layer_types[0] is 'sliding_attention'"),
        ({"attention_chunk_size": -1}, "attention_chunk_size is -1"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.rope_type is 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": [1]}, "rope_scaling is [1]; it must be an object"),
        ({"floor_scale": 0}, "floor_scale is 0"),
        ({"eos_token_id": [300000]}, "eos_token_id is 300000; it must be a token id in 0..202047"),
        ({"bos_token_id": "x"}, "bos_token_id is 'x'"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"max_position_embeddings": ...}, "max_position_embeddings is missing"),
    ],
)
def test_bad_values_name_field_and_value(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(scout(**changes))
    assert words in str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "llama"},
        {**SCOUT, "architectures": ["LlamaForCausalLM"]},
        {**SCOUT, "architectures": "Llama4ForCausalLM"},
        {**SCOUT, "text_config": []},
        [],
    ],
)
def test_other_models_are_refused(config: Any) -> None:
    with pytest.raises(ConfigError):
        parse_config(config)


def test_the_engine_accepts_what_this_writes(tmp_path: Path) -> None:
    """The C++ parser is the judge of the canonical form."""
    from llama4rt._core import EngineFile, EngineWriter

    variants = [SCOUT, TINY, scout(moe_layers=[]), scout(moe_layers=[1]), scout(rope_scaling=None)]
    variants += [scout(attention_chunk_size=None), scout(bos_token_id=None, eos_token_id=None)]
    for i, config in enumerate(variants):
        parsed: ModelConfig = parse_config(config)
        path = str(tmp_path / f"{i}.l4e")
        writer = EngineWriter(path)
        writer.begin()
        writer.finish(
            {
                "format": "llama4rt engine",
                "format_version": "1",
                "target": "cpu",
                "layout": "cpu16",
                "config": json.dumps(parsed.canonical()),
                "files": "[]",
            }
        )
        assert json.loads(EngineFile(path).metadata["config"]) == parsed.canonical()


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_TEXT_KEYS = [*SCOUT["text_config"], "rope_parameters", "layer_types", "moe_layers", "tie_word_embeddings"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(st.sampled_from(_TEXT_KEYS), _JSON, min_size=1, max_size=3),
    rope=st.dictionaries(
        st.sampled_from([*SCOUT["text_config"]["rope_scaling"], "rope_theta", "type"]), _JSON
    ),
    generation=st.dictionaries(st.sampled_from(["eos_token_id", "bos_token_id"]), _JSON),
)
def test_any_json_is_a_config_or_a_config_error(
    changes: dict[str, Any], rope: dict[str, Any], generation: dict[str, Any]
) -> None:
    config = scout(**changes)
    if rope:
        config["text_config"]["rope_parameters"] = rope
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = parse_config(config, generation)
        except ConfigError:
            return
    assert json.loads(json.dumps(parsed.canonical(), allow_nan=False))
