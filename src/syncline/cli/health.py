"""The command `health`: the cluster's state as an exit status, for scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import click
import msgspec

from syncline.cli.announced import asks_members
from syncline.cli.asking import ask
from syncline.cli.common import Context, client_command, make_client
from syncline.cli.exits import EXIT_FAILED, EXIT_UNAVAILABLE, Told, one_line
from syncline.cli.output import print_json, print_line
from syncline.cli.survey import STATUS_TIMEOUT_S, MemberRow, Survey, survey_of
from syncline.errors import OperationError, Unreachable
from syncline.platform.texts import counted

__all__ = ["health"]

PROBE_KEY: Final = b"syncline-health"
"""A key that is only read. It need not exist."""

PROBE_TIMEOUT_S: Final = 5.0
"""Seconds for the linearizable read."""

FAR_BEHIND: Final = 10_000
"""In entries. A member that lags more than this does not help when another member fails."""


@click.command("health", short_help="Tell by the exit status how the cluster is.")
@client_command
@asks_members
async def health(context: Context) -> None:
    """Tell how the cluster is by the exit status: 0 healthy, 1 degraded, 4 no leader or no answer.

    Healthy: a quorum answers a linearizable read. Every member can be reached, is close behind the leader, and has
    space on its disk and in its store. Degraded: a quorum answers, and something is wrong with a member: each is a
    line.
    """
    survey = await survey_of(context)
    faults = [*_faults(survey), *await _warnings(context, survey)]
    served = survey.leader is not None
    why = survey.no_leader or "no quorum of the voters is reachable"
    if served:
        try:
            async with make_client(context, timeout_s=PROBE_TIMEOUT_S) as client:
                await client.get(PROBE_KEY)
        except OperationError as error:
            served, why = False, str(error)
    state = "no_leader" if not served else "degraded" if faults else "healthy"
    if context.as_json:
        reasons = [*([] if served else [one_line(why)]), *faults]
        print_json({"health": state, "leader": survey.leader if served else None, "reasons": reasons})
    else:
        line = f"{state}: {survey.leader} leads, {counted(survey.size, 'member')}" if served else f"no leader: {why}"
        print_line(one_line(line))
        for fault in faults:
            print_line(fault)
    if state != "healthy":
        raise Told(EXIT_FAILED if served else EXIT_UNAVAILABLE)


def _faults(survey: Survey) -> Iterator[str]:
    for row in survey.members:
        name = row.name or row.http or "?"
        if (fault := _fault(row)) is not None:
            yield f"{name}: {one_line(fault)}"
    if any(row.digest_agreement == "no_majority" for row in survey.members):
        yield "the voters' states differ, and no majority agrees: see docs/digest.md"


class _NodeHealth(msgspec.Struct):
    """What is used of a node's answer to `GET /health`."""

    warnings: list[str] = []


async def _warnings(context: Context, survey: Survey) -> list[str]:
    """What the nodes say is short: a node without space answers reads, and refuses writes."""
    rows = [row for row in survey.members if row.url is not None]

    async def one(row: MemberRow) -> list[str]:
        try:
            answer = await ask(context, str(row.url), "/health?serializable=true", timeout_s=STATUS_TIMEOUT_S)
            return msgspec.json.decode(answer.body, type=_NodeHealth).warnings
        except (Unreachable, msgspec.DecodeError) as error:  # it has answered a moment ago
            return [f"its warnings are not known: {error}"]

    found = await asyncio.gather(*map(one, rows))
    return [f"{row.name}: {one_line(text)}" for row, texts in zip(rows, found, strict=True) for text in texts]


def _fault(row: MemberRow) -> str | None:
    if row.error is not None:
        return row.error
    if row.fault:
        return row.fault
    if not row.member:
        return "it answers, but is not a member of the cluster"
    if row.active is False:
        return "the leader does not hear of it"
    if (row.lag or 0) > FAR_BEHIND:
        return f"it is {row.lag} entries behind"
    return None
