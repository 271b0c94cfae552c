"""Random bytes that no other program can predict, from the operating system."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Entropy", "system_entropy"]

Entropy: TypeAlias = Callable[[int], bytes]
"""Gives that many random bytes. The simulator gives those of its seed instead, so that a run can be repeated."""


def system_entropy(count: int) -> bytes:
    """Return `count` random bytes of the operating system."""
    return os.urandom(count)
