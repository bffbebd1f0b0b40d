"""Hostile inputs end in typed errors: damaged engine files, impossible configs, impossible requests.

Damaged files are opened and run by hostile_worker.py in a process of its own, so a crash is a failure with a case
number and not the end of the test run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_worker
import pytest
from driver import Driver
from hostile_worker import join, split
from tiny_checkpoints import KINDS, random_ids

Files = Callable[..., Path]


@pytest.fixture(scope="module")
def victim(engine_file: Files) -> Path:
    """A small engine file with every part: dense and MoE layers, local and global attention, int4 and bf16."""
    return engine_file("micro", weights="int4", group_size=32)


@pytest.fixture(scope="module")
def vision_victim(engine_file: Files) -> Path:
    """One with a vision tower, half of it int8."""
    return engine_file("micro_vision", weights="int8", group_size=32, vision="int8")


@pytest.fixture
def vision_copy(vision_victim: Path, tmp_path: Path) -> Path:
    path = tmp_path / "vision-victim.l4e"
    path.write_bytes(vision_victim.read_bytes())
    return path


@pytest.fixture
def copy(victim: Path, tmp_path: Path) -> Path:
    path = tmp_path / "victim.l4e"
    path.write_bytes(victim.read_bytes())
    return path


def run_worker(path: Path, *arguments: object, timeout: float = 3600) -> dict[str, int]:
    command = [sys.executable, hostile_worker.__file__, str(path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    progress = Path(f"{path}-progress")
    last = progress.read_text().strip() if progress.exists() else "none"
    assert done.returncode == 0, f"case {last} of {arguments}: exit {done.returncode}\n{done.stderr[-4000:]}"
    result = json.loads(done.stdout)
    assert result["wrong_count"] == 0, result["wrong"]
    ends: dict[str, int] = result["ends"]
    return ends


@pytest.mark.parametrize("name", ["copy", "vision_copy"])
def test_the_good_file_works(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    hostile_worker.exercise(path)
    path.write_bytes(join(*split(path.read_bytes())))  # what the edits below start from
    hostile_worker.exercise(path)


def test_truncations(copy: Path) -> None:
    """Every 64th byte and all boundaries of header and tensors: none opens. test_soak.py tries every byte."""
    ends = run_worker(copy, "truncate", 64)
    assert set(ends) == {"EngineFileError"}
    assert ends["EngineFileError"] > 100


def test_mutations(copy: Path) -> None:
    ends = run_worker(copy, "mutate", 0, 3000)
    assert ends.pop("opened") > 0  # flips in payload are verify()'s business
    assert set(ends) <= {"EngineFileError", "ConfigError"}
    assert min(ends.values()) > 0 and len(ends) == 2


def test_mutations_of_a_file_with_a_vision_tower(vision_copy: Path) -> None:
    ends = run_worker(vision_copy, "mutate", 10_000, 1500)
    assert ends.pop("opened") > 0
    assert set(ends) == {"EngineFileError", "ConfigError"}


def open_and_run(path: Path) -> None:
    hostile_worker.exercise(path)


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """Rewrites the header (correct checksum) after change(header, config)."""
    header, payload = split(path.read_bytes())
    config = json.loads(header["__metadata__"]["config"])
    change(header, config)
    if isinstance(header.get("__metadata__"), dict) and "config" in header["__metadata__"]:
        header["__metadata__"]["config"] = json.dumps(config)
    path.write_bytes(join(header, payload))
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", -4),
        ("num_attention_heads", 3),  # not a multiple of the kv heads, once those are 2
        ("num_attention_heads", 2**31),
        ("num_attention_heads", 2**63),
        ("num_key_value_heads", 0),
        ("head_dim", 15),
        ("head_dim", 0),
        ("hidden_size", 0),
        ("hidden_size", 31),
        ("hidden_size", 2**40),
        ("vocab_size", 0),
        ("vocab_size", 2**31),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 3),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", 0),
        ("intermediate_size_mlp", -1),
        ("num_local_experts", 0),
        ("num_local_experts", 3),
        ("num_experts_per_tok", 0),
        ("num_experts_per_tok", 3),  # of 2
        ("attention_chunk_size", -16),
        ("attention_chunk_size", 7),
        ("rms_norm_eps", -1.0),
        ("rms_norm_eps", "small"),
        ("rope_theta", 0.0),
        ("rope_scaling", {"factor": 0}),
        ("rope_layers", [1]),
        ("rope_layers", "all"),
        ("moe_layers", [0, 2]),
        ("floor_scale", 0),
        ("max_position_embeddings", 0),
        ("bos_token_id", 10**6),
        ("eos_token_ids", [-1]),
        ("tie_word_embeddings", "no"),
    ],
)
def test_bad_config_values(copy: Path, field: str, value: object) -> None:
    """ConfigError for what no model can be; EngineFileError for a model that is not the one stored. Both name the field
    or the tensor."""
    from llama4rt import ConfigError, EngineFileError

    def change(header: dict[str, Any], config: dict[str, Any]) -> None:
        assert field in config
        if (field, value) == ("num_attention_heads", 3):
            config["num_key_value_heads"] = 2
        config[field] = value

    with pytest.raises((ConfigError, EngineFileError), match=r"\w+") as caught:
        open_and_run(edited(copy, change))
    text = str(caught.value)
    assert field in text or "layers." in text or "embed" in text or "lm_head" in text, text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", 16),  # and the MLP with it, below: another model than the one stored
        ("hidden_size", 2**40),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 2),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("num_attention_heads", 4),  # heads of 2
        ("intermediate_size", 33),
        ("adapter_hidden_size", 13),
        ("adapter_hidden_size", -1),
        ("output_dim", 11),
        ("output_dim", 2**63 - 1),
        ("image_size", 9),
        ("image_size", 6),  # a grid of 3
        ("image_size", 16),
        ("image_size", 2**31),
        ("patch_size", 0),
        ("patch_size", 4),
        ("rope_theta", 0.0),
        ("rope_theta", "x"),
        ("norm_eps", -1e-5),
        ("patch_token_id", -1),
        ("patch_token_id", 361),  # the vocabulary's size
        ("patch_token_id", None),
    ],
)
def test_bad_vision_values(vision_copy: Path, field: str, value: object) -> None:
    from llama4rt import ConfigError, EngineFileError

    def change(header: dict[str, Any], config: dict[str, Any]) -> None:
        assert field in config["vision"]
        config["vision"][field] = value
        if (field, value) == ("hidden_size", 16):
            config["vision"]["intermediate_size"] = 64

    with pytest.raises((ConfigError, EngineFileError)) as caught:
        open_and_run(edited(vision_copy, change))
    text = str(caught.value)
    assert f"vision.{field}" in text or "  vision." in text, text


@pytest.mark.parametrize("value", [None, [], "none", 1, {}])
def test_vision_that_is_no_tower(vision_copy: Path, value: object) -> None:
    from llama4rt import ConfigError

    with pytest.raises(ConfigError, match="vision"):
        open_and_run(edited(vision_copy, lambda header, config: config.update(vision=value)))


def test_a_tower_without_its_tensors_is_one_error_that_lists_them(copy: Path, vision_copy: Path) -> None:
    """A text model's file whose config claims a tower."""
    from llama4rt import EngineFileError

    header, _ = split(vision_copy.read_bytes())
    vision = json.loads(header["__metadata__"]["config"])["vision"] | {"patch_token_id": 1}
    with pytest.raises(EngineFileError) as caught:
        open_and_run(edited(copy, lambda header, config: config.update(vision=vision)))
    lines = str(caught.value).split("\n  ")
    stored = [name for name in header if name.startswith("vision.") and not name.endswith(".scales")]
    assert sorted(line.split()[0] for line in lines[1:]) == sorted(stored)
    assert all(line.endswith("is missing") for line in lines[1:])


def test_missing_config_field(copy: Path) -> None:
    from llama4rt import Llama4RTError

    with pytest.raises(Llama4RTError, match="rope_theta"):
        open_and_run(edited(copy, lambda header, config: config.pop("rope_theta") and None))


@pytest.mark.parametrize(
    "change",
    [
        lambda header, config: header["embed"].update(dtype="F16"),
        lambda header, config: header["norm"].update(dtype="BF16"),
        lambda header, config: header["layers.0.attn.qkv"].update(dtype="I8"),
        lambda header, config: header["norm"].update(data_offsets=header["embed"]["data_offsets"]),
        lambda header, config: header["norm"]["data_offsets"].reverse(),
        lambda header, config: header.pop("layers.1.moe.router"),
        lambda header, config: header.pop("layers.0.attn.qkv.scales"),
        lambda header, config: header["embed"].update(shape=[2**33, 2**33]),
        lambda header, config: header["embed"].update(extra=1),
        lambda header, config: header.update(extra={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
        lambda header, config: header["__metadata__"].update(format_version="2"),
        lambda header, config: header["__metadata__"].update(target="cuda"),
        lambda header, config: header["__metadata__"].update(weights="{"),
        lambda header, config: header["__metadata__"].update(checksums="[]"),
        lambda header, config: header["__metadata__"].pop("config"),
    ],
)
def test_bad_headers(copy: Path, change: Callable[[Any, Any], None]) -> None:
    from llama4rt import EngineFileError

    with pytest.raises(EngineFileError):
        open_and_run(edited(copy, change))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x00" * 100_000, b"GGUF" + bytes(5000), b"PK\x03\x04" * 999]
)
def test_not_engine_files(tmp_path: Path, content: bytes) -> None:
    from llama4rt import EngineFileError

    path = tmp_path / "x.l4e"
    path.write_bytes(content)
    with pytest.raises(EngineFileError):
        open_and_run(path)


def test_a_checkpoint_is_not_an_engine_file(checkpoint: Files) -> None:
    """A valid safetensors file of another kind: the message says how to make an engine file of it."""
    from llama4rt import EngineFileError

    with pytest.raises(EngineFileError, match="llama4rt build"):
        open_and_run(checkpoint("micro") / "model.safetensors")


def test_no_file(tmp_path: Path) -> None:
    from llama4rt import EngineFileError

    for path in (tmp_path / "none.l4e", tmp_path):
        with pytest.raises(EngineFileError):
            open_and_run(path)


# --- requests --------------------------------------------------------------------------------------------------------

HOSTILE_REQUESTS: list[dict[str, Any]] = [
    {"ids": []},
    {"ids": [-1]},
    {"ids": [40]},  # the vocabulary's size
    {"ids": [1, 2, 2**31]},
    {"ids": [1, -(2**31)]},
    {"ids": [2**40 + 1]},
    {"ids": [1] * 64},  # max_model_len: no room for an output token
    {"ids": [1] * 100_000},
    {"ids": [1] * 65, "return_logits": True},
    *({"ids": [1], "n": n} for n in (0, -1, 10**9)),
    *({"ids": [1], "max_tokens": n} for n in (0, -1, -(2**31))),
    {"ids": [1], "min_tokens": -1},
    {"ids": [1], "min_tokens": 9, "max_tokens": 8},
    *({"ids": [1], "temperature": t} for t in (-1.0, float("nan"), float("inf"), -float("inf"))),
    *({"ids": [1], "top_p": p} for p in (0.0, -0.1, 1.1, float("nan"))),
    *({"ids": [1], "min_p": p} for p in (-0.1, 1.1, float("nan"))),
    *({"ids": [1], "top_k": k} for k in (-2, -(2**31))),
    *({"ids": [1], "repetition_penalty": p} for p in (0.0, -1.0, float("nan"), float("inf"))),
    *({"ids": [1], "presence_penalty": p} for p in (float("nan"), float("inf"), 1e300)),
    *({"ids": [1], "frequency_penalty": p} for p in (float("nan"), -float("inf"), 1e300)),
    *({"ids": [1], "logprobs": k} for k in (-2, 10**6)),
    *({"ids": [1], "prompt_logprobs": k} for k in (-2, 10**6)),
    {"ids": [1], "logit_bias": {-1: 1.0}},
    {"ids": [1], "logit_bias": {40: 1.0}},
    {"ids": [1], "logit_bias": {1: float("nan")}},
    {"ids": [1], "logit_bias": {1: float("inf")}},
    {"ids": [1], "stop_token_ids": [-1]},
    {"ids": [1], "stop_token_ids": [40]},
]


def test_hostile_requests_leave_the_engine_serving(victim: Path) -> None:
    """Each is refused by RequestError at submit, while another request runs, and changes nothing for that one."""
    from llama4rt import RequestError

    prompt = random_ids(KINDS["micro"], 12)
    with Driver(victim, max_model_len=64) as driver:
        expected = driver.generate(prompt, 20, logprobs=2)
        for request in HOSTILE_REQUESTS:
            running = driver.submit(prompt, max_tokens=20, ignore_eos=True, logprobs=2)
            driver.step()
            with pytest.raises(RequestError) as caught:
                driver.submit(**request)
            assert str(caught.value), request
            driver.drain()
            assert driver.outputs.pop(running)[0].same_as(expected), request
        stats = driver.engine.stats()
        assert stats["running"] == stats["waiting"] == 0


def test_too_long_names_both_numbers(victim: Path) -> None:
    from llama4rt import Engine, RequestError, SamplingParams

    with Engine(str(victim), max_model_len=64) as engine:
        with pytest.raises(RequestError, match=r"(?s)100.*64"):
            engine.generate([[1] * 100], SamplingParams(max_tokens=4))
        with pytest.raises(RequestError, match=r"(?s)65.*64"):
            engine.score([1] * 65)
        (out,) = engine.generate(
            [[1] * 60], SamplingParams(max_tokens=1000, temperature=0.0, ignore_eos=True)
        )
        assert out.outputs[0].finish_reason == "length" and len(out.outputs[0].token_ids) == 4


@pytest.mark.parametrize(
    "prompt",
    [[[]], [[-1]], [[40]], [[2**70]], [["a"]], [[1.5]], [None], [[None]], [{}], [[True]], [b"x"], 7],
)
def test_hostile_prompts_of_the_public_engine(victim: Path, prompt: Any) -> None:
    """A RequestError each; so is text, since this checkpoint has no tokenizer. The engine then serves on."""
    from llama4rt import Engine, RequestError, SamplingParams

    with Engine(str(victim), max_model_len=64) as engine:
        with pytest.raises(RequestError):
            engine.generate(prompt, SamplingParams(max_tokens=1))
        with pytest.raises(RequestError, match="tokenizer"):
            engine.generate(["text"], SamplingParams(max_tokens=1))
        (out,) = engine.generate([[1, 2, 3]], SamplingParams(max_tokens=3, ignore_eos=True))
        assert len(out.outputs[0].token_ids) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"device": "gpu"},
        {"device": ""},
        {"device": "cuda:0"},
        {"device": "cpu:9"},
        {"num_threads": -1},
        {"num_threads": 10**9},
        {"max_model_len": -1},
        {"max_model_len": 10**15},
        {"max_num_seqs": -1},
        {"max_num_seqs": 2**31},
        {"block_size": 24},
        {"block_size": 64},  # does not divide the chunk of 16
        {"block_size": -16},
        {"max_batched_tokens": -1},
        {"kv_cache_dtype": "f16"},
        {"activations": "int4"},
        {"activations": "int8", "device": "reference"},
        {"kv_cache_bytes": -1},
        {"kv_cache_bytes": 1},  # too small for one block
    ],
    ids=str,
)
def test_impossible_options(victim: Path, options: dict[str, Any]) -> None:
    from llama4rt import ConfigError
    from llama4rt._core import Engine

    with pytest.raises(ConfigError):
        Engine(str(victim), **options)


@pytest.mark.parametrize("name", [b"caf\xe9.l4e", "zwei Wörter.l4e".encode(), b"\xff\xfe"])
def test_names_that_are_not_utf_8(victim: Path, tmp_path: Path, name: bytes) -> None:
    """Such files open, by str and by bytes, and an error about one can be read."""
    from llama4rt import Engine, EngineFileError, SamplingParams
    from llama4rt._core import EngineFile

    path = os.path.join(os.fsencode(tmp_path), name)
    Path(os.fsdecode(path)).write_bytes(victim.read_bytes())
    for form in (path, os.fsdecode(path), Path(os.fsdecode(path))):
        assert EngineFile(form).names() == EngineFile(str(victim)).names()
    with Engine(os.fsdecode(path), max_model_len=64) as engine:
        assert engine.generate([1, 2, 3], SamplingParams(max_tokens=1))[0].finished
    Path(os.fsdecode(path)).write_bytes(b"damaged")
    for broken in (path, path + b"-absent"):
        with pytest.raises(EngineFileError) as caught:
            EngineFile(broken)
        str(caught.value).encode()
    for unusable in ("a\0b", "\ud800"):
        with pytest.raises(EngineFileError, match="path"):
            EngineFile(unusable)
    with pytest.raises(TypeError):
        EngineFile(5)


def test_nan_weights_end_only_their_requests(copy: Path, victim: Path) -> None:
    """NaN in a weight: the request ends with "error" and a word on why; the process and other engines go on."""
    header, payload = split(copy.read_bytes())
    begin, end = header["norm"]["data_offsets"]
    copy.write_bytes(
        join(header, payload[:begin] + b"\x00\x00\xc0\x7f" * ((end - begin) // 4) + payload[end:])
    )
    with Driver(copy, max_model_len=64) as poisoned, Driver(victim, max_model_len=64) as healthy:
        for _ in range(2):
            out = poisoned.generate([1, 2, 3], 5)
            assert out.finish_reason == "error" and out.error and not out.tokens
        assert healthy.generate([1, 2, 3], 5).finish_reason == "length"
        stats = poisoned.engine.stats()
        assert stats["running"] == stats["waiting"] == 0


INTERRUPTED_CLOSE = """
import os, signal, sys, threading, time
from llama4rt import Engine, SamplingParams

engine = Engine(sys.argv[1], max_model_len=2000, max_batched_tokens=2048)
long = SamplingParams(max_tokens=1000, ignore_eos=True)
threading.Thread(target=lambda: engine.generate([[1] * 900] * 16, long), daemon=True).start()
time.sleep(0.05)

def interrupt():
    for _ in range(20):
        time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
engine.close()
"""


def test_ctrl_c_while_closing(victim: Path) -> None:
    """The interrupt comes through, but only when the engine's thread has left native code: else exit would abort."""
    command = [sys.executable, "-c", INTERRUPTED_CLOSE, str(victim)]
    for _ in range(5):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (-signal.SIGINT, 0), done.stderr
        assert "terminate called" not in done.stderr


SUB_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters  # Python 3.13
    create = lambda: interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    create = lambda: interpreters.create(isolated=False)
if sys.argv[1] == "loaded":
    import llama4rt
    llama4rt.Engine
code = f'''
import sys
sys.path[:] = {sys.path!r}
import llama4rt
try:
    {sys.argv[2]}
except ImportError as error:
    print("refused:", error, flush=True)
'''
result = interpreters.run_string(create(), code)
assert result is None, result
print("alive", flush=True)
"""


@pytest.mark.parametrize("first", ["loaded", "not loaded"])
@pytest.mark.parametrize(
    "call", ["llama4rt.Engine({path!r})", "llama4rt.build('a', 'b')", "llama4rt.ConfigError"]
)
def test_a_sub_interpreter_is_refused_with_words(first: str, call: str, victim: Path) -> None:
    """It used to wait for ever for the lock that its own thread held."""
    command = [sys.executable, "-c", SUB_INTERPRETER, first, call.format(path=str(victim))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ") and "sub" in done.stdout and "alive" in done.stdout, (
        done.stdout
    )
