"""The numpy reference equals transformers, and the limits would catch the usual wrong readings of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_reference import Mutation, from_checkpoint, rope_frequencies, temperature
from tiny_checkpoints import KINDS, SCOUT_ROPE, oracle_logits, random_ids

Checkpoint = Callable[[str], Path]
Oracle = Callable[..., Any]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_transformers(kind: str, checkpoint: Checkpoint, oracle: Oracle) -> None:
    ids = random_ids(KINDS[kind], 4 * KINDS[kind].chunk + 5)
    reference = from_checkpoint(checkpoint(kind))
    difference = np.abs(reference.logits(ids) - oracle_logits(oracle(kind), ids)).max()
    assert difference < 1e-4
    assert reference.router_gap > 1e-4, "this seed routes within rounding error: choose another"


@pytest.mark.parametrize("kind", ["scout", "maverick", "no_chunk"])
def test_transformers_own_noise(kind: str, oracle: Oracle) -> None:
    """The limit of 1e-4 has room: transformers' two attention paths already differ by about a tenth of it."""
    ids = random_ids(KINDS[kind], 53)
    eager, sdpa = (oracle_logits(oracle(kind, attention=a), ids) for a in ("eager", "sdpa"))
    assert np.abs(eager - sdpa).max() < 3e-5


@pytest.mark.parametrize(
    ("kind", "mutation", "at_least"),
    [
        ("scout", Mutation(score_on_output=True), 3.0),
        ("scout", Mutation(softmax_scores=True), 3.0),
        ("scout", Mutation(temperature_of_p=True), 0.03),
        ("scout", Mutation(sliding_window=True), 1.0),
        ("scout", Mutation(half_rotate=True), 1.0),
        ("scout", Mutation(norm_all_heads=True), 0.03),
        ("scout", Mutation(no_rope_inverted=True), 1.0),
        ("maverick", Mutation(score_on_output=True), 3.0),
        ("maverick", Mutation(temperature_of_p=True), 0.03),
        ("maverick", Mutation(sliding_window=True), 1.0),
        ("top2", Mutation(softmax_scores=True), 3.0),
        ("mixed_layers", Mutation(sliding_window=True), 1.0),
    ],
)
def test_wrong_readings_are_seen(
    kind: str, mutation: Mutation, at_least: float, checkpoint: Checkpoint, oracle: Oracle
) -> None:
    ids = random_ids(KINDS[kind], 4 * KINDS[kind].chunk + 5)
    wrong = from_checkpoint(checkpoint(kind), mutation).logits(ids)
    assert np.abs(wrong - oracle_logits(oracle(kind), ids)).max() > at_least


def test_scout_frequency_table() -> None:
    """Scout's real numbers: of 64 frequencies 0..34 are kept and 35..63 divided by exactly 16; no smooth band."""
    import torch
    from transformers import Llama4TextConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = SCOUT_ROPE | {"original_max_position_embeddings": 8192}
    plain = rope_frequencies(128, 500000.0, None)
    scaled = rope_frequencies(128, 500000.0, rope)
    assert np.array_equal(plain[:35], scaled[:35])
    assert np.array_equal(plain[35:], scaled[35:] * 16)
    config = Llama4TextConfig(head_dim=128, rope_parameters=dict(rope))
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    np.testing.assert_allclose(theirs.double().numpy(), scaled, rtol=1e-6)


def test_temperature_table() -> None:
    p = np.array([0, 8190, 8191, 131071, 1048575, 10485759])
    expected = 1 + 0.1 * np.log([1, 1, 2, 17, 129, 1281])
    np.testing.assert_allclose(temperature(p, 0.1, 8192), expected, rtol=0, atol=1e-12)
