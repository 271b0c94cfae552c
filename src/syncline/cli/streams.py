"""The standard streams of the command: closed, full or broken ones must not change what is told of an operation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["acknowledged", "say", "silence"]


@contextmanager
def acknowledged() -> Iterator[None]:
    """Print the result of a change that the cluster has acknowledged.

    If the output can't be written (a full disk, a closed pipe), the change is done all the same: a warning says so, and
    the command does not fail.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        reason = error.strerror or type(error).__name__
        say(f"syncline: done; the result could not be printed: {reason}")


def say(line: str) -> None:
    """A line on the error output. If it can't be written, nothing is: the exit status has to do."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Send what a stream still holds, and all that comes, to the null device: its own target takes no more."""
    device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(device, stream.fileno())
    os.close(device)
