"""Free ports for tests that start real processes."""

from __future__ import annotations

import os
import random
import socket

__all__ = ["free_block"]

LOWEST, HIGHEST = 20_000, 32_000
"""Below the range that the system takes ports from for outgoing connections, which could come in between."""


def free_block(size: int) -> int:
    """The first of `size` ports in a row on loopback, of which a few at either end are seen to be free."""
    rng = random.Random(os.getpid() * 7919 + random.SystemRandom().randrange(1 << 30))
    while True:
        first = rng.randrange(LOWEST, HIGHEST - size)
        if all(_is_free(port) for port in {*range(first, first + size, 100), *_ends(first, size)}):
            return first


def _ends(first: int, size: int) -> set[int]:
    return {port for port in (*range(first, first + 6), *range(first + size - 6, first + size)) if port >= first}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
