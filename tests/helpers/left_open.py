"""Sockets and files that a block of a test leaves open."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["nothing_left_open"]


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Fail if the block leaves something open that the garbage collector has to close.

    What earlier tests of this process have left is collected before: it would be counted here, depending on the order
    of the tests.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
        caught.clear()
        yield
        gc.collect()
    assert not [str(warning.message) for warning in caught if "unclosed" in str(warning.message)]
