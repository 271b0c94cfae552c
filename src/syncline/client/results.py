"""Results of the client's calls: plain, frozen data."""

from __future__ import annotations

import msgspec

__all__ = [
    "Added",
    "DeleteResult",
    "KeyInfo",
    "KeyPage",
    "KeyValue",
    "LeaderInfo",
    "MemberAbility",
    "MemberInfo",
    "Members",
    "NodeStatus",
    "OperationResult",
    "PutResult",
    "SnapshotResult",
    "TxnResult",
]


class KeyValue(msgspec.Struct, frozen=True):
    """One key as it was read. `mod_revision` is the revision of its last change, `revision` the store's."""

    key: bytes
    value: bytes
    mod_revision: int
    revision: int


class PutResult(msgspec.Struct, frozen=True):
    """A write: `revision` is the store's after it, and the key's `mod_revision`."""

    revision: int


class DeleteResult(msgspec.Struct, frozen=True):
    """A deletion. `deleted` is false if the key did not exist."""

    deleted: bool
    revision: int


class KeyInfo(msgspec.Struct, frozen=True):
    """One key of a listing. `value` is None if values were not asked for; `lease` is 0 if there is none."""

    key: bytes
    mod_revision: int
    create_revision: int
    version: int
    size_bytes: int
    value: bytes | None = None
    lease: int = 0


class KeyPage(msgspec.Struct, frozen=True):
    """Part of a listing, of one revision. Pass `next` as `after` for the next page; it is None on the last.

    `count` is the number of keys in the whole range.
    """

    revision: int
    items: tuple[KeyInfo, ...]
    count: int
    next: str | None


class OperationResult(msgspec.Struct, frozen=True):
    """The result of one operation of a transaction. `op` decides which fields are set.

    put: `revision`. delete and delete_range: `deleted` (how many). get: `found`, and `key`, `value`, `mod_revision`.
    """

    op: str
    revision: int = 0
    deleted: int = 0
    found: bool = False
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class TxnResult(msgspec.Struct, frozen=True):
    """A transaction: whether its compares held, and the results of the branch that ran."""

    succeeded: bool
    revision: int
    results: tuple[OperationResult, ...]


class LeaderInfo(msgspec.Struct, frozen=True):
    """The leader, and its address for clients (empty if it announces no HTTP address)."""

    id: str
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
    machine_version: int = 0


class Members(msgspec.Struct, frozen=True):
    """The membership. `joint` while a change of several voters is under way."""

    membership_index: int
    members: tuple[MemberInfo, ...]
    joint: bool = False
    leader: LeaderInfo | None = None


class Added(msgspec.Struct, frozen=True):
    """A member after `add`. `added` is false if it belonged to the cluster already, unchanged."""

    added: bool
    cluster_id: str
    membership_index: int
    member: MemberInfo
    members: tuple[MemberInfo, ...]


class MemberAbility(msgspec.Struct, frozen=True):
    """The highest levels that one member can do; 0: not announced yet."""

    id: str
    name: str
    level: int
    machine_version: int


class UpgradeResult(msgspec.Struct, frozen=True):
    """The levels of the cluster, as the node that answers has applied them.

    `level` and `machine_version` are the cluster's, the `possible_` ones what all members can do (0: some not
    announced). `held`: they stay until the upgrade is finalized. `hold_level` is the setting of the node that answers.
    """

    level: int
    machine_version: int
    possible_level: int
    possible_machine_version: int
    held: bool
    hold_level: int
    members: tuple[MemberAbility, ...]


class SnapshotResult(msgspec.Struct, frozen=True):
    """A snapshot of the asked node. `created` is false if nothing had changed since the newest one."""

    created: bool
    index: int


class NodeStatus(msgspec.Struct, frozen=True):
    """One node in its own view. Ids are sixteen hexadecimal digits; `role` is leader, follower, candidate or learner;
    `lag` is how many entries it is behind, as far as it knows; nodes at one `revision` have one `digest` (of the whole
    state). `digest_index` and `digest_agreement` are of the newest comparison of the members' states: `none`, `agreed`,
    or `no_majority` if the voters' states differ and no node knows which is right."""

    cluster_id: str
    id: str
    name: str
    role: str
    term: int
    commit: int
    applied: int
    last_index: int
    pid: int
    data_dir: str
    version: str = ""
    cluster: str = ""
    leader: LeaderInfo | None = None
    first_index: int = 0
    snapshot_index: int = 0
    membership_index: int = 0
    lag: int | None = None
    http: str = ""
    peer: str = ""
    uptime_s: float = 0.0
    revision: int = 0
    digest: str = ""
    last_contact_s: float | None = None
    members: tuple[MemberInfo, ...] = ()
    no_leader: str = ""
    digest_index: int = 0
    digest_agreement: str = "none"
    digest_age_s: float | None = None
    level: int = 0
    machine_version: int = 0
