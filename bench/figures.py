"""Single figures of ours, for what no other system is measured at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

Quiet = Callable[[], contextlib.AbstractContextManager[None]]
"""What to hold while something is measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One result. `key` is for the targets, `title` for people."""

    key: str
    title: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done: the whole for a page, less for a quick look."""

    seconds: float = 5.0
    clients: tuple[int, ...] = (1, 16, 64)
    failovers: int = 20
    keys: int = 1_000_000
    files: int = 5_000
    idle_s: float = 10.0
    peers: tuple[str, ...] = ("syncline", "etcd")
    """Systems that watches and leases are measured of."""
    repeats: int = 3
    """Of what is measured in turns."""
