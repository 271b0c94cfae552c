"""Digests of the replicated state at one applied index, and the majority of the voters among them.

A *point* is an applied index that is a multiple of the interval (`DIGEST_INTERVAL`). Two nodes that applied the same
log have the same digest at each point. Everything here is pure: `digests.py` keeps, reports and compares.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from syncline.consensus.quorum import JointConfig, VoteResult
from syncline.consensus.types import NodeId
from syncline.node.envelope import MemberRecord
from syncline.node.fsm import FSM, DigestingFSM
from syncline.node.member_registry import MemberRegistry
from syncline.platform.texts import named_error
from syncline.transport.messages import DIGEST_BYTES

__all__ = [
    "DIGEST_INTERVAL",
    "MACHINE_DIGEST_BYTES",
    "Agreement",
    "DigestComparison",
    "DigestEntry",
    "DigestSource",
    "compare",
    "decode_digest_entry",
    "digest_version",
    "point_digest",
    "registry_digest",
    "room_before_point",
]

log: logging.Logger = logging.getLogger("syncline.node")

DIGEST_INTERVAL: Final = 4096
"""Entries from one point to the next: one small entry and two small messages for so many writes."""

FORMAT: Final = 2
"""Version of the input of `point_digest` and `registry_digest`. Grows with any change of either. From 2 on the table of
sessions is in it."""

MACHINE_DIGEST_BYTES: Final = 64
"""The largest digest of a state machine: as much as SHA-512 gives."""

MAX_MACHINE_VERSION: Final = 2**16 - 1
MAX_POINT: Final = 2**63 - 1
MAX_DIGESTS: Final = 4096
"""Digests in one entry: more than a cluster has members."""


class Agreement(StrEnum):
    """The result of one comparison."""

    NONE = "none"
    """Nothing was compared since the start of this node."""
    AGREED = "agreed"
    """A majority of the voters has one digest."""
    NO_MAJORITY = "no_majority"
    """Voters differ, and no digest has a majority."""
    UNDECIDED = "undecided"
    """The digests that are known do not differ, and they are fewer than a majority."""


class DigestComparison(msgspec.Struct, frozen=True):
    """The result for the voters' digests at one point. `digest` is that of the majority, empty without one."""

    agreement: Agreement
    digest: bytes = b""


class DigestEntry(msgspec.Struct, array_like=True, frozen=True):
    """The data of a log entry of kind `DIGEST`: the members' digests at `point`, all made by one algorithm."""

    point: Annotated[int, msgspec.Meta(gt=0, le=MAX_POINT)]
    version: Annotated[int, msgspec.Meta(gt=0, le=MAX_POINT)]
    digests: Annotated[tuple[tuple[int, bytes], ...], msgspec.Meta(max_length=MAX_DIGESTS)]

    def by_member(self) -> dict[NodeId, bytes]:
        return dict(self.digests)


_entry_decoder = msgspec.msgpack.Decoder(DigestEntry)
_encode = msgspec.msgpack.Encoder(enc_hook=int).encode  # a public `NodeId` is written as the integer that it is


def decode_digest_entry(data: bytes) -> DigestEntry | None:
    """Read the data of a `DIGEST` entry; None if it is malformed, on every node alike. Never raises."""
    try:
        entry = _entry_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError):
        return None
    sound = all(0 < node_id < 2**63 and len(digest) == DIGEST_BYTES for node_id, digest in entry.digests)
    return entry if sound and len(entry.by_member()) == len(entry.digests) else None


def compare(voters: JointConfig, digests: Mapping[NodeId, bytes]) -> DigestComparison:
    """Decide by a majority of the voters, of both halves if the membership is joint. Other members do not count."""
    cast = {digests[voter] for voter in voters.voters if voter in digests}
    for digest in sorted(cast):
        votes = {node_id: held == digest for node_id, held in digests.items()}
        if voters.vote_result(votes) is VoteResult.WON:
            return DigestComparison(Agreement.AGREED, digest)
    return DigestComparison(Agreement.NO_MAJORITY if len(cast) > 1 else Agreement.UNDECIDED)


def room_before_point(index: int, interval: int) -> int:
    """How many entries from `index` on end at the next point at the latest. A batch is not longer than that."""
    return interval - (index - 1) % interval


def digest_version(machine_version: int) -> int:
    """The version of the whole algorithm. Digests of different versions can't be compared."""
    return (FORMAT << 32) + machine_version


def point_digest(version: int, *, registry: bytes, machine: bytes, sessions: bytes = b"") -> bytes:
    """The digest of a node's whole replicated state, from those of its parts."""
    assert len(machine) <= MACHINE_DIGEST_BYTES
    data = _encode((version, registry, sessions, machine))
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def registry_digest(book: MemberRegistry) -> bytes:
    """The digest of the member registry.

    The fields are named one by one: a field that a later version adds to `MemberRecord` changes nothing here until
    `FORMAT` grows.
    """
    data = _encode(
        (
            book.membership_index,
            [_member_fields(book.members[node_id]) for node_id in sorted(book.members)],
            sorted(book.removed),
            (book.levels.level, book.levels.machine_version, book.levels.hold, book.levels.written_by),
        )
    )
    return hashlib.sha256(data).digest()


def _member_fields(member: MemberRecord) -> tuple[object, ...]:
    return (
        member.id,
        member.name,
        member.address,
        member.http,
        member.promote,
        member.directory,
        member.incarnation,
        member.level,
        member.machine_version,
    )


class DigestSource:
    """Asks a state machine for its digest. The first fault disables it: a digest never ends a node by an exception."""

    def __init__(self, fsm: FSM[object], interval: int) -> None:
        assert interval > 1, "an entry that compares digests for each entry would never end"
        self.interval = interval
        """Entries from one point to the next."""
        self._name = type(fsm).__name__
        self._digest: Callable[[], object] | None = None
        self.disabled: bool = False
        """Whether the state machine's digests can't be used. The node then reports and compares none."""
        machine_version: object = 0
        try:  # attributes of a user's class may be properties, which raise what they like
            if isinstance(fsm, DigestingFSM):
                self._digest = fsm.digest
                machine_version = getattr(fsm, "digest_version", 1)
                if type(machine_version) is not int or not 0 < machine_version <= MAX_MACHINE_VERSION:
                    self._disable(f"{self._name}.digest_version is {machine_version!r}, not 1 to {MAX_MACHINE_VERSION}")
        except Exception as error:  # noqa: BLE001 - the user's code
            self._disable(f"{self._name}.digest can't be used: {named_error(error)}")
        self.version: int = digest_version(machine_version if type(machine_version) is int and not self.disabled else 0)

    def take(self) -> bytes | None:
        """The digest of the state as of now: empty without the capability, None if it can't be used."""
        if self.disabled or self._digest is None:
            return None if self.disabled else b""
        try:
            digest = self._digest()
        except Exception as error:  # noqa: BLE001 - the user's code; its state is not in doubt
            self._disable(f"{self._name}.digest raised {named_error(error)}")
            return None
        if isinstance(digest, bytes) and 0 < len(digest) <= MACHINE_DIGEST_BYTES:
            return digest
        if inspect.iscoroutine(digest):
            digest.close()  # never to be awaited: `digest` must be a plain function
        what = f"{len(digest)} bytes" if isinstance(digest, bytes) else type(digest).__name__
        self._disable(f"{self._name}.digest returned {what} and not 1 to {MACHINE_DIGEST_BYTES} bytes")
        return None

    def _disable(self, reason: str) -> None:
        self.disabled = True
        log.warning("this node does not compare its state with the other nodes until it is started again: %s", reason)
