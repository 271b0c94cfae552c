"""Draws sequences of calls: a seed gives always the same one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from syncline.server.etcd.messages import Message
from tests.compat.etcd.differential.auth_calls import AuthCalls
from tests.compat.etcd.differential.calls import KEEP_ALIVE, WATCH, Call, DrawnLease, Revision
from tests.compat.etcd.differential.side import SHORT_LEASE

__all__ = ["sequence"]

Drawn = TypeVar("Drawn")

KEYS: Final = (b"a", b"aa", b"ab", b"b", b"c", b"d", b"\0", b"\xff")
ENDS: Final = (b"", b"\0", b"b", b"c", b"ab", b"a", b"\xff\xff", b"b\0")
VALUES: Final = (b"", b"1", b"2", b"10", b"\0")
LEASES: Final = (7, 8, 9)
LONG_KEY: Final = b"k" * 5000
MOST: Final = 2**63 - 1

LENGTH: Final = 30
"""Calls of one sequence."""


def sequence(seed: int) -> list[Call]:
    """The calls of a seed. Each third seed is about users."""
    rng = random.Random(seed)
    draw = _Draw(rng)
    if seed % 3 == 2:
        auth = AuthCalls(rng, draw.call)
        return [*auth.setup(), *(auth.call() for _ in range(LENGTH))]
    return [draw.call() for _ in range(LENGTH)]


class _Draw:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._writes = 0
        self._drawn = 0
        self._past = 0
        self._short = False
        self._compacted = {0}

    # --- parts

    def _one(self, of: Sequence[Drawn]) -> Drawn:
        return self._rng.choice(of)

    def _perhaps(self, chance: float) -> bool:
        return self._rng.random() < chance

    def _some(self, message: Message, chance: float, **fields: Callable[[], object]) -> Message:
        """Each of the fields with a chance."""
        for name, make in fields.items():
            if self._perhaps(chance):
                message[name] = make()
        return message

    def _yes(self) -> bool:
        return True

    def _revision(self) -> int:
        if self._perhaps(0.06):
            return self._one((-1, 1, MOST))
        return Revision(self._rng.randint(-1, self._writes + 2))

    def _lease(self) -> int:
        if self._drawn and self._perhaps(0.2):
            return DrawnLease(self._rng.randrange(self._drawn))
        return self._one((*LEASES, 99))

    def _key(self) -> bytes:
        return b"" if self._perhaps(0.02) else self._one(KEYS)

    def _bounds(self) -> Message:
        return self._some({"key": self._key()}, 0.65, range_end=lambda: self._one(ENDS))

    # --- calls

    def call(self) -> Call:
        """Any call that needs no user."""
        kinds: tuple[tuple[int, Callable[[], Call]], ...] = (
            (20, lambda: Call("KV/Range", self._range())),
            (22, self._put_call),
            (8, self._delete_call),
            (16, self._txn_call),
            (3, self._compact),
            (10, self._lease_call),
            (14, self._watch),
            (3, self._other),
        )
        [draw] = self._rng.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])
        return draw()

    def _range(self) -> Message:
        message = self._some(
            self._bounds(),
            0.2,
            limit=lambda: self._one((1, 1, 2, 3, 0, -1, MOST)),
            revision=self._revision,
            sort_order=lambda: self._one((0, 1, 2)),  # a number beyond makes etcd 3.4 end; 3.5 refuses it
            sort_target=lambda: self._one((0, 1, 2, 3, 4)),
            serializable=self._yes,
            keys_only=self._yes,
            count_only=self._yes,
        )
        return self._some(
            message,
            0.07,
            min_mod_revision=self._revision,
            max_mod_revision=self._revision,
            min_create_revision=self._revision,
            max_create_revision=self._revision,
        )

    def _put(self) -> Message:
        self._writes += 1
        message = self._some({"key": self._key()}, 0.85, value=lambda: self._one(VALUES))
        self._some(message, 0.2, lease=self._lease)
        self._some(message, 0.3, prev_kv=self._yes)
        self._some(message, 0.08, ignore_value=self._yes, ignore_lease=self._yes)
        if message.get("ignore_value") and self._perhaps(0.8):
            message.pop("value", None)
        if message.get("ignore_lease") and self._perhaps(0.8):
            message.pop("lease", None)
        return message

    def _put_call(self) -> Call:
        message = self._put()
        if self._perhaps(0.01):
            message["value"] = b"v" * (1_600_000)
        return Call("KV/Put", message)

    def _delete(self) -> Message:
        self._writes += 1
        message: Message = {"key": self._key()} if self._perhaps(0.5) else self._bounds()
        return self._some(message, 0.5, prev_kv=self._yes)

    def _delete_call(self) -> Call:
        return Call("KV/DeleteRange", self._delete())

    def _compare(self) -> Message:
        target = self._rng.randrange(5)
        message: Message = {"key": self._key(), "target": target, "result": self._rng.randrange(4)}
        self._some(message, 0.25, range_end=lambda: self._one(ENDS))
        if self._perhaps(0.04):
            target = self._rng.randrange(5)  # the operand of another target
        name = ("version", "create_revision", "mod_revision", "value", "lease")[target]
        operands: tuple[Callable[[], object], ...] = (
            lambda: self._one((0, 1, 2, 3)),
            self._revision,
            self._revision,
            lambda: self._one(VALUES),
            self._lease,
        )
        return self._some(message, 0.93, **{name: operands[target]})

    def _operation(self, depth: int) -> Message:
        kind = self._rng.randrange(10)
        if kind == 0 and depth < 3:
            return {"request_txn": self._txn(depth + 1)}
        if kind < 5:
            return {"request_put": self._put()}
        if kind < 6:
            return {"request_delete_range": self._delete()}
        return {} if self._perhaps(0.01) else {"request_range": self._range()}

    def _txn(self, depth: int = 0) -> Message:
        message: Message = {}
        for name, most, draw in (
            ("compare", 2, self._compare),
            ("success", 3, lambda: self._operation(depth)),
            ("failure", 3, lambda: self._operation(depth)),
        ):
            if parts := [draw() for _ in range(self._rng.randint(0, most))]:
                message[name] = parts
        return message

    def _txn_call(self) -> Call:
        if self._perhaps(0.01):
            many: Message = {"request_range": {"key": b"a", "count_only": True}}
            return Call("KV/Txn", {"success": [many] * self._one((128, 129))})
        return Call("KV/Txn", self._txn())

    def _compact(self) -> Call:
        if self._past:
            return Call("KV/Range", self._range())
        revision = self._revision()
        self._compacted.add(revision)
        return Call("KV/Compact", self._some({}, 0.5, physical=self._yes) | {"revision": revision})

    def _lease_call(self) -> Call:
        match self._rng.randrange(10):
            case 0:
                self._drawn += 1
                return Call("Lease/LeaseGrant", {"TTL": self._one((5000, 6000))})
            case 1 | 2 | 3:
                lease = self._one(LEASES)
                return Call("Lease/LeaseGrant", {"ID": lease, "TTL": self._one((3600, 7200, 9_000_000_000))})
            case 4:
                return Call("Lease/LeaseGrant", {"ID": SHORT_LEASE, "TTL": self._one((9_000_000_001, MOST))})
            case 5:
                return Call("Lease/LeaseRevoke", {"ID": self._one((self._lease(), self._lease(), 0, -1))})
            case 6 | 7:
                return Call(
                    "Lease/LeaseTimeToLive", self._some({"ID": self._one((self._lease(), 0))}, 0.7, keys=self._yes)
                )
            case 8:
                return Call("Lease/LeaseLeases", {})
        return Call(KEEP_ALIVE, {"ID": self._one((self._lease(), self._lease(), 0, -1))})

    def _short_lease(self) -> tuple[str, Message]:
        """Once in a sequence: it ends after 2 s, so it may be there or not when it is granted again."""
        if self._short:
            return "Lease/LeaseLeases", {}
        return "Lease/LeaseGrant", {"ID": SHORT_LEASE, "TTL": self._one((0, -1))}

    def _watch(self) -> Call:
        kind = self._rng.randrange(12)
        if kind == 0:
            return Call(WATCH, {"progress_request": {}})
        if kind <= 2:
            return Call(WATCH, {"cancel_request": {"watch_id": self._one((0, 1, 2, 3, 5))}})
        create = self._bounds()
        self._some(
            create,
            0.3,
            start_revision=self._revision,
            prev_kv=self._yes,
            filters=lambda: [self._one((0, 1)), *([self._one((0, 1))] if self._perhaps(0.2) else [])],
        )
        self._some(create, 0.1, fragment=self._yes, progress_notify=self._yes)
        self._some(create, 0.2, watch_id=lambda: self._one((1, 2, 3, 5)))
        if "start_revision" in create:
            # etcd gives it its events some time later. Until then it must not be cancelled, nor its events compacted.
            # A deletion at the very revision of a compaction is lost in etcd 3.4.
            while create["start_revision"] in self._compacted:
                create["start_revision"] = self._revision()
            self._past += 1
            create["watch_id"] = 100 + self._past
        return Call(WATCH, {"create_request": create})

    def _other(self) -> Call:
        """Calls whose answers have little to compare, and values at the edge."""
        kinds: tuple[tuple[str, Message], ...] = (
            ("Maintenance/Status", {}),
            ("Maintenance/Alarm", {}),
            ("Maintenance/Alarm", {"action": 2, "alarm": 1}),
            ("Maintenance/Hash", {}),
            ("Maintenance/HashKV", {"revision": self._revision()}),
            ("Maintenance/MoveLeader", {"targetID": 7}),
            ("Cluster/MemberList", {}),
            ("Cluster/MemberList", {"linearizable": True}),
            ("Cluster/MemberRemove", {"ID": 7}),
            ("Cluster/MemberPromote", {"ID": 7}),
            ("Cluster/MemberUpdate", {"ID": 7, "peerURLs": ["http://127.0.0.1:1"]}),
            ("Cluster/MemberAdd", {"peerURLs": ["nothing"]}),
            ("KV/Range", {"key": LONG_KEY}),
            self._short_lease(),
            self._short_lease(),
            ("Auth/AuthEnable", {}),
            ("Auth/Authenticate", {"name": "root", "password": "x"}),
        )
        name, message = self._one(kinds)
        self._short = self._short or message.get("ID") == SHORT_LEASE
        return Call(name, message)
