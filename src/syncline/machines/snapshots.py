"""Snapshots of a machine's state, in pieces.

    frames      each: length (4 bytes, big-endian), MessagePack
    first       [format, machine, {command: since}]
    then        [field, first piece], [field, next piece], …
    last        a length of 0

While `snapshot` encodes, nothing is applied; the interpreter's lock is free between two pieces. `persist` reads all
pieces again, beside `apply`, before it writes the first one. For a command may have put a value of another type into
the state, and then the snapshot could not be loaded. The log must stay until such a state is corrected: with the
snapshot in its place on all nodes, the data would be lost.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

import msgspec

from syncline.errors import NodeFailed
from syncline.machines.declared import Declared
from syncline.machines.fields import StateField
from syncline.node.fsm import BytesSnapshot, SnapshotSink

__all__ = ["StateSnapshot", "dump_state", "read_declared", "read_fields"]

FORMAT: Final = 1
LENGTH_BYTES: Final = 4

_ENCODER: Final = msgspec.msgpack.Encoder()
_HEAD: Final = msgspec.msgpack.Decoder(tuple[int, str, dict[str, int]])
_PART: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])


def dump_state(declared: Declared, fields: Sequence[StateField], state: dict[str, object]) -> bytes:
    """Encode the whole state. Raises TypeError, ValueError or OverflowError, which names the field."""
    out = bytearray(_frame(_ENCODER.encode((FORMAT, declared.machine, declared.commands))))
    for field in fields:
        try:
            for piece in field.codec.dump_pieces(state[field.name]):
                out += _frame(_ENCODER.encode((field.name, msgspec.Raw(piece))))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"the field {field.name} holds what can't be encoded: {error}") from error
    out += bytes(LENGTH_BYTES)
    return bytes(out)


class StateSnapshot(BytesSnapshot):
    """A snapshot that is written if it can be loaded."""

    def __init__(self, content: bytes, fields: Sequence[StateField], kind: str) -> None:
        """`content`: of `dump_state`. `kind` names the machine's class, for errors."""
        super().__init__(content)
        self._fields = fields
        self._kind = kind

    def persist(self, sink: SnapshotSink) -> None:
        """Load all pieces, one by one, and write the bytes.

        Raises:
            TypeError: a field holds a value that does not fit its annotation.
        """
        codecs = {field.name: field.codec for field in self._fields}
        source = io.BytesIO(self._content)
        read_declared(source)
        for frame in _frames(source):
            name, data = _PART.decode(frame)
            try:
                codecs[name].load(bytes(data))
            except msgspec.DecodeError as error:
                raise TypeError(
                    f"{self._kind}.{name} holds a value that does not fit the annotation: {error}. Correct the command"
                    " that makes it, deploy that on all nodes, and start them: they apply the same entries again"
                ) from None
        super().persist(sink)


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def _frames(source: BinaryIO) -> Iterator[bytes]:
    while True:
        head = source.read(LENGTH_BYTES)
        length = int.from_bytes(head, "big")
        if len(head) < LENGTH_BYTES:
            raise NodeFailed("the snapshot of the machine ends before its last frame")
        if not length:
            return
        data = source.read(length)
        if len(data) < length:
            raise NodeFailed("the snapshot of the machine ends inside a frame")
        yield data


def read_declared(source: BinaryIO) -> Declared:
    """Read the first frame. Raises NodeFailed if this is no snapshot of a machine, or one of a later version."""
    try:
        form, machine, commands = _HEAD.decode(next(_frames(source), b""))
    except msgspec.DecodeError as error:
        raise NodeFailed(f"this is not the snapshot of a syncline.Machine: {error}") from None
    if form != FORMAT:
        raise NodeFailed(f"the snapshot of the machine has format {form}; this version reads format {FORMAT}: upgrade")
    return Declared(machine, commands)


def read_fields(
    source: BinaryIO, fields: Sequence[StateField], dropped: frozenset[str], kind: str
) -> dict[str, object]:
    """Read the fields behind `read_declared`. Fields that the snapshot does not have get their defaults.

    Raises:
        NodeFailed: it holds a field that the class does not declare, or a value of another type.
    """
    by_name = {field.name: field for field in fields}
    pieces: dict[str, list[bytes]] = {}
    for frame in _frames(source):
        name, data = _PART.decode(frame)
        if name in by_name:
            pieces.setdefault(name, []).append(bytes(data))
        elif name not in dropped:
            raise NodeFailed(
                f"the snapshot holds the field {name}, which {kind} does not declare: declare it, or write"
                f' class {kind}(Machine, dropped=["{name}"]) to do without it'
            )
    state: dict[str, object] = {}
    for name, field in by_name.items():
        try:
            state[name] = field.codec.load_pieces(iter(pieces[name])) if name in pieces else field.default()
        except msgspec.DecodeError as error:
            raise NodeFailed(
                f"{kind}.{name}: the snapshot holds a value that does not fit the annotation: {error}"
            ) from None
        pieces.pop(name, None)
    return state
