"""What llama-server's clients may send to /completion: the sampling fields of all endpoints, and a prompt."""

from typing import Annotated

from msgspec import Meta, Raw

from llama4rt.server.protocol import PROMPT_SCHEMA, Sampling


class LlamaCompletionRequest(Sampling, kw_only=True):
    """POST /completion"""

    prompt: Annotated[Raw, Meta(extra_json_schema=PROMPT_SCHEMA, description="a text, or token ids")]
