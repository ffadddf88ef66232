"""Which addresses may be dialled: those of the public Internet, so that a URL cannot reach what only this machine can.

host -> its addresses, asked once -> each looked at -> dialled exactly as they are, so that a name cannot mean another one later
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port -> addresses, the preferred one first; raises OSError where there are none."""

_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""All that is given out. Source: IANA, IPv6 address space."""

_6TO4 = ipaddress.IPv6Network("2002::/16")
"""Holds an IPv4 address, and goes through relays of others. Source: RFC 3056; deprecated by RFC 7526."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as networks without IPv4 reach them. Source: RFC 6052."""


def resolve_host(host: str, port: int) -> list[str]:
    """Asks the system for the addresses of a host.

    Raises:
        OSError: when it knows none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_address(host: str) -> bool:
    """Says whether a host is an address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Says whether an address is one of the public Internet, however it is wrapped.

    Args:
        address: IPv4 or IPv6; anything else is not public.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return _is_public_v4(found.ipv4_mapped)
        if found in _NAT64:
            return _is_public_v4(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        return found in _PUBLIC_V6 and found not in _6TO4 and found.is_global and found.scope_id is None
    return _is_public_v4(found)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved
