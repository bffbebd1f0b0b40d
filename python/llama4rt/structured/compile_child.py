"""The trial of a grammar, in a child that can be killed: is it compiled, and are its masks found, within limits?

Compiling costs the parent the same again, so what passes here is safe there. Run by workers/child_main.py.
"""

import json
import random
import struct
import threading
from typing import TYPE_CHECKING, Any

from llama4rt.errors import RequestError
from llama4rt.structured.compiling import TokenTable, matcher_of, refusal
from llama4rt.structured.mask_budget import CpuTimer, MaskBudget, MasksTooSlow
from llama4rt.structured.structured_output import StructuredOutput
from llama4rt.workers.child_main import Refused
from llama4rt.workers.forked_answers import resident_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_GRAMMAR_BYTES = 128 << 20  # of one grammar and an output under it
_WALKS = 3  # outputs at random, of so many tokens each
_WALK_TOKENS = 24
_STACK_BYTES = 4 << 20  # half of what the parent's threads have: recursion that fits here fits there
_LENGTH = struct.Struct("<I")

_state: "dict[str, Any]" = {}


def setup_message(table: TokenTable) -> bytes:
    """What begin() takes."""
    head = json.dumps(
        {
            "lengths": [len(token) for token in table.tokens],
            "special_ids": table.special_token_ids,
            "end_ids": table.end_ids,
        }
    ).encode()
    return _LENGTH.pack(len(head)) + head + b"".join(table.tokens)


def begin(setup: bytes) -> None:
    """setup: setup_message()."""
    from llama4rt.structured.closing import Vocabulary

    start = _LENGTH.size + _LENGTH.unpack_from(setup)[0]
    head = json.loads(setup[_LENGTH.size : start])
    tokens = []
    for length in head["lengths"]:
        tokens.append(setup[start : start + length])
        start += length

    def encode(text: str) -> list[int]:  # the longest token first: not the model's ids, but about as many
        native = _state.get("native")
        return native.greedy_tokenize(text) if native is not None else []

    table = TokenTable(tokens, head["special_ids"], head["end_ids"], encode)
    _state["native"] = table.native()
    _state["vocabulary"] = Vocabulary(tokens, table.end_ids)


def answer(message: bytes) -> bytes:
    """message: the fields of a StructuredOutput as JSON. Answers with its compiled form, and the bytes that a grammar
    and an output take. Refused says why not.
    """
    output = StructuredOutput(**json.loads(message))
    result: list[bytes] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(_tried(output))
        except BaseException as error:  # the grammar library's panics are no Exceptions
            failure.append(error)

    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if not failure:
        return result[0]
    error = failure[0]
    if isinstance(error, RequestError):
        raise Refused(str(error))
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, (ValueError, RecursionError)) or type(error).__name__ == "PanicException":
        raise Refused(str(refusal(output.what, error)))
    raise error


def _tried(output: StructuredOutput) -> bytes:
    from llama4rt.structured.closing import Closing

    before = resident_bytes()
    form = output.compiled_form()
    matcher = matcher_of(_state["native"], form, output.what)
    if output.complete:
        Closing(_state["vocabulary"], output.source, 1 << 30, output.reserve).shortest(matcher)
    for seed in range(_WALKS):
        walker = matcher.deep_copy()
        _walk(walker, output, random.Random(seed))
    taken = resident_bytes() - before  # the last walker is still there
    if taken > MAX_GRAMMAR_BYTES:
        raise RequestError(
            f"the {output.what} is refused: it takes {taken >> 20} MiB; at most {MAX_GRAMMAR_BYTES >> 20} MiB are "
            "allowed"
        )
    return json.dumps({"form": form, "bytes": taken}).encode()


def _walk(matcher: "LLMatcher", output: StructuredOutput, rng: random.Random) -> None:
    """One output at random. RequestError where the grammar stops, or takes too long to say how it goes on."""
    budget = MaskBudget()
    ends = _state["vocabulary"].ends
    for _ in range(_WALK_TOKENS):
        timer = CpuTimer()
        allowed = matcher.compute_bitmask()
        budget.spend(timer.seconds)
        if matcher.is_error():
            raise refusal(output.what, matcher.get_error())
        if budget.spent:
            raise MasksTooSlow(output.what)
        token = _some_token(allowed, rng)
        if token in ends:
            return
        if not matcher.consume_token(token):
            raise refusal(output.what, matcher.get_error())


def _some_token(allowed: bytes, rng: random.Random) -> int:
    """Any token of a mask, which has at least one."""
    start = rng.randrange(len(allowed))
    rest = allowed[start:].lstrip(b"\0") or allowed.lstrip(b"\0")
    at = len(allowed) - len(rest)
    bits = [bit for bit in range(8) if allowed[at] >> bit & 1]
    return at * 8 + rng.choice(bits)
