"""Bootstrap: a cluster's first start, and members that come back without their data.

A member's vote and its acknowledgements are promises, kept in its data directory. A member that starts with an
emptied directory under its old id has lost them. A second vote in one term, or the loss of an acknowledged entry,
breaks Raft's proof. So each data directory has an id of its own, which each handshake carries, and no member takes
promises from another directory:

- Members know each other's directories by the log (`Member.directory`): announced once, never changed, and known
  before
  a learner is made a voter.
- When a cluster starts there is no log yet. An initial member with a new directory neither votes nor acknowledges
  until
  every other initial member has welcomed it, all at one time. Then it records the ids of their directories, and takes
  part. From then on it refuses the others if they come with another directory. So an initial member that lost its
  data
  can't take part: every member that ever took part in a decision with it has recorded its directory id. Only if all
  have lost everything is it a new cluster.

All initial members must be up once, in any order: fewer can't distinguish a first start from a lost disk. etcd asks
the peers that it reaches, and goes on without the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

import msgspec

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NodeId
from syncline.errors import RepairNeeded
from syncline.node.member_registry import MemberRegistry, format_id, members_of
from syncline.node.proposals import NO_QUORUM
from syncline.node.refusals import is_believed
from syncline.node.starts.guard import older_copy_text
from syncline.storage.datadir import DataDir, Identity
from syncline.transport.handshake import Hello
from syncline.transport.messages import Refusal, RefusalCode
from syncline.transport.peers import Transport

__all__ = ["DISOWNED", "Bootstrap"]

log: logging.Logger = logging.getLogger("syncline.node")

DISOWNED = "its data directory is not the one that the cluster knows it by"
"""The refusal of a member that comes back without its data."""

MAX_DOUBTING = 64
"""Nodes whose claims are kept at a first start, when any node is believed."""

TELL_S = 10.0
"""Between two log lines about the members that a first start waits for."""


class Bootstrap:
    """The data directories of the members, as one node knows them, and the bootstrap."""

    def __init__(
        self,
        core: RawNode,
        book: MemberRegistry,
        directory: DataDir,
        transport: Transport,
        *,
        applied: Callable[[], int],
        stopped: Callable[[], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        """`applied` tells how far the state machine is; `fail` stops the node, and `stopped` tells whether it has."""
        self._core = core
        self._book = book
        self._directory = directory
        self._transport = transport
        self._applied = applied
        self._stopped = stopped
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._tell_s = self._loop.time() + TELL_S / 2
        self.waiting: bool = self._identity.founding
        """Whether this is a first start and some initial member is missing: the node takes no part until then."""

        self._doubting: dict[NodeId, None] = {}
        """Members that know this node by another data directory."""

    @property
    def _identity(self) -> Identity:
        """As it is in the data directory now: the end of the first start is written there."""
        identity = self._directory.identity
        assert identity is not None, "a node has an identity from its start on"
        return identity

    def known_directory(self, peer: NodeId) -> int:
        """The id of a member's data directory; 0: not known."""
        member = self._book.members.get(peer)
        return (member.directory if member is not None else 0) or self._identity.founders.get(peer, 0)

    def refuse(self, hello: Hello) -> Refusal | None:
        """The reason to refuse this dialler, by its directory and by the one that it knows of this node; None if
        there is none.
        """
        if self.known_directory(hello.sender) not in (0, hello.directory):
            reason = f"node {format_id(hello.sender)} is refused: {DISOWNED}"
            return Refusal(reason, RefusalCode.DIRECTORY)
        if hello.known not in (0, self._identity.directory_id):
            self._note_doubt(hello.sender)
            return Refusal(f"node {format_id(hello.to)} has lost the data directory that it is known by")
        self._doubting.pop(hello.sender, None)
        return None

    def _note_doubt(self, sender: NodeId) -> None:
        """Record that a dialler knows this node by another data directory. A single peer may be wrong."""
        members = members_of(self._core.membership)
        if self.waiting or not members or sender in members:
            self._doubting[sender] = None
            self._loop.call_soon(self.look_for_doubts)
        while len(self._doubting) > MAX_DOUBTING:
            del self._doubting[next(iter(self._doubting))]

    def look_for_doubts(self, refused_by: Collection[NodeId] = ()) -> None:
        """Stop the node if a quorum of the members knows it by another data directory.

        They reported it in their greetings, or (`refused_by`) when they refused this node. At a first start the node
        has taken no part yet and its disk holds nothing: one report is enough.
        """
        core = self._core
        voices = {*self._doubting, *refused_by}
        nothing_to_lose = self.waiting or not core.last_index
        if is_believed(voices, core.membership, core.id, nothing_to_lose=nothing_to_lose):
            self.disowned()

    def disowned(self) -> None:
        """The members know this node by another data directory."""
        name, node_id = self._identity.name, format_id(self._core.id)
        path = self._directory.path
        self._fail(
            RepairNeeded(
                f"node {name} ({node_id}) has lost its data: {path} is not the directory that its cluster knows it by."
                " Its votes and acknowledgements are lost, so it must not go on under its old id. Put the old"
                f" directory back, if it is as the node left it; or have the cluster replace the node:"
                f" `syncline repair --replace --data-dir {path}`."
            )
        )

    def convict(self) -> None:
        """Stop this node, whose data directory is an older copy, and mark the directory: no node starts on it."""
        if self._stopped():
            return
        identity = msgspec.structs.replace(self._identity, older_copy=True)
        text = older_copy_text(identity.name, self._core.id, self._directory.path)
        try:
            self._directory.write_identity(identity)  # the node ends, so this may block the loop
        except OSError as error:
            text += f" The directory could not be marked as an older copy: {error}"
        self._fail(RepairNeeded(text))

    def look(self, now_s: float) -> None:
        """While waiting, with every tick: check whether all initial members are connected."""
        applied = self._applied()
        if not applied or applied < self._core.commit_index:
            return  # the first entries, which name the initial members, are being applied
        met = self._met()
        if None in met.values():
            if now_s >= self._tell_s:
                self._tell_s = now_s + TELL_S
                log.warning("no leader yet: %s", self.why_no_leader())
            return
        founders = {peer: directory for peer, directory in met.items() if directory}
        # Once in a cluster's life, before any peer depends on this node: so it may block the loop.
        self._directory.write_identity(msgspec.structs.replace(self._identity, founding=False, founders=founders))
        self.waiting = False
        log.info("all initial members are connected: node %s takes part from now on", self._identity.name)

    def why_no_leader(self) -> str:
        """The reason for a missing leader, for people."""
        if not self.waiting:
            return NO_QUORUM
        absent = ", ".join(self._absent(peer) for peer, directory in self._met().items() if directory is None)
        return f"at the cluster's first start all its members must be up once; waiting for {absent or 'its log'}"

    def _absent(self, peer: NodeId) -> str:
        member, link = self._book.members[peer], self._transport.stats().get(peer)
        error = f" ({link.last_error})" if link is not None and link.last_error else ""
        return f"{member.name} at {member.address}{error}"

    def _met(self) -> dict[NodeId, int | None]:
        """The other initial members, and the directories from which the connected ones have welcomed this node."""
        others = [peer for peer in self._book.members if peer != self._core.id]
        return {peer: self._transport.directory_of(peer) for peer in others}
