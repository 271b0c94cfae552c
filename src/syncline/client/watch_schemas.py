"""The JSON of watches (`GET /watch`): messages as the server writes and the client reads them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from syncline.client.schemas import ErrorBody, MaybeBytes, MaybeText

__all__ = ["ChangeItem", "ProgressItem", "RevisionItem", "ValueItem", "WatchLine", "Watchers", "WatchersReply"]


class ValueItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a key held before a change. `lease` is 16 hexadecimal digits."""

    value: MaybeText = UNSET
    value_base64: MaybeBytes = UNSET
    mod_revision: int
    create_revision: int
    version: int
    lease: MaybeText = UNSET


class ChangeItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One change of one key. `type` is put or delete; a delete has no value, no `create_revision` and no `version`."""

    type: str
    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    value: MaybeText = UNSET
    value_base64: MaybeBytes = UNSET
    create_revision: int = 0
    version: int = 0
    lease: MaybeText = UNSET
    prev: ValueItem | UnsetType = UNSET


class RevisionItem(msgspec.Struct, kw_only=True):
    """All changes of one revision that concern a watch."""

    revision: int
    events: list[ChangeItem]


class ProgressItem(msgspec.Struct):
    """All changes up to this revision were sent."""

    revision: int


class Watchers(msgspec.Struct, frozen=True, kw_only=True):
    """How many watches of the node `name` include a key. A read that waits for the key is a watch, too."""

    name: str
    watches: int


class WatchersReply(Watchers, frozen=True, kw_only=True, tag_field="status", tag="success"):
    """The answer of `/watchers`."""


class WatchLine(msgspec.Struct, kw_only=True):
    """A line of a watch, as a reader takes it: a revision with its events, or progress, or the error that ends it."""

    revision: int = 0
    events: list[ChangeItem] = []
    progress: ProgressItem | None = None
    error: ErrorBody | None = None
