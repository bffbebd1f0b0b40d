"""Saves the model as transformers does: bf16 weights, config, generation defaults, tokenizer and chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.demo_model.chat import Chat
from tools.demo_model.model import MAX_TILES, TILE


def save_checkpoint(model: Any, chat: Chat, directory: Path) -> None:
    """Writes an ordinary Hugging Face checkpoint; tokenizer.model is already there or is copied in."""
    import torch
    from transformers import GenerationConfig

    text = model.config.text_config
    # The tensors are cast, never the model: .to(bfloat16) would also cast its rope tables.
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        do_sample=False,
        max_new_tokens=256,  # a question outside what it knows may otherwise never end
    )
    model.save_pretrained(directory, state_dict=state)
    write_processor_files(chat, directory)


def write_processor_files(chat: Chat, directory: Path) -> None:
    """tokenizer_config.json and preprocessor_config.json."""
    tokenizer = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot|>",
        "pad_token": "<|finetune_right_pad|>",
        "model_max_length": 16384,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    image = {
        "image_processor_type": "Llama4ImageProcessorFast",
        "processor_class": "Llama4Processor",
        "size": {"height": TILE, "width": TILE},
        "max_patches": MAX_TILES,
        "resize_to_max_canvas": False,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
    }
    for name, content in (("tokenizer_config.json", tokenizer), ("preprocessor_config.json", image)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
