"""What a route needs from a client. Each route declares it; there is no default."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.kv.auth.records import ClusterOperation

__all__ = ["ADMIN", "COMPACT", "KEYS", "LEADERSHIP", "MEMBERS", "OPEN", "OWN", "SNAPSHOT", "STATUS", "USER", "Access"]


class Access(msgspec.Struct, frozen=True, eq=False):
    """What a route needs while clients need credentials.

    `operation`: the role must allow it. `admin`: the role `root`. `open`: nothing, not even a credential. `confirmed`:
    the node asks the leader for the newest users before it decides. Of the others the handler decides by the keys that
    a request names; `about` says how.
    """

    about: str
    open: bool = False
    admin: bool = False
    operation: ClusterOperation | None = None
    confirmed: bool = False
    by_keys: bool = False
    """The handler decides, by keys."""


OPEN: Final = Access("Nothing: it is open.", open=True)
USER: Final = Access("A credential of any user.")
KEYS: Final = Access("Read or write on each key and range that the request names, as a whole.", by_keys=True)
OWN: Final = Access("The role `root`, or the user itself.")
ADMIN: Final = Access("The role `root`.", admin=True, confirmed=True)


def _operation(operation: ClusterOperation, *, confirmed: bool) -> Access:
    about = f"The operation `{operation.name.lower()}`."
    return Access(about, operation=operation, confirmed=confirmed)


STATUS: Final = _operation(ClusterOperation.STATUS, confirmed=False)
MEMBERS: Final = _operation(ClusterOperation.MEMBERS, confirmed=True)
LEADERSHIP: Final = _operation(ClusterOperation.LEADERSHIP, confirmed=True)
SNAPSHOT: Final = _operation(ClusterOperation.SNAPSHOT, confirmed=False)
COMPACT: Final = _operation(ClusterOperation.COMPACT, confirmed=False)
