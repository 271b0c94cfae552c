"""What a forked child of the program must not keep: the lock of a data directory, and sockets.

A child that outlives a killed node would hold its lock and its port, and its peers would not see the connections end.
The list belongs to the process, as the descriptors do. It holds what is open and nothing else, by weak references.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable
from typing import Final, Protocol

__all__ = ["Inherited", "forget_in_child"]


class Inherited(Protocol):
    """Has descriptors that a child inherits."""

    def descriptors(self) -> Iterable[int]:
        """Those that are open now. Called in the child."""
        ...


_inherited: Final[weakref.WeakSet[Inherited]] = weakref.WeakSet()


def forget_in_child(holder: Inherited) -> None:
    """From now on a forked child lets go of what `holder` has open."""
    _inherited.add(holder)


def _let_go() -> None:
    """In the child. The numbers stay taken, by the null device: objects that still know them can do no harm."""
    holders = list(_inherited)
    if not holders:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for holder in holders:
        for descriptor in holder.descriptors():
            with contextlib.suppress(OSError):  # closed meanwhile
                os.dup2(null, descriptor, inheritable=False)
    os.close(null)


os.register_at_fork(after_in_child=_let_go)
