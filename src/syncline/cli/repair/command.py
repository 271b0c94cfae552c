"""The command `repair`: replace a node that lost a part of its log.

It may have lost a vote or an acknowledgement, so it must not go on under its id. Its cluster replaces it by a new
member with the same name and address. The cluster changes first, then the directory. Nothing is moved before the
cluster has committed the replacement. From then on a note in the directory keeps every node off it until the repair
is complete.
"""

from __future__ import annotations

import os
import pwd
import secrets
import sys
from typing import Final

import click
import msgspec

from syncline.cli.announced import asks_members, is_trusted, trusting
from syncline.cli.common import Context, client_command, make_client, with_endpoint
from syncline.cli.exits import EXIT_FAILED, EXIT_USAGE, Failure, failure_of
from syncline.cli.output import print_json, print_line
from syncline.cli.repair.plan import RepairPlan, RepairTarget, plan_when_settled, refuse_single
from syncline.cli.survey import Survey, survey_known
from syncline.client import AsyncClient
from syncline.client.endpoints import MAX_ENDPOINTS, parse_endpoints
from syncline.errors import DirectoryLocked, OperationError, Outcome, SynclineError
from syncline.node.joining import chosen_id
from syncline.node.known_members import known_members
from syncline.node.member_registry import format_id
from syncline.platform.disk import Disk, OsDisk
from syncline.server.addresses import check_address, check_name
from syncline.storage import new_cluster
from syncline.storage import replace as replacement
from syncline.storage.datadir import lock_directory
from syncline.storage.diagnose import Diagnosis, diagnose
from syncline.storage.replace import Replacement

__all__ = ["repair"]

SETTLE_TIMEOUT_S: Final = 15.0
"""Time for the cluster to elect a leader if the broken node led, and to notice that it is gone."""

CHANGE_TIMEOUT_S: Final = 30.0

ID_BITS: Final = 62

AGAIN: Final = " (the repair is not complete: run the same command again, or with --replace to start it again)"


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """The document of `--json`. `status`: `sound` (nothing to do), `joining` (nothing lost: it never ran) or
    `repaired`.
    """

    status: str
    data_dir: str
    name: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cluster_id: str = ""
    old_id: str = ""
    new_id: str = ""
    set_aside: str = ""


@click.command("repair", short_help="Replace a node whose data directory is damaged.")
@client_command
@asks_members
@click.option("--data-dir", required=True, type=click.Path(file_okay=False), help="The stopped node's directory.")
@click.option("--name", default="", help="Name of the node, if the directory does not tell it.")
@click.option(
    "--address", default="", metavar="HOST:PORT", help="Its address for peers, if it has changed or is not known."
)
@click.option("--replace", is_flag=True, help="Replace the node even if its directory is sound.")
@click.option("--yes", is_flag=True, help="Don't ask.")
async def repair(context: Context, *, data_dir: str, name: str, address: str, replace: bool, yes: bool) -> None:
    """Report what is wrong with a stopped node's directory, and have its cluster replace the node.

    The node keeps its name and its address, and gets a new id. The old id is removed from the cluster, and the new one
    added as a learner. It becomes a voter once the node runs and has caught up. The damaged files are moved aside
    within the directory. A majority of the voters must answer without this node; else nothing is changed.

    If it is interrupted at any point, run the same command again to complete it.
    """
    if name:
        check_name(name)
    if address:
        check_address(address)
    path = data_dir.rstrip("/") or data_dir
    disk = OsDisk()
    if not disk.exists(path) and not name:
        raise click.UsageError(f"{path} is not there; if a node's whole directory was lost, give --name")
    if disk.exists(path):
        _check_owner(path)  # before the lock, which is a file as well
    try:
        lock = lock_directory(disk, path)
    except DirectoryLocked as error:
        holder = f"the process with pid {error.pid}" if error.pid else "another process"
        raise Failure(
            f"{path} is in use by {holder}: stop that node first", EXIT_FAILED, code="directory_locked",
            as_json=context.as_json,
        ) from error  # fmt: skip
    try:
        await _Repair(context, disk, path, name=name, address=address, replace=replace, yes=yes).run()
    except Failure as failure:
        failure.as_json = context.as_json
        raise
    finally:
        lock.release()


def _check_owner(path: str) -> None:
    """Refuse another user than the directory's owner: files that root makes are not readable for the node."""
    owner, me = os.stat(path).st_uid, os.geteuid()
    if owner != me:
        raise Failure(
            f"{path} belongs to {_user(owner)}, and this is {_user(me)}: run it as {_user(owner)}, or the node can't "
            "read its own files afterwards",
            EXIT_USAGE,
        )


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


class _Repair:
    def __init__(
        self, context: Context, disk: Disk, path: str, *, name: str, address: str, replace: bool, yes: bool
    ) -> None:
        self._context = context
        self._disk = disk
        self._path = path
        self._name = name
        self._address = address
        self._replace = replace
        self._yes = yes

    async def run(self) -> None:
        """Do the whole repair. Raises `Failure`, and the errors of disk and cluster."""
        if new_cluster.read_note(self._disk, self._path) is not None:
            raise Failure(
                f"{self._path} is in the middle of a recovery after a lost quorum: complete it first, by `syncline"
                f" recover --data-dir {self._path}`",
                EXIT_FAILED,
            )
        note = replacement.read_note(self._disk, self._path)
        if note is None:
            await self._begin()
        elif self._replace:
            await self._begin_anew(note)
        else:
            self._say(f"{self._path}: a repair of {note.name} was begun; going on with it")
            if self._address and self._address != note.address:
                note = msgspec.structs.replace(note, address=self._address)
                replacement.begin(self._disk, self._path, note)
            await self._carry_out(note, Report("repaired", self._path), begun=True)

    async def _begin(self) -> None:
        found = diagnose(self._disk, self._path)
        report = Report("sound", self._path, problems=found.problems, notes=found.notes)
        self._tell(found)
        if found.sound and not self._replace:
            assert found.identity is not None
            self._say("Nothing is wrong: start the node as usual. (--replace replaces it all the same.)")
            self._report(report, name=found.identity.name)
            return
        joining = chosen_id(self._disk, self._path) if found.empty else None
        if joining is not None and not self._name:
            self._say("A node was about to join from here and never ran. Start it as before; or, if it was a member")
            self._say("before and lost its data, give --name.")
            self._report(report, status="joining")
            return
        plan = await self._plan(*self._target(found))
        if joining is not None and plan.old_id == format_id(joining):
            self._say(f"{plan.name} is a member that never ran, and lost nothing. Start it as before.")
            self._report(report, status="joining", name=plan.name)
            return
        note = self._noted(plan, replacement.free_folder(self._disk, self._path))
        await self._carry_out(note, report, begun=False)

    async def _begin_anew(self, before: Replacement) -> None:
        """Start the repair again because the noted one can't be completed, for example after a removal of the new
        member.
        """
        self._say(f"{self._path}: a repair of {before.name} was begun; it is started again")
        target = RepairTarget(
            node_id=before.new_id,
            cluster_id=before.cluster_id,
            name=before.name,
            address=before.address,
            http=before.http,
            new_address=self._address,
        )
        plan = await self._plan(target, self._endpoints(before))
        await self._carry_out(self._noted(plan, before.folder), Report("repaired", self._path), begun=True)

    def _noted(self, plan: RepairPlan, folder: str) -> Replacement:
        """Ask the user, and write the note of what will be done."""
        note = Replacement(
            cluster_id=plan.cluster_id,
            old_id=plan.old_id,
            new_id=format_id(secrets.randbits(ID_BITS) + 1),
            name=plan.name,
            address=plan.address,
            http=plan.http,
            voter=plan.voter,
            endpoints=plan.endpoints,
            folder=folder,
        )
        self._ask(plan, note)
        replacement.begin(self._disk, self._path, note)
        return note

    def _endpoints(self, note: Replacement) -> str:
        return self._context.endpoints if self._context.endpoints_given else ",".join(note.endpoints)

    # -- what is wrong, and with which node

    def _tell(self, found: Diagnosis) -> None:
        if found.identity is not None:
            self._say(f"{self._path}: node {found.identity.name} ({format_id(found.identity.node_id)})")
        elif found.empty:
            self._say(f"{self._path}: empty")
        for problem in found.problems:
            self._say(f"  damaged: {problem}")
        for note in found.notes:
            self._say(f"  note: {note}")

    def _report(self, report: Report, **more: str) -> None:
        if self._context.as_json:
            print_json(msgspec.structs.replace(report, **more))

    def _target(self, found: Diagnosis) -> tuple[RepairTarget, str]:
        """The node that the directory belongs to, and the endpoints of its cluster."""
        heard = known_members(self._disk, self._path)
        own = heard.get(found.node_id)
        held = found.identity.name if found.identity is not None else (own.name if own is not None else "")
        if self._name and held and self._name != held:
            raise Failure(f"{self._path} is the directory of {held}, not of {self._name}", EXIT_USAGE)
        target = RepairTarget(
            node_id=format_id(found.node_id) if found.node_id else "",
            cluster_id=format_id(found.cluster_id) if found.cluster_id else "",
            name=held or self._name,
            address=own.address if own is not None else "",
            http=own.http if own is not None else "",
            new_address=self._address,
        )
        if not target.name and not target.node_id:
            raise click.UsageError(f"{self._path} does not tell which node it was of: give --name")
        if self._context.endpoints_given:
            return target, self._context.endpoints
        if heard and not heard.keys() - {found.node_id}:
            raise refuse_single(target.name)
        urls = [member.http for member in heard.values() if member.http and member.id != found.node_id]
        if not urls:
            raise click.UsageError(f"{self._path} does not tell where the cluster is: give --endpoints")
        return target, ",".join(urls[-MAX_ENDPOINTS:])

    # -- the cluster

    async def _plan(self, target: RepairTarget, endpoints: str) -> RepairPlan:
        heard = known_members(self._disk, self._path)
        known = [member.http for member in heard.values() if member.http]

        async def ask() -> Survey:
            return await survey_known(self._context, endpoints, known)

        plan = await plan_when_settled(ask, target, timeout_s=self._context.timeout_s or SETTLE_TIMEOUT_S)
        own = trusting(self._context, endpoints, known)
        trusted = tuple(url for url in plan.endpoints if is_trusted(own, url)) or tuple(parse_endpoints(endpoints))
        return msgspec.structs.replace(plan, endpoints=trusted)  # they get the credential with the changes

    def _ask(self, plan: RepairPlan, note: Replacement) -> None:
        role = "a learner that becomes a voter once it has caught up" if note.voter else "a learner, as it was"
        self._say(
            f"{plan.answering} of {plan.voters} voters answer, {plan.needed} are needed, {plan.leader} leads. "
            "So the cluster can replace it:"
        )
        if note.old_id:
            self._say(f"  {note.name} is removed under its id {note.old_id}, for good")
        self._say(f"  {note.name} is added at {note.address} under the id {note.new_id}, as {role}")
        self._say(f"  the old files are moved to {self._path}/{note.folder}")
        if self._yes:
            return
        if self._context.as_json or not sys.stdin.isatty():
            raise Failure("say --yes to carry this out without being asked. Nothing was changed.", EXIT_USAGE)
        sys.stdout.flush()
        if not click.confirm("Go on?", err=True):
            raise Failure("not confirmed. Nothing was changed.", EXIT_FAILED)

    async def _carry_out(self, note: Replacement, report: Report, *, begun: bool) -> None:
        context = with_endpoint(self._context, self._endpoints(note))
        async with make_client(context, timeout_s=CHANGE_TIMEOUT_S) as client:
            await self._change_cluster(client, note, begun=begun)
        folder = replacement.complete(self._disk, self._path, note)
        self._say(f"{folder}: holds the old files")
        self._say(f"{note.name} is replaced. Start it as it was started before: it fetches the data from the cluster.")
        self._report(
            report,
            status="repaired",
            name=note.name,
            cluster_id=note.cluster_id,
            old_id=note.old_id,
            new_id=note.new_id,
            set_aside=folder,
        )

    async def _change_cluster(self, client: AsyncClient, note: Replacement, *, begun: bool) -> None:
        """Remove the old member and add the new one. Each step can be repeated without harm."""
        timeout_s = self._context.timeout_s or CHANGE_TIMEOUT_S
        try:
            if note.old_id:
                await _remove(client, note.old_id, timeout_s)
                begun = True
                self._say(f"{note.name} ({note.old_id}): removed")
            await client.add_member(
                note.name, note.address, http=note.http, learner=not note.voter, node_id=note.new_id,
                timeout=timeout_s,
            )  # fmt: skip
        except OperationError as error:
            if not begun and error.outcome is Outcome.NOT_APPLIED:
                replacement.give_up(self._disk, self._path)
                raise failure_of(error, as_json=self._context.as_json, more=" (nothing was changed)") from error
            raise failure_of(error, as_json=self._context.as_json, more=AGAIN) from error
        except SynclineError as error:
            raise failure_of(error, as_json=self._context.as_json, more=AGAIN) from error
        self._say(f"{note.name} ({note.new_id}): added")

    def _say(self, line: str) -> None:
        if not self._context.as_json:
            print_line(line)


async def _remove(client: AsyncClient, member: str, timeout_s: float) -> None:
    """Remove a member by its id. A member that does not exist was removed before."""
    try:
        await client.remove_member(member, timeout=timeout_s)
    except OperationError as error:
        if error.code != "unknown_member":
            raise
