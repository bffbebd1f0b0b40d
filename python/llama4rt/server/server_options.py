"""ServerOptions: names, limits and times of one server. The defaults suit one machine behind nobody."""

import re
from dataclasses import dataclass, fields

from llama4rt.errors import ConfigError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+/?", re.I)
_HOST = re.compile(r"(?:\*\.)?[^\s/?#@*]+")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Every limit answers with a 4xx that names the limit and what came."""

    served_model_names: tuple[str, ...] = ()  # empty: the engine file's name without its ending
    api_keys: tuple[str, ...] = ()  # empty: no key is asked for
    allowed_hosts: tuple[str, ...] = ()  # that a Host may name beside localhost and addresses; "*": any
    allowed_origins: tuple[str, ...] = ()  # of web pages that may call the server beside its own; "*": any
    trusted_proxies: tuple[str, ...] = ()  # addresses whose X-Forwarded-For says who the client is; "*": all
    max_waiting: int = 256  # outputs (n counts) that may wait beside those that run; beyond: 429
    max_streams_per_client: int | None = None  # outputs of one client, running and waiting; beyond: 429
    max_body_bytes: int = 32 << 20
    max_bodies_bytes: int = 512 << 20  # of all requests being received or read at once; beyond: 503
    max_header_bytes: int = 64 << 10
    receive_seconds: float = 30.0  # for a whole request to come in, from its first byte
    max_images: int = 10  # of one request
    max_prompts: int = 256  # of one /v1/completions request
    max_messages: int = 2048
    heartbeat_seconds: float = 10.0  # a comment in a stream that has nothing else to say
    slow_reader_seconds: float = 30.0  # how long one write may wait for a client that does not read
    max_unread_tokens: int = 256  # of one output, for a client that does not read; then the request is paused
    paused_seconds: float = 10.0  # how long a paused request waits for its client; then it is ended
    drain_seconds: float = 30.0  # for running requests to end, after SIGTERM
    keep_alive_seconds: int = 30  # an idle connection
    response_store: str | None = (
        None  # a directory where /v1/responses keeps what it answered; None: nothing is
    )
    response_store_bytes: int = 1 << 30  # of it
    response_store_count: int = 100_000  # responses and conversations; beyond, the oldest go
    response_days: float = 30.0  # how long they are kept
    strict_fields: bool = False  # refuse fields of requests that nobody knows, instead of logging their names

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value < 2**40:
                raise ConfigError(f"{field.name} is {value!r}; it must be above 0")
        for key in self.api_keys:
            if not key or key != key.strip() or not key.isascii() or not key.isprintable():
                raise ConfigError("an API key must be printable ASCII text without spaces at its ends")
        for origin in self.allowed_origins:
            if origin != "*" and origin != "null" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"{origin!r:.100} is not an origin: it must look like https://chat.example.com"
                )
        for host in self.allowed_hosts:
            if host != "*" and not _HOST.fullmatch(host):
                raise ConfigError(f"{host!r:.100} is not a host: it must be a name without scheme and port")
