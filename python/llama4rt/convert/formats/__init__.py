"""The forms in which checkpoints are stored, one file each; a new one is a file and a line in one of these lists.

A container is a Checkpoint of its own: it opens a path and names its tensors. A format is a way to store one matrix in
several tensors, inside any container: it finds those matrices, and FormatLayer puts them in the place of their parts.
"""

from llama4rt.convert.formats.compressed_tensors import CompressedTensorsInt4
from llama4rt.convert.formats.gguf import GgufCheckpoint
from llama4rt.convert.formats.interfaces import Container, Format
from llama4rt.convert.formats.meta_directory import MetaDirectory
from llama4rt.convert.formats.safetensors_directory import SafetensorsDirectory

# The first whose detect(path) is true opens it.
CONTAINERS: tuple[type[Container], ...] = (
    SafetensorsDirectory,
    GgufCheckpoint,
    MetaDirectory,
)
# A checkpoint may use several.
FORMATS: tuple[type[Format], ...] = (CompressedTensorsInt4,)

__all__ = ["CONTAINERS", "FORMATS"]
