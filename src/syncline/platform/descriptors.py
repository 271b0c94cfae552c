"""File descriptors of the process: how many it may have, and what is kept for the node's own files.

Connections of clients are counted against what is left. A node that has none left for its log would have to stop.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final

__all__ = ["NO_DESCRIPTORS", "connection_limit", "raise_limit"]

NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""What the system answers if the process, or the whole machine, has no descriptor left."""

KEPT: Final = 128
"""For files of the log and of snapshots, for connections of peers, and for what the program itself has open."""


def raise_limit() -> None:
    """Let the process have as many descriptors as it may. For programs that are a node's own."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS does not take its own hard limit: the soft one stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit(wanted: int) -> int:
    """How many connections of clients fit: at most `wanted`, with descriptors kept for everything else."""
    try:
        import resource
    except ImportError:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - min(KEPT, soft // 2)))
