"""The introduction of both ends of a connection, once they have proved that they know the secret.

    dialler  →  MAGIC | frame(Opening)                          see `authentication`: up to here no end has sent
    acceptor →  MAGIC | frame(Challenge)                        anything about its cluster
    …           the proofs, with a secret
    dialler  →  frame(Hello)
    acceptor →  frame(Welcome), or frame(Refusal) and the connection is closed

Both ends check the other. The acceptor refuses with a reason that the dialler shows as its own error. The dialler
checks that the node that it dialled has answered (an address may have moved to another node). Nothing else is exchanged
before both are sure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, TypeAlias

import msgspec

from syncline.consensus.types import LARGEST_ID, NONE, NodeId
from syncline.errors import FrameError, HandshakeRefused
from syncline.transport.messages import Refusal, RefusalCode
from syncline.transport.wire import GROUP, decode_payload

__all__ = [
    "HTTP_ANSWER",
    "MAGIC",
    "OLDEST_VERSION",
    "PROTOCOL_VERSION",
    "SAME_TLS",
    "TLS_ALERT",
    "Hello",
    "NodeFacts",
    "PeerId",
    "Purpose",
    "Refusal",
    "RefusalCode",
    "RefusedByPeer",
    "Welcome",
    "answer_without_tls",
    "check_hello",
    "check_welcome",
    "common_version",
    "decode_answer",
    "decode_hello",
    "describe_stranger",
    "is_http",
    "is_tls_alert",
    "is_tls_hello",
    "printable",
    "shortened",
]

MAGIC: Final = b"\x93SyncLn\n"
"""The first bytes in each direction. The first is no letter and no TLS record type, so that the first byte shows
another protocol; the newline shows a line-ending conversion on the way."""

PROTOCOL_VERSION: Final = 2
"""The newest version of the peer protocol that this code speaks."""

OLDEST_VERSION: Final = 2
"""The oldest one. Two releases overlap, so that a cluster is upgraded node by node."""

MAX_REASON_CHARS: Final = 500

Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=128)]
"""Characters of a node's name. The other end logs it, so it must be printable too."""

PeerId: TypeAlias = Annotated[NodeId, msgspec.Meta(gt=NONE, le=LARGEST_ID)]
"""The id of the node at one end. Larger ids are the core's own: they stand for a node's own storage."""

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)]
"""Numbers of a greeting that are kept, in memory and on disk, is no negative number, and fits in eight bytes."""

_HTTP_TEXT: Final = b"This port is for the nodes of a Syncline cluster among themselves; clients use another.\n"

HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_HTTP_TEXT), _HTTP_TEXT)
)
"""The answer to a browser or a client that calls the peer port."""


TLS_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x46"
"""A TLS record: a fatal alert, protocol_version (RFC 8446, 6)."""

SAME_TLS: Final = "give all nodes the same peer TLS settings"


class Purpose(IntEnum):
    """The purpose of a connection. Part of the protocol: never renumbered."""

    MESSAGES = 0
    SNAPSHOT = 1
    BULK = 2
    """Appends and forwarded proposals, beside a connection for the other messages."""


class Hello(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The dialler's greeting."""

    oldest_version: int
    newest_version: int
    cluster_id: int
    sender: PeerId
    to: PeerId
    purpose: Purpose
    incarnation: Number = 0
    """Incarnation of this start of the node: a new one means that connections to the earlier start are dead."""
    address: str = ""
    """The dialler's own address: a node that has just joined knows no other address yet."""
    directory: Number = 0
    """The id of the dialler's data directory."""
    known: Number = 0
    """The id of the acceptor's data directory, as the dialler knows it; 0: it does not know it yet."""
    group: int = GROUP
    """The Raft group that the connection is for; 0 is the only one today."""
    name: Name = ""
    """The dialler's name, for people."""
    history: tuple[Number, ...] = ()
    """Incarnations of earlier starts from the same data directory, the newest first."""
    level: Number = 0
    """The highest feature level that the dialler can do."""
    machine_version: Number = 0
    """The highest version of the state machine's commands that the dialler can apply."""
    cluster_level: Number = 0
    """The feature level of the cluster, as the dialler knows it. An acceptor that can do less learns of it so."""
    cluster_machine_version: Number = 0
    """The machine version of the cluster, as the dialler knows it."""


class Welcome(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """The acceptor agrees to go on, in `version`."""

    version: int
    cluster_id: int
    sender: PeerId
    incarnation: Number = 0
    directory: Number = 0
    """The id of the acceptor's data directory."""
    group: int = GROUP
    name: Name = ""
    history: tuple[Number, ...] = ()
    level: Number = 0
    machine_version: Number = 0


class RefusedByPeer(HandshakeRefused):
    """The acceptor refused the connection; `refusal` is its answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"refused by the peer: {printable(refusal.reason)}")
        self.refusal = refusal


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A node's data about itself in each greeting. The fields are those of `Hello` and `Welcome`."""

    directory: int = 0
    incarnation: int = 0
    name: str = ""
    history: tuple[int, ...] = ()
    level: int = 0
    machine_version: int = 0


_hello_decoder = msgspec.msgpack.Decoder(Hello)
_answer_decoder: msgspec.msgpack.Decoder[Welcome | Refusal] = msgspec.msgpack.Decoder(Welcome | Refusal)


def shortened(refusal: Refusal) -> Refusal:
    """The refusal with a reason that fits into a frame of the handshake."""
    return msgspec.structs.replace(refusal, reason=refusal.reason[:MAX_REASON_CHARS])


def decode_hello(payload: memoryview) -> Hello:
    """Raises `FrameError`."""
    hello = decode_payload(_hello_decoder, payload)
    _check_name(hello.name)
    return hello


def decode_answer(payload: memoryview) -> Welcome:
    """Raises `FrameError`, or `RefusedByPeer`."""
    answer = decode_payload(_answer_decoder, payload)
    if isinstance(answer, Refusal):
        raise RefusedByPeer(answer)
    _check_name(answer.name)
    return answer


def _check_name(name: str) -> None:
    if not name.isprintable():
        raise FrameError(f"the other end has a name that is not printable: {name!r}")


def common_version(oldest: int, newest: int, sender: NodeId, node_id: NodeId) -> int:
    """The newest version that both ends speak. Raises `HandshakeRefused` if there is none."""
    version = min(newest, PROTOCOL_VERSION)
    if version < max(oldest, OLDEST_VERSION):
        raise HandshakeRefused(
            f"no common protocol version: node {sender:016x} speaks {oldest} to {newest}, node {node_id:016x} speaks"
            f" {OLDEST_VERSION} to {PROTOCOL_VERSION}; upgrade the older one"
        )
    return version


def check_hello(hello: Hello, *, cluster_id: int, node_id: NodeId) -> int:
    """Check a dialler; return the version to speak. Raises `HandshakeRefused` with a reason for both ends' logs.

    The reason holds no id of this node's cluster: without a secret the dialler may be any program.
    """
    version = common_version(hello.oldest_version, hello.newest_version, hello.sender, node_id)
    if hello.cluster_id != cluster_id:
        raise HandshakeRefused(
            f"another cluster: node {hello.sender:016x} belongs to cluster {hello.cluster_id:016x}, and node "
            f"{node_id:016x} to a different one; check the peer addresses and the data directories"
        )
    if hello.to != node_id:
        raise HandshakeRefused(
            f"wrong node: node {hello.sender:016x} dialled node {hello.to:016x}, but this is node {node_id:016x}; "
            "check the address it has for that peer, and that no two nodes advertise the same one"
        )
    if hello.group != GROUP:
        raise HandshakeRefused(
            f"node {hello.sender:016x} dials for Raft group {hello.group}, and node {node_id:016x} has group {GROUP} "
            "alone; upgrade this node first"
        )
    if hello.sender == node_id:
        raise HandshakeRefused(
            f"two nodes have the id {node_id:016x}: one data directory was copied, or an id given twice"
        )
    return version


def check_welcome(welcome: Welcome, *, cluster_id: int, peer: NodeId, directory: int = 0) -> None:
    """Check the acceptor; `directory` is the known id of its data directory, 0: not known.

    Raises `HandshakeRefused`.
    """
    if welcome.sender != peer or welcome.cluster_id != cluster_id:
        raise HandshakeRefused(
            f"node {welcome.sender:016x} of cluster {welcome.cluster_id:016x} answered at the address of node "
            f"{peer:016x} of cluster {cluster_id:016x}"
        )
    if not OLDEST_VERSION <= welcome.version <= PROTOCOL_VERSION:
        raise HandshakeRefused(f"the peer chose protocol version {welcome.version}, which was not offered")
    if directory and welcome.directory != directory:
        raise HandshakeRefused(
            f"node {peer:016x} answered with a new data directory: it has lost the one that it is known by;"
            " `syncline repair --replace` on its data directory has the cluster replace it"
        )


_HTTP_STARTS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"PRI ", b"CONN", b"HTTP")


def is_http(received: bytes) -> bool:
    """Whether the first bytes are those of HTTP."""
    return received[:4] in _HTTP_STARTS


def answer_without_tls(received: bytes) -> bytes:
    """The answer of a port with TLS to an end that speaks none: HTTP in HTTP, else a TLS alert in the clear.

    A node without peer TLS recognises the alert (`describe_stranger`).
    """
    return HTTP_ANSWER if is_http(received) else TLS_ALERT


def is_tls_alert(received: bytes) -> bool:
    """Whether the first bytes are an alert of TLS: the answer of a port with TLS to bytes that are no TLS."""
    return received[:2] == TLS_ALERT[:2]


def is_tls_hello(received: bytes) -> bool:
    """Whether the first bytes are those of a TLS handshake."""
    return received[:2] == b"\x16\x03"


def describe_stranger(received: bytes) -> str:
    """Describe the protocol that the first bytes belong to, and the next step."""
    if received[: len(MAGIC)] == MAGIC:
        return f"a Syncline node without peer TLS; {SAME_TLS}"
    if is_http(received):
        return "HTTP on the peer port; clients use the HTTP address of the node"
    if is_tls_hello(received):
        return f"a TLS handshake, but peer TLS is off here; {SAME_TLS}"
    if is_tls_alert(received):
        return f"it asks for TLS, and peer TLS is off here; {SAME_TLS}"
    if received[:4] == b"SSH-":
        return "an SSH server or client"
    return f"it begins with {received[:16].hex(' ')}; check which program uses this address"


def printable(text: str) -> str:
    """Text of the other end, cut and made safe for a log line."""
    return "".join(character if character.isprintable() else "�" for character in text[:MAX_REASON_CHARS])
