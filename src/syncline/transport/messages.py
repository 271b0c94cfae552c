"""Messages between nodes beside the core's own, and the interfaces that the transport's user implements.

Struct fields are sent in order, as arrays. A new field goes to the end and has a default, so that nodes of two
versions understand each other (a rolling upgrade). No field is ever removed or given another meaning.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Protocol, TypeAlias

import msgspec

from syncline.consensus.types import LARGEST_ID, Message, NodeId
from syncline.errors import ConfigError

__all__ = [
    "ASK_BYTES",
    "DIGEST_BYTES",
    "AcceptedProposal",
    "Ask",
    "AskReply",
    "DigestReport",
    "Forward",
    "ForwardReply",
    "ForwardedProposal",
    "Notice",
    "NoticeKind",
    "PeerAddress",
    "PeerHandler",
    "PeerMessage",
    "PeerStats",
    "Refusal",
    "RefusalCode",
    "RefusedProposal",
    "IncomingSnapshot",
    "OutgoingSnapshot",
]

MAX_PORT = 65535

DIGEST_BYTES = 16
"""Bytes of a digest of the state."""

ASK_BYTES = 1 << 20
"""Bytes of a call to the leader, and of its answer: as much as a frame gathers, so that appends behind it do not wait
longer than behind other messages."""


class ForwardedProposal(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A forwarded proposal. `number` is the sender's own; the answer names it."""

    number: int
    kind: int
    """0: the data of a normal entry; 1: a change of the membership, encoded by the runtime."""
    data: bytes
    frees_space: bool = False
    """Whether it lets the state shrink: then it may use a part of the reserve of a full disk."""


class Forward(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Proposals made on a follower, for the leader of exactly this term to append; any other node refuses them."""

    proposals: list[ForwardedProposal]
    term: int = 0
    """The sender's current term. No node leads in term 0, so a forward without a term is refused."""


class AcceptedProposal(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The leader appended it at `index` in `term`. It may still be replaced there by a later leader."""

    number: int
    index: int
    term: int


class RefusedProposal(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The leader did not append it, and no other node will: `code` is that of the error in `syncline.errors`."""

    number: int
    code: str
    message: str
    reason: str = ""
    """With the code `rejected`: the code that the state machine's `check` gave."""


class ForwardReply(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The results of forwarded proposals; `leader` is the leader that the answering node follows (0: none)."""

    accepted: list[AcceptedProposal] = []
    refused: list[RefusedProposal] = []
    leader: NodeId = 0
    term: int = 0
    """The term of the forward that this answers."""


class NoticeKind(IntEnum):
    """The kinds of notices. Part of the protocol: never renumbered."""

    IS_SETTLED = 1
    """A follower asks the leader for `SETTLED`."""
    SETTLED = 2
    """The changes of the membership up to `index` are durable on a quorum (see `node.settlement`)."""
    LOST_ENTRIES = 3
    """The leader of `term` has the receiver's acknowledgement of `index`, and the receiver refuses appends there."""
    START = 4
    """The sender has admitted a start of the node whose data directory is `directory` (see `node.starts.reports`)."""


class Notice(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A short message between runtimes. Its loss does no harm: it is sent again. An unknown kind is ignored."""

    kind: int
    """One of `NoticeKind`."""
    term: int = 0
    index: int = 0
    directory: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)] = 0
    """With `START`: the id of a data directory."""
    starts: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)], ...], msgspec.Meta(max_length=32)] = ()
    """With `START`: the incarnation that the sender has admitted, then the earlier ones, the newest first."""


class DigestReport(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The sender's digest of its state when it had applied the entry at `point`, for the leader."""

    point: int
    version: int
    """Version of the algorithm: digests of different versions can't be compared."""
    digest: bytes


class Ask(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A call of `Raft.ask_leader` on a follower, for the leader's handler. It does not enter the log."""

    number: int
    """The sender's own; the answer names it."""
    data: Annotated[bytes, msgspec.Meta(max_length=ASK_BYTES)]


class AskReply(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The answer of the leader's handler, or why there is none."""

    number: int
    data: Annotated[bytes, msgspec.Meta(max_length=ASK_BYTES)] = b""
    code: Annotated[str, msgspec.Meta(max_length=128)] = ""
    """The code of an error of `syncline.errors`; empty: `data` is the answer."""
    message: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    reason: Annotated[str, msgspec.Meta(max_length=128)] = ""
    """With the code `rejected`: the code that the handler gave."""
    unknown: bool = False
    """Whether the call may have taken effect although there is an error."""


PeerMessage: TypeAlias = Message | Forward | ForwardReply | Notice | DigestReport | Ask | AskReply
"""All messages of a peer link. Appends arrive in the order in which they were sent, without gaps while the link stays
up. So do the other messages of the core, and those of each other kind. Between these no order is promised: appends,
forwards, calls to the leader and the answers to both have a connection of their own; everything else overtakes them."""


class IncomingSnapshot(Protocol):
    """Takes an incoming snapshot. One call at a time; each is awaited before the next."""

    @property
    def offset(self) -> int:
        """Bytes stored already: the sender continues from here."""
        ...

    async def write(self, data: bytes) -> None:
        """Append the next bytes."""
        ...

    async def finish(self) -> None:
        """All bytes were written. Verify and make durable before this returns; raise to report a failure."""
        ...

    async def abort(self) -> None:
        """The stream ended early (or `write` or `finish` raised). Received bytes may be kept, to resume from."""
        ...


class OutgoingSnapshot(Protocol):
    """Reads an outgoing snapshot."""

    @property
    def size_bytes(self) -> int: ...

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end."""
        ...

    def close(self) -> None:
        """Called exactly once, however the transfer ends."""
        ...


class PeerHandler(Protocol):
    """Callbacks of the transport for its user. All calls are made on the event loop."""

    def on_messages(self, sender: NodeId, messages: list[PeerMessage]) -> None:
        """Messages from `sender`, checked in form: known types of the network kind, not the core's local ones."""
        ...

    def on_peer_up(self, peer: NodeId) -> None:
        """The link *to* `peer` is up: the handshake is done, and messages can be sent."""
        ...

    def on_peer_down(self, peer: NodeId, reason: str) -> None:
        """The link to `peer` was up and is lost; messages in it may or may not have arrived. It is redialled."""
        ...

    def on_room(self, peer: NodeId) -> None:
        """More appends may be sent to `peer`: `Transport.room_bytes` says how much."""
        ...

    def on_appends_lost(self, peer: NodeId) -> None:
        """The connection for appends was lost while the link stays up: those on their way may not have arrived."""
        ...

    async def on_snapshot(self, sender: NodeId, message: Message, manifest: bytes) -> IncomingSnapshot:
        """`sender` offers the snapshot that `message` (a `SNAP`) names. Raise to refuse, with the reason."""
        ...


class PeerAddress(msgspec.Struct, frozen=True):
    """Host and port. The host is a name or an IP address; a name is resolved at each dial, since it may move."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, setting: str = "address") -> PeerAddress:
        """Read `host:port`, an IPv6 address in brackets: `[::1]:7100`. Raises `ConfigError` that names `setting`."""
        host, colon, digits = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ConfigError(f"{setting} {text!r}: put an IPv6 address in brackets, as in [::1]:7100")
        if not colon or not host or any(character.isspace() for character in host):
            raise ConfigError(f"{setting} {text!r} must be host:port, as in 10.0.0.1:7100")
        if not host.isprintable():
            raise ConfigError(f"{setting} {text!r}: a host name has printable characters alone")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 5 or int(digits) > MAX_PORT:
            raise ConfigError(f"{setting} {text!r}: the port must be a number from 0 to {MAX_PORT}")
        return cls(host, int(digits))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Refusal(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """The acceptor refuses. The reason is for people, the code is for the dialler."""

    reason: str
    code: str = ""
    """One of `RefusalCode`; an unknown code counts as none."""
    index: int = 0
    """With `REMOVED`: the log index of the membership in force."""
    voters: tuple[NodeId, ...] = ()
    """With `REMOVED`: the voters of that membership, a quorum of which must refuse the dialler before it leaves. Empty:
    the removal is known to be durable on a quorum, and the dialler may leave at once."""


class RefusalCode(StrEnum):
    """Refusals on which the refused node acts. Part of the protocol: never renamed."""

    REMOVED = "removed"
    """The dialler is no member any more."""
    DIRECTORY = "directory"
    """The dialler presents another data directory than the one that is known."""
    OLDER_START = "older_start"
    """The dialler's data directory was copied or put back: a start that is not in its history is known."""
    LEVEL = "level"
    """The dialler can do less than the level of the cluster."""


class PeerStats(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the links with one peer."""

    connected: bool
    """The link to the peer is up."""
    connected_since_s: float | None
    """Seconds for which it has been up."""
    last_contact_s: float | None
    """Age of the last bytes that came from the peer, on either link; None: none since the start."""
    address: str
    sent_bytes: int
    received_bytes: int
    sent_messages: int
    received_messages: int
    dropped_messages: int
    """Not sent: no link, a full buffer, or above the limit on a frame. Raft recovers from each."""
    reconnects: int
    """How often the link came up again after it was lost."""
    rtt_s: float | None
    """Round trip time, smoothed; None while unknown."""
    last_error: str | None
    """Why the link is or was last down; a refusal has the text of the refusing end."""
    last_refusal: Refusal | None = None
    """The peer's last refusal of this node; None since the link came up."""
    reached_by_since_s: float | None = None
    """Seconds for which the peer's own link to this node has been up; None while it is down."""
