"""GrammarGuesses: what comes next in an output that follows a grammar, with the masks behind each guess.

What the grammar forces (names, brackets) is as good as known; else the text may go on as it did the last time. The
engine computes guesses beside the latest token and samples each place with its own mask, so none of them changes the
output (docs/speculation.md).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama4rt import _core
from llama4rt.structured.mask_budget import CpuTimer

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MOST = 16  # guesses, as csrc/runtime/speculation/drafter.h has it
_FORCED = 7  # the best class of evidence
_SECONDS = 0.002  # of processor time for the masks of one offer; others wait for it


class GrammarGuesses:
    """One output's. Not thread-safe: its Guide is."""

    def __init__(self, seen: Sequence[int], end_ids: Sequence[int]) -> None:
        """seen: tokens that the output may repeat."""
        self._ends = frozenset(end_ids)
        self._index = _core.SuffixIndex()
        self._index.append(list(seen))

    def offer(self, matcher: "LLMatcher", mask: _core.TokenMask, token_ids: Sequence[int]) -> None:
        """token_ids: what was chosen last; the mask of the next token is published. Leaves the matcher as it was."""
        self._index.append(list(token_ids))
        guesses, evidence = self._likely(matcher)
        valid = matcher.validate_tokens(guesses) if guesses else 0
        guesses, evidence = guesses[:valid], evidence[:valid]
        mask.offer(guesses, evidence, self._fill(matcher, mask, guesses))

    def _likely(self, matcher: "LLMatcher") -> tuple[list[int], list[int]]:
        forced: list[int] = matcher.compute_ff_tokens()[:_MOST]
        repeated, evidence = self._index.read_on(_MOST)
        if forced and repeated[: len(forced)] != forced:
            return forced, [_FORCED] * len(forced)
        evidence[: len(forced)] = [_FORCED] * len(forced)
        end = next((i for i, token in enumerate(repeated) if token in self._ends), len(repeated))
        return repeated[:end], evidence[:end]

    @staticmethod
    def _fill(matcher: "LLMatcher", mask: _core.TokenMask, guesses: Sequence[int]) -> int:
        """The masks behind the first guesses, as many as are wanted; returns how many there are."""
        timer = CpuTimer()
        rows = 0
        for token in guesses[: mask.wanted_rows]:
            if timer.seconds > _SECONDS or not matcher.consume_token(token):
                break
            matcher.unsafe_compute_mask_ptr(mask.further_address(rows), mask.num_bytes)
            rows += 1
        if rows:
            matcher.rollback(rows)
        return rows
