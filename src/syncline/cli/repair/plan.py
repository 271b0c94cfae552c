"""Decide whether a node can be replaced, from its directory and its cluster. Nothing is changed here.

The replaced node must not run anywhere. A majority of the voters (the node counts as a voter) must answer without
it: they commit its removal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from syncline.cli.exits import EXIT_FAILED, EXIT_UNAVAILABLE, Failure
from syncline.cli.survey import MemberRow, Survey

__all__ = ["RepairPlan", "RepairTarget", "plan_when_settled", "refuse_single"]

ASK_AGAIN_S: Final = 0.3
"""Between two checks of a cluster that has not settled yet."""

SALVAGE: Final = "docs/repair.md ('Without a quorum') says what can be saved. Nothing was changed."


class RepairTarget(msgspec.Struct, frozen=True):
    """The node of the data directory, as far as the directory and the user name it. A field is empty if neither does.

    `address` and `http` are the addresses that the directory knew last, `new_address` is the user's. Ids are texts of
    hexadecimal digits.
    """

    node_id: str
    cluster_id: str
    name: str
    address: str
    http: str
    new_address: str = ""


class RepairPlan(msgspec.Struct, frozen=True):
    """What will be done. `old_id` is empty if the node was removed before: then it is only added."""

    cluster_id: str
    old_id: str
    name: str
    address: str
    http: str
    voter: bool
    endpoints: tuple[str, ...]
    leader: str
    answering: int
    needed: int
    voters: int


class NotYet(Failure):
    """The node can't be replaced now; that may change by itself within seconds."""


async def plan_when_settled(
    ask: Callable[[], Awaitable[Survey]], target: RepairTarget, *, timeout_s: float
) -> RepairPlan:
    """Make the plan. If a leader is being elected, or still hears of the node, ask again.

    Raises the errors of `ask`, and `Failure` with the reason why the node can't be replaced.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    while True:
        try:
            return make_plan(await ask(), target)
        except NotYet:
            if loop.time() + ASK_AGAIN_S > end_s:
                raise
        await asyncio.sleep(ASK_AGAIN_S)


def make_plan(survey: Survey, target: RepairTarget) -> RepairPlan:
    """The plan for a cluster as it is now. Raises `Failure`."""
    if target.cluster_id and survey.cluster_id != target.cluster_id:
        raise Failure(
            f"the endpoints are of cluster {survey.cluster_id}, and the directory is of a node of cluster "
            f"{target.cluster_id}: give the endpoints of its own cluster",
            EXIT_FAILED,
        )
    members = [row for row in survey.members if row.member]
    old = _find(members, target)
    others = [row for row in members if row is not old]
    name, address = _names(old, others, target)
    if old is not None:
        _check_gone(old)
    leader, answering, needed, voters = _check_quorum(survey, old, others)
    return RepairPlan(
        cluster_id=survey.cluster_id,
        old_id=old.id or "" if old is not None else "",
        name=name,
        address=address,
        http=(old.http if old is not None else None) or target.http,
        voter=old is None or bool(old.voter) or old.promote,
        endpoints=tuple(row.http for row in sorted(others, key=lambda row: not row.reachable) if row.http),
        leader=leader,
        answering=answering,
        needed=needed,
        voters=voters,
    )


def refuse_single(name: str) -> Failure:
    """The refusal for a node that is alone."""
    return Failure(
        f"{name} is the only voter of its cluster: no other node can decide to replace it, or has its data. {SALVAGE}",
        EXIT_FAILED,
        code="no_quorum",
    )


def _find(members: Sequence[MemberRow], target: RepairTarget) -> MemberRow | None:
    """The member that is to be replaced: the one with the directory's id, or else with its name."""
    by_id = [row for row in members if target.node_id and row.id == target.node_id]
    by_name = [row for row in members if target.name and row.name == target.name]
    found = next(iter([*by_id, *by_name]), None)
    if found is None and not target.node_id:
        raise Failure(
            f"the cluster has no member named {target.name!r}, and so nothing to repair: a new node is started with "
            "`syncline serve --join`",
            EXIT_FAILED,
            code="unknown_member",
        )
    return found


def _names(old: MemberRow | None, others: Sequence[MemberRow], target: RepairTarget) -> tuple[str, str]:
    name = target.name or (old.name if old is not None else None) or ""
    address = target.new_address or (old.peer if old is not None else None) or target.address
    if not name:
        raise Failure("neither the directory nor the cluster tells which node this was: give --name", EXIT_FAILED)
    if not address:
        raise Failure(
            f"{name} is no member of the cluster any more, and the directory does not tell where its peers reach it: "
            "give --address HOST:PORT",
            EXIT_FAILED,
        )
    for other in others:
        if name == other.name or address == other.peer:
            raise Failure(
                f"member {other.name} ({other.id}) at {other.peer} has the name or the address of {name} at {address}: "
                "remove one of the two first",
                EXIT_FAILED,
            )
    return name, address


def _check_gone(old: MemberRow) -> None:
    if old.reachable:
        where = f"pid {old.pid}, data directory {old.data_dir}"
        raise Failure(f"{old.name} ({old.id}) runs: it answers at {old.http} ({where}). Stop it first.", EXIT_FAILED)
    if old.active:
        raise NotYet(
            f"the leader still hears of {old.name} ({old.id}): it runs somewhere, on another directory than this one. "
            "Stop it first.",
            EXIT_FAILED,
        )


def _check_quorum(survey: Survey, old: MemberRow | None, others: Sequence[MemberRow]) -> tuple[str, int, int, int]:
    """The leader's name, and how many voters answer, are needed, and are there."""
    voters = [row for row in others if row.voter]
    count = len(voters) + (old is not None and bool(old.voter))
    needed = count // 2 + 1
    answering = [row for row in voters if row.reachable]
    if old is not None and not voters:
        raise refuse_single(str(old.name))
    if len(voters) < needed:
        raise Failure(
            f"{', '.join(_shown(row) for row in voters)} can't decide without it: a change needs {needed} of the "
            f"{count} voters, and {old.name if old is not None else 'it'} is one of them. {SALVAGE}",
            EXIT_FAILED,
            code="no_quorum",
        )
    if len(answering) < needed:
        silent = ", ".join(f"{_shown(row)} does not ({row.error})" for row in voters if not row.reachable)
        raise Failure(
            f"{len(answering)} of the {len(voters)} other voters {'answers' if len(answering) == 1 else 'answer'},"
            f" and a change needs {needed} of {count}: {silent}. Start what is stopped and try again. Nothing was"
            " changed.",
            EXIT_UNAVAILABLE,
            code="no_quorum",
        )
    if survey.leader is None or (old is not None and survey.leader == old.name):
        raise NotYet(
            "the cluster has no leader at the moment. Try again. Nothing was changed.",
            EXIT_UNAVAILABLE,
            code="no_leader",
        )
    return survey.leader, len(answering), needed, count


def _shown(row: MemberRow) -> str:
    return row.name or row.id or "?"
