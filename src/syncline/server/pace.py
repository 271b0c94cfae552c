"""The least rate of a slow line, in both directions.

A limit on the whole time of a body would refuse 1 MiB at 25 kB/s. So the limit is on each part of a transfer: what the
least rate moves in the limit's time. A client that moves a part in time has another such time for the next one.
"""

from __future__ import annotations

from syncline.server.limits import HttpLimits

__all__ = ["parts_left", "parts_read"]


def parts_read(limits: HttpLimits, wire_bytes: int) -> int:
    """How many parts of a body have come."""
    return int(wire_bytes / (limits.least_bytes_per_s * limits.body_timeout_s))


def parts_left(limits: HttpLimits, unsent_bytes: int) -> int:
    """How many whole parts of the answers in the send buffer the client has not taken yet."""
    return int(unsent_bytes / (limits.least_bytes_per_s * limits.write_timeout_s))
