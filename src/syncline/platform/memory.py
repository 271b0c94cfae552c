"""How much memory this process may use: the machine's, or the limit of its control group if that is less."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

__all__ = ["memory_bytes"]

CGROUP_ROOT: Final = "/sys/fs/cgroup"
OWN_GROUPS: Final = "/proc/self/cgroup"
V1_LIMIT: Final = "memory/memory.limit_in_bytes"
UNLIMITED_BYTES: Final = 1 << 62
"""Control groups of version 1 say "none" by a number above it."""


def memory_bytes(root: str = CGROUP_ROOT, own_groups: str = OWN_GROUPS) -> int:
    """The memory that the process may use, in bytes; 0 if the system does not tell."""
    return min(_limits(root, own_groups), default=0)


def _limits(root: str, own_groups: str) -> Iterator[int]:
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if physical > 0:
            yield physical
    yield from _limit_in(f"{root}/{V1_LIMIT}")
    group = _own_group(own_groups)
    while group:  # each group above it limits it too
        yield from _limit_in(f"{root}{group}/memory.max")
        group = group.rpartition("/")[0]
    yield from _limit_in(f"{root}/memory.max")


def _own_group(path: str) -> str:
    """The control group of version 2, such as "/system.slice/a.service"; empty if there is none."""
    for line in _read(path).splitlines():
        if line.startswith("0::"):
            group = line.removeprefix("0::").rstrip("/")
            return "" if "/.." in group else group
    return ""


def _limit_in(path: str) -> Iterator[int]:
    text = _read(path).strip()
    if text.isdigit() and 0 < int(text) < UNLIMITED_BYTES:  # else "max", or no such file
        yield int(text)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # not this kind of system
