"""GGUF, the file format of llama.cpp: container, metadata, quantised blocks, names, tokenizer, vision tower."""

from llama4rt.convert.formats.gguf.checkpoint import GgufCheckpoint
from llama4rt.convert.formats.gguf.mmproj import with_vision_file

__all__ = ["GgufCheckpoint", "with_vision_file"]
