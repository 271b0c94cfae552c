"""Comparison of the members' states at intervals, through the log.

Each member keeps the digests of its newest points (`state_digest.py`) and reports them to the leader. The leader
proposes one entry that holds the members' digests at one point. Every node compares when it applies that entry. If a
majority of the voters agrees on one digest, a node whose own digest differs stops, the leader too. If voters differ and
there is no majority, no node stops and all report it.

The entry carries all digests, not only the leader's: a leader with a wrong state must not stop its sound followers.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, NodeId, ProposalDropped, StateType
from syncline.errors import DiskFull, NodeFailed
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.member_registry import MemberRegistry, format_id, members_of
from syncline.node.state_digest import (
    Agreement,
    DigestComparison,
    DigestEntry,
    DigestSource,
    compare,
    decode_digest_entry,
    point_digest,
    registry_digest,
)
from syncline.transport.messages import DIGEST_BYTES, DigestReport

__all__ = ["DigestCallbacks", "DigestStatus", "Digests"]

log: logging.Logger = logging.getLogger("syncline.node")

POINTS_KEPT: Final = 16
"""Digests that a node keeps: a comparison comes some round trips after its point, seldom more than one point later."""

WAIT_ELECTIONS: Final = 2
"""Election timeouts for which a leader waits for more digests before it proposes some that have no majority."""

ALARM_AGAIN_S: Final = 60.0
"""Between two lines in the log about states that differ without a majority."""


class DigestCallbacks(msgspec.Struct, frozen=True):
    """Functions of the node that the comparison uses."""

    send: Callable[[NodeId, DigestReport], bool]
    """Send a report to the leader; False if there is no link."""
    check_space: Callable[[int], object]
    """Raise DiskFull if the disk has no room for an entry of so many bytes."""
    is_alive: Callable[[NodeId], bool]
    """Whether a member was heard within an election timeout."""
    stop: Callable[[NodeFailed], None]
    clock: Callable[[], float]


class DigestStatus(msgspec.Struct, frozen=True):
    """The newest comparison on this node."""

    point: int = 0
    """The index at which states were compared; 0: none since the start."""
    agreement: Agreement = Agreement.NONE
    compared_s: float = -math.inf
    """When, by the clock of the event loop."""


class _Report(msgspec.Struct, frozen=True):
    digest: bytes
    received_s: float


class Digests:
    """The digests of one node's points, and on the leader those of all members."""

    def __init__(
        self,
        core: RawNode,
        book: MemberRegistry,
        callbacks: DigestCallbacks,
        source: DigestSource,
        name: str,
        election_s: float,
        *,
        covers_registry: bool = True,
    ) -> None:
        self._core = core
        self._book = book
        self._callbacks = callbacks
        self._name = name
        self._interval = source.interval
        self._version = source.version
        self._wait_s = 0.0
        self.reload(election_s)
        self._covers_registry = covers_registry
        self._kept: dict[int, bytes] = {}
        self._unsent: dict[int, None] = {}
        self._floor = 0
        """Index of the newest snapshot that a leader sent: the state does not follow from points up to it."""
        self._reports: dict[int, dict[NodeId, _Report]] = {}
        """On the leader: digests of this version by point and member, of the newest `POINTS_KEPT` points."""
        self._in_flight = 0
        self._settled = 0
        """The newest point on which a majority agreed: nothing is compared at it or below it any more."""
        self._split = 0
        """The newest point without a majority that was compared."""
        self._alarm_told_s = -math.inf
        self.status: DigestStatus = DigestStatus()
        self.ignored: int = 0
        """Reports and entries that made no sense and had no effect."""

    # -- on every node ------------------------------------------------------------------------------------------------

    def reload(self, election_s: float) -> None:
        """Have another election timeout."""
        self._wait_s = WAIT_ELECTIONS * election_s

    def passed(self, point: int, machine: bytes | None, sessions: bytes = b"") -> None:
        """The entry at `point` was applied, and nothing behind it. `machine`: None if its digest can't be used."""
        assert point % self._interval == 0, point
        if machine is None or not (machine or self._covers_registry):
            return
        registry = registry_digest(self._book) if self._covers_registry else b""
        self._kept[point] = point_digest(self._version, registry=registry, machine=machine, sessions=sessions)
        while len(self._kept) > POINTS_KEPT:
            del self._kept[next(iter(self._kept))]
        if self._leads:
            self._record(self._core.id, point, self._kept[point])
            self._propose()
        else:
            self._unsent[point] = None
            self._report()

    def applied(self, index: int, data: bytes) -> None:
        """The `DIGEST` entry at `index` was applied: compare. The membership is the one in force at that index."""
        if self._in_flight and index >= self._in_flight:
            self._in_flight = 0
        entry = decode_digest_entry(data)
        if entry is None or entry.point % self._interval or entry.point >= index:
            self.ignored += 1
            log.warning("log entry %d holds digests that can't be read: it has no effect", index)
            return
        if entry.version != self._version:
            return
        digests = entry.by_member()
        comparison = compare(self._core.voters, digests)
        if comparison.agreement is Agreement.AGREED:
            self._settle(entry.point)
            self._examine_own(entry, digests, comparison)
        elif entry.point <= self._settled:
            return  # a majority agreed there before, with more digests
        elif comparison.agreement is Agreement.NO_MAJORITY:
            self._split = max(self._split, entry.point)
        self._note(entry.point, comparison)
        self._propose()

    def restored(self, index: int) -> None:
        """A snapshot that a leader sent was loaded: the state is another one than that of the points before."""
        self._floor = index
        self._kept.clear()
        self._unsent.clear()

    def leader_changed(self) -> None:
        """Report the points that are not settled again, to the leader that there is now."""
        self._reports.clear()
        self._in_flight = 0
        self._unsent = dict.fromkeys(point for point in self._kept if point > self._settled)
        if self._leads:
            for point in self._unsent:
                self._record(self._core.id, point, self._kept[point])
            self._unsent.clear()
        else:
            self._report()

    def tick(self) -> None:
        """Try again what could not be sent or proposed, and look whether a leader has waited long enough."""
        if self._unsent:
            self._report()
        if self._reports:
            self._propose()

    @property
    def alarm(self) -> str:
        """Why the state of this node can't be relied on; empty while nothing is known against it."""
        if self.status.agreement is not Agreement.NO_MAJORITY:
            return ""
        return f"the voters' states differ at log index {self.status.point}, and no majority of them agrees"

    def _examine_own(self, entry: DigestEntry, digests: dict[NodeId, bytes], comparison: DigestComparison) -> None:
        """Stop if this node differs from the majority."""
        me = self._core.id
        if entry.point <= self._floor:
            return
        own = self._kept.get(entry.point)
        if own is None:  # restarted since: what it has reported stands in the entry
            own = digests.get(me, comparison.digest)
        if own == comparison.digest:
            return
        text = (
            f"node {self._name} ({format_id(me)}) has stopped: its state differs from that of the majority of the"
            f" voters at log index {entry.point}. Its state was changed outside the log, its state machine is not"
            " deterministic, or its disk or memory lied. Find out which of these it was. Then run"
            " `syncline repair --replace` on its data directory: it discards this state and takes that of the majority."
        )
        self._callbacks.stop(NodeFailed(text))

    def _note(self, point: int, comparison: DigestComparison) -> None:
        """Keep the result for the status. An alarm ends when a majority agrees on this point or a later one."""
        before = self.status
        if comparison.agreement is Agreement.UNDECIDED or point < before.point:
            return
        now_s = self._callbacks.clock()
        self.status = DigestStatus(point, comparison.agreement, now_s)
        if comparison.agreement is Agreement.NO_MAJORITY:
            if now_s - self._alarm_told_s >= ALARM_AGAIN_S:
                self._alarm_told_s = now_s
                log.critical(
                    "%s. No node stops, because it is not known which state is right. Compare the nodes, and replace"
                    " the wrong ones with `syncline repair --replace`.",
                    self.alarm,
                )
        elif before.agreement is not Agreement.AGREED:
            self._alarm_told_s = -math.inf
            log.info("a majority of the voters has the same state at log index %d", point)

    def _settle(self, point: int) -> None:
        self._settled = max(self._settled, point)
        for old in [held for held in self._reports if held <= self._settled]:
            del self._reports[old]
        for old in [held for held in self._unsent if held <= self._settled]:
            del self._unsent[old]

    def _report(self) -> None:
        """Send to the leader what it was not sent yet."""
        leader = self._core.leader
        if leader in (NONE, self._core.id):
            return
        for point in list(self._unsent):
            if point in self._kept and not self._callbacks.send(leader, self._made(point)):
                return  # tried again with the next tick
            del self._unsent[point]

    def _made(self, point: int) -> DigestReport:
        return DigestReport(point, self._version, self._kept[point])

    # -- on the leader ------------------------------------------------------------------------------------------------

    @property
    def _leads(self) -> bool:
        return self._core.state is StateType.LEADER

    def on_report(self, sender: NodeId, report: DigestReport) -> None:
        """A peer has sent its digest at a point."""
        if not self._leads:
            return  # sent to a leader that has been replaced; it is sent again to the next one
        if (
            sender not in members_of(self._core.membership)
            or len(report.digest) != DIGEST_BYTES
            or not 0 < report.point <= self._core.last_index
            or report.point % self._interval
        ):
            self.ignored += 1
            return
        if report.version != self._version or report.point <= self._settled:
            return
        self._record(sender, report.point, report.digest)
        self._propose()

    def _record(self, member: NodeId, point: int, digest: bytes) -> None:
        self._reports.setdefault(point, {})[member] = _Report(digest, self._callbacks.clock())
        while len(self._reports) > POINTS_KEPT:
            del self._reports[min(self._reports)]

    def _propose(self) -> None:
        """Propose the newest point whose comparison has a result, if no such entry is in flight."""
        if not self._leads or self._in_flight or not self._reports:
            return
        for point in sorted(self._reports, reverse=True):
            if self._ready(point):
                self._append(point)
                return

    def _ready(self, point: int) -> bool:
        """Whether a comparison at `point` is worth an entry now."""
        state = self._core.membership
        members = members_of(state)
        reports = {member: report for member, report in self._reports[point].items() if member in members}
        if len(members) < 2:
            return False  # there is nothing to compare with
        digests = {member: report.digest for member, report in reports.items()}
        comparison = compare(self._core.voters, digests)
        if comparison.agreement is not Agreement.NO_MAJORITY:
            return comparison.agreement is Agreement.AGREED
        if point <= self._split:
            return False  # this point was compared before
        first_s = min(report.received_s for report in reports.values())
        if self._callbacks.clock() - first_s >= self._wait_s:
            return True
        voters = {*state.voters, *state.voters_outgoing} - {self._core.id}
        return all(voter in reports for voter in voters if self._callbacks.is_alive(voter))

    def _append(self, point: int) -> None:
        members = members_of(self._core.membership)
        reports = self._reports[point]
        digests = tuple((member, reports[member].digest) for member in sorted(reports) if member in members)
        data = encode(DigestEntry(point, self._version, digests))
        payload = encode(Proposal(Kind.DIGEST, self._core.id, 0, data))
        with contextlib.suppress(DiskFull, ProposalDropped):  # tried again with the next tick
            self._callbacks.check_space(len(payload))
            self._in_flight, _ = self._core.propose_batch([payload])
