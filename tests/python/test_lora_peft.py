"""Adapters that PEFT itself trained and saved: what is merged here is what PEFT merges.

PEFT comes with `make oracles`; elsewhere these are skipped, and test_lora.py has the rules either way.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama4rt.convert.formats.renamed import plain_name
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.lora.located import located_adapters
from llama4rt.convert.lora.lora_merge import with_adapters
from llama4rt.convert.stored_rows import Values as RowValues
from oracles_beside import program
from tiny_checkpoints import IMAGE_IDS, VISION_MICRO


def peft() -> Any:
    return program("peft")


TEXT: dict[str, Any] = {
    "vocab_size": 361, "hidden_size": 32, "intermediate_size": 24, "intermediate_size_mlp": 40,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 3,
    "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "no_rope_layer_interval": 2, "attention_chunk_size": 16,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip


def on_grid(tensor: torch.Tensor, step: float, most: int, generator: torch.Generator) -> None:
    """Small multiples of a power of two: merging is exact in fp32, whatever the order."""
    values = torch.randint(-most, most + 1, tensor.shape, generator=generator) * step
    with torch.no_grad():
        tensor.copy_(values.to(tensor.dtype))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Any, Path]]:
    """vision -> (model, checkpoint)."""
    peft()  # skips where it is not
    from transformers import Llama4Config, Llama4ForCausalLM, Llama4ForConditionalGeneration, Llama4TextConfig

    out = {}
    for vision in (False, True):
        model: Any
        if vision:
            model = Llama4ForConditionalGeneration(
                Llama4Config(text_config=TEXT, vision_config=VISION_MICRO, **IMAGE_IDS)
            )
        else:
            model = Llama4ForCausalLM(Llama4TextConfig(**TEXT))
        generator = torch.Generator().manual_seed(int(vision))
        for parameter in model.parameters():
            on_grid(parameter, 1 / 16, 8, generator)
        path = tmp_path_factory.mktemp("base") / "base"
        model.save_pretrained(path)
        out[vision] = (model, path)
    return out


def trained(model: Any, config: Any, seed: int = 0) -> Any:
    """As after training: no factor is zero, and saved modules have changed."""
    adapted = peft().get_peft_model(copy.deepcopy(model), config)
    generator = torch.Generator().manual_seed(100 + seed)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name or "lora_embedding" in name:
            on_grid(parameter, 1 / 8, 1, generator)
        elif "lora_B" in name:
            on_grid(parameter, 1 / 2, 1, generator)
        elif "modules_to_save" in name:
            on_grid(parameter, 1 / 16, 8, generator)
        elif "lora_magnitude" in name:
            with torch.no_grad():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return adapted


def check(
    bases: Any, vision: bool, configs: list[Any], tmp_path: Path, change: Any = None, exact: bool = True
) -> int:
    """Merges the adapters here and there; returns the number of tensors that differ from the base."""
    model, base = bases[vision]
    model = copy.deepcopy(model)
    if change is not None:
        change(model)
    directories = []
    merged = model
    for i, config in enumerate(configs):
        trained(model, config, i).save_pretrained(tmp_path / f"adapter{i}")
        directories.append(tmp_path / f"adapter{i}")
        merged = peft().PeftModel.from_pretrained(merged, directories[-1]).merge_and_unload()
    expected = {plain_name(name): value for name, value in merged.state_dict().items()}
    before = {plain_name(name): value for name, value in bases[vision][0].state_dict().items()}
    ours = with_adapters(open_checkpoint(base), located_adapters(directories))
    names = {plain_name(name): name for name in ours.names()}
    if vision:
        names |= {name.replace("language_model.lm_head", "lm_head"): old for name, old in names.items()}
    differ = 0
    for name, value in expected.items():
        if "rotary" in name or name not in names:
            assert name.endswith(("inv_freq", "freqs_ci")) or (vision and name.endswith("lm_head.weight")), (
                name
            )
            continue
        wanted = value.detach().float().numpy()
        experts = range(wanted.shape[0]) if wanted.ndim == 3 else [None]
        for expert in experts:
            rows = ours.rows(names[name], expert=expert)
            assert isinstance(rows, RowValues)
            found = rows.array if expert is None else rows.array if rows.transposed else rows.array.T
            matrix = wanted if expert is None else wanted[expert]
            if exact:
                assert np.array_equal(found, matrix), name
            else:
                assert np.allclose(found, matrix, rtol=2e-6, atol=1e-7), name
        differ += not torch.equal(value, before[name])
    return differ


def lora(**options: Any) -> Any:
    return peft().LoraConfig(**{"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM", **options})


EXPERTS = ["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, 4),  # PEFT's choice for llama4
        ({"target_modules": "all-linear"}, 8 + 3 + 4),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}, 8 + 3 + 3),
        ({"target_modules": r".*layers\.1\..*(q|o)_proj"}, 2),
        ({"target_modules": ["router", "lm_head"]}, 2),
        ({"target_modules": ["q_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 4}, "lora_alpha": 8}, 2),
        ({"target_modules": ["q_proj"], "alpha_pattern": {r"^model.layers.0.*": 16}}, 2),
        ({"target_modules": ["q_proj", "k_proj"], "alpha_pattern": {"q_proj": 8}, "rank_pattern": {"k_proj": 4}}, 4),
        ({"target_modules": ["q_proj"], "r": 4, "use_rslora": True}, 2),
        ({"target_modules": ["q_proj"], "fan_in_fan_out": True}, 2),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}, 2 + 1 + 5),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, 3),
        ({"target_modules": ["embed_tokens"]}, 1),
        ({"target_modules": [], "target_parameters": EXPERTS}, 2),
        ({"target_modules": ["q_proj"], "target_parameters": EXPERTS[:1]}, 3),
        ({"target_modules": ["o_proj"], "target_parameters": EXPERTS[1:], "use_rslora": True, "r": 4}, 3),
        ({"target_modules": [], "target_parameters": EXPERTS, "alpha_pattern": {"experts.down_proj": 8}}, 2),
        ({"target_modules": [], "target_parameters": [*EXPERTS, "q_proj.weight"]}, 4),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_merges_as_peft_does(options: dict[str, Any], changed: int, bases: Any, tmp_path: Path) -> None:
    assert check(bases, False, [lora(**options)], tmp_path) == changed


@pytest.mark.parametrize("parameters", [EXPERTS, EXPERTS[:1], EXPERTS[1:]])
@pytest.mark.filterwarnings("ignore")
def test_experts_whose_module_says_is_transposed(parameters: list[str], bases: Any, tmp_path: Path) -> None:
    """Some programs give the module that mark; then in and out do not change places."""

    def mark(model: Any) -> None:
        for module in model.modules():
            if type(module).__name__ == "Llama4TextExperts":
                module.is_transposed = True

    plain, marked = tmp_path / "plain", tmp_path / "marked"
    config = lora(target_modules=[], target_parameters=parameters)
    assert check(bases, False, [config], plain) == len(parameters)
    assert check(bases, False, [config], marked, change=mark) == len(parameters)
    shapes = []
    for directory in (plain, marked):
        from safetensors.numpy import load_file

        tensors = load_file(directory / "adapter0" / "adapter_model.safetensors")
        shapes.append({name: value.shape for name, value in tensors.items()})
    assert shapes[0].keys() == shapes[1].keys() and shapes[0] != shapes[1]


@pytest.mark.filterwarnings("ignore")
def test_two_adapters(bases: Any, tmp_path: Path) -> None:
    configs = [
        lora(target_modules=["q_proj"]),
        lora(target_modules=["q_proj", "o_proj"], target_parameters=EXPERTS),
    ]
    assert check(bases, False, configs, tmp_path) == 6


@pytest.mark.filterwarnings("ignore")
def test_dora(bases: Any, tmp_path: Path) -> None:
    config = lora(target_modules=["q_proj", "down_proj"], use_dora=True)
    assert check(bases, False, [config], tmp_path, exact=False) == 4


@pytest.mark.parametrize(
    "targets", [["q_proj", "fc1"], r".*vision_model.*\.o_proj", ["linear_1", "fc2", "linear"], "all-linear"]
)
@pytest.mark.filterwarnings("ignore")
def test_multimodal_models(targets: Any, bases: Any, tmp_path: Path) -> None:
    assert check(bases, True, [lora(target_modules=targets, task_type=None)], tmp_path) >= 1


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    ({"target_modules": ["q_proj"], "lora_bias": True}, "it adds biases"),
    ({"target_modules": ["embed_tokens"], "use_dora": True}, "DoRA on an embedding"),
    ({"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}, "replaces rows of the embedding"),
]


@pytest.mark.parametrize(("options", "words"), CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_what_peft_has_and_this_has_not(
    options: dict[str, Any], words: str, bases: Any, tmp_path: Path
) -> None:
    from llama4rt.errors import CheckpointError, ConfigError

    model, base = bases[False]
    trained(model, lora(**options)).save_pretrained(tmp_path / "adapter")
    with pytest.raises((CheckpointError, ConfigError), match=words):
        with_adapters(open_checkpoint(base), located_adapters([tmp_path / "adapter"]))
