"""`upgrade`: the levels of the cluster, in a rolling upgrade."""

from __future__ import annotations

from typing import Final

import click

from syncline.cli.common import Context, client_command, make_client
from syncline.cli.output import print_json, print_line, print_table
from syncline.client import UpgradeResult

__all__ = ["upgrade"]

CHANGE_TIMEOUT_S: Final = 30.0
"""A hold and a finalization wait for a commit."""


@click.group("upgrade", short_help="Show, hold or finalize the cluster's levels.")
def upgrade() -> None:
    """The cluster's levels: what all members may write.

    They rise by themselves once all members can do more, and never fall. Hold them before an upgrade to be able to go
    back to the older version, and finalize when you are content.
    """


@upgrade.command("status")
@client_command
async def upgrade_status(context: Context) -> None:
    """Show the levels of the cluster, and what each member can do."""
    async with make_client(context) as client:
        _print(context, await client.upgrade_status())


@upgrade.command("hold")
@client_command
async def upgrade_hold(context: Context) -> None:
    """Keep the levels where they are, whichever node leads, until `upgrade finalize`."""
    async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
        _print(context, await client.hold_upgrade(timeout=context.timeout_s or CHANGE_TIMEOUT_S))


@upgrade.command("finalize")
@client_command
async def upgrade_finalize(context: Context) -> None:
    """End the hold, and raise the levels to what all members can do. An older version can't be started after that."""
    async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
        _print(context, await client.finalize_upgrade(timeout=context.timeout_s or CHANGE_TIMEOUT_S))


def _print(context: Context, result: UpgradeResult) -> None:
    if context.as_json:
        print_json(result)
        return
    print_line(f"the cluster is at level {result.level}, machine version {result.machine_version}")
    print_line(_possible(result))
    if result.held:
        print_line("held until `syncline upgrade finalize`")
    elif result.hold_level:
        print_line(f"held at level {result.hold_level} by the settings of the node that answers")
    rows = [
        (member.name, _told(member.level), _told(member.machine_version), member.id)
        for member in sorted(result.members, key=lambda member: member.name)
    ]
    print_table(("NAME", "LEVEL", "MACHINE VERSION", "ID"), rows)


def _possible(result: UpgradeResult) -> str:
    if not result.possible_level:
        return "not all members have told what they can do"
    return f"all members can do level {result.possible_level}, machine version {result.possible_machine_version}"


def _told(number: int) -> str:
    return str(number) if number else "not known"
