"""Browsers: which Host a request may name, and which web pages may call the server.

Any page that somebody opens can send requests to a server on the same machine or network. Two checks keep it out: the
Origin that the browser names must be the server's own or allowed; and the Host must be one of the server's names, or a
page could make its own name point to the server's address (DNS rebinding) and be of the same origin.
"""

import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import Scope

from llama4rt.server.api_errors import ApiError
from llama4rt.server.client_names import ip_address
from llama4rt.server.paths import path_of

_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*|[0-9a-f:.]+(?:%[\w.-]+)?")  # a name, an IPv4 or an IPv6 address
_PREFLIGHT_SECONDS = 600
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Any page may ask these, which name no secret; probes of machines often send an address the server does not know.
_PROBES = frozenset({"/health", "/ready"})

Header = tuple[bytes, bytes]


class Browsers:
    def __init__(self, allowed_hosts: Sequence[str], allowed_origins: Sequence[str]) -> None:
        """allowed_hosts: names beside localhost and addresses; `*.example.com`, or `*` for any. allowed_origins: as
        browsers send them (`https://chat.example.com`), or `*`.
        """
        self._hosts = tuple(name.lower().rstrip(".") for name in allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        machine = socket.gethostname().lower()
        self._own_names = {"localhost", machine, f"{machine}.local"}

    def check(self, scope: Scope, headers: dict[str, str]) -> list[Header]:
        """The headers of a reply to this request. ApiError 400 or 403 when it must not be answered."""
        if path_of(scope) not in _PROBES:
            self._check_host(scope, headers)
        origin = headers.get("origin")
        if origin is None:
            return [(b"vary", b"Origin")] if self._origins else []
        if _is_same_origin(origin, headers.get("host", "")):
            return []
        if "*" not in self._origins and origin.lower() not in self._origins:
            raise ApiError(
                403,
                f"web pages of {origin!r:.200} may not use this server; --allowed-origins says which may",
                code="origin_not_allowed",
            )
        allowed = b"*" if "*" in self._origins else origin.encode("latin-1")
        return [
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
            (b"vary", b"Origin"),
        ]

    @staticmethod
    def preflight(scope: Scope, headers: dict[str, str]) -> list[Header] | None:
        """The further headers of a preflight's reply; None for any other request. check() comes first."""
        if (
            scope["method"] != "OPTIONS"
            or "origin" not in headers
            or "access-control-request-method" not in headers
        ):
            return None
        wanted = headers.get("access-control-request-headers", "")
        more = [
            (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
            (b"access-control-max-age", str(_PREFLIGHT_SECONDS).encode()),
        ]
        if wanted:  # clients' libraries send several of their own; the page is trusted
            more.append((b"access-control-allow-headers", wanted.encode("latin-1")))
        if headers.get("access-control-request-private-network") == "true":
            more.append((b"access-control-allow-private-network", b"true"))
        return more

    def _check_host(self, scope: Scope, headers: dict[str, str]) -> None:
        given = headers.get("host")
        if given is None or "*" in self._hosts:  # HTTP/1.0; no browser sends that
            return
        name = _host_name(given)
        if name is None:
            raise ApiError(
                400, f"the Host {given!r:.100} is not a name or an address", code="host_not_allowed"
            )
        reached = (scope.get("server") or ("", None))[0]
        if reached.startswith("/") or not reached:
            return  # a Unix socket, which no browser reaches
        if name in self._own_names or name == reached.lower() or self._is_listed(name):
            return
        # An address cannot be made to point elsewhere. One that is reached on the loopback has no other name.
        address = ip_address(name)
        own = ip_address(reached)
        if address is not None and (address.is_loopback or own is None or not own.is_loopback):
            return
        raise ApiError(
            403,
            f"the Host {name!r:.100} is not a name of this server; --allowed-hosts adds names",
            code="host_not_allowed",
        )

    def _is_listed(self, name: str) -> bool:
        return any(
            name.endswith(listed[1:]) if listed.startswith("*.") else name == listed for listed in self._hosts
        )


def _host_name(host: str) -> str | None:
    """The name of a Host header, in lower case without port and brackets; None when it has no such form."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return None
        _ = parts.port  # ValueError: not a number
        name = parts.hostname
    except ValueError:
        return None
    return name.rstrip(".") if name and _NAME.fullmatch(name) else None


def _is_same_origin(origin: str, host: str) -> bool:
    """A proxy may speak https for us, so the scheme says nothing; name and port must agree."""
    try:
        page, own = urlsplit(origin), urlsplit(f"//{host}")
        default = _DEFAULT_PORTS.get(page.scheme)
        return (
            default is not None
            and page.hostname is not None
            and page.hostname == own.hostname
            and (page.port or default) == (own.port or default)
        )
    except ValueError:
        return False
