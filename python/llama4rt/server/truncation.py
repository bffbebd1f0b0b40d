"""truncate_prompt_tokens: vLLM's field that keeps the end of a prompt that is too long."""

from dataclasses import replace

from llama4rt.server.api_errors import ApiError
from llama4rt.text.prompt_builder import PreparedPrompt

_FIELD = "truncate_prompt_tokens"


def truncated(
    prompt: PreparedPrompt, keep: int | None, max_tokens: int | None, max_model_len: int
) -> PreparedPrompt:
    """The prompt's last `keep` tokens; -1: as many as leave room for max_tokens. Begin-of-text goes like any other.

    ApiError 400 for 0, and for a prompt with pictures that would be cut.
    """
    if keep is None:
        return prompt
    if keep == 0:
        raise ApiError(400, f"{_FIELD} is 0; it must be -1 or at least 1", param=_FIELD)
    if keep < 0:
        keep = max(max_model_len - (max_tokens or 1), 1)
    if len(prompt.token_ids) <= keep:
        return prompt
    if prompt.images:
        raise ApiError(
            400,
            f"the prompt has {len(prompt.token_ids)} tokens and pictures; {_FIELD}, which is {keep}, cuts text only",
            param=_FIELD,
        )
    return replace(prompt, token_ids=prompt.token_ids[-keep:], text=None)
