"""How much memory the store of one process may take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.kv.machine import KvMachine
from syncline.platform.memory import memory_bytes

__all__ = ["MEMORY_SHARE", "new_machine"]

MEMORY_SHARE: Final = 2
"""Without a limit the store may take one part in so many of the machine's memory: snapshots and messages need more."""


def new_machine(
    *, max_store_bytes: int, history_bytes: int, machine: Callable[..., KvMachine] = KvMachine
) -> KvMachine:
    """An empty machine. `max_store_bytes` 0: a share of the memory."""
    memory = memory_bytes()
    return machine(
        max_bytes=max_store_bytes or memory // MEMORY_SHARE, memory_bytes=memory, history_bytes=history_bytes
    )
