"""Checks of the arguments of `Raft`'s methods, before anything is queued.

A wrong type raises TypeError, a wrong value ConfigError. The text names the argument, the given value and the
accepted ones. An unchecked argument would be replicated, and would stop every node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from syncline.consensus.types import ChangeType
from syncline.errors import ConfigError
from syncline.node.config import Config
from syncline.node.events import Event
from syncline.node.naming import check_id, check_name, is_id
from syncline.platform.world import World

__all__ = [
    "MAX_TIMEOUT_S",
    "check_changes",
    "check_config",
    "check_expected",
    "check_term",
    "check_timeout",
    "check_world",
    "checked_bytes",
    "checked_commands",
    "checked_flag",
    "checked_kinds",
    "checked_member",
    "checked_paths",
    "checked_version",
]

MAX_TIMEOUT_S: Final = 3600.0
"""A longer wait is a mistake of units."""

_ENGINE_URL: Final = re.compile(r"[a-z]{2,}:")
"""As `syncline.open` takes it: "raft:cluster.toml", "etcd://10.0.0.1:2379/jobs", "memory:"."""


def check_config(config: object) -> None:
    """The settings of a node: checked when they were made, so only their type is left."""
    if not isinstance(config, Config):
        raise TypeError(f"config must be a syncline.Config, not {type(config).__name__}{_config_hint(config)}")


def _config_hint(given: object) -> str:
    if not isinstance(given, str | os.PathLike):
        return ""
    text = os.fspath(given)
    if isinstance(text, str) and _ENGINE_URL.match(text):
        return ": a URL of an engine is for syncline.open(url, machine)"  # not shown: it may hold a password
    return f": a file is read by syncline.load_config({text!r})"


def check_world(world: object) -> None:
    """What is outside the node, as a test gives it."""
    if not isinstance(world, World):
        raise TypeError(f"world must be a World, not {type(world).__name__}: leave it out but in tests")


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


def checked_version(value: object, name: str) -> int:
    """A machine version or a level, to compare with the one in force."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return value


def checked_paths(paths: object) -> list[str]:
    """Directories of other nodes."""
    if isinstance(paths, str | bytes) or not isinstance(paths, Sequence):
        raise TypeError(f"compare must be a sequence of paths, not {type(paths).__name__}")
    for place, path in enumerate(paths):
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"compare[{place}] must be the path of a data directory, not {type(path).__name__}")
    return [os.fspath(path) for path in paths]


def check_expected(value: object) -> int | None:
    """The index of the membership on which a change is conditional, or None."""
    return None if value is None else check_id(value, "expected_index")


def checked_member(member: object, name: str = "member") -> str | int:
    """A member, by its name or its id."""
    if isinstance(member, str):
        return member if is_id(member) else check_name(member, name)
    if isinstance(member, bool) or not isinstance(member, int):
        raise TypeError(f"{name} must be the name (str) or the id (int) of a node, not {type(member).__name__}")
    return check_id(member, name)


def check_changes(changes: object) -> list[tuple[ChangeType, str | int]]:
    """The changes of `Raft.change_membership`."""
    if isinstance(changes, str | bytes) or not isinstance(changes, Sequence):
        raise TypeError(f"changes must be a sequence of (ChangeType, name or id), not {type(changes).__name__}")
    checked: list[tuple[ChangeType, str | int]] = []
    for place, change in enumerate(changes):
        if not isinstance(change, tuple | list) or len(change) != 2 or not isinstance(change[0], ChangeType):
            raise TypeError(
                f"changes[{place}] must be a pair of a ChangeType and the name or id of a node, not {change!r:.80}"
            )
        kind, member = change[0], checked_member(change[1], f"the member in changes[{place}]")
        if kind is ChangeType.UPDATE_NODE:
            raise ConfigError(f"changes[{place}] is UPDATE_NODE, an update of an address: call `update_member` for it")
        checked.append((kind, member))
    if len({member for _, member in checked}) != len(checked):
        raise ConfigError("changes names one node twice: give each node one change")
    return checked


def checked_kinds(kinds: Sequence[object]) -> list[type[Event]]:
    """The kinds of events that a watcher asks for; none: all."""
    checked: list[type[Event]] = []
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Event):
            raise TypeError(f"kinds must be classes of events, as in events(syncline.LeaderChanged), not {kind!r:.100}")
        checked.append(kind)
    return checked
