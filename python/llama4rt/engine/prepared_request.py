"""PreparedRequest: a checked request that waits to be submitted, and its native form."""

from collections.abc import Sequence

from llama4rt import _core
from llama4rt.engine.sampling_params import SamplingParams
from llama4rt.structured.guide import Guide
from llama4rt.text.prompt_builder import PreparedPrompt

NO_LIMIT = 2**31 - 1  # max_tokens to the end of the context, whatever a generation config says


class PreparedRequest:
    """Made by Engine.prepare_request, taken once by Engine.submit. params: with the engine's defaults filled in."""

    def __init__(
        self,
        prompt: PreparedPrompt,
        params: SamplingParams,
        guides: Sequence[Guide] = (),
        bad_words: Sequence[list[int]] = (),
        prediction: Sequence[int] = (),
    ) -> None:
        self.prompt = prompt.text
        self.prompt_token_ids = prompt.token_ids
        self.params = params
        self.guides = guides  # one for each output, or none
        self.native = native_request(prompt, params)
        self.native.bad_words = list(bad_words)
        self.native.prediction = list(prediction)
        if guides:
            self.native.masks = [guide.mask for guide in guides]


def native_request(prompt: PreparedPrompt, params: SamplingParams) -> _core.Request:
    """The native form; None has been replaced by the engine's defaults."""
    request = _core.Request()
    request.prompt_token_ids = prompt.token_ids
    if prompt.images:
        request.images = [(image.digest, image.tiles) for image in prompt.images]
    request.n = params.n
    request.max_tokens = NO_LIMIT if params.max_tokens is None else params.max_tokens
    request.min_tokens = params.min_tokens
    request.temperature = params.temperature if params.temperature is not None else 1.0
    request.top_k = max(params.top_k or 0, 0)
    request.top_p = params.top_p if params.top_p is not None else 1.0
    request.min_p = params.min_p
    request.typical_p = params.typical_p
    request.allowed_token_ids = list(params.allowed_token_ids or ())
    request.repetition_penalty = params.repetition_penalty if params.repetition_penalty is not None else 1.0
    request.presence_penalty = params.presence_penalty
    request.frequency_penalty = params.frequency_penalty
    request.logit_bias = dict(params.logit_bias or {})
    request.seed = None if params.seed is None else params.seed & (2**63 - 1)
    request.stop_token_ids = list(params.stop_token_ids)
    request.ignore_eos = params.ignore_eos
    request.logprobs = -1 if params.logprobs is None else params.logprobs
    request.report_progress = params.report_progress
    request.prompt_logprobs = -1 if params.prompt_logprobs is None else params.prompt_logprobs
    return request
