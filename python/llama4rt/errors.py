"""The error classes. They live in the native module, so that C++ and Python raise the same ones.

Llama4RTError
    EngineFileError          the engine file is damaged, truncated, hostile or of another version
    CheckpointError          the source checkpoint is incomplete or malformed
    ConfigError (ValueError) a model config or an engine option is impossible
    RequestError (ValueError) one request asks for something invalid
        ImageError           one of its pictures cannot be read, or is beyond a limit
"""

from llama4rt._core import CheckpointError, ConfigError, EngineFileError, Llama4RTError, RequestError

__all__ = ["CheckpointError", "ConfigError", "EngineFileError", "ImageError", "Llama4RTError", "RequestError"]


class ImageError(RequestError):
    """A picture that is damaged, of an unknown kind, out of reach, or beyond a limit."""
