"""Which addresses count as one client."""

from __future__ import annotations

import ipaddress

__all__ = ["network_of"]


def network_of(address: str) -> str:
    """The address; of IPv6 its network of 64 bits, since one host commonly has all of it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
