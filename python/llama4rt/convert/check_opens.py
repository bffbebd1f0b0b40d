"""Whether an engine file will open, asked before an hour of quantising, by the code that opens it."""

import json
from collections.abc import Callable, Mapping

from llama4rt import _core
from llama4rt.convert.build_options import BuildOptions
from llama4rt.convert.config import ModelConfig
from llama4rt.errors import CheckpointError, EngineFileError, RequestError

_ENOUGH = (
    1 << 50
)  # bytes: whether the machine that runs it has the memory is not a question to the checkpoint


def check_opens(files: Mapping[str, bytes], config: ModelConfig, options: BuildOptions) -> None:
    """files: those that the engine file will hold. Raises CheckpointError or ConfigError."""
    _check_plan(config, options)
    _check("generation_config.json", lambda: _check_sampling(files))
    _check("the tokenizer", lambda: _check_tokenizer(files))
    _check("the chat template", lambda: _check_chat_template(files))
    if config.vision is not None:
        _check("the image processor", lambda: _check_images(files, config))


def _check(what: str, check: Callable[[], None]) -> None:
    try:
        check()
    except (EngineFileError, RequestError) as error:
        raise CheckpointError(f"{what} cannot be used, so no engine is built: {error}") from error


def _check_plan(config: ModelConfig, options: BuildOptions) -> None:
    """The device's memory and cache, planned for a context of one token: sizes that no kernel or cache can hold."""
    kinds = {"weights": options.weights, "group_size": options.group_size}
    _core.plan_config(
        json.dumps(config.canonical()),
        device=options.target,
        max_model_len=1,
        kv_cache_bytes=_ENOUGH,
        experts_only=options.quantize == "experts",
        lm_head=options.lm_head,
        **kinds,
        **({"vision": options.vision} if config.vision is not None else {}),
    )


def _check_sampling(files: Mapping[str, bytes]) -> None:
    from llama4rt.engine.sampling_params import SamplingDefaults

    value = json.loads(files.get("generation_config.json", b"{}"))  # an object: the checkpoint has read it
    SamplingDefaults.from_generation_config(value)


def _check_tokenizer(files: Mapping[str, bytes]) -> None:
    from llama4rt.text.tokenizer import load_tokenizer

    load_tokenizer(files.get)


def _check_chat_template(files: Mapping[str, bytes]) -> None:
    """Renders what every chat begins with."""
    from llama4rt.text.chat_template import ChatTemplate

    template = ChatTemplate.from_files(files.get)
    try:
        template.render([{"role": "user", "content": "Hello"}])
    finally:
        template.close()


def _check_images(files: Mapping[str, bytes], config: ModelConfig) -> None:
    from llama4rt.images.processing import ImageProcessor

    ImageProcessor.from_files(files.get, config.canonical())


__all__ = ["check_opens"]
