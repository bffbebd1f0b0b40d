"""GGUF, the file format of llama.cpp: container, metadata, quantised blocks, names, tokenizer, vision tower."""

from llama4rt.convert.formats.gguf.checkpoint import GgufCheckpoint

__all__ = ["GgufCheckpoint"]
