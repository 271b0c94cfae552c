"""The node's decisions about peers, which the transport asks for in each handshake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from syncline.consensus.types import NodeId
from syncline.transport.handshake import Hello, Welcome
from syncline.transport.messages import Refusal

__all__ = ["PeerPolicy"]


def _welcome_all(_hello: Hello) -> None:
    """Welcome each node of the cluster, also one that this node does not know: it may learn of members later."""


def _nothing_before(_hello: Hello) -> None:
    """Welcome a node at once."""


def _dial_all(_welcome: Welcome) -> None:
    """Accept each peer that answers a dial."""


def _no_name(_peer: NodeId) -> str:
    return ""


def _no_directory(_peer: NodeId) -> int:
    return 0


def _no_levels() -> tuple[int, int]:
    return 0, 0


class PeerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The node's part of the handshakes. The defaults admit and dial every node of the cluster."""

    refuse_peer: Callable[[Hello], Refusal | None] = _welcome_all
    """Why an incoming connection is refused, or None. The other end gets to see it."""
    before_welcome: Callable[[Hello], asyncio.Future[None] | None] = _nothing_before
    """Work that must be done before a dialler is welcomed, or None: a durable note of its start."""
    why_not_dial: Callable[[Welcome], str | None] = _dial_all
    """A reason to leave a peer that has answered a dial, or None."""
    known_directory: Callable[[NodeId], int] = _no_directory
    """The id of a peer's data directory; 0: not known. A peer that answers with another one is refused."""
    known_name: Callable[[NodeId], str] = _no_name
    """The name that a peer's certificate must hold; empty: not known."""
    known: Callable[[NodeId], bool] | None = None
    """Whether an id is that of a member, so that it may stand in forwarded requests. None: those with a link are."""
    cluster_levels: Callable[[], tuple[int, int]] = _no_levels
    """The cluster's feature level and machine version, for the greetings."""
