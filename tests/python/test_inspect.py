"""`llama4rt build`, `inspect` and `verify` as a person at a terminal meets them."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.cli.inspect import describe
from llama4rt.cli.main import main
from llama4rt.cli.progress import progress_line
from random_checkpoints import TINY, models, random_values, write_config, write_values
from test_compressed_tensors import CONFIG as PACKED
from test_compressed_tensors import packed_checkpoint

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_values(
        tmp_path_factory.mktemp("inspect") / "tiny-llama4",
        TINY | {"interleave_moe_layer_step": 2},
        random_values(TINY | {"interleave_moe_layer_step": 2}, vision=True),
        vision=True,
    )
    (directory / "LICENSE").write_text("a licence")
    (directory / "generation_config.json").write_text('{"eos_token_id": [4, 5], "temperature": 0.6}')
    return directory


@pytest.fixture(scope="module")
def engine(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "tiny.l4e"
    build(source, path)
    return path


def test_build_command(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "o.l4e"
    options = [
        "--weights",
        "int8",
        "--group-size",
        "64",
        "--quantize",
        "experts",
        "--lm-head",
        "int8",
        "--vision",
        "int8",
        "-t",
        "1",
    ]
    assert main(["build", str(source), "-o", str(path), *options]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{path}: 0.00")
    assert "largest quantisation error: " in out
    assert err == ""  # no bar where nobody looks
    quantization = json.loads(EngineFile(str(path)).metadata["quantization"])
    assert quantization == {
        "weights": "int8", "group_size": 64, "quantize": "experts", "lm_head": "int8", "vision": "int8",
    }  # fmt: skip


def test_build_says_that_codes_went_in_as_published(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "packed").mkdir()
    packed_checkpoint(tmp_path / "packed", random_values(PACKED))
    assert main(["build", str(tmp_path / "packed"), "-o", str(tmp_path / "o.l4e")]) == 0
    out = capsys.readouterr().out
    assert "quantisation error: none; codes went in as published" in out and "%" not in out


@pytest.mark.parametrize(
    ("done", "first", "total", "seconds", "line"),
    [
        (1e9, 0, 4e9, 10, "25 % (1.0 of 4.0 GB), 100 MB/s, 30 s left"),
        (10e9, 0, 40e9, 100, "25 % (10.0 of 40.0 GB), 100 MB/s, 5 min left"),
        (10e9, 0, 100e9, 1000, "10 % (10.0 of 100.0 GB), 10 MB/s, 2.5 h left"),
        (50e9, 49e9, 60e9, 10, "83 % (50.0 of 60.0 GB), 100 MB/s, 2 min left"),  # others were there before
        (4e9, 0, 4e9, 40, "100 % (4.0 of 4.0 GB), 100 MB/s, 0 s left"),
        (0, 0, 4e9, 30, "0 % (0.0 of 4.0 GB), 0 MB/s"),
    ],
)
def test_progress_where_there_is_no_terminal(
    done: float, first: float, total: float, seconds: float, line: str
) -> None:
    assert progress_line(int(done), int(first), int(total), seconds) == f"building: {line}"


def test_build_errors_are_one_line_and_exit_1(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    assert main(["build", str(tmp_path / "nowhere"), "-o", str(tmp_path / "o.l4e")]) == 1
    assert "no such directory" in capsys.readouterr().err
    assert main(["build", str(source), "-o", str(tmp_path / "o.l4e"), "--rope-scaling", "factor"]) == 1
    assert "rope scaling is 'factor'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(["build", str(source)])
    assert usage.value.code == 2
    assert os.listdir(tmp_path) == []


def test_build_warns_of_early_scout_rope(tmp_path: Path, capsys: Capsys) -> None:
    early = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = TINY | {
        "num_local_experts": 16,
        "num_hidden_layers": 1,
        "rope_scaling": early | {"original_max_position_embeddings": 8192},
    }
    source = write_values(tmp_path / "source", config, random_values(config))
    command = ["build", str(source), "-o", str(tmp_path / "o.l4e")]
    assert main(command) == 0
    assert capsys.readouterr().err.startswith("warning: rope_scaling says factor 8")
    assert main([*command, "--rope-scaling", "factor=16,high_freq_factor=1"]) == 0
    assert capsys.readouterr().err == ""
    rope = json.loads(EngineFile(str(tmp_path / "o.l4e")).metadata["config"])["rope_scaling"]
    assert (rope["factor"], rope["high_freq_factor"], rope["low_freq_factor"]) == (16, 1, 1)


def test_the_bar_shows_on_a_terminal(source: Path, tmp_path: Path) -> None:
    """Standard error is a pseudo-terminal here."""
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "llama4rt", "build", str(source), "-o", str(tmp_path / "o.l4e")]
    process = subprocess.Popen(command, stderr=writer, stdout=subprocess.DEVNULL)
    os.close(writer)
    shown = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        shown += part
    os.close(reader)
    assert process.wait() == 0
    assert b"building:   0%" in shown


def test_inspect_prints_what_matters(engine: Path, capsys: Capsys) -> None:
    assert main(["inspect", str(engine)]) == 0
    out = capsys.readouterr().out
    for words in (
        f"{engine}: ",
        "from tiny-llama4 (sha256:",
        "Llama4ForConditionalGeneration: 4 layers, hidden 128",
        "2 layers with 4 experts, 1 per token and a shared one, width 128",
        "dense         2 layers, width 256",
        "chunks of 16 tokens in 3 layers, global in the others",
        "every 4th layer: 3",
        "llama3 scaling by 16 (low 1, high 1, from 64)",
        "scale 0.1, floor 8",
        "end [4, 5]",
        "weights int4, group_size 128, quantize linear, lm_head int8, vision bf16",
        "routed experts  int4 g128",
        "router          bf16",
        "the worst 5 of ",
        "vision        2 layers, hidden 32; tiles of 28 x 28 pixels, 4 tokens each; ",
        "  vision          bf16",
        "bind its users: LICENSE",
    ):
        assert words in out, words
    assert not [line for line in out.splitlines() if line != line.rstrip()]


def test_a_tower_that_is_left_out_is_said_to_be(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    path = tmp_path / "text.l4e"
    assert main(["build", str(source), "-o", str(path), "--vision", "none"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "vision        none: text only" in out
    assert (
        "left out: vision_model (tensors: 41, " in out
        and "left out: multi_modal_projector (tensors: 1, " in out
    )
    assert main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "vision" not in facts["config"] and "vision" not in facts["components"]


def test_inspect_lists_all_errors_when_asked(engine: Path, capsys: Capsys) -> None:
    weights = json.loads(EngineFile(str(engine)).metadata["weights"])
    quantised = [name for name, weight in weights.items() if weight["kind"] != "bf16"]
    assert main(["inspect", str(engine), "--all"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name}\n" in out for name in quantised)


def test_inspect_json(engine: Path, capsys: Capsys) -> None:
    assert main(["inspect", str(engine), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(describe(EngineFile(str(engine)), str(engine))))
    assert facts["bytes"] == engine.stat().st_size
    assert facts["config"]["eos_token_ids"] == [4, 5]
    assert facts["semantics"]["nope_layers"] == [3]
    assert facts["semantics"]["nope_period"] == 4
    assert facts["semantics"]["attention_chunk"] == 16
    assert facts["licenses"] == ["LICENSE"]
    assert set(facts["files"]) == {"LICENSE", "config.json", "generation_config.json"}
    payload = sum(part["bytes"] for part in facts["components"].values())
    file = EngineFile(str(engine))
    assert payload == sum(file.info(name)[3] for name in file.names())
    assert facts["bytes"] == payload + min(file.info(name)[2] for name in file.names())
    assert "other" not in facts["components"]
    assert facts["components"]["vision"]["stored_as"] == ["bf16"]
    assert facts["config"]["vision"]["patch_token_id"] == 5
    errors = [weight["rms_error"] for weight in facts["weights"].values()]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_chunk_size": None}, ["attention     global in every layer"]),
        ({"no_rope_layers": [1, 1, 1, 1]}, ["NoPE          no layer"]),
        ({"no_rope_layers": [0, 1, 1, 0]}, ["NoPE          layers 0, 3"]),
        ({"rope_scaling": None, "use_qk_norm": False}, ["no scaling", "QK norm       no"]),
        ({"attn_temperature_tuning": False}, ["temperature   none"]),
        ({"tie_word_embeddings": True}, ["331, tied embeddings"]),
        ({"moe_layers": []}, ["dense         4 layers", "vision        none: text only"]),
    ],
)
def test_inspect_says_how_models_differ(
    changes: dict[str, Any], words: list[str], tmp_path: Path, capsys: Capsys
) -> None:
    models.write_checkpoint(TINY | changes, tmp_path / "source")
    build(tmp_path / "source", tmp_path / "o.l4e", weights="bf16")
    assert main(["inspect", str(tmp_path / "o.l4e")]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in [*words, "nothing is quantised", "No licence file"])


def test_inspect_and_verify_refuse_other_files(source: Path, tmp_path: Path, capsys: Capsys) -> None:
    write_config(tmp_path, TINY)
    for path in (source / "model.safetensors", tmp_path / "config.json", tmp_path / "missing.l4e", tmp_path):
        for command in ("inspect", "verify"):
            assert main([command, str(path)]) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("error: ")
            assert str(path) in err


def test_verify(engine: Path, tmp_path: Path, capsys: Capsys) -> None:
    assert main(["verify", str(engine), "-t", "2"]) == 0
    names = EngineFile(str(engine)).names()
    assert f"all {len(names)} tensors match" in capsys.readouterr().out


@pytest.mark.parametrize(
    "where", ["embed", "layers.1.moe.gate_up", "layers.0.attn.qkv.scales", "files/LICENSE"]
)
def test_verify_names_the_first_damaged_tensor(
    where: str, engine: Path, tmp_path: Path, capsys: Capsys
) -> None:
    file = EngineFile(str(engine))
    _, _, offset, size = file.info(where)
    data = bytearray(engine.read_bytes())
    data[offset + size // 2] ^= 1
    damaged = tmp_path / "damaged.l4e"
    damaged.write_bytes(data)
    assert main(["verify", str(damaged)]) == 1
    assert f"{where} is damaged ({size} bytes at {offset});" in capsys.readouterr().err
    last = file.names()[-1]
    _, _, offset, size = file.info(last)
    if last != where:
        data[offset] ^= 1
        damaged.write_bytes(data)
        assert main(["verify", str(damaged)]) == 1
        assert f"{where} is damaged" in (err := capsys.readouterr().err)
        assert "and 1 more tensors" in err
