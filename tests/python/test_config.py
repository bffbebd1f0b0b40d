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
from llama4rt.convert.vision_config import VisionConfig
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
    "image_token_index": 200092,
    "boi_token_index": 200080,
    "eoi_token_index": 200081,
    "vision_config": {
        "model_type": "llama4_vision_model",
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 1408,
        "image_size": 336,
        "initializer_range": 0.02,
        "intermediate_size": 5632,
        "multi_modal_projector_bias": False,
        "norm_eps": 1e-05,
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 34,
        "patch_size": 14,
        "pixel_shuffle_ratio": 0.5,
        "projector_dropout": 0.0,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "rope_theta": 10000,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "vision_output_dim": 4096,
    },
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


def with_vision(top: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Scout's config with changed vision keys, and `top` ones; ... removes one."""
    config = copy.deepcopy(SCOUT)
    for where, values in ((config["vision_config"], changes), (config, top or {})):
        for key, value in values.items():
            if value is ...:
                where.pop(key, None)
            else:
                where[key] = value
    return config


def vision_of(config: dict[str, Any]) -> VisionConfig:
    vision = parse_config(config).vision
    assert vision is not None
    return vision


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
    nested, text = parse_config(SCOUT, vision=False).canonical(), parse_config(flat).canonical()
    assert text.pop("architecture") == "Llama4ForCausalLM"
    nested.pop("architecture")
    assert text == nested


def test_vision() -> None:
    vision = vision_of(SCOUT)
    assert vision == VisionConfig(
        hidden_size=1408,
        num_hidden_layers=34,
        num_attention_heads=16,
        intermediate_size=5632,
        adapter_hidden_size=4096,
        output_dim=4096,
        image_size=336,
        patch_size=14,
        rope_theta=10000.0,
        norm_eps=1e-5,
        patch_token_id=200092,
    )
    assert (vision.num_patches, vision.patch_dim) == (576, 588)
    assert parse_config(SCOUT).canonical()["vision"]["adapter_hidden_size"] == 4096


@pytest.mark.parametrize("top", [{"vision_config": ...}, {"vision_config": None}])
def test_without_vision_there_is_no_vision_key(top: dict[str, Any]) -> None:
    config = with_vision(top | {"image_token_index": ...})
    assert parse_config(config).vision is None
    assert "vision" not in parse_config(config).canonical()
    assert parse_config(config).canonical() == parse_config(SCOUT, vision=False).canonical()


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_theta": ...}, 10000.0),
        ({"rope_theta": None}, 10000.0),
        ({"rope_theta": 77}, 77.0),
        ({"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 500.0),
        ({"rope_theta": 3.0, "rope_parameters": {"rope_type": "default"}}, 3.0),
        ({"rope_theta": ..., "rope_parameters": None}, 10000.0),
    ],
)
def test_vision_rope(changes: dict[str, Any], theta: float) -> None:
    assert vision_of(with_vision(**changes)).rope_theta == theta


def test_other_spellings_of_vision() -> None:
    assert vision_of(with_vision(image_size=[336, 336], patch_size=(14, 14))) == vision_of(SCOUT)
    optional = dict.fromkeys(
        ("hidden_act", "norm_eps", "num_channels", "pixel_shuffle_ratio", "projector_output_dim"), ...
    )
    assert vision_of(with_vision(**optional)) == vision_of(SCOUT)
    spelled = with_vision({"image_token_index": ..., "image_token_id": 200091})
    assert vision_of(spelled).patch_token_id == 200091


def test_norm_eps_is_what_published_code_computes_with() -> None:
    with pytest.warns(UserWarning, match="norm_eps is 1e-06; published code ignores it"):
        assert vision_of(with_vision(norm_eps=1e-6)).norm_eps == 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": ...}, "vision_config.hidden_size is missing"),
        ({"hidden_size": 1409}, "vision_config.hidden_size (1409) is not a multiple of"),
        ({"hidden_size": 1440}, "hidden_size / num_attention_heads is 90; a head must be a multiple of 4"),
        ({"hidden_size": 16 * 516}, "is 516; a head must be a multiple of 4"),
        ({"hidden_size": 1472}, "vision_config.intermediate_size is 5632; it must be 4 * hidden_size (5888)"),
        ({"num_attention_heads": 0}, "vision_config.num_attention_heads is 0"),
        ({"num_hidden_layers": 1 << 30}, "vision_config.num_hidden_layers is 1073741824"),
        ({"num_hidden_layers": None}, "vision_config.num_hidden_layers is missing"),
        ({"intermediate_size": "5632"}, "vision_config.intermediate_size is '5632'"),
        ({"image_size": ...}, "vision_config.image_size is missing"),
        ({"image_size": 337}, "vision_config.image_size (337) is not a multiple of vision_config.patch_size (14)"),
        ({"image_size": 350}, "image_size / patch_size is 25; it must be even"),
        ({"image_size": 14 * 258}, "image_size / patch_size is 258; it must be even"),
        ({"image_size": [336, 448]}, "vision_config.image_size is [336, 448]"),
        ({"image_size": 0}, "vision_config.image_size is 0"),
        ({"patch_size": -14}, "vision_config.patch_size is -14"),
        ({"pixel_shuffle_ratio": 0.25}, "vision_config.pixel_shuffle_ratio is 0.25; it must be 0.5"),
        ({"vision_output_dim": ...}, "vision_config.vision_output_dim is missing"),
        ({"vision_output_dim": 7680}, "projector_output_dim 4096, vision_output_dim 7680; they must be equal"),
        ({"projector_input_dim": ...}, "vision_config.projector_input_dim is missing"),
        ({"projector_input_dim": 2048}, "projector_input_dim is 2048"),
        ({"projector_output_dim": 2048}, "projector_output_dim 2048"),
        ({"num_channels": 1}, "vision_config.num_channels is 1; it must be 3"),
        ({"hidden_act": "quick_gelu"}, "vision_config.hidden_act is 'quick_gelu'"),
        ({"norm_eps": float("nan")}, "vision_config.norm_eps is nan"),
        ({"rope_theta": 0}, "vision_config.rope_theta is 0"),
        ({"rope_parameters": [1]}, "vision_config.rope_parameters is [1]"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "vision_config.rope_parameters.rope_type is 'llama3'"),
        ({"top": {"image_token_index": ...}}, "image_token_index is missing"),
        ({"top": {"image_token_index": 202048}}, "image_token_index is 202048; it must be an integer in 0..202047"),
        ({"top": {"vision_config": [1]}}, "vision_config is [1]; it must be an object"),
    ],
)  # fmt: skip
def test_bad_vision_values_name_field_and_value(changes: dict[str, Any], words: str) -> None:
    config = with_vision(**changes)
    with pytest.raises(ConfigError) as error:
        parse_config(config)
    assert words in str(error.value)
    assert parse_config(config, vision=False).vision is None


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


LLAMA3 = SCOUT["text_config"]["rope_scaling"]
ROPES: list[dict[str, Any]] = [
    {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {**LLAMA3, "rope_theta": 1e4}},
    {"rope_scaling": {"rope_type": "default", "rope_theta": 5.0}, "rope_parameters": LLAMA3},
    {"rope_scaling": {}, "rope_parameters": {**LLAMA3, "rope_theta": 1e4}},
    {"rope_scaling": None, "rope_parameters": {**LLAMA3, "rope_theta": 1e4}},
    {"rope_scaling": LLAMA3, "rope_parameters": None},
    {"rope_scaling": LLAMA3, "rope_parameters": {**LLAMA3, "factor": 8.0}, "rope_theta": 7.0},
    {"rope_scaling": ..., "rope_parameters": LLAMA3, "rope_theta": 7.0},
    {"rope_scaling": ..., "rope_parameters": {"rope_theta": 6.0}, "rope_theta": 7.0},
    {"rope_scaling": {"type": "llama3", **{k: v for k, v in LLAMA3.items() if k != "rope_type"}}},
    {"rope_scaling": ..., "rope_parameters": ..., "rope_theta": ...},
]


@pytest.mark.parametrize("changes", ROPES)
def test_rope_is_what_transformers_reads(changes: dict[str, Any]) -> None:
    from transformers import Llama4TextConfig

    config = scout(**changes)
    text = {name: value for name, value in config["text_config"].items() if name.startswith("rope_")}
    theirs = Llama4TextConfig.from_dict(copy.deepcopy(text)).rope_parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ours = parse_config(config)
    assert ours.rope_theta == theirs["rope_theta"]
    expected = None
    if theirs["rope_type"] == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        expected = RopeScaling(*(theirs[name] for name in names))
    assert ours.rope_scaling == expected


@pytest.mark.parametrize(
    "changes", [{"rope_scaling": {"rope_type": "default", "rope_theta": 3.0}, "rope_parameters": {"rope_theta": 4.0}},
                {"rope_scaling": ..., "rope_parameters": {"rope_theta": 4.0}}, {"rope_theta": 9.0}],
)  # fmt: skip
def test_vision_rope_is_what_transformers_reads(changes: dict[str, Any]) -> None:
    from transformers import Llama4VisionConfig

    config = with_vision(**changes)
    theirs = Llama4VisionConfig.from_dict(copy.deepcopy(config["vision_config"])).rope_parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert vision_of(config).rope_theta == theirs["rope_theta"]


def test_two_ropes_that_differ_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="both there and differ; rope_scaling is taken"):
        parse_config(scout(rope_parameters={**LLAMA3, "factor": 8.0}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_config(scout(rope_parameters={**LLAMA3, "rope_theta": 500000.0}))


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"full_attention": LLAMA3}, "full_attention is {.*rotates all its layers alike"),
        ({"chunked_attention": {**LLAMA3}, "full_attention": None}, "chunked_attention is .*alike"),
        ({"rope_type": "default", "sliding_attention": {}}, "sliding_attention is {}"),
        ({"factor": 8.0}, "factor is 8.0; rope_type 'default' does not scale; say rope_type 'llama3'"),
        ({**LLAMA3, "rope_type": "default"}, "rope_type 'default' does not scale"),
        ({**LLAMA3, "type": "default"}, "rope_type is 'llama3' and .*type is 'default'"),
        ({**LLAMA3, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; it must be 1"),
        ({**LLAMA3, "attention_factor": 1.2}, "attention_factor is 1.2; .*remove it"),
        ({**LLAMA3, "mrope_section": [1, 2]}, "mrope_section is .*remove it"),
        ({"rope_type": "yarn", "factor": 2.0}, "rope_type is 'yarn'; it must be 'llama3' or 'default'"),
        ({"type": "linear", "factor": 2.0}, "rope_type is 'linear'"),
        ({"rope_type": ["llama3"]}, "rope_type is "),
        (True, "is True; it must be an object or null"),
        (LLAMA3 | {"rope_theta": "1e4"}, "rope_theta is '1e4'"),
    ],
)
@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_what_rope_is_not_computed_is_refused(name: str, rope: Any, words: str) -> None:
    """It used to be left out: nested settings became "default" without a word."""
    with pytest.raises(ConfigError, match=rf"(?s){name}.*{words}"):
        parse_config(scout(**({"rope_scaling": ...} | {name: rope})))


def test_keys_are_not_half_read() -> None:
    with pytest.raises(ConfigError, match="image_token_index is 200092 and image_token_id is 7"):
        vision_of(with_vision({"image_token_id": 7}))
    assert vision_of(with_vision({"image_token_id": 200092})).patch_token_id == 200092
    with pytest.raises(ConfigError, match="attention_bias is 'no'; it must be true or false"):
        parse_config(scout(attention_bias="no"))
    with pytest.raises(ConfigError, match=r"vision_config\.rope_scaling\.rope_type is 'llama3'"):
        vision_of(with_vision(rope_scaling=LLAMA3))
    with pytest.raises(ConfigError, match=r"vision_config\.partial_rotary_factor is 0.25"):
        vision_of(with_vision(partial_rotary_factor=0.25))


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
    variants += [with_vision({"vision_config": None}), with_vision(image_size=28, patch_size=7)]
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
_VISION_KEYS = [*SCOUT["vision_config"], "rope_parameters"]
_TEXT_KEYS = [*SCOUT["text_config"], "rope_parameters", "layer_types", "moe_layers", "tie_word_embeddings"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(st.sampled_from(_TEXT_KEYS), _JSON, min_size=1, max_size=3),
    rope=st.dictionaries(
        st.sampled_from([*SCOUT["text_config"]["rope_scaling"], "rope_theta", "type"]), _JSON
    ),
    vision=st.dictionaries(st.sampled_from(_VISION_KEYS), _JSON, max_size=2) | st.none(),
    generation=st.dictionaries(st.sampled_from(["eos_token_id", "bos_token_id"]), _JSON),
)
def test_any_json_is_a_config_or_a_config_error(
    changes: dict[str, Any],
    rope: dict[str, Any],
    vision: dict[str, Any] | None,
    generation: dict[str, Any],
) -> None:
    config = scout(**changes)
    config["vision_config"] = None if vision is None else config["vision_config"] | vision
    if rope:
        config["text_config"]["rope_parameters"] = rope
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = parse_config(config, generation)
        except ConfigError:
            return
    assert json.loads(json.dumps(parsed.canonical(), allow_nan=False))
