"""The content of log entries about sessions, and the keys that callers give.

Everything here is part of the log format: fields are added at the end, with defaults.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Annotated, Final

import msgspec

from syncline.decoding import UNDECODABLE

__all__ = [
    "LARGEST_SEQUENCE",
    "MAX_ENDED",
    "MAX_TEXT_BYTES",
    "OnceKey",
    "SessionChange",
    "SessionCommand",
    "decode_change",
    "decode_command",
    "encode_change",
    "encode_command",
    "fingerprint_of",
]

LARGEST_SEQUENCE: Final = 2**63 - 1
"""The largest id of a session, and the largest sequence in it."""

MAX_TEXT_BYTES: Final = 128
"""Bytes of a key that is a free text: room for a UUID and a name. 100,000 of them are kept in memory."""

MAX_ENDED: Final = 1_000
"""Sessions that one entry ends: they are ended in one apply."""

FINGERPRINT_BYTES: Final = 8
"""Two different commands of one caller under one key have the same fingerprint once in 2**64 times."""

_Id = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SEQUENCE)]


class OnceKey(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The identity of one command, over all attempts of its caller: `session` and `sequence`, or a free `text`.

    `floor` is the lowest sequence that the caller still waits for: answers below it are dropped.
    """

    session: _Id = 0
    sequence: _Id = 0
    floor: _Id = 0
    text: Annotated[bytes, msgspec.Meta(max_length=MAX_TEXT_BYTES)] = b""

    @property
    def fault(self) -> str:
        """Why it is no key; empty if it is one."""
        if self.text:
            return "a key is a free text or of a session, not both" if self.session or self.sequence else ""
        if not self.session or not self.sequence:
            return "a key of a session has the session's id and a sequence, both from 1 on"
        return "the floor of a key is above its sequence" if self.floor > self.sequence else ""


class SessionCommand(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A command that takes effect once for its key, however often it stands in the log.

    `fingerprint` is a hash of the caller's request: the same for each attempt, another one for another command.
    """

    key: OnceKey
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]
    data: bytes


class SessionChange(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A session is opened, or sessions are ended.

    `term` is not 0 if a leader ends them for idleness. Then the entry has an effect in this term alone, on sessions
    that no entry above index `bound` has used.
    """

    opened: _Id = 0
    ended: Annotated[tuple[_Id, ...], msgspec.Meta(max_length=MAX_ENDED)] = ()
    term: _Id = 0
    bound: _Id = 0


_command_decoder = msgspec.msgpack.Decoder(SessionCommand)
_change_decoder = msgspec.msgpack.Decoder(SessionChange)
_encode = msgspec.msgpack.Encoder().encode


def encode_command(command: SessionCommand) -> bytes:
    """The data of the log entry."""
    return _encode(command)


def encode_change(change: SessionChange) -> bytes:
    """The data of the log entry."""
    return _encode(change)


def decode_command(data: bytes) -> SessionCommand:
    """Read the data of a log entry. Raises ValueError, and nothing else, if it is no command of a session."""
    try:
        command = _command_decoder.decode(data)
    except UNDECODABLE as error:
        raise ValueError(f"it is no command of a session: {error}") from error
    if fault := command.key.fault:
        raise ValueError(fault)
    return command


def decode_change(data: bytes) -> SessionChange:
    """Read the data of a log entry. Raises ValueError, and nothing else, if it is no change of sessions."""
    try:
        change = _change_decoder.decode(data)
    except UNDECODABLE as error:
        raise ValueError(f"it is no change of sessions: {error}") from error
    if bool(change.opened) == bool(change.ended) or not all(change.ended):
        raise ValueError("a change of sessions opens one, or ends some")
    return change


def fingerprint_of(data: bytes) -> bytes:
    """The fingerprint of a command, or of anything else that tells one request from another."""
    return hashlib.blake2b(data, digest_size=FINGERPRINT_BYTES).digest()


_NUMBERS: Final = struct.Struct("<QQ")


def checksum_of(first: int, second: int, data: bytes) -> int:
    """A checksum for a sum over many records, in which their order makes no difference."""
    packed = _NUMBERS.pack(first, second) + data
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
