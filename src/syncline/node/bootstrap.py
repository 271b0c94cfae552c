"""A cluster's first start, and members that come back without their data.

A member's vote and its acknowledgements are promises, kept in its data directory. One that comes up with an emptied
directory under its old id has forgotten them, and a second vote in one term, or an entry that it acknowledged and no
longer has, breaks what Raft proves. So each data directory has an id of its own, which travels in every handshake, and
nobody who counts a member's promises takes them from another directory:

- Members know each other's directories by the log (`Member.directory`): announced once, never changed, and known before
  a learner is made a voter.
- When a cluster starts there is no log yet. A founder with a new directory neither votes nor acknowledges until every
  other founder has welcomed it, all at one time; then it writes down whose directories those were, and takes part. A
  founder that has done so refuses others that come with another directory. So one whose data was lost can't pass: those
  with whom it ever made a decision have it in writing. Only if all have lost everything is it a new cluster.

All founders must be up once, in any order: fewer can't tell a first start from a lost disk. etcd asks the peers that it
reaches, and goes on without the others.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from syncline.consensus.types import NodeId
from syncline.errors import RepairNeeded
from syncline.node.member_registry import format_id, members_of
from syncline.node.proposals import NO_QUORUM
from syncline.node.refusals import is_believed
from syncline.node.starts.guard import older_copy_text
from syncline.transport.messages import Refusal, RefusalCode

if TYPE_CHECKING:
    from syncline.node.runtime import Driver
    from syncline.transport.handshake import Hello

__all__ = ["DISOWNED", "Founding"]

log: logging.Logger = logging.getLogger("syncline.node")

DISOWNED = "its data directory is not the one that the cluster knows it by"
"""What a member is told that comes back without its data."""

MAX_DOUBTING = 64
"""Nodes whose word is kept at a first start, when anyone is believed."""

TELL_S = 10.0
"""Between two words on what a first start waits for."""


class Founding:
    """Whose data directory is whose, as one node knows it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._tell_s = driver.loop.time() + TELL_S / 2
        self.waiting: bool = driver.parts.identity.founding
        """Whether this is a first start, and some founder was not heard yet: the node takes no part until then."""

        self._doubting: dict[NodeId, None] = {}
        """Members that know this node by another data directory."""

    def known_directory(self, peer: NodeId) -> int:
        """The id of a member's data directory; 0: not known."""
        member = self._driver.parts.book.members.get(peer)
        return (member.directory if member is not None else 0) or self._driver.parts.identity.founders.get(peer, 0)

    def refuse(self, hello: Hello) -> Refusal | None:
        """Why this dialler may not connect, judged by its directory and by what it knows of ours."""
        if self.known_directory(hello.sender) not in (0, hello.directory):
            reason = f"node {format_id(hello.sender)} is refused: {DISOWNED}"
            return Refusal(reason, RefusalCode.DIRECTORY)
        if hello.known not in (0, self._driver.parts.identity.directory_id):
            self._note_doubt(hello.sender)
            return Refusal(f"node {format_id(hello.to)} has lost the data directory that it is known by")
        self._doubting.pop(hello.sender, None)
        return None

    def _note_doubt(self, sender: NodeId) -> None:
        """A dialler knows this node by another data directory. One alone may be mistaken, or lie."""
        members = members_of(self._driver.core.raft.tracker.configuration.state())
        if self.waiting or not members or sender in members:
            self._doubting[sender] = None
            self._driver.loop.call_soon(self.look_for_doubts)
        while len(self._doubting) > MAX_DOUBTING:
            del self._doubting[next(iter(self._doubting))]

    def look_for_doubts(self, refused_by: Collection[NodeId] = ()) -> None:
        """Stop the node if a quorum of the members knows it by another data directory.

        They said so in their greetings, or (`refused_by`) when they refused this node. At a first start the node has
        taken no part yet and its disk holds nothing: one word is enough.
        """
        core = self._driver.core.raft
        voices = {*self._doubting, *refused_by}
        known, nothing_to_lose = core.tracker.configuration.state(), self.waiting or not core.log.last_index
        if is_believed(voices, known, core.id, nothing_to_lose=nothing_to_lose):
            self.disowned()

    def disowned(self) -> None:
        """The members know this node by another data directory."""
        driver = self._driver
        name, node_id = driver.config.name, format_id(driver.core.raft.id)
        path = driver.config.data_dir
        driver.fail(
            RepairNeeded(
                f"node {name} ({node_id}) has lost its data: {path} is not the directory that its cluster knows it by."
                " What it voted for and acknowledged is forgotten, so it must not go on under its old id. Put the old"
                f" directory back, if it is as the node left it; or have the cluster replace the node:"
                f" `syncline repair --replace --data-dir {path}`."
            )
        )

    def convict(self) -> None:
        """Stop this node, whose data directory is an older copy, and mark it so that no node starts on it."""
        driver = self._driver
        if driver.stopped:
            return
        text = older_copy_text(driver.config.name, driver.core.raft.id, driver.config.data_dir)
        identity = msgspec.structs.replace(driver.parts.identity, older_copy=True)
        try:
            driver.parts.directory.write_identity(identity)  # at the node's end, so it may be done on the loop
        except OSError as error:
            log.error("the data directory could not be marked as an older copy: %s", error)
        driver.fail(RepairNeeded(text))

    def look(self, now_s: float) -> None:
        """While waiting, with every tick: is everybody there now?"""
        driver, parts = self._driver, self._driver.parts
        if not driver.applied or driver.applied < driver.core.commit_index:
            return  # the first entries, which say who the founders are, are being applied
        met = self._met()
        if None in met.values():
            if now_s >= self._tell_s:
                self._tell_s = now_s + TELL_S
                log.warning("no leader yet: %s", self.why_no_leader())
            return
        founders = {peer: directory for peer, directory in met.items() if directory}
        # Once in a cluster's life, before anybody counts on this node: so it may be done here, on the loop.
        parts.directory.write_identity(msgspec.structs.replace(parts.identity, founding=False, founders=founders))
        assert parts.directory.identity is not None
        parts.identity = parts.directory.identity
        self.waiting = False
        log.info("all founders have met: node %s takes part from now on", driver.config.name)

    def why_no_leader(self) -> str:
        """For people."""
        if not self.waiting:
            return NO_QUORUM
        absent = ", ".join(self._absent(peer) for peer, directory in self._met().items() if directory is None)
        return f"at the cluster's first start all its members must be up once; waiting for {absent or 'its log'}"

    def _absent(self, peer: NodeId) -> str:
        parts = self._driver.parts
        member, link = parts.book.members[peer], parts.transport.stats().get(peer)
        error = f" ({link.last_error})" if link is not None and link.last_error else ""
        return f"{member.name} at {member.address}{error}"

    def _met(self) -> dict[NodeId, int | None]:
        """The other founders, and the directories with which those that are there have welcomed this node."""
        parts = self._driver.parts
        others = [peer for peer in parts.book.members if peer != parts.identity.node_id]
        return {peer: parts.transport.directory_of(peer) for peer in others}
