"""Addresses of the peers of a node that does not know the member registry yet, for its next start.

A node that has joined has no log at first, and knows no member: the leader dials it. If it stops and comes back at
another address in that state, the members dial the old one. So it keeps its peers' addresses in the file
`first-peers`, and dials them; its greeting then carries its new address. Once it knows the registry, the file is not
used any more.

The file is a hint: an address proves nothing, and a damaged file counts as empty.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from syncline.consensus.types import NodeId
from syncline.decoding import UNDECODABLE
from syncline.errors import Closed, ConfigError
from syncline.node.calls import Calls
from syncline.node.member_registry import MemberRegistry, format_id, parse_id
from syncline.platform.disk import Disk
from syncline.storage.atomic_file import read_file, replace_file
from syncline.storage.datadir import FIRST_PEERS_NAME
from syncline.transport.candidates import dialable
from syncline.transport.handshake import Hello

__all__ = ["MAX_FIRST_PEERS", "FirstPeers"]

log: logging.Logger = logging.getLogger("syncline.node")

MAX_FIRST_PEERS = 16
"""Peers that are kept, the newest ones. Each costs a link at the next start; without a secret any program may greet."""

LIMIT_BYTES = 64 << 10
"""No valid file is larger: an address has some 250 bytes."""


class FirstPeers:
    """Addresses by node id. `known` are those of earlier starts; empty if the file is damaged or absent."""

    def __init__(self, book: MemberRegistry, writer: Calls, disk: Disk, path: str) -> None:
        self._book = book
        self._writer = writer
        self._disk = disk
        self._file = f"{path}/{FIRST_PEERS_NAME}"
        self.known: dict[NodeId, str] = _read(disk, self._file)

    def greeted(self, hello: Hello) -> None:
        """A peer was admitted. Its address is recorded if this node knows no members yet."""
        if self._book.members or not hello.address or self.known.get(hello.sender) == hello.address:
            return
        try:
            dialable(hello.address)
        except ConfigError:
            return  # the transport warns of it
        self.known.pop(hello.sender, None)
        self.known[hello.sender] = hello.address
        while len(self.known) > MAX_FIRST_PEERS:
            del self.known[next(iter(self.known))]
        content = msgspec.json.encode({format_id(peer): address for peer, address in self.known.items()})
        self._writer.start(lambda: replace_file(self._disk, self._file, content)).add_done_callback(self._written)

    def _written(self, call: asyncio.Future[None]) -> None:
        error = None if call.cancelled() else call.exception()
        if error is not None and not isinstance(error, Closed):
            log.warning("the addresses of the first peers could not be written to %s: %s", self._file, error)


def _read(disk: Disk, file: str) -> dict[NodeId, str]:
    if not disk.exists(file):
        return {}
    try:
        held = msgspec.json.decode(read_file(disk, file, limit_bytes=LIMIT_BYTES), type=dict[str, str])
        found = {parse_id(peer): address for peer, address in list(held.items())[:MAX_FIRST_PEERS]}
        for address in found.values():
            dialable(address)
    except (*UNDECODABLE, ValueError, ConfigError) as error:
        log.warning("%s is damaged, and counts as none: %s", file, error)
        return {}
    return found
