"""Damaged checkpoints of Meta's form and damaged adapters, opened and read to the last row: typed errors, or numbers.

A few hundred of each here; in a soak run 100,000 of the first and 20,000 of the second. test_torch_file.py damages
single files.
"""

from __future__ import annotations

import json
import os
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.config import parse_config
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.lora.located import located_adapters
from llama4rt.convert.lora.lora_merge import with_adapters
from llama4rt.convert.names import TensorMapping, map_tensors
from llama4rt.convert.stored_rows import Codes
from llama4rt.errors import CheckpointError, ConfigError
from lora_adapters import CONFIG as BASE_CONFIG
from lora_adapters import Adapter, base_values
from meta_files import CONFIG, PARAMS, meta_values, native, save_pth, shard, shard_name, write_beside
from pth_mutations import damaged, members_of, with_pickle
from random_checkpoints import write_values

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name", "ignore:rope_scaling says")
CALLS = (
    b"cposix\nsystem\nX\x04\0\0\0true\x85R",
    b"cbuiltins\neval\nX\x01\0\0\x001\x85R",
    b"\x82\x01",
    b"ios\nsystem\n(tR",
)


def read_everything(checkpoint: Checkpoint) -> None:
    mapping: TensorMapping = map_tensors(parse_config(checkpoint.config()), checkpoint)
    for target in mapping.targets:
        for piece in target.pieces:
            source = piece.source
            rows = checkpoint.rows(source.tensor, piece.first, piece.first + piece.count, source.expert)
            assert (rows.codes if isinstance(rows, Codes) else rows.array).size > 0
            checkpoint.release(source.tensor)


def mutated_json(value: Any, rng: random.Random) -> str:
    """A settings file with one member changed, or its text damaged."""
    if rng.random() < 0.2:
        text = bytearray(json.dumps(value).encode())
        text[rng.randrange(len(text))] = rng.randrange(256)
        return text.decode("latin1")
    out = json.loads(json.dumps(value))
    at = out
    while True:
        key = rng.choice(list(at))
        if isinstance(at[key], dict) and at[key] and rng.random() < 0.8:
            at = at[key]
            continue
        at[key] = rng.choice(
            [
                None,
                0,
                -1,
                1,
                1 << 40,
                1e308,
                float("nan"),
                float("inf"),
                "x",
                [],
                {},
                [1] * 9,
                True,
                0.5,
                at[key],
            ]
        )
        return json.dumps(out)


def ended(read: Any, seed: int, ends: Counter[str]) -> None:
    try:
        read()
        ends["read"] += 1
    except (CheckpointError, ConfigError):
        ends["refused"] += 1
    except BaseException as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error


def test_damaged_checkpoints(soak: bool, tmp_path: Path) -> None:
    values = meta_values()
    whole = native(values, fused=True)
    write_beside(tmp_path, PARAMS)
    files = []
    for rank in range(2):
        save_pth(tmp_path / shard_name(rank, 2), shard(whole, rank, 2))
        files.append((tmp_path / shard_name(rank, 2)).read_bytes())
    assert CONFIG["num_hidden_layers"] == 4
    ends: Counter[str] = Counter()
    for seed in range(100_000 if soak else 150):
        rng = random.Random(seed)
        for rank, data in enumerate(files):
            (tmp_path / shard_name(rank, 2)).write_bytes(data)
        (tmp_path / "params.json").write_text(json.dumps(PARAMS))
        if rng.random() < 0.3:
            (tmp_path / "params.json").write_text(mutated_json(PARAMS, rng), encoding="latin1")
        else:
            rank = rng.randrange(2)
            (tmp_path / shard_name(rank, 2)).write_bytes(damaged(files[rank], rng))
        ended(lambda: read_everything(open_checkpoint(tmp_path)), seed, ends)
    print(f"{sum(ends.values())} damaged checkpoints: {dict(ends)}")
    assert min(ends.values()) > 10, ends


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_call_is_ever_made_wherever_it_stands(protocol: int, soak: bool, tmp_path: Path) -> None:
    """A pickle of a real shard, with a call put in at every place: whoever ran it would leave a file behind."""
    canary = tmp_path / "canary"
    torch.save(
        {"a": torch.ones(2, 3), "b": torch.nn.Parameter(torch.ones(3))},
        tmp_path / "a.pth",
        pickle_protocol=protocol,
    )
    data = (tmp_path / "a.pth").read_bytes()
    good = dict(members_of(data))["a/data.pkl"]
    call = pickle.dumps(_Touch(str(canary)), protocol=2)[2:-1]
    write_beside(tmp_path / "source", PARAMS)
    shard_file = tmp_path / "source" / "consolidated.pth"
    for at in range(2, len(good), 1 if soak else 9):
        for inserted in (call, *CALLS):
            shard_file.write_bytes(with_pickle(data, good[:at] + inserted + good[at:]))
            with pytest.raises(CheckpointError):
                open_checkpoint(tmp_path / "source")
    assert not canary.exists()
    pickle.loads(b"\x80\x02" + call + b".")  # the call works
    assert canary.exists()


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mknod, (self.path,)


def test_damaged_adapters(soak: bool, tmp_path: Path) -> None:
    base = open_checkpoint(write_values(tmp_path / "base", BASE_CONFIG, base_values()))
    adapter = Adapter(
        rank_pattern={"q_proj": 2}, alpha_pattern={"o_proj": 8}, target_parameters=["experts.down_proj"]
    )
    adapter.linear("model.layers.0.self_attn.q_proj", 32, 32)
    adapter.linear("model.layers.0.self_attn.o_proj", 32, 32)
    adapter.stack("model.layers.1.feed_forward.experts", 3, 32, 24)
    where = adapter.write(tmp_path / "adapter", torch_file=True)
    tensors = where / "adapter_model.bin"
    good = tensors.read_bytes()
    ends: Counter[str] = Counter()
    for seed in range(20_000 if soak else 300):
        rng = random.Random(seed)
        tensors.write_bytes(good)
        (where / "adapter_config.json").write_text(json.dumps(adapter.config))
        if rng.random() < 0.5:
            (where / "adapter_config.json").write_text(mutated_json(adapter.config, rng), encoding="latin1")
        else:
            tensors.write_bytes(damaged(good, rng))
        with np.errstate(all="ignore"):  # numbers that overflow are the writer's to refuse
            ended(lambda: read_everything(with_adapters(base, located_adapters([where]))), seed, ends)
    print(f"{sum(ends.values())} damaged adapters: {dict(ends)}")
    assert min(ends.values()) > 10, ends
