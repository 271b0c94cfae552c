"""The commands of the quorum files and of the membership files: calculations without nodes.

Quorum files: `committed` draws the acknowledged indexes and gives the index that a quorum has; `vote` gives the state
of an election. Arguments: `cfg=(1,2)`, `cfgj=(2,3)` for a joint quorum (`cfgj=zero`: joint with nobody), and `idx=` or
`votes=` with one value per voter in the order of their first mention, `_` where nothing is known. Every calculation is
done in several ways that must agree; a result that differs is printed, so that the case fails.

Membership files: `simple`, `enter-joint [autoleave=true]` and `leave-joint` on one membership, with changes as input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from syncline.consensus.membership import Changer, Configuration, MembershipRefused, ProgressMap
from syncline.consensus.quorum import INFINITE_INDEX, JointConfig, MajorityConfig
from syncline.consensus.types import NodeId
from tests.conformance.datafile import Case, FormatError, parse_bool
from tests.conformance.describe import parse_changes

__all__ = ["MEMBERSHIP_VERBS", "QUORUM_VERBS", "MembershipTable", "QuorumTable", "naive_committed_index"]

QUORUM_VERBS = frozenset({"committed", "vote"})
MEMBERSHIP_VERBS = frozenset({"enter-joint", "leave-joint", "simple"})

_VOTES = {"y": True, "n": False, "_": None}


def _index_text(index: int) -> str:
    return "∞" if index == INFINITE_INDEX else str(index)


class QuorumTable:
    """Runs the commands of a quorum file. Nothing is kept from one to the next."""

    def run(self, case: Case) -> str:
        voters: list[NodeId] = []
        outgoing: list[NodeId] = []
        joint = False
        values: list[str] = []
        for argument in case.arguments:
            match argument.key:
                case "cfg":
                    voters += map(int, argument.values)
                case "cfgj":
                    joint = True
                    outgoing += [] if argument.values == ("zero",) else map(int, argument.values)
                case "idx" | "votes":
                    values += [value.strip() for value in argument.values]
                case _:
                    raise FormatError(f"unknown argument {argument.key}")
        mentioned = list(dict.fromkeys(voters + outgoing))
        if len(mentioned) != len(values):
            return _mismatch(mentioned, values, case.command)
        known = {voter: value for voter, value in zip(mentioned, values, strict=True) if value != "_"}
        if case.command == "vote":
            return _vote(voters, outgoing, joint, {voter: _VOTES[value] is True for voter, value in known.items()})
        return _committed(voters, outgoing, joint, {voter: int(value) for voter, value in known.items()})


def _mismatch(voters: Sequence[NodeId], values: Sequence[str], command: str) -> str:
    numbers = {"y": "2", "n": "1", "_": "0"} if command == "vote" else {"_": "0"}
    shown = " ".join(f"{voter}:{{}}" for voter in sorted(voters))
    given = " ".join(numbers.get(value, value) for value in values)
    return f"error: mismatched input (explicit or _) for voters map[{shown}]: [{given}]"


def _vote(voters: Sequence[NodeId], outgoing: Sequence[NodeId], joint: bool, votes: Mapping[NodeId, bool]) -> str:
    if not joint:
        return f"{MajorityConfig(voters).vote_result(votes)}\n"
    result = JointConfig(voters, outgoing).vote_result(votes)
    mirrored = JointConfig(outgoing, voters).vote_result(votes)
    note = f"{mirrored} <-- via symmetry\n" if mirrored is not result else ""
    return f"{note}{result}\n"


def _committed(voters: Sequence[NodeId], outgoing: Sequence[NodeId], joint: bool, acked: Mapping[NodeId, int]) -> str:
    if joint:
        quorum = JointConfig(voters, outgoing)
        index = quorum.committed_index(acked)
        others = [("symmetry", JointConfig(outgoing, voters).committed_index(acked))]
        drawing = quorum.describe(acked)
    else:
        majority = MajorityConfig(voters)
        index = majority.committed_index(acked)
        others = _other_ways(majority, acked, index)
        drawing = majority.describe(acked)
    notes = "".join(f"{_index_text(other)} <-- via {name}\n" for name, other in others if other != index)
    return f"{drawing}{notes}{_index_text(index)}\n"


def _other_ways(majority: MajorityConfig, acked: Mapping[NodeId, int], index: int) -> list[tuple[str, int]]:
    """Calculations that must give the same index."""
    others = [
        ("alternative computation", naive_committed_index(majority, acked)),
        ("zero-joint quorum", JointConfig(majority, ()).committed_index(acked)),
        ("self-joint quorum", JointConfig(majority, majority).committed_index(acked)),
    ]
    # Whoever is below the committed index does not hold it up: further down he makes no difference.
    for voter in majority:
        if 0 < acked.get(voter, 0) < index:
            for lower in (acked[voter] - 1, 0):
                overlaid = {**acked, voter: lower}
                others.append((f"{voter} lowered to {lower}", majority.committed_index(overlaid)))
    return others


def naive_committed_index(voters: Iterable[NodeId], acked: Mapping[NodeId, int]) -> int:
    """The highest acknowledged index that more than half of the voters have reached, found by trying them all."""
    members = list(voters)
    if not members:
        return INFINITE_INDEX
    candidates = [acked.get(voter, 0) for voter in members]
    reached = [index for index in candidates if sum(other >= index for other in candidates) * 2 > len(members)]
    return max(reached, default=0)


class MembershipTable:
    """Runs the commands of a membership file, one after the other on the same membership."""

    def __init__(self) -> None:
        self._configuration = Configuration()
        self._progress: ProgressMap = {}
        self._last_index = 0
        """One more with every command, so that a member's `next` shows when its progress was made."""

    def run(self, case: Case) -> str:
        changer = Changer(self._configuration, self._progress, self._last_index)
        self._last_index += 1
        try:
            changes = parse_changes(case.input)
            match case.command:
                case "simple":
                    after = changer.simple(changes)
                case "enter-joint":
                    auto_leave = any(
                        argument.key == "autoleave" and parse_bool(argument.value) for argument in case.arguments
                    )
                    after = changer.enter_joint(auto_leave, changes)
                case "leave-joint":
                    if changes:
                        return "this command takes no input"
                    after = changer.leave_joint()
                case _:
                    return "unknown command"
        except (MembershipRefused, ValueError) as error:
            return f"{error}\n"
        self._configuration, self._progress = after
        progress = "".join(f"{node_id}: {one}\n" for node_id, one in sorted(self._progress.items()))
        return f"{self._configuration}\n{progress}"
