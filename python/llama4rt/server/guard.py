"""Guard: the outermost layer. Names requests, asks for the key, bounds bodies, turns exceptions into answers, logs.

Pure ASGI: what lies inside hears of a client that leaves from the server itself.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import threading
import time
import uuid
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama4rt.errors import Llama4RTError
from llama4rt.server import page_files
from llama4rt.server.api_errors import ApiError
from llama4rt.server.browsers import Browsers, Header
from llama4rt.server.client_names import client_name
from llama4rt.server.http import error_reply
from llama4rt.server.paths import path_of
from llama4rt.server.refusal_reason import reason_of
from llama4rt.server.service import Service
from llama4rt.server.sse import ClientGone
from llama4rt.workers.client import Client, working_for

log = logging.getLogger("llama4rt.server")
access = logging.getLogger("llama4rt.access")

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_FIELD = re.compile(r"[a-z_]{1,40}")  # the request's field that a param begins with
# All other paths ask for the key, also those that do not exist.
_OPEN = frozenset({"/health", "/ready", "/version"}) | page_files.PATHS
_MOST_BYTES_TO_SEARCH = 1 << 18  # of a body whose refusal is logged
_MAX_RETRY = {"Retry-After": "1"}


class Guard:
    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.service = service
        self._app = app
        options = service.options
        self._keys = [hashlib.sha256(key.encode()).digest() for key in options.api_keys]
        self._browsers = Browsers(options.allowed_hosts, options.allowed_origins)
        self._body_bytes = 0  # held by all requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        exchange = _Exchange(scope, receive, send)
        try:
            await self._guarded(scope, exchange)
        except ClientGone:
            exchange.status = exchange.status or 499
        except ApiError as error:
            await self._answer(error, scope, exchange)
        except asyncio.CancelledError:
            if self.service.draining:
                # The time to drain is over, for a body that still comes in or a reader who does not read. Raised, it
                # would be a 500 and a traceback for each.
                if exchange.status is None and not exchange.gone.is_set():
                    await self._answer(
                        ApiError(503, "the server is shutting down", code="shutting_down"), scope, exchange
                    )
                return
            exchange.status = exchange.status or 499
            raise
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, OSError) and (exchange.status is not None or exchange.gone.is_set()):
                exchange.status = exchange.status or 499  # how some servers say that the client has left
                return
            # Out of memory; a panic of a library in Rust, which is no Exception; our own mistake. Llama4RTError: the
            # engine is closed or has failed. This request ends, and its client learns no more than that.
            log.error("request %s failed", exchange.request_id, exc_info=error)
            code = "engine_error" if isinstance(error, Llama4RTError) else "internal_error"
            message = f"something went wrong here; the request's id is {exchange.request_id}"
            await self._answer(ApiError(500, message, code=code), scope, exchange)
        finally:
            exchange.gone.set()
            exchange.log()

    def note_refusal(self, status: int, code: str, client: str | None) -> None:
        """For what is refused before there is a request: counted and logged as all refusals are."""
        self.service.metrics.refused.labels(str(status)).inc()
        access.info(json.dumps({"status": status, "error": code, "client": client}))

    async def _guarded(self, scope: Scope, exchange: "_Exchange") -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        exchange.take_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["details"] = exchange.details
        exchange.headers += self._browsers.check(scope, headers)
        preflight = self._browsers.preflight(scope, headers)
        if preflight is not None:  # browsers send no key with it
            exchange.headers += preflight
            await Response(status_code=204)(scope, exchange.receive, exchange.send)
            return
        key = self._check_key(path_of(scope), headers)
        limit = self.service.options.max_body_bytes
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(int(length), limit)
        taken = 0
        try:
            body = bytearray()
            deadline = time.monotonic() + self.service.options.receive_seconds
            more = scope["method"] not in ("GET", "HEAD")
            while more:
                try:
                    message = await asyncio.wait_for(
                        exchange.receive(), max(deadline - time.monotonic(), 0.001)
                    )
                except (asyncio.TimeoutError, TimeoutError):
                    raise ApiError(
                        408,
                        f"the body did not arrive within {self.service.options.receive_seconds:g} s",
                        headers={"Connection": "close"},
                    ) from None
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    raise _too_large(len(body), limit)
                self._body_bytes += len(body) - taken
                taken = len(body)
                if self._body_bytes > self.service.options.max_bodies_bytes:
                    raise ApiError(
                        503, "too many large requests at once", code="overloaded", headers=_MAX_RETRY
                    )
            replay = _replay(bytes(body), exchange.receive)
            exchange.body = bytes(body) if len(body) <= _MOST_BYTES_TO_SEARCH else None
            body = bytearray()
            with working_for(Client(client_name(scope, key), exchange.gone)):
                await self._app(scope, replay, exchange.send)
        finally:
            self._body_bytes -= taken

    def _check_key(self, path: str, headers: dict[str, str]) -> bytes | None:
        """The digest of the key that lets the request in; None where none is asked for."""
        if not self._keys or path in _OPEN:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if not scheme and "x-api-key" in headers:  # Anthropic's clients
            scheme, given = "bearer", headers["x-api-key"]
        digest = hashlib.sha256(given.strip().encode("latin-1", "replace")).digest()
        # All keys are compared, so that the time says nothing about them.
        right = [hmac.compare_digest(digest, key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(right):
            raise ApiError(
                401,
                "a valid API key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return digest

    async def _answer(self, error: ApiError, scope: Scope, exchange: "_Exchange") -> None:
        self.service.metrics.refused.labels(str(error.status)).inc()
        exchange.refused(error)
        if exchange.status is None:
            reply = error_reply(error, path_of(scope), exchange.request_id)
            await reply(scope, exchange.receive, exchange.send)


async def _live(receive: Receive, send: Send) -> None:
    """The lifespan of a server that has nothing else: whoever made the engine opens and closes it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


def _too_large(size: int, limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body has at least {size} bytes; the limit is {limit}",
        code="request_too_large",
        headers={"Connection": "close"},
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands out the body that was read, then whatever the server says."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


class _Exchange:
    """One request and its answer: what is added to the reply, who is told that the client left, what the log says."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id = uuid.uuid4().hex
        self.status: int | None = None
        self.details: dict[str, Any] = {}
        self.headers: list[Header] = []
        self.body: bytes | None = b""  # what the log must not repeat; None: too much to look through
        self.gone = threading.Event()  # the client has left, or has its reply
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()

    def take_id(self, given: str | None) -> None:
        if given is not None and _ID.fullmatch(given):
            self.request_id = given

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone.set()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = (b"x-request-id", self.request_id.encode())
            # A list of its own: the message's may belong to every reply.
            message = {**message, "headers": [*message.get("headers", ()), own, *self.headers]}
        await self._send(message)

    def refused(self, error: ApiError) -> None:
        """Why, without what the client wrote."""
        self.details["error"] = error.code or ("internal_error" if error.status >= 500 else "invalid_request")
        self.details["reason"] = reason_of(error.message, self.body)
        field = _FIELD.match(error.param or "")
        self.details["param"] = field[0] if field else None

    def log(self) -> None:
        """One line of JSON: numbers and names, never what was said."""
        if not access.isEnabledFor(logging.INFO):
            return
        entry = {
            "request_id": self.request_id,
            "method": self._scope["method"],
            "path": self._scope["path"][:200],
            "status": self.status,
            "seconds": round(time.perf_counter() - self._started, 4),
            **{key: value for key, value in self.details.items() if value is not None},
        }
        access.info(json.dumps(entry))  # escapes control characters
