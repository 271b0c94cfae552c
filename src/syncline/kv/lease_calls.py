"""Calls about leases that go to the leader without the log (`Raft.ask_leader`), and their answers.

Each is an array of MessagePack. The tags are part of the protocol between nodes: never reused, never renumbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from syncline.decoding import UNDECODABLE
from syncline.errors import Rejected
from syncline.kv.limits import MAX_LEASE_ID, MAX_TTL_MS

__all__ = [
    "MAX_CALL_LEASES",
    "KeepAlive",
    "LeaseCall",
    "LeaseTime",
    "TimesLeft",
    "decode_call",
    "decode_times",
    "encode_times",
]

MAX_CALL_LEASES: Final = 1000
"""Leases of one call: the leader takes about a millisecond for them."""

_Leases: TypeAlias = Annotated[
    tuple[Annotated[int, Meta(ge=1, le=MAX_LEASE_ID)], ...], Meta(min_length=1, max_length=MAX_CALL_LEASES)
]
_Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TTL_MS)]


class KeepAlive(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=0, forbid_unknown_fields=True):
    """Give leases their full time again."""

    leases: _Leases


class TimesLeft(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=1, forbid_unknown_fields=True):
    """Ask what is left of the time of leases."""

    leases: _Leases


class LeaseTime(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The time of one lease. `ttl_ms` 0: there is no such lease."""

    ttl_ms: _Milliseconds
    rest_ms: _Milliseconds


LeaseCall: TypeAlias = KeepAlive | TimesLeft

_encode: Final = msgspec.msgpack.Encoder().encode
_calls: Final[msgspec.msgpack.Decoder[LeaseCall]] = msgspec.msgpack.Decoder(LeaseCall)
_times: Final = msgspec.msgpack.Decoder(tuple[LeaseTime, ...])


def decode_call(data: bytes) -> LeaseCall:
    """Read a call. Raises `Rejected` (code `bad_call`) for anything else."""
    try:
        return _calls.decode(data)
    except UNDECODABLE as error:
        raise Rejected(f"a call to the leader that can't be read: {error}", code="bad_call") from error


def encode_times(times: Sequence[LeaseTime]) -> bytes:
    """The answer to a call."""
    return _encode(times)


def decode_times(data: bytes, count: int) -> tuple[LeaseTime, ...]:
    """Read the answer for `count` leases. Raises `Rejected` (code `bad_answer`) for anything else."""
    try:
        times = _times.decode(data)
    except UNDECODABLE as error:
        raise Rejected(f"an answer of the leader that can't be read: {error}", code="bad_answer") from error
    if len(times) != count:
        raise Rejected(f"an answer of the leader for {len(times)} leases, not {count}", code="bad_answer")
    return times
