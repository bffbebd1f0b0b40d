"""A trained language model from its GGUF file: SmolLM2 reads, cuts and writes text as its publishers' code does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import real_model
from driver import Driver
from gguf_models import adjacent_pairs
from llama4rt import Engine, SamplingParams, build
from llama4rt.convert.formats.gguf.file import GgufFile
from llama4rt.convert.formats.gguf.tokenizer import vocabulary_of
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.stored_rows import Codes
from llama4rt.text.tokenizer import RankTokenizer
from test_gguf_tokenizer import pre_tokenizer, random_text

SOURCE = real_model.find()
pytestmark = pytest.mark.skipif(SOURCE is None, reason=real_model.REASON)
GREEDY = SamplingParams(temperature=0.0, max_tokens=16)


@pytest.fixture(scope="module")
def engine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert SOURCE is not None
    path = tmp_path_factory.mktemp("real") / "smollm2.l4e"
    build(SOURCE, path)
    return path


@pytest.fixture(scope="module")
def engine(engine_file: Path) -> Iterator[Engine]:
    # A small model is not sure of the first word of its answer; 8-bit activations decide otherwise.
    with Engine(engine_file, activations="int16", max_model_len=1024, kv_cache_memory="128MiB") as opened:
        yield opened


def test_it_knows_the_capital_of_france(engine: Engine) -> None:
    (output,) = engine.generate("The capital of France is", GREEDY)
    assert output.outputs[0].text.startswith(" Paris.")
    assert output.prompt_token_ids == [504, 3575, 282, 4649, 314]  # no begin token: the file says so


def test_it_chats_with_the_template_of_its_file(engine: Engine) -> None:
    (output,) = engine.chat([{"role": "user", "content": "What is the capital of France?"}], GREEDY)
    assert output.outputs[0].text == "The capital of France is Paris."
    assert output.outputs[0].finish_reason == "stop"  # <|im_end|>
    prompt = engine.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_ids_are_those_of_its_own_tokenizer(engine: Engine) -> None:
    """The tokenizers package with the same tokens and merges, and SmolLM2's published cut."""
    tokenizers = pytest.importorskip("tokenizers")
    assert SOURCE is not None
    metadata = GgufFile(SOURCE).metadata
    tokens = metadata.strings("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata.strings("tokenizer.ggml.merges")]
    kinds = metadata.integers("tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    theirs.pre_tokenizer = pre_tokenizer("smollm")
    theirs.add_special_tokens(control)
    theirs.encode_special_tokens = True
    ours = engine.tokenizer
    assert ours is not None and set(ours.special_tokens) == set(control)
    rng = random.Random(0)
    text = real_model.yardstick_text()
    texts = [random_text(rng) for _ in range(3000)]
    texts += [text[at : at + 2000] for at in range(0, len(text), 2000)]
    for one in texts:
        assert ours.encode(one) == theirs.encode(one, add_special_tokens=False).ids, repr(one)
    # Control characters that the vocabulary lacks are dropped by both.
    assert ours.encode("a \x04 b") == theirs.encode("a \x04 b", add_special_tokens=False).ids


def test_logits_are_those_of_transformers(engine_file: Path) -> None:
    """Its published architecture, Llama, in fp32 with the numbers that the file means (test_gguf_blocks.py)."""
    assert SOURCE is not None
    ids = topic_ids(SOURCE, 64)
    expected = transformers_logits(SOURCE, ids)
    # What differs is the embedding, rounded to bf16, and how many bits activations have where they meet 4-bit weights.
    for activations, limit in (("int16", 1e-5), ("int8", 0.01)):
        options = {"device": "cpu", "kv_cache_dtype": "f32", "activations": activations}
        with Driver(engine_file, max_model_len=128, **options) as driver:
            logits = driver.score(ids)
        assert divergence(expected, logits) < limit, activations
        assert (expected.argmax(1) == logits.argmax(1)).mean() > (0.99 if activations == "int16" else 0.9)


def topic_ids(source: Path, count: int) -> list[int]:
    vocabulary = vocabulary_of(GgufFile(source).metadata)
    assert vocabulary is not None
    return RankTokenizer(vocabulary).encode(real_model.yardstick_text()[50_000:60_000])[:count]


def transformers_logits(source: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, rms_norm_eps=1e-5,
        max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    checkpoint = open_checkpoint(source)
    tensors = {}
    for name in checkpoint.names():
        rows = checkpoint.rows(name)
        value = rows.values().array if isinstance(rows, Codes) else rows.as_float32()
        heads = 9 if "q_proj" in name else 3 if "k_proj" in name else None
        value = halves(value, heads) if heads else value
        tensors[name.replace("feed_forward.", "mlp.")] = torch.from_numpy(np.ascontiguousarray(value))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its tables are not in the state
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return np.asarray(logits.float())


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of adjacent pairs back to transformers' halves."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    back = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))
    assert np.array_equal(adjacent_pairs(back, heads), weight)
    return back


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats per token."""

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    p, q = log_softmax(expected), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())
