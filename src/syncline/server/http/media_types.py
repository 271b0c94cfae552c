"""Media types of bodies, and the weights that `Accept` gives them (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["NOT_NAMED", "is_preferred", "media_type", "weight"]

NOT_NAMED: Final = -1.0
"""The weight of a type that `Accept` does not name. A weight of 0 refuses the type."""

_WEIGHT: Final = re.compile(rb";[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*(?:;|$)", re.IGNORECASE)


def media_type(value: bytes) -> bytes:
    """The type of a `Content-Type`, or of one element of `Accept`, in lower case and without parameters."""
    return value.partition(b";")[0].strip().lower()


def weight(accept: bytes, wanted: bytes) -> float:
    """The weight that `Accept` gives a type which it names, from 0 to 1. One that can't be read is 1."""
    if not accept:
        return NOT_NAMED
    for one in accept.split(b","):
        if media_type(one) == wanted:
            found = _WEIGHT.search(one.rstrip())
            return 1.0 if found is None else float(found[1])
    return NOT_NAMED


def is_preferred(accept: bytes, wanted: bytes, usual: bytes) -> bool:
    """Whether `Accept` names a type, and gives it no less weight than the usual one. `*/*` names none."""
    found = weight(accept, wanted)
    return found > 0 and found >= weight(accept, usual)
