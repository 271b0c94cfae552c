"""How long a client may take: the least rate of a slow line, in both directions, and when a request is late.

A limit on the whole time of a body would refuse 1 MiB at 25 kB/s. So the limit is on each part of a transfer: what the
least rate moves in the limit's time. A client that moves a part in time has another such time for the next one.
"""

from __future__ import annotations

from syncline.server.http.limits import HttpLimits
from syncline.server.http.parser import BODY, HEADER

__all__ = ["parts_left", "parts_read", "why_late"]


def parts_read(limits: HttpLimits, wire_bytes: int) -> int:
    """How many parts of a body have come."""
    return int(wire_bytes / (limits.least_bytes_per_s * limits.body_timeout_s))


def parts_left(limits: HttpLimits, unsent_bytes: int) -> int:
    """How many whole parts of the answers in the send buffer the client has not taken yet."""
    return int(unsent_bytes / (limits.least_bytes_per_s * limits.write_timeout_s))


def why_late(limits: HttpLimits, phase: int, waited_s: float) -> str:
    """Why a request that has been in this phase of reading for so long without a part of it coming is given up; empty
    if it is not."""
    if phase == HEADER and waited_s > limits.header_timeout_s:
        return f"the header took more than {limits.header_timeout_s:g} s to arrive"
    if phase == BODY and waited_s > limits.body_timeout_s:
        rate = f"{limits.least_bytes_per_s} bytes per second, over {limits.body_timeout_s:g} s"
        return f"the body arrives more slowly than {rate}"
    return ""
