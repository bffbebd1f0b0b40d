"""Seconds of launches one after the other.

    time = max(issue, integer, fma, special, load/store, tensor, second cache, memory) + waves x latency + hand-over

Weights that do not depend on the kernel before are loaded while it runs, as far as the rings of resident blocks hold
them and memory has nothing else to do (csrc/cuda/device/overlap.cuh).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from llama4rt.gpu_model.chip import Chip
from llama4rt.gpu_model.kernel_counts import loop_of
from llama4rt.gpu_model.launch import Launch
from llama4rt.gpu_model.rows import DECODE_ROUND_INTEGER, DECODE_ROUND_ISSUE

_ROUND_BYTES_A_CYCLE = 64  # of the second cache that one multiprocessor takes


@dataclass(frozen=True)
class Prediction:
    """One launch's time, and what it is made of (seconds of each limit)."""

    launch: Launch
    seconds: float
    parts: dict[str, float]

    @property
    def limiter(self) -> str:
        """The longest part: "latency" where waiting is longer than any work."""
        return max(self.parts, key=lambda name: self.parts[name])


def _pipes(chip: Chip, launch: Launch) -> dict[str, float]:
    """Cycles that the busiest scheduler's pipes need for all rounds."""
    if launch.rounds == 0:
        return {}
    if launch.kernel:
        cycles = loop_of(launch.kernel).cycles(chip)
    else:
        cycles = {"issue": float(DECODE_ROUND_ISSUE), "integer": float(DECODE_ROUND_INTEGER)}
    processors = chip.processors.value
    room = processors * launch.resident
    of_processor = launch.blocks / processors
    if launch.blocks <= room:
        of_processor = math.ceil(of_processor)  # all at once: the fullest decides
    else:
        of_processor += 0.5  # of the last ones some multiprocessors have one, others none
    warps = max(1.0, of_processor * (launch.working_warps or launch.warps) / 4)
    return {name: each * warps * launch.rounds for name, each in cycles.items()}


def predict(chip: Chip, launches: list[Launch]) -> list[Prediction]:
    """Of each launch of a step, in order."""
    predictions: list[Prediction] = []
    idle_before = 0.0  # seconds in which the launch before leaves memory alone
    for launch in launches:
        parts = {name: cycles / chip.clock.value for name, cycles in _pipes(chip, launch).items()}
        early = min(launch.early_bytes, idle_before * chip.copy_rate)
        parts["memory"] = (launch.memory_bytes - early) / chip.copy_rate
        some = min(launch.blocks, chip.processors.value) * _ROUND_BYTES_A_CYCLE * chip.clock.value
        parts["second cache"] = launch.cache_bytes / min(chip.cache_rate.value, some)
        alone = launch.rounds * launch.round_latency / chip.clock.value
        work = max(*parts.values(), alone)
        waves = max(1, math.ceil(launch.blocks / (chip.processors.value * launch.resident)))
        waiting = launch.extra_cycles / chip.clock.value + chip.hand_over.value
        for name, times in launch.chain.items():
            waiting += times * getattr(chip, name).value
        waiting += (min(waves, 8) - 1) * chip.load.value * (0.0 if launch.early_bytes else 1.0)
        seconds = work + waiting
        parts["latency"] = waiting + max(0.0, alone - max(parts.values()))
        predictions.append(Prediction(launch, seconds, parts))
        idle_before = max(0.0, seconds - launch.memory_bytes / chip.copy_rate)
    return predictions


def total_seconds(predictions: list[Prediction]) -> float:
    return sum(p.seconds * p.launch.count for p in predictions)


def relative_error(chip: Chip, launches: list[Launch]) -> float:
    """How far a prediction may be off, as a part of it: every constant moved by its error, one at a time."""
    middle = total_seconds(predict(chip, launches))
    square = 0.0
    for name, constant in chip.constants().items():
        if constant.error == 0:
            continue
        change: dict[str, Any] = {name: replace(constant, value=constant.value * (1 + constant.error))}
        moved = replace(chip, **change)
        square += (total_seconds(predict(moved, launches)) / middle - 1) ** 2
    return math.sqrt(square)
