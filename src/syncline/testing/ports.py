"""Free ports on loopback, for tests that start real processes."""

from __future__ import annotations

import os
import random
import socket
import stat
import tempfile

__all__ = ["free_block"]

LOWEST, HIGHEST = 20_000, 32_000
"""Below the range that the system takes ports from for outgoing connections, which could come in between."""

DIGITS = 5


def free_block(size: int) -> int:
    """The first of `size` ports in a row on loopback, of which a few at either end are seen to be free.

    Tests that run side by side get different blocks: a node listens only some time after its test was given the port,
    and its ports look free while it restarts. All processes of this user take the next block in a circle.
    """
    while True:
        first = _next_block(size)
        if all(_is_free(port) for port in {*range(first, first + size, 100), *_ends(first, size)}):
            return first


def _next_block(size: int) -> int:
    """The block that follows the last one that any process of this user was given."""
    import fcntl  # not everywhere, and the rest of the test kit needs no processes

    path = os.path.join(tempfile.gettempdir(), f"syncline-ports-{os.getuid()}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file: remove it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        said = os.pread(descriptor, DIGITS, 0)
        first = int(said) if len(said) == DIGITS and said.isdigit() else random.randrange(LOWEST, HIGHEST)
        if not LOWEST <= first <= HIGHEST - size:
            first = LOWEST
        os.pwrite(descriptor, b"%05d" % (first + size), 0)
    finally:
        os.close(descriptor)
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
