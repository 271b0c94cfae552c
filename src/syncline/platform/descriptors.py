"""File descriptors of the process: the limit, and a share that is kept for the node's own files.

Client connections are counted against the rest. A node without a descriptor for its log would have to stop.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final

__all__ = ["NO_DESCRIPTORS", "connection_limit", "raise_limit"]

NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors of the system if the process, or the whole machine, has no descriptor left."""

KEPT: Final = 192
"""Kept for files of the log and of snapshots, for connections of peers (64 without a proof among them), and for what
the program itself has open."""


def raise_limit() -> None:
    """Raise the process's limit of descriptors as far as the system allows. For a process that only runs a node."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS does not take its own hard limit: the soft one stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit(wanted: int, beside: int = 0) -> int:
    """Return how many client connections fit: at most `wanted`, with descriptors kept for everything else.

    `beside`: other connections of clients, which are not counted in it.
    """
    try:
        import resource
    except ImportError:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - min(KEPT + beside, soft // 2)))
