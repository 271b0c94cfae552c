"""Checks of names, ids, `host:port` addresses and URLs that people write.

Each check raises `ConfigError` with the accepted form; the callers add the setting or field.
"""

from __future__ import annotations

import re
from typing import Final

from syncline.errors import ConfigError
from syncline.node.naming import is_id
from syncline.transport.candidates import is_wildcard

__all__ = [
    "MAX_NAME_CHARACTERS",
    "check_address",
    "check_name",
    "check_url",
    "is_host_name",
    "join_address",
    "split_address",
]

MAX_NAME_CHARACTERS: Final = 64
"""Characters of a name: it is in log lines, tables and metrics labels."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?")
_IPV6: Final = re.compile(r"[0-9a-fA-F:.]+(?:%[A-Za-z0-9._-]+)?")
_URL: Final = re.compile(r"(https?)://([^/?#@\s]+)/?")
MAX_HOST_CHARACTERS: Final = 253
MAX_PORT: Final = 65535


def check_name(name: str) -> str:
    """Check a node's name: letters, digits, and `._-` inside; never sixteen hexadecimal digits, which are an id."""
    if len(name) > MAX_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} is not a node's name: up to {MAX_NAME_CHARACTERS} letters, digits and . _ - inside"
        )
    if is_id(name):
        raise ConfigError(f"{name!r} looks like a node's id: a name has not just sixteen hexadecimal digits")
    return name


def split_address(address: str, *, any_port: bool = False) -> tuple[str, int]:
    """Split `host:port`; an IPv6 address is in brackets. Port 0 is allowed if `any_port`: a free one."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        good = ":" in host and _IPV6.fullmatch(host) is not None
    else:
        good = len(host) <= MAX_HOST_CHARACTERS and _HOST.fullmatch(host) is not None
    if not good or not port.isascii() or not port.isdigit() or not (0 if any_port else 1) <= int(port) <= MAX_PORT:
        raise ConfigError(f"{address[:300]!r} is not an address such as 10.0.0.1:7100, node-a:7100 or [::1]:7100")
    return host, int(port)


def is_host_name(text: str) -> bool:
    """Whether a text is a host name or an address, without port and brackets."""
    pattern = _IPV6 if ":" in text else _HOST
    return len(text) <= MAX_HOST_CHARACTERS and pattern.fullmatch(text) is not None


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_address(address: str) -> str:
    """Check an address that others can reach: with a port, and not a wildcard."""
    host, _ = split_address(address)
    if is_wildcard(host):
        raise ConfigError(f"{address!r} means every interface of this machine; others need one that they can reach")
    return address


def check_url(url: str) -> str:
    """Check the address of an HTTP server, `http://host:port`; returns it without the slash at its end."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigError(f"{url[:300]!r} is not a URL such as http://10.0.0.1:8080")
    authority = found[2]
    has_port = authority.rpartition("]")[2].count(":") == 1
    check_address(authority if has_port else f"{authority}:{443 if found[1] == 'https' else 80}")
    return f"{found[1]}://{authority}"
