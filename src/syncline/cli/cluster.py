"""The commands `status`, `member` and `transfer`."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import click

from syncline.cli.announced import asks_members
from syncline.cli.common import Context, client_command, make_client
from syncline.cli.exits import EXIT_USAGE, Failure, one_line
from syncline.cli.output import print_json, print_line, print_table
from syncline.cli.status_view import clear_screen, print_survey
from syncline.cli.streams import say
from syncline.cli.survey import Survey, survey_of
from syncline.client import MemberInfo, Members
from syncline.errors import OperationError

__all__ = ["member", "status", "transfer"]

WATCH_EVERY_S: Final = 2.0
"""With --watch: soon enough to follow an election by eye."""

TAKEN: Final = "membership"
"""The code of a name or an address that another member has: `member add` was called with wrong arguments."""

CHANGE_TIMEOUT_S: Final = 30.0
"""For changes of the membership: they wait for a commit, and a transfer for an election."""


@click.command("status", short_help="Show every member and its state.")
@client_command
@asks_members
@click.option("--watch", "-w", is_flag=True, help="Show it again every 2 s, until Ctrl-C.")
@click.option("--wide", is_flag=True, help="All columns, however wide the table becomes.")
async def status(context: Context, *, watch: bool, wide: bool) -> None:
    """Show every member: its role, term, how many entries it is behind, and the digest of its state.

    Members that the endpoints don't name are found through those that answer. A member that does not answer is listed
    as unreachable, with the reason. Members at one revision have the same digest.
    """
    if not watch:
        _print_status(context, await survey_of(context), wide=wide)
        return
    while True:
        try:
            survey = await survey_of(context)
        except OperationError as error:
            clear_screen()
            say(f"syncline: {one_line(str(error))}")
        else:
            if not context.as_json:
                clear_screen()
            _print_status(context, survey, wide=wide)
            sys.stdout.flush()
        await asyncio.sleep(WATCH_EVERY_S)


def _print_status(context: Context, survey: Survey, *, wide: bool) -> None:
    if context.as_json:
        print_json(survey)
    else:
        print_survey(survey, wide=wide)


_force = click.option("--force", is_flag=True, help="Also if no quorum of the voters would be alive afterwards.")


@click.group("member", short_help="List, add, remove, promote, demote or update members.")
def member() -> None:
    """The cluster's membership. A change is committed when the command ends."""


@member.command("list")
@client_command
async def member_list(context: Context) -> None:
    """List the members, voters and learners."""
    async with make_client(context) as client:
        members = await client.members()
    if context.as_json:
        print_json(members)
    else:
        _print_members(members.members)


@member.command("add")
@client_command
@click.argument("name")
@click.argument("address", metavar="HOST:PORT")
@click.option("--http", default="", metavar="URL", help="Where clients reach it; it announces this itself, too.")
@click.option("--learner", is_flag=True, help="Never make it a voter by itself.")
async def member_add(context: Context, *, name: str, address: str, http: str, learner: bool) -> None:
    """Add a node under NAME, which its peers reach at HOST:PORT.

    It joins as a learner and becomes a voter once it has caught up (unless --learner). Start it with
    `syncline serve --join`, which adds the node by itself if it is not a member yet.
    """
    try:
        async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
            result = await client.add_member(name, address, http=http, learner=learner, timeout=_change_s(context))
    except OperationError as error:
        if error.code != TAKEN:
            raise
        raise Failure(str(error), EXIT_USAGE, code=TAKEN, as_json=context.as_json) from error
    if context.as_json:
        print_json(result)
        return
    print_line(f"{name}: {'added' if result.added else 'is a member already'} as {result.member.role}")
    _print_members(result.members)


@member.command("remove")
@client_command
@click.argument("name")
@_force
async def member_remove(context: Context, *, name: str, force: bool) -> None:
    """Remove the member NAME (its name or its id). The node stops; its data directory is not touched."""
    async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
        members = await client.remove_member(name, force=force, timeout=_change_s(context))
    _print_change(context, f"{name}: removed", members)


@member.command("promote")
@client_command
@click.argument("name")
@_force
async def member_promote(context: Context, *, name: str, force: bool) -> None:
    """Make the learner NAME (its name or its id) a voter."""
    async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
        members = await client.promote_member(name, force=force, timeout=_change_s(context))
    _print_change(context, f"{name}: promoted", members)


@member.command("demote")
@client_command
@click.argument("name")
@_force
async def member_demote(context: Context, *, name: str, force: bool) -> None:
    """Make the voter NAME (its name or its id) a learner."""
    async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
        members = await client.demote_member(name, force=force, timeout=_change_s(context))
    _print_change(context, f"{name}: demoted", members)


@member.command("update")
@client_command
@click.argument("name")
@click.option("--address", required=True, metavar="HOST:PORT", help="Where its peers reach it now.")
async def member_update(context: Context, *, name: str, address: str) -> None:
    """Change the address at which the peers dial the member NAME (its name or its id).

    A running member announces its own address (`--peer-advertise`), and that address wins. This command is for a
    member that moved and reaches no other member.
    """
    async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
        members = await client.update_member(name, address=address, timeout=_change_s(context))
    if context.as_json:
        print_json(members)
        return
    print_line(f"{name}: its peers dial it at {address}")
    _print_members(members.members)


@click.command("transfer", short_help="Transfer the leadership to another node.")
@client_command
@click.argument("name", required=False)
async def transfer(context: Context, *, name: str | None) -> None:
    """Transfer the leadership to the voter NAME, or to the most up-to-date voter."""
    async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
        leader = await client.transfer_leadership(name, timeout=_change_s(context))
    if context.as_json:
        print_json({"leader": leader})
    else:
        print_line(f"{leader.name or leader.id} leads")


def _change_s(context: Context) -> float:
    return context.timeout_s or CHANGE_TIMEOUT_S


def _print_change(context: Context, done: str, members: Members) -> None:
    if context.as_json:
        print_json(members)
        return
    print_line(done)
    _print_members(members.members)


def _print_members(members: tuple[MemberInfo, ...]) -> None:
    members = tuple(sorted(members, key=lambda known: known.name))
    rows = [(known.name, known.role, known.peer, known.http or "-", known.id) for known in members]
    print_table(("NAME", "ROLE", "PEER", "HTTP", "ID"), rows)
