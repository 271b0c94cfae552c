"""The command `recover`: make a stopped node the first member of a new cluster, after the quorum was lost for good.

It shows what the directory keeps and what may be lost, and asks. Nothing is changed before the answer. Then the old
files are moved aside within the directory; nothing is deleted. If it is interrupted, the same command completes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click
import msgspec

from syncline.cli.announced import asks_members
from syncline.cli.common import Context, client_command
from syncline.cli.exits import EXIT_FAILED, EXIT_USAGE, Failure
from syncline.cli.output import print_json, print_line
from syncline.cli.survey import Survey, survey_known
from syncline.client.endpoints import MAX_ENDPOINTS
from syncline.errors import DirectoryLocked, Unreachable
from syncline.kv.machine import KvMachine
from syncline.node.config import Config
from syncline.node.known_members import known_members
from syncline.node.member_registry import format_id
from syncline.node.quorum_loss.report import RecoveryReport
from syncline.node.raft import Raft
from syncline.platform.disk import OsDisk
from syncline.platform.texts import counted
from syncline.storage import new_cluster
from syncline.storage.datadir import LOCK_NAME, read_identity

__all__ = ["recover"]

NO_ADDRESS: Final = "127.0.0.1:1"
"""Nothing listens or dials during a recovery, and the settings of a node need an address."""


class RecoverDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The document of `--json`. `status`: `plan` (nothing was changed) or `recovered`. Ids are hexadecimal digits."""

    status: str
    data_dir: str
    name: str
    last_index: int
    last_term: int
    commit_index: int
    uncertain_entries: int
    may_lose: bool
    reasons: tuple[str, ...]
    old_cluster_id: str
    old_node_id: str
    cluster_id: str = ""
    node_id: str = ""
    set_aside: str = ""


@click.command("recover", short_help="After a lost quorum, start a new cluster from one node.")
@client_command
@asks_members
@click.option("--data-dir", required=True, type=click.Path(file_okay=False), help="The stopped node's directory.")
@click.option(
    "--compare", multiple=True, type=click.Path(file_okay=False, exists=True), metavar="DIR",
    help="Another node's directory, or a copy of it; may be repeated.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be kept and lost; change nothing.")
@click.option("--accept-loss", is_flag=True, help="Go on even if acknowledged writes may be lost.")
@click.option("--yes", is_flag=True, help="Don't ask.")
async def recover(
    context: Context, *, data_dir: str, compare: Sequence[str], dry_run: bool, accept_loss: bool, yes: bool
) -> None:
    """Make a stopped key-value node the first member of a new cluster, after the quorum was lost for good.

    If a majority of the voters can still be started, start them: nothing is lost then, and this command is wrong. If
    one node alone is broken, 'syncline repair' replaces it.

    The new cluster has a new id, and this node as its only voter. It keeps the whole log of this node. Revisions go on
    far above the old ones. The other nodes join it with empty directories ('syncline serve --join').
    """
    path = data_dir.rstrip("/") or data_dir
    _refuse_itself(path, compare)
    name = _name_of(path)
    config = Config(name=name, data_dir=path, listen=NO_ADDRESS)
    try:
        plan = await Raft.recover(config, KvMachine(), compare=list(compare), dry_run=True)
    except DirectoryLocked as error:
        holder = f"the process with pid {error.pid}" if error.pid else "another process"
        raise Failure(
            f"{_held(path, compare, error)} is in use by {holder}: stop that node first", EXIT_FAILED,
            code="directory_locked", as_json=context.as_json,
        ) from error  # fmt: skip
    if new_cluster.read_note(OsDisk(), path) is None:
        await _check_members(context, path, plan)
        _show(context, plan)
    if dry_run:
        _report(context, plan)
        return
    _confirm(context, plan, accept_loss=accept_loss, yes=yes)
    done = await Raft.recover(config, KvMachine(), compare=list(compare), accept_loss=True)
    _say(context, f"{done.set_aside}: holds the old files")
    _say(
        context,
        f"{done.name} is the only member of the new cluster {format_id(done.cluster_id)}. Start it as it was started"
        " before. Then start each other node with an empty directory and `--join`.",
    )
    _report(context, done)


def _refuse_itself(path: str, compare: Sequence[str]) -> None:
    """Its lock is held while the others are looked at: the error would name this command as the node to stop."""
    if any(os.path.realpath(other) == os.path.realpath(path) for other in compare):
        raise click.UsageError(f"--compare names {path}, the directory of --data-dir: name those of other nodes")


def _name_of(path: str) -> str:
    """The name of the node of a directory; from the note, if a recovery was interrupted."""
    disk = OsDisk()
    if not disk.exists(path):
        raise click.UsageError(f"{path} is not there")
    note = new_cluster.read_note(disk, path)
    if note is not None:
        return note.name
    identity = read_identity(disk, path)
    if identity is None:
        raise Failure(f"{path} is no node's data directory: it has no identity", EXIT_FAILED)
    return identity.name


def _held(path: str, compare: Sequence[str], error: DirectoryLocked) -> str:
    """The directory that is in use: the error begins with its lock."""
    return next((other for other in compare if str(error).startswith(f"{other.rstrip('/')}/{LOCK_NAME} ")), path)


async def _check_members(context: Context, path: str, plan: RecoveryReport) -> None:
    """Refuse if the cluster still has a leader, or a member that runs has a newer log."""
    heard = known_members(OsDisk(), path)
    urls = [member.http for member in heard.values() if member.http and member.id != plan.old_node_id]
    endpoints = context.endpoints if context.endpoints_given else ",".join(urls[-MAX_ENDPOINTS:])
    if not endpoints:
        return
    try:
        survey = await survey_known(context, endpoints, urls)
    except Unreachable:  # that is what this command is for
        _say(context, "No other member's server answered: make sure that none of them runs.")
        return
    _check_survey(context, survey, plan)


def _check_survey(context: Context, survey: Survey, plan: RecoveryReport) -> None:
    if survey.cluster_id != format_id(plan.old_cluster_id):
        return  # other servers listen there now
    running = [row for row in survey.members if row.reachable and row.member]
    if survey.leader is not None and any(row.role == "leader" for row in running):
        raise Failure(
            f"the cluster has a leader, {survey.leader}: nothing is lost. Start this node, or have the cluster replace"
            " it by `syncline repair`. Nothing was changed.",
            EXIT_FAILED, code="has_leader", as_json=context.as_json,
        )  # fmt: skip
    newer = [row for row in running if (row.last_index or 0) > plan.last_index]
    if newer:
        row = newer[0]
        raise Failure(
            f"{row.name} ({row.id}) runs, and its log ends at entry {row.last_index}; that of {plan.name} ends at entry"
            f" {plan.last_index}. Stop {row.name}, and recover from its directory {row.data_dir}. Nothing was changed.",
            EXIT_FAILED, code="newer_copy", as_json=context.as_json,
        )  # fmt: skip
    if running:
        names = ", ".join(f"{row.name} ({row.id})" for row in running)
        raise Failure(
            f"other members of the cluster run: {names}. Stop them first: once enough of them are started, they would"
            " go on as the old cluster beside the new one. Nothing was changed.",
            EXIT_FAILED, code="members_run", as_json=context.as_json,
        )  # fmt: skip


def _show(context: Context, plan: RecoveryReport) -> None:
    _say(context, f"{plan.data_dir}: node {plan.name} ({format_id(plan.old_node_id)})")
    _say(context, f"  its log ends at entry {plan.last_index} of term {plan.last_term}: all of it is kept")
    if plan.uncertain_entries:
        _say(
            context,
            f"  not known to be committed here: the last {counted(plan.uncertain_entries, 'entry', 'entries')}. Clients"
            " may have got no answer to such writes",
        )
    for voter in plan.voters:
        state = "looked at" if voter.looked_at else "not looked at"
        _say(context, f"  voter {voter.name or '-'} ({format_id(voter.id)}): {state}")
    if not plan.may_lose:
        _say(context, "No acknowledged write can be lost.")
    for reason in plan.reasons:
        _say(context, f"ACKNOWLEDGED WRITES MAY BE LOST: {reason}.")


def _confirm(context: Context, plan: RecoveryReport, *, accept_loss: bool, yes: bool) -> None:
    if plan.may_lose and yes and not accept_loss:
        raise Failure(
            "acknowledged writes may be lost: say --accept-loss as well, or name more directories by --compare. Nothing"
            " was changed.",
            EXIT_FAILED, code="may_lose", as_json=context.as_json,
        )  # fmt: skip
    if yes:
        return
    if context.as_json or not sys.stdin.isatty():
        raise Failure(
            "say --yes to carry this out without being asked. Nothing was changed.", EXIT_USAGE, as_json=context.as_json
        )
    sys.stdout.flush()
    if not click.confirm("The old cluster ends. Go on?", err=True):
        raise Failure("not confirmed. Nothing was changed.", EXIT_FAILED)


def _say(context: Context, line: str) -> None:
    if not context.as_json:
        print_line(line)


def _report(context: Context, report: RecoveryReport) -> None:
    if not context.as_json:
        return
    document = RecoverDocument(
        status="recovered" if report.done else "plan",
        data_dir=report.data_dir,
        name=report.name,
        last_index=report.last_index,
        last_term=report.last_term,
        commit_index=report.commit_index,
        uncertain_entries=report.uncertain_entries,
        may_lose=report.may_lose,
        reasons=report.reasons,
        old_cluster_id=format_id(report.old_cluster_id),
        old_node_id=format_id(report.old_node_id),
    )
    if report.done:
        document = msgspec.structs.replace(
            document,
            cluster_id=format_id(report.cluster_id),
            node_id=format_id(report.node_id),
            set_aside=report.set_aside,
        )
    print_json(document)
