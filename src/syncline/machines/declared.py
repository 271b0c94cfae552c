"""The list of commands that a log may hold: replicated, kept in snapshots, and compared with the code that reads it.

A machine proposes its list before its first command. So code that lacks a command meets the list first, and stops
before it has applied anything that follows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from syncline.errors import NodeFailed
from syncline.node.machine import wrong_machine

__all__ = ["DECLARATION", "Declared", "check_declared"]

DECLARATION: Final = ""
"""The name of the entry that declares commands. No method has it."""


class Declared(msgspec.Struct, frozen=True):
    """What a log was written by: the machine's name, and its commands with the version that brought each."""

    machine: str = ""
    """Empty before the first declaration."""
    commands: dict[str, int] = {}

    def covers(self, other: Declared) -> bool:
        """Whether all of the other stands here."""
        return self.machine == other.machine and other.commands.keys() <= self.commands.keys()

    def joined(self, other: Declared) -> Declared:
        """Both together. The version of the first declaration of a command stays."""
        commands = {**other.commands, **self.commands}
        return Declared(self.machine or other.machine, {name: commands[name] for name in sorted(commands)})


def check_declared(
    found: Declared, *, kind: str, machine: str, known: Collection[str], removed: Mapping[str, int]
) -> None:
    """Raise NodeFailed if the class `kind` can't read a log with these commands. The text says what is missing."""
    if not found.machine:
        return
    if found.machine != machine:
        rename = f'class {kind}(Machine, name="{found.machine}")'
        raise wrong_machine(found.machine, machine, kind=kind, rename=rename)
    missing = sorted(found.commands.keys() - set(known) - removed.keys())
    if missing:
        names = ", ".join(f"{name} (since {found.commands[name]})" for name in missing)
        first = missing[0]
        raise NodeFailed(
            f"this log may hold commands that {kind} does not have: {names}. Nothing after that was applied."
            f' Deploy the version that has them; or declare it: @command(was="{first}") on the method in its place, or'
            f" class {kind}(Machine, removed={{{first!r}: VERSION}}) if no entry of it is in the log any more"
        )
