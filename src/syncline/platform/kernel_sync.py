"""The kernel's own way of syncing a file beside its caller: `io_submit` with `IOCB_CMD_FDSYNC` (Linux 4.18 and later).

It takes no thread of ours, which would have to get the interpreter back from the event loop after each sync. (io_uring
would do as well; it is forbidden in most containers.)

The calls are made through `ctypes.PyDLL`, which keeps the interpreter's lock: none of them waits for anything, but for
the one that gives the context back (tens of milliseconds), which is made without the lock and beside the loop. The
kernel copies the request when it is submitted and keeps a reference to the file until the sync has ended; what it
writes then is in memory of its own, and a count in the eventfd. So nothing here is left pointing at memory that Python
has given up, whatever happens to these objects. A context that nobody closes goes with the process.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import sys
from collections.abc import Callable
from ctypes import c_int16, c_int64, c_long, c_uint16, c_uint32, c_uint64
from typing import Final

from syncline.platform.disk import File, OsFile
from syncline.platform.once import start_once

__all__ = ["KernelFlusher", "KernelSync", "open_kernel_sync"]

SYSCALLS: Final = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4), "riscv64": (0, 1, 2, 4)}
"""The numbers of io_setup, io_destroy, io_submit, io_getevents, of 64-bit programs."""

IOCB_CMD_FDSYNC: Final = 3
IOCB_FLAG_RESFD: Final = 1

SHORTAGES: Final = frozenset({errno.EAGAIN, errno.ENOMEM})
"""With what a request is not taken where the kernel has no memory for it just now."""

NOT_OFFERED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""With what a sync ends where the file's system knows no such thing. Anything else is a disk that fails."""


class _Request(ctypes.Structure):
    """`struct iocb` of `linux/aio_abi.h`, on a little-endian machine."""

    _fields_ = (
        ("data", c_uint64),
        ("key", c_uint32),
        ("rw_flags", c_uint32),
        ("opcode", c_uint16),
        ("priority", c_int16),
        ("descriptor", c_uint32),
        ("buffer", c_uint64),
        ("size", c_uint64),
        ("offset", c_int64),
        ("reserved", c_uint64),
        ("flags", c_uint32),
        ("result_descriptor", c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event` of the same."""

    _fields_ = (("data", c_uint64), ("request", c_uint64), ("result", c_int64), ("result2", c_int64))


class KernelSync:
    """One sync at a time. `descriptor` becomes readable when it has ended; `result` then says how."""

    def __init__(self) -> None:
        """Raises OSError where the system has no such thing, or no more of them."""
        numbers = SYSCALLS.get(os.uname().machine)
        if sys.platform != "linux" or numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, "not known how to ask this system for it")
        setup, *others = map(c_long, numbers)
        self._destroy, self._submit, self._get_events = others
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._syscall.restype = c_long
        self.descriptor: int = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._request = _Request(opcode=IOCB_CMD_FDSYNC, flags=IOCB_FLAG_RESFD, result_descriptor=self.descriptor)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._events = (_Event * 1)()
        self._context = ctypes.c_ulong(0)
        self._none, self._one = c_long(0), c_long(1)
        if self._syscall(setup, self._one, ctypes.byref(self._context)) < 0:
            code = ctypes.get_errno()
            os.close(self.descriptor)
            raise _error(code)

    def submit(self, descriptor: int) -> None:
        """Begin to sync what `descriptor` has open. Raises OSError, and then nothing was begun."""
        self._request.descriptor = descriptor & 0xFFFFFFFF
        taken: int = self._syscall(self._submit, self._context, self._one, self._requests)
        if taken != 1:
            raise _error(ctypes.get_errno() if taken < 0 else errno.EAGAIN)

    def result(self) -> int | None:
        """0, or the number of the error with which the sync has ended; None where it has not."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return None
        while True:
            count = self._syscall(self._get_events, self._context, self._none, self._one, self._events, None)
            if count == 1:
                return -int(self._events[0].result)
            if count == 0:
                return None
            if (code := ctypes.get_errno()) != errno.EINTR:
                raise _error(code)

    def wait(self) -> int:
        """Wait for the end of the sync; its result."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        while (result := self.result()) is None:
            poll.poll()
        return result

    def close(self) -> None:
        """Give it back to the system, which takes its time. Waits for a sync that is under way."""
        ctypes.CDLL(None).syscall(self._destroy, self._context)
        os.close(self.descriptor)


def open_kernel_sync(descriptor: int) -> KernelSync | None:
    """A `KernelSync` that has synced what `descriptor` has open, once for trial; None where the system offers none.

    Raises OSError where that sync has failed: it must not be tried again in another way.
    """
    try:
        sync = KernelSync()
    except OSError:  # an old kernel, one that forbids it, or has no more to give
        return None
    try:
        sync.submit(descriptor)
    except OSError:  # the same; nothing was synced, so nothing can have failed
        sync.close()
        return None
    try:
        code = sync.wait()
    except OSError as error:
        sync.close()
        raise OSError(
            error.errno,
            f"the kernel began to sync the log and does not tell the result: io_getevents failed with {error.strerror}."
            " A sandbox that allows io_submit alone does so. Set log_sync to 'thread' (serve --log-sync thread)",
        ) from error
    except BaseException:
        sync.close()
        raise
    if code:
        sync.close()
        if code not in NOT_OFFERED:
            raise _error(code)
        return None
    return sync


class KernelFlusher:
    """Implements `platform.worker.Flusher`. The event loop watches the descriptor."""

    def __init__(self, kernel: KernelSync, done: Callable[[BaseException | None], None]) -> None:
        self._kernel = kernel
        self._done = done
        self._path = ""
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(kernel.descriptor, self._readable)

    def flush(self, file: File) -> None:
        assert isinstance(file, OsFile), "the kernel syncs its own files only"
        assert self._idle.is_set(), "a sync is under way"
        self._idle.clear()
        self._path = file.path
        try:
            self._kernel.submit(file.descriptor)
        except OSError as error:
            if error.errno in SHORTAGES:  # nothing was begun, so it may be made in another way
                syncing = asyncio.wrap_future(start_once("syncline-sync", file.sync), loop=self._loop)
                syncing.add_done_callback(self._synced)
            else:
                self._loop.call_soon(self._ended, error)

    async def close(self) -> None:
        while not self._idle.is_set():
            await self._idle.wait()
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._kernel.descriptor)
            await asyncio.wrap_future(start_once("syncline-sync-end", self._kernel.close))

    def _synced(self, syncing: asyncio.Future[None]) -> None:
        self._ended(syncing.exception())

    def _readable(self) -> None:
        try:
            code = self._kernel.result()
        except OSError as error:
            self._ended(error)
            return
        if code is not None:
            self._ended(OSError(code, os.strerror(code), self._path) if code else None)

    def _ended(self, error: BaseException | None) -> None:
        self._idle.set()
        self._done(error)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
