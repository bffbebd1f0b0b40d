"""What a session is: tokens, pictures, and where in a conversation it stands. Plain data."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama4rt.images.processing import ProcessedImage


@dataclass(slots=True)
class SessionState:
    """All that a session needs to go on, but for keys and values, which follow from it."""

    token_ids: list[int] = field(default_factory=list)
    images: "list[ProcessedImage]" = field(default_factory=list)  # in the order of their patch tokens
    output_tokens: int = 0  # of the tokens, the last so many are the answer that generate() would go on with
    seed: int = 0  # of the answer, where its parameters have none
    messages: list[dict[str, Any]] | None = (
        None  # of a conversation, without pictures; None: tokens and texts
    )

    def copy(self) -> "SessionState":
        messages = None if self.messages is None else list(self.messages)
        return replace(self, token_ids=list(self.token_ids), images=list(self.images), messages=messages)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What `list` says of a session."""

    name: str
    num_tokens: int
    num_images: int
    model: str  # SHA-256 of the engine file's header
    updated: float  # seconds since 1970
