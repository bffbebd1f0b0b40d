"""Who a request comes from, as queues and limits see it: the digest of its API key, or its address."""

import ipaddress
from typing import Any

from starlette.types import Scope


def client_name(scope: Scope, key_digest: bytes | None) -> str:
    """key_digest: of the key that let the request in; None: keys are not used, or this path needs none."""
    if key_digest is not None:
        return "key-" + key_digest.hex()[:16]
    peer: Any = scope.get("client")
    if not peer:
        return "unknown"
    address = ip_address(str(peer[0]))
    if address is None:
        return str(peer[0])[:100]
    if address.version == 6 and not address.is_loopback:
        # One household or machine has a whole /64 and may use any address of it.
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def ip_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address without its zone; an IPv4 one that is written as IPv6 is IPv4. None: the name is no address."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
