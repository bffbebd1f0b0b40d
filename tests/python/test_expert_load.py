"""How many tokens each expert has had, as the engine counts, against the routers of transformers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver import Driver
from tiny_checkpoints import KINDS, random_ids

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("kind", ["maverick", "top2", "dense"])
def test_as_the_routers_choose(
    kind: str, device: str, engine_file: Callable[..., Path], oracle: Callable[..., Any]
) -> None:
    """A dense layer, too, has its place in the list, so that numbers of layers are the model's own."""
    model = oracle(kind)
    config = model.config.to_dict()
    prompts = [random_ids(KINDS[kind], length, random.randrange(2**32)) for length in (1, 7, 40)]
    expected: list[list[int]] = []
    chosen: dict[int, Any] = {}
    hooks = []
    for number, layer in enumerate(model.model.layers):
        router = getattr(layer.feed_forward, "router", None)
        expected.append([0] * config["num_local_experts"] if router is not None else [])
        if router is not None:
            hooks.append(
                router.register_forward_hook(lambda _, __, out, n=number: chosen.__setitem__(n, out[1]))
            )
    with torch.no_grad():
        for ids in prompts:
            model(torch.tensor([ids]))
            for number, logits in chosen.items():
                best = logits.reshape(len(ids), -1).topk(config["num_experts_per_tok"]).indices
                for expert in best.flatten().tolist():
                    expected[number][expert] += 1
    for hook in hooks:
        hook.remove()
    with Driver(engine_file(kind), device=device, max_batched_tokens=16) as driver:
        assert driver.engine.stats()["expert_tokens"] == [[0] * len(counts) for counts in expected]
        for ids in prompts:
            before = driver.engine.stats()
            driver.generate(ids, 1)
            after = driver.engine.stats()
            # An expert is read in a step, or not, however many tokens it gets.
            for layer, counts in enumerate(expected):
                now, then = (stats["expert_reads"][layer] for stats in (after, before))
                tokens = sum(after["expert_tokens"][layer]) - sum(before["expert_tokens"][layer])
                steps = after["steps"] - before["steps"]
                touched = sum(
                    a > b
                    for a, b in zip(
                        after["expert_tokens"][layer], before["expert_tokens"][layer], strict=True
                    )
                )
                assert touched <= now - then <= min(tokens, steps * len(counts))
        counted = driver.engine.stats()["expert_tokens"]
    assert [sum(counts) for counts in counted] == [sum(counts) for counts in expected]
    moved = sum(
        abs(a - b)
        for ours, theirs in zip(counted, expected, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    # A token that stands between two experts may go to the other one: by rounding of fp32 on the reference, and of the
    # bf16 products of the CPU, after which such a token differs in every later layer too. Each counts twice in `moved`.
    assert moved <= (2 if device == "reference" else sum(map(sum, expected)) // 5), (counted, expected)
