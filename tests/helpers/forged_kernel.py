"""The system's calls for syncs, forged at the last place before the kernel: its answers, and calls of `os`.

Nothing of the project's own code is replaced, so whatever ignores an error is noticed.
"""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from syncline.platform import kernel_sync

__all__ = ["ForgedKernel"]


class ForgedKernel:
    """The kernel's asynchronous syncs. Each sync is made; what is told of it is another matter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error = 0
        """With this each sync ends, if it is set."""
        self.submit_error = 0
        """With this each sync is refused before it begins, if it is set."""
        self.events_error = 0
        """With this the kernel refuses to tell results, if it is set."""
        self.interruptions = 0
        """So many times the kernel is interrupted before it tells a result."""
        library = ctypes.PyDLL(None, use_errno=True)
        real = library.syscall
        real.restype = ctypes.c_long
        _, _, submit, get_events = kernel_sync.SYSCALLS[os.uname().machine]

        def refused(code: int) -> int:
            ctypes.set_errno(code)
            return -1

        def syscall(number: ctypes.c_long, *arguments: object) -> int:
            if number.value == submit and self.submit_error:
                return refused(self.submit_error)
            if number.value == get_events:
                if self.events_error:
                    return refused(self.events_error)
                if self.interruptions:
                    self.interruptions -= 1
                    return refused(errno.EINTR)
            count = int(real(number, *arguments))
            if number.value == get_events and count == 1 and self.error:
                arguments[3][0].result = -self.error  # type: ignore[index]  # the array of events
            return count

        class Library:
            def __init__(self, *_: object, **__: object) -> None:
                self.syscall = syscall

        monkeypatch.setattr(ctypes, "PyDLL", Library)
