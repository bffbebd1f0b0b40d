"""The native module by itself: what the build is, hashes, error classes, and single ops against numpy."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import llama4rt
import numpy as np
import pytest
import xxhash
from llama4rt import _core


def test_build_info_names_the_tables_of_this_machine() -> None:
    info = _core.build_info()
    assert info["version"] == _core.version() == llama4rt.__version__
    assert info["cpu_isas"][0] == "scalar"
    assert info["selected_isa"] in info["cpu_isas"]
    assert info["cuda"] is False
    assert info["compiler"].split()[0] in ("gcc", "clang")


def test_a_forced_table_is_selected_and_a_wrong_name_is_refused() -> None:
    code = "from llama4rt import _core; print(_core.build_info()['selected_isa'])"

    def run(isa: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LLAMA4RT_CPU_ISA": isa}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    for isa in _core.build_info()["cpu_isas"]:
        assert run(isa).stdout.strip() == isa
    refused = run("sse1")
    assert refused.returncode != 0
    assert "ConfigError: LLAMA4RT_CPU_ISA=sse1" in refused.stderr


def test_error_classes() -> None:
    assert issubclass(_core.Llama4RTError, Exception)
    for name in ("EngineFileError", "CheckpointError", "ConfigError", "RequestError"):
        cls = getattr(_core, name)
        assert issubclass(cls, _core.Llama4RTError)
        assert getattr(llama4rt, name) is cls
        assert issubclass(cls, ValueError) == (name in ("ConfigError", "RequestError"))
        assert repr(pickle.loads(pickle.dumps(cls("text")))) == f"{name}('text')"


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 31, 32, 33, 100, 100_000])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_xxh64_is_the_published_function(size: int, seed: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    expected = xxhash.xxh64(data.tobytes(), seed=seed).intdigest()
    assert _core.xxh64(data, seed) == expected
    assert _core.xxh64(data.tobytes(), seed=seed) == expected


def test_xxh64_wants_contiguous_bytes() -> None:
    with pytest.raises((BufferError, ValueError)):
        _core.xxh64(np.zeros(100, np.uint8)[::2])


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_rmsnorm_equals_numpy(device: str) -> None:
    rng = np.random.default_rng()
    x = rng.standard_normal((3, 333)).astype(np.float32)
    weight = rng.standard_normal(333).astype(np.float32)
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(_core.rmsnorm(x, weight, 1e-5, device), exact, rtol=1e-5, atol=0)


def test_ops_refuse_wrong_arguments() -> None:
    x, weight = np.zeros((2, 8), np.float32), np.zeros(8, np.float32)
    with pytest.raises(llama4rt.RequestError, match="2"):
        _core.rmsnorm(weight, weight, 1e-5)
    with pytest.raises(llama4rt.RequestError, match="8 elements"):
        _core.rmsnorm(x, weight[:7], 1e-5)
    with pytest.raises(llama4rt.ConfigError, match='"tpu"'):
        _core.rmsnorm(x, weight, 1e-5, "tpu")


def test_measure_machine_gives_plausible_numbers() -> None:
    limits = _core.measure_machine(1)
    assert 0.5 < limits["read_gbps"] < 5000
    assert 0.1 < limits["fma_gflops"] < 10_000
    assert 0.1 < limits["int8_gops"] < 100_000
