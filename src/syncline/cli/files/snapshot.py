"""The command `snapshot`: have a node take one, or check those on its disk without changing them."""

from __future__ import annotations

import click
import msgspec

from syncline.cli.common import Context, client_command, make_client
from syncline.cli.exits import EXIT_FAILED, EXIT_NOT_FOUND, Failure
from syncline.cli.files.common import DataFiles, data_command, hex_id
from syncline.cli.files.wal import membership_object
from syncline.cli.output import print_json, print_line, print_table
from syncline.decoding import UNDECODABLE
from syncline.node.member_registry import Member, MemberRegistry
from syncline.storage.inspect import SnapshotView, list_snapshots
from syncline.storage.snapshots.store import SnapshotManifest

__all__ = ["snapshot"]

TAKE_TIMEOUT_S = 30.0
"""A snapshot is written as a whole before the answer comes."""


async def _take(context: Context) -> None:
    """Have the first endpoint that answers write a snapshot of its state and drop the log before it."""
    async with make_client(context, timeout_s=TAKE_TIMEOUT_S) as client:
        result = await client.snapshot(timeout=context.timeout_s or TAKE_TIMEOUT_S)
    if context.as_json:
        print_json(result)
    elif result.created:
        print_line(f"snapshot at index {result.index}")
    else:
        print_line(f"nothing new since the snapshot at index {result.index}")


_take_command = client_command(_take)
take: click.Command = click.command("take", short_help="Have a node write a snapshot now.")(_take_command)


@click.group("snapshot", invoke_without_command=True, short_help="Take a snapshot, or look at those on disk.")
@click.pass_context
def snapshot(context: click.Context, /, **options: object) -> None:
    """Have a node write a snapshot now (`take`, and what is done without a subcommand), or look at a node's on disk.

    `list`, `inspect` and `verify` read a data directory and change nothing; its node may be running.
    """
    if context.invoked_subcommand is None:
        context.invoke(take, **options)
        return
    given = [name for name in options if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"options of {context.invoked_subcommand!r} come after it", ctx=context)


snapshot.params.extend(take.params)
snapshot.add_command(take)


@snapshot.command("list")
@data_command
def list_(files: DataFiles) -> None:
    """List the snapshots on disk, newest first. Their headers are checked, their data are not (see `verify`)."""
    views = _views(files, verify=False)
    if files.as_json:
        print_json({"snapshots": [_object(view) for view in views]})
        return
    if not views:
        print_line("no snapshots")
        return
    rows = [_row(view) for view in views]
    print_table(("INDEX", "TERM", "BYTES", "VOTERS", "WRITTEN BY", "FILE"), rows)
    for view in views:
        if view.damage is not None:
            print_line(view.damage)


def _row(view: SnapshotView) -> tuple[str, ...]:
    manifest, name = view.manifest, view.path.rsplit("/", 1)[1]
    if manifest is None:
        return ("-", "-", "-", "-", "-", f"{name} (damaged)")
    voters = str(len(manifest.membership.voters))
    numbers = (str(manifest.index), str(manifest.term), str(manifest.size_bytes), voters)
    return (*numbers, manifest.created_by, name if view.damage is None else f"{name} (damaged)")


@snapshot.command("inspect")
@data_command
@click.argument("index", type=click.IntRange(min=1), required=False)
def inspect(files: DataFiles, *, index: int | None) -> None:
    """Print what a snapshot says of itself: the newest one, or the one at INDEX."""
    view = _chosen(files, _views(files, verify=False), index)[0]
    manifest = view.manifest
    if files.as_json:
        print_json(_object(view))
    if manifest is None:
        raise Failure(view.damage or view.path, EXIT_FAILED, code="corruption_error", as_json=files.as_json)
    files.show(f"{view.path}")
    files.show(f"  index {manifest.index}, term {manifest.term}, cluster {hex_id(manifest.cluster_id)}")
    files.show(f"  {manifest.size_bytes} bytes of data, SHA-256 {manifest.sha256}")
    files.show(f"  written by Syncline {manifest.created_by}")
    for member in _members(manifest):
        files.show(
            f"  {member.role} {hex_id(member.id)} {member.name or '-'} {member.address or '-'} {member.http or '-'}"
        )
    if view.damage is not None:
        raise Failure(view.damage, EXIT_FAILED, code="corruption_error", as_json=files.as_json)


@snapshot.command("verify")
@data_command
@click.argument("index", type=click.IntRange(min=1), required=False)
def verify(files: DataFiles, *, index: int | None) -> None:
    """Read snapshots as a whole and check every byte: all of them, or the one at INDEX.

    Exit status 0 if all are sound, 1 if one is damaged.
    """
    views = _views(files, verify=True)
    chosen = views if index is None else _chosen(files, views, index)
    if files.as_json:
        print_json({"snapshots": [_object(view) for view in chosen]})
    for view in chosen:
        if view.damage is None and view.manifest is not None:
            files.show(f"{view.path}: sound, {view.manifest.size_bytes} bytes at index {view.manifest.index}")
        else:
            files.show(f"{view.path}: DAMAGED")
    if not chosen:
        files.show("no snapshots")
    damage = [view.damage for view in chosen if view.damage is not None]
    if damage:
        raise Failure(damage[0], EXIT_FAILED, code="corruption_error", as_json=files.as_json)


def _views(files: DataFiles, *, verify: bool) -> list[SnapshotView]:
    if not files.disk.exists(files.snapshots_path):
        return []
    return [_owned(files, view) for view in list_snapshots(files.disk, files.snapshots_path, verify=verify)]


def _owned(files: DataFiles, view: SnapshotView) -> SnapshotView:
    """Report a snapshot of another cluster as a problem: a node does not start beside it."""
    if files.identity is None or view.manifest is None or view.manifest.cluster_id == files.identity.cluster_id:
        return view
    theirs, ours = hex_id(view.manifest.cluster_id), hex_id(files.identity.cluster_id)
    text = f"{view.path} belongs to cluster {theirs}, and the node to {ours}"
    return msgspec.structs.replace(view, damage=view.damage or text)


def _chosen(files: DataFiles, views: list[SnapshotView], index: int | None) -> list[SnapshotView]:
    found = [view for view in views if index is None or (view.manifest is not None and view.manifest.index == index)]
    if not found:
        what = "there is no snapshot" if index is None else f"there is no snapshot at index {index}"
        raise Failure(f"{files.snapshots_path}: {what}", EXIT_NOT_FOUND, code="not_found", as_json=files.as_json)
    return found[:1]


def _object(view: SnapshotView) -> dict[str, object]:
    plain: dict[str, object] = {"path": view.path, "file_bytes": view.size_bytes, "damage": view.damage}
    manifest = view.manifest
    if manifest is None:
        return plain
    return {
        **plain,
        "index": manifest.index,
        "term": manifest.term,
        "cluster_id": hex_id(manifest.cluster_id),
        "size_bytes": manifest.size_bytes,
        "sha256": manifest.sha256,
        "created_by": manifest.created_by,
        "membership": membership_object(manifest.membership),
        "members": [{**msgspec.structs.asdict(member), "id": hex_id(member.id)} for member in _members(manifest)],
    }


def _members(manifest: SnapshotManifest) -> list[Member]:
    """The members with their names and addresses, if the manifest has them."""
    book = MemberRegistry()
    if manifest.runtime:
        try:
            book.load(manifest.runtime)
        except UNDECODABLE:
            book = MemberRegistry()  # a later version's: the ids are in the manifest all the same
    return list(book.membership(manifest.membership).members.values())
