"""Structured output: text that is sure to follow a JSON schema, a regular expression, a list of choices or a grammar.

`StructuredOutput` says what; SamplingParams(structured=...) asks for it. A grammar library (llguidance, extra [serve])
says after each token which tokens may come next, in a thread beside the model; the sampler in C++ applies that.
"""

from llama4rt.structured.structured_output import StructuredOutput

__all__ = ["StructuredOutput"]
