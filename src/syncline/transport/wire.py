"""The wire format: frames and their content.

    frame    length (u32) | checksum (u32) | payload (length bytes)            numbers are big-endian
             length (u32) | MAC (16 bytes) | payload (length bytes)            after a proof: see `frame_mac`
    payload  one msgpack value of a type that both ends know beforehand; never empty

The checksum is CRC-32 over the payload, seeded (`CHECKSUM_SEED`), so that a run of equal bytes is never a frame.
TCP's own 16-bit checksum misses about one damaged segment in 65,536, which is too weak for a replicated log.

Nothing here does I/O. `FrameDecoder` takes bytes as they come and holds at most one unfinished frame: a length is
checked before memory is used for it, and memory grows with the bytes that arrived, not with the announced length.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

import msgspec

from syncline.consensus.sizes import payload_size
from syncline.consensus.types import Message, MessageType, NodeId
from syncline.decoding import UNDECODABLE
from syncline.errors import FrameError
from syncline.transport.frame_mac import MAC_BYTES, FrameMac
from syncline.transport.messages import (
    DIGEST_BYTES,
    Ask,
    AskReply,
    DigestReport,
    Forward,
    ForwardReply,
    Notice,
    PeerMessage,
)

__all__ = [
    "MAX_BATCH_MESSAGES",
    "MAX_BATCH_PROPOSALS",
    "MAX_BATCH_REPORTS",
    "Batch",
    "FrameDecoder",
    "check_batch",
    "decode_payload",
    "encode_frame",
    "is_sendable",
    "message_size_bytes",
]

HEADER: Final = struct.Struct("!II")
HEADER_BYTES: Final = HEADER.size
_SIZE: Final = struct.Struct("!I")
CHECKSUM_SEED: Final = 0x53594E43

MAX_BATCH_MESSAGES: Final = 65536
"""In one batch: if each message is tiny, the bytes of a frame do not bound the memory of the decoded messages."""

MAX_BATCH_PROPOSALS: Final = 131072
"""In one batch: a sound node sends fewer, since it cuts batches at 1 MiB. The leader examines each by itself. A frame
full of tiny ones would hold it up until another leader is elected, and then that one."""

MAX_BATCH_REPORTS: Final = 64
"""Digests in one batch: a node keeps fewer. The sender splits what is more: see `Outbox`."""

GROUP: Final = 0
"""The Raft group of all messages: the only one today."""

MESSAGE_OVERHEAD_BYTES: Final = 48
ENTRY_OVERHEAD_BYTES: Final = 24
"""Upper bounds of what the fields of a message, or of an entry beside its data, usually take."""

Payload = TypeVar("Payload")


class Batch(msgspec.Struct, array_like=True, gc=False):
    """The messages of one node for another from one turn of its event loop, or a part of them.

    `ping` asks for a batch whose `pong` is the same number, on the same connection; 0 is none.
    """

    messages: Annotated[list[Message], msgspec.Meta(max_length=MAX_BATCH_MESSAGES)] = []
    forwards: Annotated[list[Forward], msgspec.Meta(max_length=MAX_BATCH_MESSAGES)] = []
    replies: Annotated[list[ForwardReply], msgspec.Meta(max_length=MAX_BATCH_MESSAGES)] = []
    ping: int = 0
    pong: int = 0
    notices: Annotated[list[Notice], msgspec.Meta(max_length=MAX_BATCH_MESSAGES)] = []
    reports: Annotated[list[DigestReport], msgspec.Meta(max_length=MAX_BATCH_REPORTS)] = []
    group: int = GROUP
    """The Raft group of the messages."""
    asks: Annotated[list[Ask], msgspec.Meta(max_length=MAX_BATCH_MESSAGES)] = []
    answers: Annotated[list[AskReply], msgspec.Meta(max_length=MAX_BATCH_MESSAGES)] = []

    def items(self) -> list[PeerMessage]:
        """All messages as one list."""
        return [
            *self.messages,
            *self.forwards,
            *self.replies,
            *self.notices,
            *self.reports,
            *self.asks,
            *self.answers,
        ]


_encoder = msgspec.msgpack.Encoder(enc_hook=int)  # a public `NodeId` is written as the integer that it is


def encode_frame(value: object, max_bytes: int, mac: FrameMac | None = None) -> bytes:
    """Encode `value` as one frame, ready to be written; with a `mac` it must be the next frame of its direction.

    Raises `FrameError` if it would be above `max_bytes`, or holds text that is no UTF-8.
    """
    try:
        payload = _encoder.encode(value)
    except UnicodeEncodeError as error:
        raise FrameError(f"a message holds text that can't be sent: {error}") from error
    size = len(payload)
    if size > max_bytes:
        raise FrameError(f"a message of {size} bytes is above the limit of {max_bytes} bytes on a frame")
    if mac is None:
        return HEADER.pack(size, zlib.crc32(payload, CHECKSUM_SEED)) + payload
    return b"".join((_SIZE.pack(size), mac.next(payload), payload))


def decode_payload(decoder: msgspec.msgpack.Decoder[Payload], payload: memoryview) -> Payload:
    """Decode a frame's payload. Raises `FrameError` if it is not what the decoder is for."""
    try:
        return decoder.decode(payload)
    except UNDECODABLE as error:
        raise FrameError(
            f"a frame with a good checksum can't be read as this version would write it: {error}"
        ) from error


class FrameDecoder:
    """Cuts a stream of bytes into frames.

    After a `FrameError` the stream can't be trusted any more: its frame borders are lost. Close the connection.
    """

    __slots__ = ("_buffer", "_header_bytes", "_mac", "_needed", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes: int = max_bytes
        self._mac: FrameMac | None = None
        self._header_bytes = HEADER_BYTES
        self._buffer = bytearray()
        self._needed = HEADER_BYTES  # the size of the first unfinished frame, as far as it is known

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of an unfinished frame."""
        return len(self._buffer)

    def expect_mac(self, mac: FrameMac) -> None:
        """From here on each frame carries an authentication code instead of a checksum.

        Raises `FrameError` if the other end has sent more before it could know the key.
        """
        if self._buffer:
            raise FrameError(f"{len(self._buffer)} bytes came before the proof was answered")
        self._mac = mac
        self._header_bytes = self._needed = _SIZE.size + MAC_BYTES

    def feed(self, data: bytes | bytearray | memoryview) -> list[memoryview]:
        """Take the next bytes; return the payloads that they complete.

        The payloads stay valid as long as they are referred to. Raises `FrameError`; payloads before the bad frame in
        the same call are lost with it, as if the connection had been lost a moment earlier.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data, self._buffer = memoryview(self._buffer).toreadonly(), bytearray()  # not copied: it may be 64 MiB
        view = memoryview(data)
        total = len(view)
        if total > HEADER_BYTES and self._mac is None:  # as nearly always: one frame, and nothing behind it
            size, checksum = HEADER.unpack_from(view)
            if size == total - HEADER_BYTES <= self.max_bytes:
                payload = view[HEADER_BYTES:]
                if zlib.crc32(payload, CHECKSUM_SEED) == checksum:
                    return [payload]
        payloads: list[memoryview] = []
        start = 0
        header_bytes = self._header_bytes
        while True:
            if total - start < header_bytes:
                self._needed = header_bytes
                break
            size = _SIZE.unpack_from(view, start)[0]
            if not 0 < size <= self.max_bytes:
                raise FrameError(f"a frame announces {size} bytes; it may have 1 to {self.max_bytes}")
            end = start + header_bytes + size
            if end > total:
                self._needed = header_bytes + size
                break
            payload = view[start + header_bytes : end]
            if self._mac is not None:
                self._mac.check(payload, view[start + _SIZE.size : start + header_bytes])
            elif zlib.crc32(payload, CHECKSUM_SEED) != _SIZE.unpack_from(view, start + _SIZE.size)[0]:
                raise FrameError(
                    f"a frame of {size} bytes does not match its checksum: damaged on the way, or not ours"
                )
            payloads.append(payload)
            start = end
        if start < total:
            self._buffer += view[start:]
        return payloads


def _mask(*types: MessageType) -> int:
    return sum(1 << kind for kind in types)


_FROM_PEERS: Final = _mask(
    MessageType.APP,
    MessageType.APP_RESP,
    MessageType.VOTE,
    MessageType.VOTE_RESP,
    MessageType.HEARTBEAT,
    MessageType.HEARTBEAT_RESP,
    MessageType.TRANSFER_LEADER,
    MessageType.TIMEOUT_NOW,
    MessageType.READ_INDEX,
    MessageType.READ_INDEX_RESP,
    MessageType.PRE_VOTE,
    MessageType.PRE_VOTE_RESP,
)
"""Message types allowed in a batch. The other types are the core's own, between a node and its storage: one of them
from outside could acknowledge a write that never happened. `SNAP` comes on a connection of its own. `PROP` is not
sent between nodes: proposals come as `Forward`, so that the leader examines each of them before it appends it."""

_FORWARDED: Final = _mask(MessageType.TRANSFER_LEADER, MessageType.READ_INDEX)
"""Requests that a follower may forward: `sender` is the node that asked first (for a transfer: the new leader)."""


_MAX_NUMBER: Final[int] = 2**63 - 1
"""The largest term, index or number of a proposal. Nothing reaches it by counting."""


def check_batch(batch: Batch, sender: NodeId, node_id: NodeId, known: Callable[[NodeId], bool]) -> None:
    """Check that the messages are such as `sender` may send to `node_id`. Raises `FrameError`.

    `known` tells members from other ids: a forwarded request names the node that asked first.
    """
    if batch.group != GROUP:
        raise FrameError(f"messages of Raft group {batch.group}, and this node has group {GROUP} alone")
    for message in batch.messages:
        bit = 1 << message.type
        if not bit & _FROM_PEERS or message.responses or message.snapshot is not None:
            raise FrameError(f"a {message.type.name} message is not one that nodes send to each other in a batch")
        if message.to != node_id or (message.sender != sender and not (bit & _FORWARDED and known(message.sender))):
            raise FrameError(
                f"a {message.type.name} message from {message.sender:016x} to {message.to:016x} on the link from "
                f"{sender:016x} to {node_id:016x}"
            )
    if batch.forwards or batch.replies or batch.reports or batch.asks or batch.answers:
        _check_others(batch, sender)


def _check_others(batch: Batch, sender: NodeId) -> None:
    """Check what is not a message of the core. Raises `FrameError`."""
    if batch.forwards and sum(len(forward.proposals) for forward in batch.forwards) > MAX_BATCH_PROPOSALS:
        raise FrameError(f"more than {MAX_BATCH_PROPOSALS} proposals in one batch of node {sender:016x}")
    for forward in batch.forwards:
        if any(not 0 <= item.number <= _MAX_NUMBER for item in forward.proposals):
            raise FrameError(f"a proposal of node {sender:016x} has an impossible number")
        if not 0 <= forward.term <= _MAX_NUMBER:
            raise FrameError(f"proposals of node {sender:016x} have an impossible term")
    for reply in batch.replies:
        if not _is_possible(reply):
            raise FrameError(f"an answer of node {sender:016x} to proposals has impossible numbers")
    for report in batch.reports:
        if not (0 < report.point <= _MAX_NUMBER and 0 < report.version <= _MAX_NUMBER):
            raise FrameError(f"a digest of version {report.version} at index {report.point} can't be")
        if len(report.digest) != DIGEST_BYTES:
            raise FrameError(f"a digest of {len(report.digest)} bytes; it has {DIGEST_BYTES}")
    for number in (*(ask.number for ask in batch.asks), *(answer.number for answer in batch.answers)):
        if not 0 <= number <= _MAX_NUMBER:
            raise FrameError(f"a call to the leader, or its answer, of node {sender:016x} has an impossible number")


def _is_possible(reply: ForwardReply) -> bool:
    # All at once: the bits of a negative number make the result negative, those above the limit make it larger.
    numbers = reply.leader | reply.term
    for placed in reply.accepted:
        numbers |= placed.number | placed.index | placed.term
    for refused in reply.refused:
        numbers |= refused.number
    return 0 <= numbers <= _MAX_NUMBER


def is_sendable(message: Message) -> bool:
    """Whether the message may go in a batch."""
    return bool((1 << message.type) & _FROM_PEERS)


def message_size_bytes(message: PeerMessage) -> int:
    """About how many bytes the message takes on the wire. Cheap; never far below the truth."""
    if isinstance(message, Message):
        size = MESSAGE_OVERHEAD_BYTES + len(message.context)
        if entries := message.entries:
            size += ENTRY_OVERHEAD_BYTES * len(entries) + payload_size(entries)
        return size
    if isinstance(message, Forward):
        proposals = message.proposals
        return (
            MESSAGE_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES * len(proposals) + sum([len(item.data) for item in proposals])
        )
    if isinstance(message, Notice):
        return MESSAGE_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES * len(message.starts)
    if isinstance(message, DigestReport):
        return MESSAGE_OVERHEAD_BYTES
    if isinstance(message, Ask):
        return MESSAGE_OVERHEAD_BYTES + len(message.data)
    if isinstance(message, AskReply):
        texts = len(message.code) + len(message.message) + len(message.reason)
        return MESSAGE_OVERHEAD_BYTES + len(message.data) + 4 * texts
    refused = sum(ENTRY_OVERHEAD_BYTES + len(item.code) + 4 * len(item.message) for item in message.refused)
    return MESSAGE_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES * len(message.accepted) + refused
