"""Answers of commands as bytes: sessions keep them, so that a repeated command gets the answer of the first one.

An answer is a tagged array of MessagePack, with the tags of `kv.records`. The answer to a batch has a form of its own:
a refusal among its results is an exception, and is written as its message, code and details.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from syncline.errors import Rejected
from syncline.kv.auth.commands import AuthAnswer
from syncline.kv.records import (
    BatchAnswer,
    CompactAnswer,
    LeaseAnswer,
    LeaseCheckpointAnswer,
    LeaseEndAnswer,
    OperationAnswer,
)

__all__ = ["CommandResult", "dump_answer", "load_answer"]

_SingleAnswer: TypeAlias = (
    OperationAnswer | LeaseAnswer | LeaseEndAnswer | LeaseCheckpointAnswer | CompactAnswer | AuthAnswer
)

CommandResult: TypeAlias = _SingleAnswer | BatchAnswer
"""The answer to one command."""


class _KeptRefusal(msgspec.Struct, array_like=True, gc=False, frozen=True, tag=101):
    message: str
    code: str
    details: dict[str, int | str]


class _KeptBatch(msgspec.Struct, array_like=True, frozen=True, tag=100):
    results: tuple[OperationAnswer | _KeptRefusal, ...]
    revision: int


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_SingleAnswer | _KeptBatch] = msgspec.msgpack.Decoder(_SingleAnswer | _KeptBatch)


def dump_answer(answer: object) -> bytes:
    """Write an answer of `KvMachine.apply`."""
    if isinstance(answer, BatchAnswer):
        results = [_kept(one) if isinstance(one, Rejected) else one for one in answer.results]
        return _encoder.encode(_KeptBatch(tuple(results), answer.revision))
    return _encoder.encode(answer)


def load_answer(data: bytes) -> CommandResult:
    """Read an answer that `dump_answer` wrote. Raises a `msgspec.MsgspecError` for anything else."""
    answer = _decoder.decode(data)
    if isinstance(answer, _KeptBatch):
        results = [_refusal(one) if isinstance(one, _KeptRefusal) else one for one in answer.results]
        return BatchAnswer(tuple(results), answer.revision)
    return answer


def _kept(refusal: Rejected) -> _KeptRefusal:
    return _KeptRefusal(str(refusal), refusal.code, refusal.details)


def _refusal(kept: _KeptRefusal) -> Rejected:
    return Rejected(kept.message, code=kept.code, details=kept.details)
