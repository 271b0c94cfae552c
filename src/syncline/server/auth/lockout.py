"""Wrong passwords: after some of them a user waits before another one is looked at, from the same address alone.

The wait doubles and ends after a minute at most. So no host can lock a user out elsewhere, or for good. Tokens, and
passwords that were checked before, don't wait.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from syncline.server.http.networks import network_of

__all__ = ["LockOut"]

FREE_FAILURES: Final = 5
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
FORGOTTEN_S: Final = 900.0
"""After this time without a failure the earlier ones count no more."""
MAX_ENTRIES: Final = 4096


class _Failures(msgspec.Struct, eq=False, gc=False):
    count: int
    last_s: float
    until_s: float


class LockOut:
    """The latest failures, by user and address."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait_s(self, user: str, address: str, now_s: float) -> float:
        """How long this user has to wait at this address; 0: not at all."""
        found = self._failures.get((user, network_of(address)))
        return 0.0 if found is None else max(0.0, found.until_s - now_s)

    def failed(self, user: str, address: str, now_s: float) -> bool:
        """Count a wrong password. Returns whether the user has to wait now."""
        key = (user, network_of(address))
        found = self._failures.pop(key, None)
        if found is None or now_s - found.last_s > FORGOTTEN_S:
            found = _Failures(0, now_s, 0.0)
        found.count, found.last_s = found.count + 1, now_s
        beyond = found.count - FREE_FAILURES
        if beyond >= 0:
            found.until_s = now_s + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(beyond, 16))
        self._failures[key] = found
        while len(self._failures) > MAX_ENTRIES:
            self._failures.popitem(last=False)
        return beyond >= 0

    def succeeded(self, user: str, address: str) -> None:
        """The right password: the earlier failures count no more."""
        self._failures.pop((user, network_of(address)), None)
