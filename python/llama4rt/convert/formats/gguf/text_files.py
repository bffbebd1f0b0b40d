"""The files about text that an engine keeps, made from a GGUF file's metadata: tokenizer, chat template, sampling,
licence; and the ids that begin and end a text.
"""

import json
from collections.abc import Mapping
from typing import Any

from llama4rt.convert.formats.gguf.metadata import Metadata
from llama4rt.text.chat_template import TOOL_USE_FILE
from llama4rt.text.vocabulary import MAX_TOKEN_ID, RANKS_FILE, Vocabulary

NOTICE = "NOTICE.gguf.txt"
_TEMPLATE = "tokenizer.chat_template"
_IDS = "tokenizer.ggml.{name}_token_id"
# Control tokens of these names end a turn or a text, as they do for llama.cpp, whatever eos_token_id says.
_ENDS = (
    "<|eot|>",
    "<|eom|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|endoftext|>",
)
# general.sampling.* -> generation_config.json.
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "penalty_repeat": "repetition_penalty",
}
# What the metadata says of the model's origin and licence, in this order; further keys of these families follow.
_ORIGIN = ("general.name", "general.author", "general.organization", "general.license")
_ORIGIN_FAMILIES = (
    "general.license.",
    "general.base_model.",
    "general.source.",
    "general.url",
    "general.repo_url",
    "general.quantized_by",
)


def special_ids(metadata: Metadata, vocabulary: Vocabulary | None, adds_bos: bool) -> dict[str, Any]:
    """bos_token_id and eos_token_id as a config.json has them. adds_bos: where the file does not say whether prompts
    begin with the begin token; without one, bos_token_id is None.
    """
    bos = _id(metadata, "bos")
    if not metadata.flag("tokenizer.ggml.add_bos_token", default=adds_bos):
        bos = None
    ends = [_id(metadata, name) for name in ("eos", "eot", "eom")]
    special = vocabulary.special if vocabulary else {}
    ends += [special[name] for name in _ENDS if name in special]
    return {"bos_token_id": bos, "eos_token_id": [end for end in dict.fromkeys(ends) if end is not None]}


def text_files(metadata: Metadata, vocabulary: Vocabulary | None) -> dict[str, bytes]:
    """Name -> content."""
    files: dict[str, bytes] = {}
    if vocabulary is not None:
        files[RANKS_FILE] = vocabulary.to_file()
        texts = _special_texts(metadata, vocabulary)
        if texts:
            files["tokenizer_config.json"] = _json(texts)
    for key, name in ((_TEMPLATE, "chat_template.jinja"), (f"{_TEMPLATE}.tool_use", TOOL_USE_FILE)):
        if key in metadata:
            files[name] = metadata.string(key).encode()
    if TOOL_USE_FILE in files and "chat_template.jinja" not in files:
        del files[TOOL_USE_FILE]  # an engine takes it beside the other alone
    sampling = _sampling(metadata)
    if sampling:
        files["generation_config.json"] = _json(sampling)
    notice = _notice(metadata)
    if notice:
        files[NOTICE] = notice.encode()
    return files


def _id(metadata: Metadata, name: str) -> int | None:
    key = _IDS.format(name=name)
    return metadata.integer(key, 0, MAX_TOKEN_ID) if key in metadata else None


def _special_texts(metadata: Metadata, vocabulary: Vocabulary) -> dict[str, str]:
    """What templates call bos_token and the like."""
    texts = {}
    by_id = vocabulary.bytes_by_id()
    for token, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = _id(metadata, name)
        if number is not None and number in by_id:
            texts[f"{token}_token"] = by_id[number].decode("utf-8", "replace")
    return texts


def _sampling(metadata: Metadata) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    for name, ours in _SAMPLING.items():
        key = f"general.sampling.{name}"
        if key in metadata:
            value = metadata.real(key)
            found[ours] = int(value) if name == "top_k" else value
    return found


def _notice(metadata: Metadata) -> str:
    keys = [key for key in _ORIGIN if key in metadata]
    keys += sorted(key for key in metadata if key.startswith(_ORIGIN_FAMILIES))
    lines = [f"{key}: {metadata.shown_whole(key)}" for key in keys]
    return (
        "".join(f"{line}\n" for line in ["What the GGUF file's metadata says of its origin:", *lines])
        if lines
        else ""
    )


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True).encode()


__all__ = ["NOTICE", "special_ids", "text_files"]
