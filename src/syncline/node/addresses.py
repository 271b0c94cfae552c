"""Addresses at which members may be dialled besides the registry's, and updates of the registry.

- `peers` of a later start are hints, by name. A node that knows no members yet takes the names for initial members.
- Hints by id come from the program around the node: a server asks the members at `--join`.
- A node that knows no members dials the peers of earlier starts (`first_peers`).
- A member that moved announces its new address to each peer that it reaches. If it does not reach the leader, a peer
  with a link to it at this address updates the registry. Then the leader can dial it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.types import NodeId
from syncline.node.envelope import MemberRecord
from syncline.node.member_registry import MemberRegistry, derive_node_id
from syncline.storage.datadir import Identity
from syncline.transport.candidates import dialable
from syncline.transport.messages import PeerAddress
from syncline.transport.peers import Transport

__all__ = ["Addresses"]

log: logging.Logger = logging.getLogger("syncline.node")

MAX_HINTED: Final = 64
"""Nodes with a hint; each costs a link that is dialled."""

GRACE_LOOKS: Final = 4
"""Checks to wait for a moved member's own announcement, or for a member that was just added."""

Update = Callable[[MemberRecord], None]
"""Proposes that the registry takes the address of this record."""


class Addresses:
    """Address hints of one node, and addresses of others that its links have found."""

    def __init__(
        self,
        hints: dict[str, str],
        first_peers: dict[NodeId, str],
        identity: Identity,
        book: MemberRegistry,
        transport: Transport,
        update: Update,
    ) -> None:
        """`first_peers` are addresses of peers from earlier starts, for a node that knows no members."""
        self._first_peers = dict(first_peers)
        self._named = {name: dialable(text) for name, text in hints.items() if name != identity.name}
        self._identity = identity
        self._book = book
        self._transport = transport
        self._update = update
        self._hinted: dict[NodeId, PeerAddress] = {}
        self._elsewhere: dict[NodeId, int] = {}
        """Members that answer at another address than the registry's, and for how many checks."""
        self._looks_with_leader = 0

    def hint(self, peer: NodeId, address: str) -> None:
        """Dial `peer` at `address` too. Raises `ConfigError` if it is no address."""
        where = dialable(address)
        if peer == self._identity.node_id or (peer not in self._hinted and len(self._hinted) >= MAX_HINTED):
            return
        self._hinted[peer] = where
        self._transport.suggest_peer(peer, where)

    def look(self, *, leader_known: bool) -> None:
        """Use hints for members whose names have become known; update the registry if a member needs it."""
        for name, address in self._named.items():
            peer = self._peer_named(name)
            if peer is not None and self._hinted.get(peer) != address:
                self.hint(peer, str(address))
        if not self._book.members:
            while self._first_peers:
                self.hint(*self._first_peers.popitem())
            return
        for peer in [known for known in self._hinted if known not in self._book.members]:
            del self._hinted[peer]
            self._transport.remove_peer(peer)
        if leader_known:
            self._looks_with_leader += 1
            if self._looks_with_leader == GRACE_LOOKS:
                self._warn_of_strangers()
            self._update_moved()

    def _peer_named(self, name: str) -> NodeId | None:
        for member in self._book.members.values():
            if member.name == name:
                return member.id
        return None if self._book.members else derive_node_id(self._identity.cluster_id, name)

    def _warn_of_strangers(self) -> None:
        names = {member.name for member in self._book.members.values()}
        strangers = sorted(self._named.keys() - names)
        if strangers:
            log.warning(
                "the initial members in the settings name %s, which the cluster does not know: they make the cluster at"
                " its first start only. To add a node, start it with `syncline serve --join`, or `syncline member add`"
                " it first; in a program use `Raft.join` or `add_learner`.",
                ", ".join(strangers),
            )

    def _update_moved(self) -> None:
        for peer, member in self._book.members.items():
            address = self._transport.confirmed_address(peer)
            if address is None or str(address) == member.address or not member.address:
                self._elsewhere.pop(peer, None)
                continue
            self._elsewhere[peer] = self._elsewhere.get(peer, 0) + 1
            if self._elsewhere[peer] > GRACE_LOOKS:
                self._elsewhere[peer] = 0
                self._update(msgspec.structs.replace(member, address=str(address)))
