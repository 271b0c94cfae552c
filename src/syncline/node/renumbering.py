"""Numbers that never go back although an older state takes the place of a newer one.

Clients keep revisions and fencing tokens. A state that was restored from a snapshot, or recovered from one node, may
lack the newest of them. So the state machine goes on far above all that are known there. Nothing that was given to a
client before comes again, unless more than `REVISION_JUMP` changes were lost.
"""

from __future__ import annotations

from typing import BinaryIO, Final

from syncline.node.fsm import FSM, RenumberingFSM

__all__ = ["REVISION_JUMP", "renumber", "restore_renumbered"]

REVISION_JUMP: Final = 1_000_000_000
"""From the largest known number to the next one that is given. At 100,000 changes a second it covers three hours of
lost ones; snapshots of a day before are covered at 10,000 a second."""


def renumber(fsm: FSM[object]) -> None:
    """Have the state machine go on above all numbers that it knows, if it has such numbers. On its thread."""
    if isinstance(fsm, RenumberingFSM):
        fsm.renumber(REVISION_JUMP - 1, None)


def restore_renumbered(fsm: FSM[object], source: BinaryIO) -> object:
    """Load a state in place of the present one; return what the state machine returned. On its thread."""
    if isinstance(fsm, RenumberingFSM):
        return fsm.renumber(REVISION_JUMP - 1, source)  # type: ignore[func-returns-value]  # the user's code
    return fsm.restore(source)  # type: ignore[func-returns-value]  # the user's code
