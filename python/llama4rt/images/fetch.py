"""Fetches a picture from an http(s) URL that a stranger may have chosen.

The host is looked up once and the connection goes to the very address that was checked, so that a name cannot answer
one address for the check and another for the connection. Nothing of the environment takes part: no proxy, no
credentials, no cookies. One deadline covers everything, down to a server that sends a byte at a time.

Errors go back to the stranger. They must not tell what this machine's name server knows: a name of this network and one
that does not exist end in the same words, after the same time. Nor do they repeat what the system or a server that
speaks something else than HTTP said; that stands in the error's __cause__.
"""

import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from llama4rt.errors import ImageError, RequestError
from llama4rt.images.limits import ImageLimits
from llama4rt.workers.child_process import ChildAbandoned
from llama4rt.workers.client import Client, current_client

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressPolicy = Callable[[Address], bool]  # whether it may be connected to

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 1 << 16
_MAX_HOST_CHARS = 253  # RFC 1035
_POLL_SECONDS = 0.25  # between two looks at whether the client has gone
# A name is refused at the end of such a step, counted from the beginning of its lookup: how long the lookup took would
# tell whether the name exists.
_REFUSAL_STEP_SECONDS = 1.0
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_URL = re.compile(r"[\x00-\x20\x7f-\U0010ffff\\]")
# Public by some Python's word, but special, or a way to this machine's own host or network.
_NEVER = [
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's host
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # Teredo and other protocols
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet: not private, loopback, link-local (where cloud metadata lives),
    multicast or reserved, and no disguise of an IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False  # mapped IPv4 and NAT64 too
    if any(address in network for network in _NEVER if network.version == address.version):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def fetch(
    url: str, limits: ImageLimits, what: str = "the image", *, may_connect: AddressPolicy = is_public
) -> bytes:
    """The body of the answer. ImageError for anything else: an address that may not be asked, an answer other than
    200, more than three redirects, too many bytes, too much time.
    """
    deadline = _Deadline(limits.max_url_seconds)
    target = first = _checked(url, what)
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            answer = _get(target, limits, what, deadline, may_connect)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
            if target.scheme == "https" and urlsplit(url).scheme != "https":
                raise ImageError(f"{what}: {target.hostname} redirects from https to something else")
            target = _checked(url, f"{what}: {first.hostname} redirects to another URL")
    except _NoConnection as error:
        raise ImageError(f"{what}: {error}") from error.__cause__
    except TimeoutError:
        raise ImageError(
            f"{what}: no complete answer from {target.hostname} within {limits.max_url_seconds} s (max_url_seconds)"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise ImageError(f"{what}: {target.hostname} breaks off, or its answer is no HTTP") from error
    raise ImageError(f"{what}: more than {_MAX_REDIRECTS} redirects, the last to {target.hostname}")


class _NoConnection(Exception):
    """Its text is for the stranger, its cause is not."""


def _checked(url: str, what: str) -> SplitResult:
    if _NOT_URL.search(url):
        raise ImageError(f"{what}: the URL {url!r:.200} holds a character that must be percent-encoded")
    try:
        target = urlsplit(url)
        port = target.port
    except ValueError as error:  # its text is of the URL alone
        raise ImageError(f"{what}: the URL {url!r:.200} cannot be read: {error}") from None
    if target.scheme not in ("http", "https"):
        raise ImageError(f"{what}: the URL has scheme {target.scheme!r:.20}; it must be http or https")
    if not target.hostname or port == 0:
        raise ImageError(f"{what}: the URL {url!r:.200} names no host")
    if len(target.hostname) > _MAX_HOST_CHARS:
        raise ImageError(
            f"{what}: the URL's host has {len(target.hostname)} characters; a name has {_MAX_HOST_CHARS}"
        )
    if target.username is not None or target.password is not None:
        raise ImageError(f"{what}: the URL for {target.hostname} holds a user name; credentials are not sent")
    return target


def _get(
    target: SplitResult, limits: ImageLimits, what: str, deadline: "_Deadline", may_connect: AddressPolicy
) -> bytes | str:
    """The body, or where a redirect leads."""
    host = str(target.hostname)
    port = target.port or (443 if target.scheme == "https" else 80)
    connected = _connect(host, port, deadline, may_connect)
    try:
        if target.scheme == "https":
            connected = _with_tls(connected, host, deadline)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = _TimedSocket(connected, deadline)
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        headers = {"Host": _host_header(target), "Accept": "image/*", "User-Agent": "llama4rt"}
        connection.request("GET", path, headers=headers)  # sends Accept-Encoding: identity
        with connection.getresponse() as response:
            if response.status in _REDIRECTS:
                location = response.getheader("Location")
                if not location:
                    raise ImageError(f"{what}: {host} redirects to nowhere")
                return location
            if response.status != 200:
                raise ImageError(f"{what}: {host} answers {response.status}")
            if response.getheader("Content-Encoding", "identity") != "identity":
                raise ImageError(f"{what}: {host} answers with a Content-Encoding that was not asked for")
            return _body(response, limits, f"{what}: the answer of {host}")
    finally:
        connected.close()


def _body(response: http.client.HTTPResponse, limits: ImageLimits, what: str) -> bytes:
    if response.length is not None:
        limits.check_bytes(response.length, what)
    data = bytearray()
    while chunk := response.read(_CHUNK_BYTES):
        data += chunk
        limits.check_bytes(len(data), what)
    if response.length:
        raise ImageError(f"{what} ends {response.length} bytes early")
    return bytes(data)


def _with_tls(connected: socket.socket, host: str, deadline: "_Deadline") -> socket.socket:
    connected.settimeout(deadline.seconds_left())
    try:
        return ssl.create_default_context().wrap_socket(connected, server_hostname=host)
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        raise _NoConnection(
            f"{host} has no certificate that this machine trusts, or speaks no TLS"
        ) from error


def _connect(host: str, port: int, deadline: "_Deadline", may_connect: AddressPolicy) -> socket.socket:
    failure: Exception = OSError("no address")
    for family, kind, protocol, _, where in _public_addresses(host, port, deadline, may_connect):
        try:
            connected = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            connected.settimeout(deadline.seconds_left())
            connected.connect(where)
            return connected
        except OSError as error:
            connected.close()
            deadline.seconds_left()
            failure = error
    raise _NoConnection(f"{host} takes no connection at port {port}") from failure


def _public_addresses(host: str, port: int, deadline: "_Deadline", may_connect: AddressPolicy) -> list[Any]:
    """As getaddrinfo has them. _NoConnection, always in the same words, when there are none or one is not public."""
    refused = _NoConnection(f"{host} has no public address")
    literal = _literal(host)
    if literal is not None and not may_connect(literal):
        raise refused  # at once: nothing was looked up
    start = time.monotonic()
    cause: Exception | None = None
    found: list[Any] = []
    try:
        found = _look_up(host, port, deadline)
    except (OSError, UnicodeError) as error:
        cause = error
    # All of them: a name with one private address is not public.
    if found and all(may_connect(_address(where)) for *_, where in found):
        return found
    took = time.monotonic() - start
    step = _REFUSAL_STEP_SECONDS
    deadline.sleep((int(took / step) + 1) * step - took if step else 0)
    raise refused from cause


def _address(where: Any) -> Address:
    return ipaddress.ip_address(str(where[0]).partition("%")[0])


def _literal(host: str) -> Address | None:
    try:
        return _address([host])
    except ValueError:
        return None


def _look_up(host: str, port: int, deadline: "_Deadline") -> list[Any]:
    """getaddrinfo with a time limit, which it does not have itself."""
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            inbox.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # UnicodeError too, for a label that is too long
            inbox.put(error)

    threading.Thread(target=ask, name="llama4rt-lookup", daemon=True).start()
    while True:
        try:
            answer = inbox.get(timeout=min(deadline.seconds_left(), _POLL_SECONDS))
            break
        except queue.Empty:
            continue
    if isinstance(answer, Exception):
        raise answer
    return list(answer)


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._client: Client = current_client()

    def seconds_left(self) -> float:
        """Raises TimeoutError when there are none, ChildAbandoned when nobody waits any more."""
        if self._client.gone.is_set():
            raise ChildAbandoned("the download: nobody waits for it any more")
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def sleep(self, seconds: float) -> None:
        """Until the deadline at most."""
        end = min(time.monotonic() + seconds, self._end)
        while (left := end - time.monotonic()) > 0 and not self._client.gone.wait(min(left, _POLL_SECONDS)):
            self.seconds_left()


class _TimedSocket:
    """What http.client needs of a socket, with the deadline before every wait."""

    def __init__(self, inner: socket.socket, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def sendall(self, data: Any) -> None:
        self._inner.settimeout(self._deadline.seconds_left())
        self._inner.sendall(data)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._inner, self._deadline))

    def close(self) -> None:
        """http.client closes its socket before the body is read; _get closes the inner one."""


class _TimedReader(io.RawIOBase):
    def __init__(self, inner: socket.socket, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            left = self._deadline.seconds_left()
            self._inner.settimeout(min(left, _POLL_SECONDS))
            try:
                return self._inner.recv_into(buffer)
            except TimeoutError:
                continue


def _host_header(target: SplitResult) -> str:
    host = f"[{target.hostname}]" if ":" in str(target.hostname) else str(target.hostname)
    return host if target.port is None else f"{host}:{target.port}"
