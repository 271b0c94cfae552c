"""The role of a node, as callers of the library see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import StateType

__all__ = ["Role", "RoleWatch", "role_of"]

Role: TypeAlias = Literal["leader", "follower", "candidate", "learner", "stopped"]
"""`learner`: it follows and does not vote, or is no member yet. `stopped`: it was closed, or has stopped itself."""


def role_of(core: RawNode, *, stopped: bool) -> Role:
    """Return the role of a node, by the state of its core and the membership in force."""
    if stopped:
        return "stopped"
    if core.state is StateType.LEADER:
        return "leader"
    if core.state in (StateType.CANDIDATE, StateType.PRE_CANDIDATE):
        return "candidate"
    state = core.membership
    return "follower" if core.id in (*state.voters, *state.voters_outgoing) else "learner"


class RoleWatch:
    """Tells of another role of a running node: by an election, or by a change of the membership."""

    def __init__(self, core: RawNode, told: Callable[[Role], None]) -> None:
        self._core = core
        self._told = told
        self._role = role_of(core, stopped=False)

    def look(self) -> None:
        """Compare the role with that of the last call."""
        before, self._role = self._role, role_of(self._core, stopped=False)
        if self._role != before:
            self._told(self._role)
