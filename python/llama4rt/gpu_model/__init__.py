"""Predicts the speed of the CUDA kernels on a GPU that is not here.

For each launch of a step: what the machine code issues (counted, machine_code.json), the bytes it moves, and the
latencies that nothing hides. docs/gpu-model.md has the formula, the constants' sources and what the predictions are
worth; until a GPU has run the kernels they are predictions, not measurements.

chip.py: the GPUs. kernel_counts.py: the machine code. launches.py and its neighbours: the launches of a step, as
csrc/cuda chooses them. predict.py: seconds.
"""
