"""The JSON of the HTTP API about leases. Ids of leases are 16 hexadecimal digits, times are seconds."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta

from syncline.client.schemas import MaybeBytes, MaybeText

__all__ = [
    "MAX_KEPT_LEASES",
    "KeepAliveBody",
    "KeepAliveReply",
    "LeaseBody",
    "LeaseItem",
    "LeaseKey",
    "LeaseListItem",
    "LeasePageReply",
    "LeaseReply",
    "LeaseTimeReply",
    "RevokeReply",
    "TouchReply",
]

MAX_KEPT_LEASES: Final = 1000
"""Leases in one request that keeps them alive."""

LeaseText = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class LeaseBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /lease`: a time such as `30s`; the id, if the caller chooses it."""

    ttl: str
    id: MaybeText = UNSET


class LeaseReply(msgspec.Struct, tag_field="status", tag="success"):
    """A lease that was granted or kept alive, with its full time."""

    id: str
    ttl_s: float


class KeepAliveBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /lease/keepalive`."""

    ids: Annotated[list[LeaseText], Meta(min_length=1, max_length=MAX_KEPT_LEASES)]


class LeaseItem(msgspec.Struct):
    """One lease in an answer. `ttl_s` is its full time."""

    id: str
    ttl_s: float


class KeepAliveReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `POST /lease/keepalive`: the leases with their full time again, and the ids without a lease."""

    leases: list[LeaseItem]
    missing: list[str] = []


class RevokeReply(msgspec.Struct, tag_field="status", tag="success"):
    """A lease that was ended, and how many keys were deleted with it."""

    deleted: int
    revision: int


class LeaseKey(msgspec.Struct, omit_defaults=True):
    """A key of a lease."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET


class LeaseTimeReply(msgspec.Struct):
    """What is left of a lease's time, and its keys. `more`: it has more keys than the answer holds."""

    id: str
    ttl_s: float
    granted_ttl_s: float
    keys: list[LeaseKey]
    more: bool = False


class LeaseListItem(msgspec.Struct):
    """One lease of the list: its full time, and how many keys it has."""

    id: str
    granted_ttl_s: float
    keys: int


class LeasePageReply(msgspec.Struct):
    """A page of the leases, in the order of their ids. `next` is the `after` of the next page; null on the last."""

    revision: int
    leases: list[LeaseListItem]
    count: int
    next: str | None = None


class TouchReply(msgspec.Struct, tag_field="status", tag="success"):
    """A key with its full time: `lease` is its own lease, `revision` the store's."""

    revision: int
    lease: str
    ttl_s: float
