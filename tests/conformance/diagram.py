"""The diagram of a node's roles in docs/consensus.md, drawn from the core's own table.

`python -m tests.conformance.diagram` prints it; a test compares it with the one in the document.
"""

from __future__ import annotations

from syncline.consensus.roles import TRANSITIONS
from syncline.consensus.types import StateType
from tests.conformance.describe import state_name

__all__ = ["REASONS", "draw"]

REASONS: dict[tuple[StateType, StateType], str] = {
    (StateType.FOLLOWER, StateType.FOLLOWER): "hears of a newer term",
    (StateType.FOLLOWER, StateType.PRE_CANDIDATE): "election timeout, with pre-vote",
    (StateType.FOLLOWER, StateType.CANDIDATE): "election timeout, without pre-vote, or TimeoutNow of the leader",
    (StateType.PRE_CANDIDATE, StateType.FOLLOWER): "refused by a quorum, or hears of a leader or of a newer term",
    (StateType.PRE_CANDIDATE, StateType.PRE_CANDIDATE): "election timeout",
    (StateType.PRE_CANDIDATE, StateType.CANDIDATE): "a quorum would vote for it",
    (StateType.CANDIDATE, StateType.FOLLOWER): "refused by a quorum, or hears of a leader or of a newer term",
    (StateType.CANDIDATE, StateType.PRE_CANDIDATE): "election timeout, with pre-vote",
    (StateType.CANDIDATE, StateType.CANDIDATE): "election timeout, without pre-vote",
    (StateType.CANDIDATE, StateType.LEADER): "a quorum votes for it",
    (StateType.LEADER, StateType.FOLLOWER): "hears of a newer term, lost its quorum, or was removed",
}
"""Why a node goes from one role to another."""


def draw() -> str:
    """The table as a Mermaid state diagram. Raises KeyError for a transition whose reason is not known."""
    lines = ["stateDiagram-v2", f"    [*] --> {_name(StateType.FOLLOWER)}"]
    for before in StateType:
        for after in sorted(TRANSITIONS[before]):
            lines.append(f"    {_name(before)} --> {_name(after)}: {REASONS[before, after]}")
    return "\n".join(lines) + "\n"


def _name(state: StateType) -> str:
    return state_name(state).removeprefix("State")


if __name__ == "__main__":
    print(draw(), end="")
