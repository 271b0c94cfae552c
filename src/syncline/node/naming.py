"""Checks of names, ids and addresses of members, from settings, calls and peers.

Each check raises `ConfigError`, or `TypeError` for another type; the text names the given value and the accepted
ones.
"""

from __future__ import annotations

import re
from typing import Final

from syncline.consensus.types import LARGEST_ID, NONE
from syncline.errors import ConfigError
from syncline.transport.candidates import is_wildcard
from syncline.transport.messages import PeerAddress

__all__ = ["check_http", "check_id", "check_name", "dialled_address", "is_id"]

_ID: Final = re.compile(r"[0-9a-fA-F]{16}")

MAX_NAME_CHARACTERS: Final = 128
MAX_ADDRESS_CHARACTERS: Final = 512
"""The longest host name has 253 characters."""
MAX_HTTP_CHARACTERS: Final = 2048
"""A member's record is in each snapshot and in many log lines. No URL needs more characters."""


def check_name(name: object, setting: str = "name") -> str:
    """Check a node's name: printable, bounded, without the characters that separate names in lists.

    It must not look like an id either: a call takes a member by its name or its id.
    """
    if not isinstance(name, str):
        raise TypeError(f"{setting} must be a str, not {type(name).__name__}")
    if not name or len(name) > MAX_NAME_CHARACTERS or any(not c.isprintable() or c in "=, /" for c in name):
        raise ConfigError(
            f"{setting} {name[:80]!r}: 1 to {MAX_NAME_CHARACTERS} printable characters without '=', ',', '/' and spaces"
        )
    if is_id(name):
        raise ConfigError(f"{setting} {name!r} looks like a node's id: a name has not just sixteen hexadecimal digits")
    return name


def is_id(text: str) -> bool:
    """Whether a text is a node's id rather than its name."""
    return _ID.fullmatch(text) is not None


def check_id(value: object, setting: str, *, none: bool = False) -> int:
    """Check the id of a node or a cluster; with `none`, 0 is accepted as "not given"."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{setting} must be an int, not {type(value).__name__}")
    if not (NONE < value <= LARGEST_ID or (none and value == NONE)):
        raise ConfigError(f"{setting} is {value}: an id is from 1 to 2**63 - 1{', or 0 for none' if none else ''}")
    return int(value)  # a plain integer: the formats know no other kind


def check_http(http: object, setting: str = "http") -> str:
    """Check a member's address for clients; empty if it serves none."""
    if not isinstance(http, str):
        raise TypeError(f"{setting} must be a str, not {type(http).__name__}")
    if not http.isprintable() or len(http) > MAX_HTTP_CHARACTERS:
        raise ConfigError(f"{setting} {http[:80]!r}: printable characters, at most {MAX_HTTP_CHARACTERS} characters")
    return http


def dialled_address(address: object, setting: str = "address") -> PeerAddress:
    """Check an address that other nodes can dial: with a port, and not a wildcard."""
    if not isinstance(address, str):
        raise TypeError(f"{setting} must be a str such as '10.0.0.1:7100', not {type(address).__name__}")
    if len(address) > MAX_ADDRESS_CHARACTERS or not address.isprintable():
        raise ConfigError(
            f"{setting} {address[:80]!r}: an address has at most {MAX_ADDRESS_CHARACTERS} printable characters"
        )
    parsed = PeerAddress.parse(address, setting=setting)
    if parsed.port == 0:
        raise ConfigError(f"{setting} {address!r}: other nodes can't dial port 0; give the port at which it listens")
    if is_wildcard(parsed.host):
        raise ConfigError(
            f"{setting} {address!r} means every interface of this machine: other nodes can't dial it. Give an address"
            " or host name at which they reach this node, such as 10.0.0.1:7100; `listen` may stay a wildcard"
        )
    return parsed
