"""llama4rt runs Llama 4 from one ahead-of-time engine file.

Names are loaded on first use (PEP 562): `import llama4rt` reads no native code, no numpy, and starts no
thread.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama4rt.convert.build import build
    from llama4rt.engine.async_engine import AsyncEngine
    from llama4rt.engine.engine import Engine
    from llama4rt.engine.outputs import CompletionOutput, Delta, RequestOutput, TokenLogprobs, TokenScores
    from llama4rt.engine.sampling_params import SamplingParams
    from llama4rt.errors import (
        CheckpointError,
        ConfigError,
        DeviceLostError,
        EngineFileError,
        ImageError,
        Llama4RTError,
        NumericError,
        RequestError,
    )
    from llama4rt.images.limits import ImageLimits
    from llama4rt.sessions.session import Session
    from llama4rt.sessions.state import SessionInfo
    from llama4rt.structured import StructuredOutput
    from llama4rt.text.prompt_builder import PreparedPrompt
    from llama4rt.text.tokenizer import Tokenizer

    __version__: str

_HOME = {
    "AsyncEngine": "llama4rt.engine.async_engine",
    "CheckpointError": "llama4rt.errors",
    "CompletionOutput": "llama4rt.engine.outputs",
    "ConfigError": "llama4rt.errors",
    "Delta": "llama4rt.engine.outputs",
    "DeviceLostError": "llama4rt.errors",
    "Engine": "llama4rt.engine.engine",
    "EngineFileError": "llama4rt.errors",
    "ImageError": "llama4rt.errors",
    "ImageLimits": "llama4rt.images.limits",
    "Llama4RTError": "llama4rt.errors",
    "NumericError": "llama4rt.errors",
    "PreparedPrompt": "llama4rt.text.prompt_builder",
    "RequestError": "llama4rt.errors",
    "RequestOutput": "llama4rt.engine.outputs",
    "SamplingParams": "llama4rt.engine.sampling_params",
    "Session": "llama4rt.sessions.session",
    "SessionInfo": "llama4rt.sessions.state",
    "StructuredOutput": "llama4rt.structured",
    "TokenLogprobs": "llama4rt.engine.outputs",
    "TokenScores": "llama4rt.engine.outputs",
    "Tokenizer": "llama4rt.text.tokenizer",
    "build": "llama4rt.convert.build",
    "build_info": "llama4rt._core",
}

__all__ = [
    "AsyncEngine",
    "CheckpointError",
    "CompletionOutput",
    "ConfigError",
    "Delta",
    "DeviceLostError",
    "Engine",
    "EngineFileError",
    "ImageError",
    "ImageLimits",
    "Llama4RTError",
    "NumericError",
    "PreparedPrompt",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "Session",
    "SessionInfo",
    "StructuredOutput",
    "TokenLogprobs",
    "TokenScores",
    "Tokenizer",
    "__version__",
    "build",
    "build_info",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = import_module("llama4rt._core").version()
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'llama4rt' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
