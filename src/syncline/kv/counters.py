"""Numbers in values: decimal text in ASCII, as `Increment` reads and writes it."""

from __future__ import annotations

import re
from typing import Final

from syncline.errors import Rejected
from syncline.kv.commands import LARGEST_NUMBER, LEAST_NUMBER, Increment
from syncline.kv.records import KeyRecord

__all__ = ["MAX_NUMBER_BYTES", "incremented"]

MAX_NUMBER_BYTES: Final = len(str(LEAST_NUMBER))
"""Longest number that is read and written."""

SHOWN_BYTES: Final = 24
"""Of a value that is no number, in the message."""

_NUMBER: Final = re.compile(rb"-?[0-9]{1,19}")


def incremented(command: Increment, record: KeyRecord | None) -> int:
    """The number that the command makes of a key's record.

    Raises `Rejected` (`not_a_number`) if the value is no decimal number, or the sum has more than 64 bits.
    """
    number = command.initial
    if record is not None:
        if len(record.value) > MAX_NUMBER_BYTES or not _NUMBER.fullmatch(record.value):
            raise Rejected(
                f"the value of the key is not a decimal number of at most 64 bits: {_shown(record.value)}",
                code="not_a_number",
                details={"revision": record.mod_revision},
            )
        number = int(record.value)
    total = number + command.by
    if not LEAST_NUMBER <= total <= LARGEST_NUMBER:
        raise Rejected(
            f"{number} + {command.by} is not a number of 64 bits",
            code="not_a_number",
            details={"revision": record.mod_revision if record is not None else 0},
        )
    return total


def _shown(value: bytes) -> str:
    """The beginning of a value, for the message."""
    return ascii(value[:SHOWN_BYTES].decode("utf-8", "replace")) + ("…" if len(value) > SHOWN_BYTES else "")
