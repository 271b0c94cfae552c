"""Checks of the arguments of `Raft`'s methods, before anything is queued.

A wrong type raises TypeError, a wrong value ConfigError. The text names the argument, the given value and the
accepted ones. An unchecked argument would be replicated, and would stop every node.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from syncline.consensus.types import ChangeType, NodeId
from syncline.errors import ConfigError
from syncline.node.config import Config
from syncline.node.events import EventKind
from syncline.node.naming import check_id

__all__ = [
    "MAX_TIMEOUT_S",
    "check_changes",
    "check_config",
    "check_expected",
    "check_term",
    "check_timeout",
    "checked_bytes",
    "checked_commands",
    "checked_flag",
    "checked_kinds",
]

MAX_TIMEOUT_S: Final = 3600.0
"""A longer wait is a mistake of units."""


def check_config(config: object) -> None:
    """The settings of a node: checked when they were made, so only their type is left."""
    if not isinstance(config, Config):
        raise TypeError(f"config must be a syncline.Config, not {type(config).__name__}")


def checked_bytes(value: object, name: str = "data") -> bytes:
    """A command, or what travels beside it. A `bytearray` or `memoryview` is copied: its owner may change it later."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    hint = "; encode it first, as in text.encode()" if isinstance(value, str) else ""
    raise TypeError(f"{name} must be bytes, not {type(value).__name__}{hint}")


def checked_commands(commands: object) -> list[bytes]:
    """All commands of one call: none is queued if one of them is wrong."""
    if isinstance(commands, bytes | bytearray | memoryview | str) or not isinstance(commands, Sequence):
        raise TypeError(f"commands must be a sequence of bytes, not {type(commands).__name__}")
    return [checked_bytes(data, f"commands[{place}]") for place, data in enumerate(commands)]


def check_timeout(timeout_s: object) -> float:
    """How long an operation may take, in seconds."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout_s).__name__}")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ConfigError(f"timeout is {timeout_s}: it must be positive and at most {MAX_TIMEOUT_S:.0f} seconds")
    return timeout_s


def check_term(term: object) -> int:
    """The term that fences a proposal; 0 for None, which is not fenced."""
    return 0 if term is None else check_id(term, "term")


def checked_flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return value


def check_expected(value: object) -> int | None:
    """The index of the membership on which a change is conditional, or None."""
    return None if value is None else check_id(value, "expected_index")


def check_changes(changes: object) -> list[tuple[ChangeType, NodeId]]:
    """The changes of `Raft.change_membership`."""
    if isinstance(changes, str | bytes) or not isinstance(changes, Sequence):
        raise TypeError(f"changes must be a sequence of (ChangeType, node id), not {type(changes).__name__}")
    checked: list[tuple[ChangeType, NodeId]] = []
    for place, change in enumerate(changes):
        if not isinstance(change, tuple | list) or len(change) != 2 or not isinstance(change[0], ChangeType):
            raise TypeError(f"changes[{place}] must be a pair of a ChangeType and a node id, not {change!r:.80}")
        kind, node_id = change
        check_id(node_id, f"the node id in changes[{place}]")
        if kind is ChangeType.UPDATE_NODE:
            raise ConfigError(f"changes[{place}] is UPDATE_NODE, an update of an address: call `update_member` for it")
        checked.append((kind, node_id))
    if len({node_id for _, node_id in checked}) != len(checked):
        raise ConfigError("changes names one node twice: give each node one change")
    return checked


def checked_kinds(kinds: object) -> frozenset[EventKind] | None:
    """The kinds of events that a watcher asks for; None: all."""
    if kinds is None:
        return None
    if isinstance(kinds, str) or not isinstance(kinds, Collection) or not all(isinstance(k, EventKind) for k in kinds):
        raise TypeError(f"kinds must be a collection of EventKind, as in {{EventKind.LEADER}}, not {kinds!r:.100}")
    return frozenset(kinds)
