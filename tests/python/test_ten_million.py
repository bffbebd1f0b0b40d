"""The end of Scout's range, 10,485,760 tokens, in an engine: a small model of random weights decodes behind them."""

import json
from pathlib import Path
from typing import Any

import pytest
from llama4rt import Llama4RTError, _core
from llama4rt.convert.named_configs import model_config
from random_checkpoints import TINY

TEN_MILLION = 10_485_760
# One layer of four keeps every token: 40 bytes of each in int8, 420 MB in all.
LONG = TINY | {
    "max_position_embeddings": TEN_MILLION,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ten_million") / "config.json"
    path.write_text(json.dumps(LONG))
    return model_config(str(path))


def opened(config: str, **options: Any) -> _core.Engine:
    options = {"device": "cpu", "num_threads": 2, "max_model_len": TEN_MILLION, "max_num_seqs": 2} | options
    return _core.Engine.dummy(config, kv_cache_dtype="int8", memory_bytes=1 << 30, **options)


def request(length: int, computed: int, **fields: Any) -> _core.Request:
    made = _core.Request()
    made.prompt_token_ids = [*range(7, 107)] * (length // 100) + [*range(7, 7 + length % 100)]
    made.assume_computed = computed
    made.temperature = 0.0
    made.ignore_eos = True
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def run(core: _core.Engine, *requests: _core.Request) -> list[tuple[list[int], str]]:
    ids = [core.submit(one) for one in requests]
    tokens: dict[int, list[int]] = {i: [] for i in ids}
    reasons = {}
    while core.has_work():
        for event in core.step():
            assert not event.error, event.error
            tokens[event.request_id] += event.token_ids
            if event.finish_reason:
                reasons[event.request_id] = event.finish_reason
    return [(tokens[i], reasons[i]) for i in ids]


def test_the_last_tokens_of_ten_million(config: str) -> None:
    """They come, they are the same on any number of threads and beside another request, and then it is over."""
    found = []
    for threads in (1, 2):
        core = opened(config, num_threads=threads)
        assert core.max_model_len == TEN_MILLION
        plan, stats = core.plan()["bytes"], core.stats()["bytes"]
        assert stats["kv_cache"] == plan["kv_global"] + plan["kv_local"]
        assert plan["kv_global"] >= TEN_MILLION * 40
        far = {"length": TEN_MILLION - 8, "computed": TEN_MILLION - 108, "max_tokens": 100}
        ((tokens, reason),) = run(core, request(**far))
        assert len(tokens) == 8 and reason == "length"
        found.append(tokens)
        if threads == 2:
            alone = run(core, request(50, 0, max_tokens=8))
            assert run(core, request(**far), request(50, 0, max_tokens=8)) == [(tokens, reason), *alone]
            with pytest.raises(Llama4RTError, match=f"{TEN_MILLION}"):
                core.submit(request(TEN_MILLION + 1, TEN_MILLION - 3))
        core.close()
    assert found[0] == found[1]


def test_positions_far_away_have_the_angles_of_near_ones(config: str) -> None:
    """Layers that rotate see one chunk, by positions inside it: the same text at the end of the range and near the
    beginning, behind caches of nothing, differs by the layer without rotation and the temperature of its queries alone.
    Both forget here: 10^5 keys of zero take all of the weight either way.
    """
    core = opened(config)
    near, far = (
        160_000,
        TEN_MILLION - 320,
    )  # both at the beginning of a chunk of 16, and of the hundred of prompts
    assert near % 80 == far % 80 == 0
    texts = []
    for end in (near, far):
        made = request(end, end - 1, max_tokens=30)
        made.prompt_token_ids = [9] * (end - 1) + [11]
        texts.append(run(core, made)[0][0])
    core.close()
    assert len(texts[0]) == 30
    assert texts[0] == texts[1]


def test_the_plan_of_ten_million_tokens_is_for_large_models_too() -> None:
    """Bytes above 2^32 in every part: nothing wraps around."""
    plan = _core.plan_config(
        model_config("scout"), device="cuda", weights="int4", max_model_len=TEN_MILLION, max_num_seqs=1
    )["bytes"]
    # 12 of 48 layers keep every token: 8 heads of 128 numbers, keys and values, two bytes each.
    assert plan["kv_global"] >= 12 * TEN_MILLION * 2 * 8 * 128 * 2
    assert plan["kv_global"] < 1.001 * 12 * TEN_MILLION * 2 * 8 * 128 * 2
    assert plan["total"] > plan["kv_global"]


@pytest.mark.soak
def test_bench_measures_at_the_end_of_the_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llama4rt.cli.main import main

    path = tmp_path / "config.json"
    path.write_text(json.dumps(LONG))
    options = ["-p", "0", "-n", "2", "-d", "10485000", "-b", "1", "-r", "1", "-t", "2", "-o", "json"]
    options += ["--kv-cache-dtype", "int8"]
    assert main(["bench", "--config", str(path), "--load", "dummy", "--device", "cpu", *options]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["depth"] == 10_485_000 and result["mean"] > 0
