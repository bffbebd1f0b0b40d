"""The error classes. They live in the native module, so that C++ and Python raise the same ones.

Llama4RTError
    EngineFileError          the engine file is damaged, truncated, hostile or of another version
    CheckpointError          the source checkpoint is incomplete or malformed
    ConfigError (ValueError) a model config or an engine option is impossible
    RequestError (ValueError) one request asks for something invalid
        ImageError           one of its pictures cannot be read, or is beyond a limit
    DeviceLostError          the GPU failed and computes nothing more for the engine
    NumericError             a request's logits held NaN or infinity; the request was ended
"""

from llama4rt._core import (
    CheckpointError,
    ConfigError,
    DeviceLostError,
    EngineFileError,
    Llama4RTError,
    RequestError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DeviceLostError",
    "EngineFileError",
    "ImageError",
    "Llama4RTError",
    "NumericError",
    "RequestError",
]


class ImageError(RequestError):
    """A picture that is damaged, of an unknown kind, out of reach, or beyond a limit."""


class NumericError(Llama4RTError):
    """The model's output is not a number: damaged weights, or activations beyond what the arithmetic holds."""
