"""Histories: requests of clients of a key-value cluster, and their answers.

A history is a list of operations, each with the time of its call and of its return by one clock that all clients
share. An operation whose outcome its client never learned has no result and no return: it may take effect at any time
after its call, once, or never.

A `Recorder` writes a history while it happens. On disk it is one JSON object a line, so that the history of a
run can be kept and checked later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO, Final, Literal, TypeAlias

import msgspec

from syncline.errors import OperationError, Outcome

__all__ = [
    "ABSENT",
    "EXISTS",
    "Call",
    "CallCompare",
    "DeleteCall",
    "NotApplied",
    "Operation",
    "PutCall",
    "Ran",
    "ReadCall",
    "Recorder",
    "Refused",
    "Result",
    "Seen",
    "Step",
    "TxnCall",
    "Written",
    "keys_of",
    "read_history",
    "write_history",
]

ABSENT: Final = 0
"""An `expect` that holds when the key does not exist (its mod_revision is 0)."""

EXISTS: Final = -1
"""An `expect` that holds when the key exists, whatever its mod_revision."""

FORMAT: Final = 1
"""The version of the stored form, in its first line. Fields may be added, with defaults; anything else is a new one."""


# -- requests


class PutCall(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="put"):
    """Set a key. With `expect` (a mod_revision, `ABSENT` or `EXISTS`) this is the compare-and-swap."""

    key: bytes
    value: bytes
    expect: int | None = None


class DeleteCall(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="delete"):
    """Remove a key. `expect` as in `PutCall`."""

    key: bytes
    expect: int | None = None


class ReadCall(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="read"):
    """Read a key: linearizably, or from the local state of the asked node (`stale`).

    A stale read may miss writes of the `max_stale_s` seconds before its call, and no older ones; None: no bound.
    """

    key: bytes
    stale: bool = False
    max_stale_s: float | None = None


class CallCompare(msgspec.Struct, frozen=True, omit_defaults=True):
    """A condition of a transaction, on a key's value (bytes) or its mod_revision (a number; 0: it does not exist).

    A compare with the value of a key that does not exist never holds, with `!=` neither.
    """

    key: bytes
    operand: bytes | int
    equal: bool = True


Step: TypeAlias = PutCall | DeleteCall | ReadCall
"""The steps of a transaction; none has an `expect` or is `stale` there."""


class TxnCall(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="txn"):
    """If all `compares` hold do `then`, else `else_`: as one. No key is written twice by one branch."""

    compares: tuple[CallCompare, ...] = ()
    then: tuple[Step, ...] = ()
    else_: tuple[Step, ...] = ()


Call: TypeAlias = PutCall | DeleteCall | ReadCall | TxnCall


# -- answers; the number 0 and the truth value None mean "not reported"


class Written(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="written"):
    """A put or delete was done. `revision` is the store's after it; `existed`: there was such a key before.

    To remove what is not there changes nothing and takes no revision, so a delete's says something only with `existed`.
    """

    revision: int = 0
    existed: bool | None = None


class Seen(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="seen"):
    """A key was read. `value` None: it did not exist. `revision` is the store's at that moment."""

    value: bytes | None = None
    mod_revision: int = 0
    revision: int = 0


class Ran(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="ran"):
    """A transaction was done: whether its compares held, the store's revision after it, and its steps' results.

    `results` are empty if they were not reported, else one for each step of the branch that ran.
    """

    succeeded: bool
    revision: int = 0
    results: tuple[Written | Seen, ...] = ()


class Refused(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="refused"):
    """The `expect` did not hold. `mod_revision` is the key's actual one (0: it did not exist); None: not reported.

    Refusals travel through the log like writes: this is a result, and has its place in the order. `revision` is the
    store's at that moment.
    """

    mod_revision: int | None = None
    revision: int = 0


class NotApplied(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is", tag="not_applied"):
    """The system promised that the operation had no effect and never will. `code` says why, for the reader."""

    code: str = ""


Result: TypeAlias = Written | Seen | Ran | Refused | NotApplied


class Operation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request of one client. `node` is the asked node, if that is known.

    Without a `result` there is no `return_s` either: the outcome is unknown. A client has one operation at a
    time; after one of unknown outcome it goes on.
    """

    client: str
    request: Call
    call_s: float
    return_s: float | None = None
    result: Result | None = None
    node: str = ""

    def __post_init__(self) -> None:
        if (self.result is None) != (self.return_s is None):
            raise ValueError("an operation has both a result and a return, or neither")
        if self.return_s is not None and self.return_s < self.call_s:
            raise ValueError(f"the operation of {self.client} returns at {self.return_s} s, before {self.call_s} s")

    @property
    def unknown(self) -> bool:
        """Whether it is unknown if it took effect."""
        return self.result is None


def keys_of(request: Call) -> tuple[bytes, ...]:
    """Every key that a request looks at or may write, each once."""
    if not isinstance(request, TxnCall):
        return (request.key,)
    parts = (*request.compares, *request.then, *request.else_)
    return tuple(dict.fromkeys(part.key for part in parts))


# -- recording


class Recorder:
    """Records the operations of clients as they happen.

        token = recorder.call("c1", PutCall(b"k", b"v"), node="a")
        try:
            recorder.returned(token, Written(await put(...)))
        except OperationError as error:
            recorder.failed(token, error)
        assert_linearizable(recorder.history())

    `clock` returns seconds and never goes back; all clients of a history share it. An operation without an end is of
    unknown outcome. Not for use by several threads at once: give each its own, and join the histories.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._done: list[Operation] = []
        self._open: dict[int, Operation] = {}
        self._calls = 0

    def __len__(self) -> int:
        return self._calls

    def call(self, client: str, request: Call, *, node: str = "") -> int:
        """Record a request that a client is about to send. The returned number names the operation."""
        self._calls += 1
        self._open[self._calls] = Operation(client=client, request=request, call_s=self._clock(), node=node)
        return self._calls

    def returned(self, token: int, result: Result) -> Operation:
        """Record the answer. Once per call."""
        called = self._open.pop(token)
        done = msgspec.structs.replace(called, return_s=self._clock(), result=result)
        self._done.append(done)
        return done

    def failed(self, token: int, error: OperationError) -> None:
        """Record a failure: with `not_applied` it never happened; an unknown outcome stays open."""
        if error.outcome is Outcome.NOT_APPLIED:
            self.returned(token, NotApplied(error.code))

    def history(self) -> list[Operation]:
        """All operations so far, in the order of the calls."""
        return _in_order([*self._done, *self._open.values()])


def _in_order(operations: Iterable[Operation]) -> list[Operation]:
    return sorted(operations, key=lambda operation: operation.call_s)


# -- files


class _HistoryHeader(msgspec.Struct, frozen=True):
    history: Literal[1]
    about: dict[str, str | int | float] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Operation)


def write_history(
    file: BinaryIO, operations: Iterable[Operation], about: dict[str, str | int | float] | None = None
) -> None:
    """Write a history to a file. `about` names its origin (a seed, a date), for the reader. Bytes are in base64.

        with open("history.jsonl", "wb") as file:
            write_history(file, recorder.history(), {"seed": 7})

    Raises:
        OSError: the file can't be written.
    """
    file.write(_encoder.encode(_HistoryHeader(FORMAT, about or {})) + b"\n")
    file.writelines(_encoder.encode(operation) + b"\n" for operation in operations)


def read_history(*files: BinaryIO) -> list[Operation]:
    """Read a history, or join several that recorders of one clock have written.

        with open("history.jsonl", "rb") as file:
            assert_linearizable(read_history(file))

    Raises:
        ValueError: a file is not of this form; the text has the line's number.
        OSError: a file can't be read.
    """
    operations: list[Operation] = []
    for file in files:
        for number, line in enumerate(file, 1):
            try:
                if number == 1:
                    msgspec.json.decode(line, type=_HistoryHeader)
                else:
                    operations.append(_decoder.decode(line))
            except msgspec.MsgspecError as error:
                raise ValueError(f"line {number} is not of a history: {error}") from error
    return _in_order(operations)
