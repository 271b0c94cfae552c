"""Recorded answers as bytes: written when a command was applied, read when its key comes again.

Whatever a user's functions raise or return here, the command was applied, and its answer is just not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.errors import AnswerNotKept, IdempotencyMismatch, Rejected, SessionExpired, SynclineError
from syncline.sessions.table import CommandState, KeyFault, Record, answer_of, state_of

__all__ = ["AnswerCodec", "not_kept", "verdict_error"]

NOT_KEPT: Final = (
    "the command was applied, or refused, when it came for the first time, and its answer is not kept: it is not"
    " applied again; read what it has written"
)
EXPIRED: Final = (
    "the session has ended, or the sequence is below its floor: the command is not applied now; an earlier attempt may"
    " have been. Read what it would have written, and open another session"
)
MISMATCH: Final = "the key was used for another command: this one is not applied; give each command a key of its own"

LARGEST_PLAIN_BYTES: Final = 1 << 20
"""An answer in more bytes is not compared with what is read back: it is far above what a table keeps."""


class AnswerCodec:
    """Writes and reads the answers of one state machine.

    `dump` and `load` are its own functions, if it has both. Otherwise an answer is kept as MessagePack if that gives
    back an equal one: plain data are kept, and objects of a class are not. `failed` is told what a function raised.
    """

    def __init__(
        self,
        dump: Callable[[object], bytes] | None = None,
        load: Callable[[bytes], object] | None = None,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        both = dump is not None and load is not None
        self._dump: Callable[[object], object] = dump if both and dump is not None else _dump_plain
        self._load: Callable[[bytes], object] = load if both and load is not None else _load_plain
        self._failed = failed

    def dump(self, answer: object) -> tuple[CommandState, bytes]:
        """The answer of a command as it is recorded."""
        if isinstance(answer, Rejected):
            return _dump_refusal(answer)
        try:
            data = self._dump(answer)
        except Exception as error:  # noqa: BLE001 - the user's code; the command was applied all the same
            self._tell(f"dump_answer raised {type(error).__name__}: {error}")
            return CommandState.NOT_KEPT, b""
        if isinstance(data, bytes):
            return CommandState.ANSWERED, data
        if data is not None:
            self._tell(f"dump_answer returned {type(data).__name__} and not bytes")
        return CommandState.NOT_KEPT, b""

    def load(self, record: Record) -> object:
        """The recorded answer: a `Rejected` or an `AnswerNotKept` as a value if it is one."""
        state, data = state_of(record), answer_of(record)
        if state is CommandState.REFUSED:
            return _load_refusal(data)
        if state is not CommandState.ANSWERED:
            return not_kept()
        try:
            return self._load(data)
        except Exception as error:  # noqa: BLE001 - the user's code, perhaps of another version than wrote it
            self._tell(f"load_answer raised {type(error).__name__}: {error}")
            return not_kept()

    def _tell(self, text: str) -> None:
        if self._failed is not None:
            self._failed(text)


def not_kept() -> AnswerNotKept:
    """The error for the caller of a command that was applied before, and whose answer is not there."""
    return AnswerNotKept(NOT_KEPT)


def verdict_error(verdict: KeyFault) -> SynclineError:
    """The error for the caller of a command that is not applied."""
    return SessionExpired(EXPIRED) if verdict is KeyFault.EXPIRED else IdempotencyMismatch(MISMATCH)


def _dump_plain(answer: object) -> bytes | None:
    try:
        data = msgspec.msgpack.encode(answer)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None  # it holds what MessagePack has no form for
    if len(data) > LARGEST_PLAIN_BYTES:
        return None
    return data if msgspec.msgpack.decode(data) == answer else None


def _load_plain(data: bytes) -> object:
    return msgspec.msgpack.decode(data)


class _Refusal(msgspec.Struct, array_like=True, frozen=True):
    """A recorded `Rejected`."""

    message: str
    code: str
    details: dict[str, int | str] = {}


_refusal_decoder = msgspec.msgpack.Decoder(_Refusal)


def _dump_refusal(refusal: Rejected) -> tuple[CommandState, bytes]:
    try:
        data = msgspec.msgpack.encode(_Refusal(str(refusal), refusal.code, refusal.details))
        _refusal_decoder.decode(data)
    except Exception:  # noqa: BLE001 - the user made it: with larger numbers, half characters, a class of its own
        return CommandState.NOT_KEPT, b""
    return CommandState.REFUSED, data


def _load_refusal(data: bytes) -> SynclineError:
    try:
        held = _refusal_decoder.decode(data)
    except UNDECODABLE:
        return not_kept()
    return Rejected(held.message, code=held.code, details=held.details)
