"""Log lines of a node's process, written on a thread so that a slow reader never blocks the node.

The error output may be a pipe that is not read, a file on a full disk, or closed. Lines go to a thread, which writes
them. A line that can't be written, or has too many lines waiting before it, is lost and counted.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from queue import Full, Queue
from typing import Final, TextIO, cast

__all__ = ["DescriptorStream", "ThreadHandler", "keep_standard_descriptors"]

MAX_WAITING: Final = 4096
"""Lines that wait to be written: some hundred kilobytes. A reader that is only slow loses no line of a start."""

CLOSE_S: Final = 1.0
"""How long the end of the process waits for the last lines."""

STANDARD: Final = ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))
"""How a closed descriptor is opened. A write to the standard output fails, so that a command never counts a
lost result as printed. Errors have no other place: the exit status has to do."""


def keep_standard_descriptors() -> None:
    """Open each closed standard descriptor as the null device.

    Otherwise the first socket or file would get such a number, and log lines would be written into it.
    """
    for descriptor, mode in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    # Python has None for a stream whose descriptor was closed.
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")


def _stream(descriptor: int, mode: str) -> TextIO:
    return cast("TextIO", open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


class DescriptorStream:
    """Writes text to a descriptor, without a buffer and its lock: a write that hangs must not hold up the exit."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        """Write all of `text`. Raises `OSError`."""
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def flush(self) -> None:
        """Nothing waits in this object."""


class ThreadHandler(logging.Handler):
    """Formats each record at once, and has `target` write it on a thread."""

    def __init__(self, target: logging.Handler, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        target.setFormatter(logging.Formatter("%(message)s"))
        target.handleError = self._on_error  # type: ignore[method-assign]  # it would write to the broken output
        target.lock = None  # the thread alone uses it; at exit nothing may wait for a write that hangs
        self._target = target
        self._lines: Queue[logging.LogRecord | None] = Queue(MAX_WAITING)
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="syncline-output", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._put(record, self.format(record))
        except Exception:  # noqa: BLE001 - a line that can't be formatted must not stop what it tells of
            self._put(record, f"a line of {record.name} can't be formatted: {record.msg!r}")

    def say(self, line: str) -> None:
        """Write a line as it is."""
        self._put(logging.makeLogRecord({}), line)

    def _put(self, record: logging.LogRecord, line: str) -> None:
        if self._lost and self._lines.qsize() < MAX_WAITING // 2:
            lost, self._lost = self._lost, 0
            self._put(record, f"{lost} {'line' if lost == 1 else 'lines'} before this one could not be written")
        try:
            self._lines.put_nowait(_written_as(record, line))
        except Full:
            self._lost += 1

    def _run(self) -> None:
        while (record := self._lines.get()) is not None:
            self._target.handle(record)

    def _on_error(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging's signature
        self._lost += 1

    def close(self) -> None:
        """Write what waits, for a second at most."""
        try:
            self._lines.put_nowait(None)
        except Full:
            self._lost += 1  # the output is not read: do not wait for it
        else:
            self._thread.join(CLOSE_S)
        super().close()


def _written_as(record: logging.LogRecord, line: str) -> logging.LogRecord:
    """`line` in place of the record's message. What is not UTF-8, such as a path, is shown escaped."""
    shown = line.encode("utf-8", "backslashreplace").decode()
    return logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, shown, None, None)
