"""Unpredictable random bytes from the operating system."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Entropy", "system_entropy"]

Entropy: TypeAlias = Callable[[int], bytes]
"""Returns that many random bytes. The simulator takes them from its seed, so that a run can be repeated."""


def system_entropy(count: int) -> bytes:
    """Return `count` random bytes of the operating system."""
    return os.urandom(count)
