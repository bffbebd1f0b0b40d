"""Adapters that PEFT itself made and saved, loaded into a running engine: the logits of PEFT's own model.

PEFT comes with `make oracles`; elsewhere this is skipped, and test_adapters.py has the same numbers without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import Engine
from oracles_beside import program
from tiny_checkpoints import KINDS, oracle_logits, random_ids

ALL = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize(
    "options",
    [
        *({"target_modules": [module]} for module in ALL),
        {"target_modules": ALL},
        {"target_modules": ALL, "r": 16, "use_rslora": True},
        {"target_modules": r".*layers\.1\..*(q|o)_proj"},
        {"target_modules": ALL, "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"v_proj": 20}},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_has_the_logits_of_peft(
    options: dict[str, Any], oracle: Any, engine_file: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    peft = program("peft")
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
    model = peft.get_peft_model(copy.deepcopy(oracle("scout")), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # of bf16, so that nothing is lost on the way
            values = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5 / 2
            with torch.no_grad():
                parameter.copy_(values.bfloat16().float())
    model.save_pretrained(tmp_path / "adapter")
    ids = random_ids(KINDS["scout"], 40, 3)
    expected = oracle_logits(model.eval(), ids)
    with Engine(
        engine_file("scout"), adapter_memory="16MiB", kv_cache_dtype="f32", activations="int16"
    ) as engine:
        engine.load_adapter("x", tmp_path / "adapter")
        assert np.abs(engine.score(ids, adapter="x") - expected).max() < 1e-4
        assert np.abs(engine.score(ids) - expected).max() > 1e-2
