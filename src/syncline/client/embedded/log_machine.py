"""The key-value machine of a store on an engine whose log any program can open by its URL.

The first command in the log of a store declares whose log it is, in the form of a typed machine (`machines/declared`).
So a typed machine that is opened by the URL of a store stops before it writes, and the other way round.
"""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.errors import NodeFailed, Rejected
from syncline.kv.machine import CommandResult, KvMachine
from syncline.kv.records import CompactAnswer
from syncline.kv.versions import is_later
from syncline.machines.calls import encode_declaration
from syncline.machines.declared import DECLARATION, Declared
from syncline.node.fsm import Entry

__all__ = ["STORE_DECLARATION", "LogKvMachine"]

STORE_MACHINE: Final = "syncline.Store"
STORE_DECLARATION: Final = encode_declaration(Declared(STORE_MACHINE))

_declarations: Final[msgspec.msgpack.Decoder[tuple[str, Declared]]] = msgspec.msgpack.Decoder(tuple[str, Declared])


class LogKvMachine(KvMachine):
    """A key-value machine that stops its node at an entry of another state machine: it would be lost to both."""

    machine_name: str = STORE_MACHINE

    def check(self, data: bytes) -> None:
        """As `KvMachine.check`; the declaration of a store passes."""
        if data != STORE_DECLARATION:
            super().check(data)

    def growth(self, data: bytes) -> int:
        """As `KvMachine.growth`; a declaration is no part of the state."""
        return 0 if data == STORE_DECLARATION else super().growth(data)

    def _apply(self, entry: Entry) -> CommandResult:
        try:
            return super()._apply(entry)
        except Rejected as refusal:
            if refusal.code != "bad_command" or is_later(entry.data):
                raise
            machine = _declared_machine(entry.data)
            if machine != STORE_MACHINE:
                whose = f"the machine {machine!r}" if machine else "another state machine"
                raise NodeFailed(
                    f"log entry {entry.index} is no command of a store: this log is of {whose}. Open the store by the"
                    " URL of another log"
                ) from refusal
        return CompactAnswer(self.store.oldest, self.store.revision)  # nothing has changed


def _declared_machine(data: bytes) -> str:
    """The name of the machine that this declares; empty if it is no declaration."""
    try:
        name, declared = _declarations.decode(data)
    except msgspec.DecodeError:
        return ""
    return declared.machine if name == DECLARATION else ""
