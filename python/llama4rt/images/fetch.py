"""Fetches a picture from an http(s) URL that a stranger may have chosen.

The host is looked up once and the connection goes to the very address that was checked, so that a name cannot answer
one address for the check and another for the connection. Nothing of the environment takes part: no proxy, no
credentials, no cookies. One deadline covers everything, down to a server that sends a byte at a time.
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

from llama4rt.errors import ImageError
from llama4rt.images.limits import ImageLimits

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressPolicy = Callable[[Address], bool]  # whether it may be connected to

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 1 << 16
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
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            target = _checked(url, what)
            answer = _get(target, limits, what, deadline, may_connect)
            if isinstance(answer, bytes):
                return answer
            if target.scheme == "https" and urlsplit(urljoin(url, answer)).scheme != "https":
                raise ImageError(f"{what}: {target.hostname} redirects from https to something else")
            url = urljoin(url, answer)
    except TimeoutError:
        raise ImageError(
            f"{what}: no complete answer from {_host_of(url)} within {limits.max_url_seconds} s (max_url_seconds)"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{what}: {_host_of(url)}: {error or type(error).__name__}") from None
    raise ImageError(f"{what}: more than {_MAX_REDIRECTS} redirects, the last to {_host_of(url)}")


def _checked(url: str, what: str) -> SplitResult:
    if _NOT_URL.search(url):
        raise ImageError(f"{what}: the URL {url!r:.200} holds a character that must be percent-encoded")
    target = urlsplit(url)
    if target.scheme not in ("http", "https"):
        raise ImageError(f"{what}: the URL has scheme {target.scheme!r:.20}; it must be http or https")
    if not target.hostname or target.port == 0:
        raise ImageError(f"{what}: the URL {url!r:.200} names no host")
    if target.username is not None or target.password is not None:
        raise ImageError(f"{what}: the URL for {target.hostname} holds a user name; credentials are not sent")
    return target


def _get(
    target: SplitResult, limits: ImageLimits, what: str, deadline: "_Deadline", may_connect: AddressPolicy
) -> bytes | str:
    """The body, or where a redirect leads."""
    host = str(target.hostname)
    port = target.port or (443 if target.scheme == "https" else 80)
    connected = _connect(host, port, what, deadline, may_connect)
    try:
        if target.scheme == "https":
            connected.settimeout(deadline.seconds_left())
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=host)
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
                raise ImageError(f"{what}: {host} answers {response.status} {response.reason:.80}")
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


def _connect(
    host: str, port: int, what: str, deadline: "_Deadline", may_connect: AddressPolicy
) -> socket.socket:
    found = _look_up(host, port, deadline)
    for *_, where in found:  # all of them: a name with one private address is not public
        address = ipaddress.ip_address(str(where[0]).partition("%")[0])
        if not may_connect(address):
            raise ImageError(f"{what}: {host} is at {address}, which is not a public address")
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, where in found:
        connected = socket.socket(family, kind, protocol)
        try:
            connected.settimeout(deadline.seconds_left())
            connected.connect(where)
            return connected
        except OSError as error:
            connected.close()
            deadline.seconds_left()
            failure = error
    raise failure


def _look_up(host: str, port: int, deadline: "_Deadline") -> list[Any]:
    """getaddrinfo with a time limit, which it does not have itself."""
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            inbox.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # UnicodeError too, for a label that is too long
            inbox.put(OSError(f"the name cannot be looked up: {error}"))

    threading.Thread(target=ask, name="llama4rt-lookup", daemon=True).start()
    try:
        answer = inbox.get(timeout=deadline.seconds_left())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return list(answer)


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Raises TimeoutError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


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
        self._inner.settimeout(self._deadline.seconds_left())
        return self._inner.recv_into(buffer)


def _host_header(target: SplitResult) -> str:
    host = f"[{target.hostname}]" if ":" in str(target.hostname) else str(target.hostname)
    return host if target.port is None else f"{host}:{target.port}"


def _host_of(url: str) -> str:
    try:
        return str(urlsplit(url).hostname)
    except ValueError:
        return "the URL"
