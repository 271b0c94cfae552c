"""The standard streams of the command. A closed, full or broken stream must not change the reported result."""

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

    If the output can't be written (a full disk, a closed pipe), the change is done all the same: the command prints a
    warning and does not fail.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        reason = error.strerror or type(error).__name__
        say(f"syncline: done; the result could not be printed: {reason}")


def say(line: str) -> None:
    """Print a line on the error output. If it can't be written it is dropped: the exit status has to do."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Redirect a stream, with its buffered text, to the null device: its own target takes no more."""
    device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(device, stream.fileno())
    os.close(device)
