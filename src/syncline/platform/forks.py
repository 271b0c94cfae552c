"""What happens in forked children of the program: the lock of a data directory and sockets are closed there.

A child that outlives a killed node would hold its lock and its port, and its peers would not see the connections end.
The list belongs to the process, as the descriptors do. It has weak references to the objects that are open.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable
from typing import Final, Protocol

__all__ = ["Forked", "Inherited", "call_in_child", "forget_in_child"]


class Inherited(Protocol):
    """Has descriptors that a child inherits."""

    def descriptors(self) -> Iterable[int]:
        """The descriptors that are open now. Called in the child."""
        ...


class Forked(Protocol):
    """Starts over in a child."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


_inherited: Final[weakref.WeakSet[Inherited]] = weakref.WeakSet()
_called: Final[weakref.WeakSet[Forked]] = weakref.WeakSet()


def forget_in_child(holder: Inherited) -> None:
    """From now on close in a forked child what `holder` has open."""
    _inherited.add(holder)


def call_in_child(holder: Forked) -> None:
    """From now on call `holder.forked` in a forked child, once the descriptors are closed."""
    _called.add(holder)


def _in_child() -> None:
    _let_go()
    for holder in list(_called):
        holder.forked()


def _let_go() -> None:
    """Close the descriptors, in the child. The null device takes their numbers, so that later writes to them do no
    harm.
    """
    holders = list(_inherited)
    if not holders:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for holder in holders:
        for descriptor in holder.descriptors():
            with contextlib.suppress(OSError):  # closed meanwhile
                os.dup2(null, descriptor, inheritable=False)
    os.close(null)


os.register_at_fork(after_in_child=_in_child)
