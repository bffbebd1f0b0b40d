"""SamplingParams refuses every value it cannot mean, naming the field, the value and what is allowed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama4rt import RequestError, SamplingParams
from llama4rt.engine.sampling_params import SamplingDefaults

INF, NAN = float("inf"), float("nan")


def test_defaults_leave_the_checkpoint_its_say() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.repetition_penalty) == (None,) * 4
    assert params.max_tokens == 256 and params.n == 1 and params.stop == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", v) for v in (-0.1, 101, INF, NAN, "1", True, 10**400, [1.0], 1j)],
        *[("top_k", v) for v in (-2, 1.5, True, 2**31, "5", NAN)],
        *[("top_p", v) for v in (0, -0.1, 1.0001, NAN, INF, True)],
        *[("min_p", v) for v in (-0.1, 1.1, None, NAN)],
        *[("repetition_penalty", v) for v in (0, -1, INF, 101)],
        *[("presence_penalty", v) for v in (-2.1, 2.1, None, NAN)],
        *[("frequency_penalty", v) for v in (-2.1, 2.1, None, NAN)],
        *[("seed", v) for v in (1.0, "1", True, 2**64, -(2**63) - 1, 10**500)],
        *[("max_tokens", v) for v in (0, -1, 1.5, True, 2**31, 10**100)],
        *[("min_tokens", v) for v in (-1, None, 1.5, True)],
        *[("n", v) for v in (0, 17, None, True, 1.0)],
        *[("logprobs", v) for v in (-1, 21, 1.0, True)],
        *[("prompt_logprobs", v) for v in (-1, 21, False)],
        *[("stop", v) for v in (5, b"x", [b"x"], [""], "", ["a"] * 65, "x" * 1025, {"a": 1})],
        *[("stop_token_ids", v) for v in (5, "12", [-1], [1.5], [True], [2**31], [1] * 1025)],
        *[
            ("logit_bias", v)
            for v in (5, [1], {"1": 1.0}, {-1: 0.0}, {1: 101}, {1: NAN}, {1: "1"}, {True: 1.0})
        ],
        ("logit_bias", dict.fromkeys(range(301), 0.0)),
        *[(name, 1) for name in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output")],
    ],
)
def test_bad_values_are_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})
    assert isinstance(caught.value, ValueError)
    assert field in str(caught.value) and len(str(caught.value)) < 300


def test_min_tokens_must_not_exceed_max_tokens() -> None:
    with pytest.raises(RequestError, match=r"min_tokens is 9.*max_tokens, 8"):
        SamplingParams(min_tokens=9, max_tokens=8)
    SamplingParams(min_tokens=10**6, max_tokens=None)


def test_is_immutable_and_normal() -> None:
    params = SamplingParams(stop="end", stop_token_ids=[1, 2], logit_bias={3: -1}, top_k=np.int64(4), seed=-1)
    assert params.stop == params.stop_strings == ("end",)
    assert params.stop_token_ids == (1, 2) and params.logit_bias == {3: -1.0} and type(params.top_k) is int
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 1  # type: ignore[misc]
    assert dataclasses.replace(params, n=2) == SamplingParams(
        stop=["end"], stop_token_ids=(1, 2), logit_bias={3: -1.0}, top_k=4, seed=-1, n=2
    )


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.integers(), st.floats(), max_size=3),
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from([f.name for f in dataclasses.fields(SamplingParams)]), ANYTHING, max_size=4
    )
)
def test_anything_is_taken_or_refused_with_one_error(fields: dict[str, Any]) -> None:
    try:
        params = SamplingParams(**fields)
    except RequestError:
        return
    assert dataclasses.replace(params) == params  # what was taken is taken again


def test_generation_config_fills_what_is_unset() -> None:
    defaults = SamplingDefaults.from_generation_config(
        {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "eos_token_id": [1],
            "transformers_version": "5",
        }
    )
    assert defaults == SamplingDefaults(temperature=0.6, top_p=0.9)
    assert SamplingDefaults.from_generation_config({}) == SamplingDefaults()
    assert (
        SamplingDefaults.from_generation_config({"do_sample": False, "temperature": 0.6}).temperature == 0.0
    )
    with pytest.raises(RequestError, match=r"generation_config.json: top_p is 7"):
        SamplingDefaults.from_generation_config({"top_p": 7})


def test_max_new_tokens_of_the_checkpoint_is_the_limit_where_none_is_given() -> None:
    defaults = SamplingDefaults.from_generation_config({"max_new_tokens": 256})
    assert defaults == SamplingDefaults(max_tokens=256)
    assert SamplingDefaults.from_generation_config({"max_length": 20}).max_tokens is None
    with pytest.raises(RequestError, match=r"generation_config.json: max_tokens is 0"):
        SamplingDefaults.from_generation_config({"max_new_tokens": 0})
