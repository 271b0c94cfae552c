"""The JSON of the HTTP API: one struct for each object, that the server writes and the client reads, or the reverse.

`docs/http.md` is the contract. Fields stand in the order in which they are written. A reader ignores unknown fields,
except in the body of a transaction: there the server refuses them. A field that an older server may leave out has a
default. Bytes are text in `name` if they are UTF-8, else base64 in `name_base64`; of the two one is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from syncline.errors import Outcome

__all__ = [
    "AddReply",
    "Added",
    "BatchBody",
    "BatchReply",
    "CompactBody",
    "CompactReply",
    "CompareItem",
    "ConsoleSettings",
    "Count",
    "CountReply",
    "DeleteItem",
    "DeleteRangeItem",
    "DeleteReply",
    "ErrorAnswer",
    "ErrorBody",
    "ExpectedRevision",
    "GetItem",
    "HealthReply",
    "IncrementItem",
    "IndexReply",
    "KeyBounds",
    "KeyItem",
    "KeyItemPage",
    "LeaderInfo",
    "MaybeBytes",
    "MaybeText",
    "MemberAbility",
    "MemberInfo",
    "Members",
    "MembersReply",
    "NodeStatus",
    "NodeView",
    "Number",
    "OnceItem",
    "OperationItem",
    "PutItem",
    "PutReply",
    "RangeItem",
    "ResultItem",
    "Revision",
    "Sequence",
    "SessionId",
    "SnapshotReply",
    "SnapshotResult",
    "TouchItem",
    "TransferReply",
    "TxnBody",
    "TxnItem",
    "TxnReply",
    "TxnResultBody",
    "UpgradeReply",
    "UpgradeResult",
    "VersionReply",
    "split",
]

_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

MaybeText: TypeAlias = str | UnsetType
MaybeBytes: TypeAlias = Annotated[bytes, msgspec.Meta(extra_json_schema={"pattern": _BASE64})] | UnsetType
"""msgspec reads and writes `bytes` as padded base64."""


# -- the cluster: /raft/…


class LeaderInfo(msgspec.Struct, frozen=True):
    """The leader, and where clients reach it (empty if it announces no HTTP address). `id` is 16 hexadecimal digits.

    A part that is not given is empty: without one of them an error must not lose its code and its outcome.
    """

    id: str = ""
    name: str = ""
    http: str = ""


class MemberInfo(msgspec.Struct, frozen=True):
    """One member. `role` is voter or learner. `match` (its last known log index), `lag` (entries behind the leader)
    and `active` are the leader's view, None when another node answered. `promote`: a learner that becomes a voter once
    it has caught up."""

    id: str
    name: str
    role: str
    peer: str = ""
    http: str = ""
    match: int | None = None
    lag: int | None = None
    active: bool | None = None
    promote: bool = False
    fault: str = ""
    """Why it is not healthy although it answers, as the leader sees it; empty if nothing is known against it."""
    level: int = 0
    """The highest feature level that it can do; 0: it has not told yet."""
    machine_version: int = 0


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """The membership in force on the node that answers. `joint` while a change of several voters is under way."""

    membership_index: int
    joint: bool = False
    leader: LeaderInfo | None = None
    members: tuple[MemberInfo, ...]


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node in its own view. Ids are sixteen hexadecimal digits; `role` is leader, follower, candidate or learner;
    `lag` is how many entries it is behind, as far as it knows."""

    cluster_id: str
    cluster: str = ""
    id: str
    name: str
    role: str
    term: int
    leader: LeaderInfo | None = None
    commit: int
    applied: int
    last_index: int
    first_index: int = 0
    snapshot_index: int = 0
    membership_index: int = 0
    lag: int | None = None
    data_dir: str
    http: str = ""
    peer: str = ""
    last_contact_s: float | None = None
    members: tuple[MemberInfo, ...] = ()
    no_leader: str = ""
    """Why there is none, for people."""
    digest_index: int = 0
    """The log index at which the members' states were compared last; 0: not since the start."""
    digest_agreement: str = "none"
    """`none`, `agreed`, or `no_majority` if the voters' states differ and no node knows which is right."""
    digest_age_s: float | None = None
    level: int = 0
    """The cluster's feature level, as applied here."""
    machine_version: int = 0
    """The cluster's version of the key-value machine, as applied here."""


class NodeStatus(NodeView, frozen=True, kw_only=True):
    """The answer of `/raft/status`: the node's view, and the process around it."""

    pid: int
    version: str = ""
    uptime_s: float = 0.0
    revision: int = 0
    digest: str = ""
    """Of the whole state, 32 hexadecimal digits: nodes at one revision have one digest."""


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """A member after `add`. `added` is false if it belonged to the cluster already, unchanged."""

    added: bool
    cluster_id: str
    cluster: str = ""
    membership_index: int
    member: MemberInfo
    members: tuple[MemberInfo, ...]


class MemberAbility(msgspec.Struct, frozen=True):
    """The highest levels that one member can do; 0: it has not told yet."""

    id: str
    name: str
    level: int
    machine_version: int


class UpgradeResult(msgspec.Struct, frozen=True):
    """The levels of the cluster, as the node that answers has applied them.

    `level` and `machine_version` are the cluster's, the `possible_` ones what all members can do (0 if one has not told
    yet). `held`: they stay until the upgrade is finalized. `hold_level` is the setting of the node that answers.
    """

    level: int
    machine_version: int
    possible_level: int
    possible_machine_version: int
    held: bool
    hold_level: int
    members: tuple[MemberAbility, ...]


class SnapshotResult(msgspec.Struct, frozen=True):
    """A snapshot of the node that was asked. `created` is false if nothing had changed since the newest one."""

    created: bool
    index: int


class MembersReply(Members, frozen=True, kw_only=True, tag_field="status", tag="success"):
    """The membership after a change."""


class AddReply(Added, frozen=True, kw_only=True, tag_field="status", tag="success"):
    """The answer of `POST /raft/add`."""


class TransferReply(msgspec.Struct, frozen=True, tag_field="status", tag="success"):
    """The answer of `POST /raft/transfer`."""

    leader: LeaderInfo | None


class SnapshotReply(SnapshotResult, frozen=True, tag_field="status", tag="success"):
    """The answer of `POST /raft/snapshot`."""


class UpgradeReply(UpgradeResult, frozen=True, tag_field="status", tag="success"):
    """The answer of `POST /raft/upgrade`."""


# -- operations


class HealthReply(msgspec.Struct, omit_defaults=True):
    """The answer of `/health`, in etcd's form."""

    health: Literal["true", "false"]
    reason: str
    warnings: list[str] = []


class VersionReply(msgspec.Struct, omit_defaults=True):
    """The answer of `/version`. The versions of etcd are there if its clients are served: those of its interface."""

    syncline: str
    api: int
    etcdserver: str = ""
    etcdcluster: str = ""


class IndexReply(msgspec.Struct):
    """The answer of `/`."""

    syncline: str
    name: str
    routes: list[str]


class ConsoleSettings(msgspec.Struct, kw_only=True):
    """The answer of `/console-settings`. `lab`: the URL of the door of `syncline up`; empty: there is none."""

    name: str
    mode: Literal["on", "read-only", "off"]
    lab: str = ""


# -- errors


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """An error. The server always gives the outcome; without one it is unknown."""

    code: str
    message: str
    outcome: Outcome | None = None
    details: Mapping[str, int | str] | None = None
    leader: LeaderInfo | None = None


class ErrorAnswer(msgspec.Struct):
    """The body of an answer above 299."""

    error: ErrorBody


# -- single keys


class PutReply(msgspec.Struct, tag_field="status", tag="success", omit_defaults=True):
    """The answer of a write. `lease`: the key's own lease (16 hexadecimal digits), if it was written with a TTL."""

    revision: int
    lease: str = ""


class DeleteReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of a deletion. `deleted` is false if there was no such key."""

    deleted: bool
    revision: int


# -- listings: GET /keys


class KeyItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A key in a page, or in the answer of a transaction or batch. `lease` is 16 hexadecimal digits."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    url: str = ""
    mod_revision: int
    create_revision: int
    version: int
    size_bytes: int | UnsetType = UNSET
    lease: MaybeText = UNSET
    value: MaybeText = UNSET
    value_base64: MaybeBytes = UNSET


class KeyItemPage(msgspec.Struct, kw_only=True):
    """A page of keys. `next` is the `after` of the next page."""

    revision: int
    keys: list[KeyItem] = []
    count: int = 0
    more: bool = False
    next: str | None = None
    next_url: str | None = None


class CountReply(msgspec.Struct):
    """The answer of `GET /keys?count=true`."""

    revision: int
    count: int


# -- operations of transactions and batches: what is asked

Revision: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
ExpectedRevision: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Sequence: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
SessionId: TypeAlias = Annotated[str, Meta(pattern="^[0-9A-Fa-f]{16}$")]
Number: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class CompareItem(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One condition of a transaction: on a key, on the keys from `key` up to `end`, or on those with a prefix."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    end: MaybeText = UNSET
    end_base64: MaybeBytes = UNSET
    prefix: MaybeText = UNSET
    prefix_base64: MaybeBytes = UNSET
    op: str = "=="
    target: str = "mod_revision"
    number: int | UnsetType = UNSET
    value: MaybeText = UNSET
    value_base64: MaybeBytes = UNSET
    lease: MaybeText = UNSET


class OnceItem(msgspec.Struct, kw_only=True):
    """What an operation of a batch takes effect once by: a session's 16 hexadecimal digits, and a sequence in it."""

    session: SessionId | UnsetType = UNSET
    sequence: Sequence | UnsetType = UNSET


class PutItem(OnceItem, tag_field="op", tag="put", forbid_unknown_fields=True, kw_only=True):
    """Write a key. The conditions `if_…` are for batches. `lease` is 16 hexadecimal digits, `ttl` a time."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    value: MaybeText = UNSET
    value_base64: MaybeBytes = UNSET
    lease: MaybeText = UNSET
    ttl: MaybeText = UNSET
    prev: bool = False
    if_revision: ExpectedRevision | UnsetType = UNSET
    if_absent: bool = False
    if_present: bool = False


class DeleteItem(OnceItem, tag_field="op", tag="delete", forbid_unknown_fields=True, kw_only=True):
    """Delete a key."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    prev: bool = False
    if_revision: ExpectedRevision | UnsetType = UNSET
    if_absent: bool = False
    if_present: bool = False


class GetItem(msgspec.Struct, tag_field="op", tag="get", forbid_unknown_fields=True, kw_only=True):
    """Read a key."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    revision: Revision | UnsetType = UNSET


class IncrementItem(OnceItem, tag_field="op", tag="increment", forbid_unknown_fields=True, kw_only=True):
    """Add to a decimal number."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    by: Number = 1
    initial: Number = 0
    prev: bool = False


class TouchItem(OnceItem, tag_field="op", tag="touch", forbid_unknown_fields=True, kw_only=True):
    """Give a key a time to live."""

    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    ttl: str


class KeyBounds(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """A range of keys: by prefix, or from `start` up to and without `end`."""

    prefix: MaybeText = UNSET
    prefix_base64: MaybeBytes = UNSET
    start: MaybeText = UNSET
    start_base64: MaybeBytes = UNSET
    end: MaybeText = UNSET
    end_base64: MaybeBytes = UNSET
    limit: Count = 0


class DeleteRangeItem(KeyBounds, tag_field="op", tag="delete_range", forbid_unknown_fields=True, kw_only=True):
    """Delete the keys of a range. `session` and `sequence` are those of `OnceItem`."""

    session: SessionId | UnsetType = UNSET
    sequence: Sequence | UnsetType = UNSET
    prev: bool = False


class RangeItem(KeyBounds, tag_field="op", tag="range", forbid_unknown_fields=True, kw_only=True):
    """Read the keys of a range."""

    reverse: bool = False
    values: bool = False
    revision: Revision | UnsetType = UNSET


class TxnItem(OnceItem, tag_field="op", tag="txn", forbid_unknown_fields=True, kw_only=True):
    """A transaction inside another one, or in a batch."""

    compare: tuple[CompareItem, ...] = ()
    then: tuple[OperationItem, ...] = ()
    else_: tuple[OperationItem, ...] = msgspec.field(name="else", default=())


class TxnBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /txn`, the outermost transaction: it needs no `op`."""

    compare: tuple[CompareItem, ...] = ()
    then: tuple[OperationItem, ...] = ()
    else_: tuple[OperationItem, ...] = msgspec.field(name="else", default=())


OperationItem: TypeAlias = (
    PutItem | DeleteItem | GetItem | DeleteRangeItem | RangeItem | IncrementItem | TouchItem | TxnItem
)


class BatchBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /batch`."""

    ops: list[OperationItem]


class CompactBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /compact`: the oldest revision that can still be read afterwards."""

    revision: Revision


class CompactReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `POST /compact`."""

    oldest: int


# -- operations of transactions and batches: what is answered


class ResultItem(msgspec.Struct, kw_only=True):
    """The result of one operation. `op` decides which fields are given; in a batch `status` and `error` are added.

    `replayed`: an earlier attempt was carried out, and this is its result. `value` is a number for `increment`. `prev`
    is what a write replaced or deleted: a list for `delete_range`.
    """

    status: int | UnsetType = UNSET
    op: MaybeText = UNSET
    error: ErrorBody | UnsetType = UNSET
    replayed: bool | UnsetType = UNSET
    succeeded: bool | UnsetType = UNSET
    results: list[ResultItem] | UnsetType = UNSET
    found: bool | UnsetType = UNSET
    key: MaybeText = UNSET
    key_base64: MaybeBytes = UNSET
    url: MaybeText = UNSET
    mod_revision: int | UnsetType = UNSET
    create_revision: int | UnsetType = UNSET
    version: int | UnsetType = UNSET
    size_bytes: int | UnsetType = UNSET
    lease: MaybeText = UNSET
    value: str | int | UnsetType = UNSET
    value_base64: MaybeBytes = UNSET
    keys: list[KeyItem] | UnsetType = UNSET
    count: int | UnsetType = UNSET
    deleted: int | UnsetType = UNSET
    more: bool | UnsetType = UNSET
    revision: int | UnsetType = UNSET
    created: bool | UnsetType = UNSET
    prev: KeyItem | list[KeyItem] | UnsetType = UNSET


class TxnReply(msgspec.Struct, kw_only=True, tag_field="status", tag="success"):
    """The answer of `POST /txn`, as the server writes it."""

    succeeded: bool
    revision: int
    results: list[ResultItem]


class TxnResultBody(msgspec.Struct, kw_only=True):
    """The answer of `POST /txn`, as a reader takes it."""

    succeeded: bool
    revision: int
    results: list[ResultItem] = []


class BatchReply(msgspec.Struct, kw_only=True):
    """The answer of `POST /batch`."""

    results: list[ResultItem]


def split(data: bytes) -> tuple[MaybeText, MaybeBytes]:
    """The pair of members that stands for these bytes: one of the two is left out."""
    try:
        return data.decode(), UNSET
    except UnicodeDecodeError:
        return UNSET, data
