"""Shared by `wal` and `snapshot`, which look at a node's files instead of asking a server.

They only read: the node may be running, or broken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import click
import msgspec

from syncline.cli.exits import EXIT_USAGE, Failure, failure_of
from syncline.cli.output import print_line
from syncline.errors import SynclineError
from syncline.platform.disk import Disk, OsDisk
from syncline.storage.datadir import Identity, read_identity

__all__ = ["DataFiles", "data_command", "hex_id"]


class DataFiles(msgspec.Struct, frozen=True):
    """A node's data directory, opened for reading. `identity` is None if it can't be read; `trouble` then has the
    reason.
    """

    disk: Disk
    path: str
    as_json: bool
    identity: Identity | None
    trouble: str | None

    @property
    def wal_path(self) -> str:
        return f"{self.path}/wal"

    @property
    def snapshots_path(self) -> str:
        return f"{self.path}/snapshots"

    def show(self, text: str) -> None:
        """Print a line for people; print nothing with `--json`."""
        if not self.as_json:
            print_line(text)


def data_command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a click callback of a function whose first parameter is the `DataFiles`, and add the common options."""

    @functools.wraps(function)
    def command(*, data_dir: str, as_json: bool, **own: object) -> None:
        try:
            function(_data_files(OsDisk(), data_dir.rstrip("/") or data_dir, as_json), **own)
        except SynclineError as error:
            raise failure_of(error, as_json=as_json) from error

    click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    click.option(
        "--data-dir",
        required=True,
        envvar="SYNCLINE_DATA_DIR",
        type=click.Path(),
        help="The node's data directory (or SYNCLINE_DATA_DIR).",
    )(command)
    return command


def _data_files(disk: Disk, path: str, as_json: bool) -> DataFiles:
    try:
        names = disk.list(path)
    except OSError as error:
        raise Failure(f"--data-dir {path}: {error.strerror or error}", EXIT_USAGE, as_json=as_json) from error
    if not {"identity", "wal", "snapshots"} & {*names}:
        text = f"--data-dir {path}: this is no node's data directory: it holds neither `identity` nor `wal`"
        raise Failure(text, EXIT_USAGE, as_json=as_json)
    identity, trouble = None, None
    try:
        identity = read_identity(disk, path)
    except SynclineError as error:
        trouble = str(error)
    if identity is None and trouble is None:
        trouble = f"{path}/identity is missing"
    return DataFiles(disk, path, as_json, identity, trouble)


def hex_id(value: int) -> str:
    """An id as it is shown everywhere: sixteen hexadecimal digits; a dash for 0."""
    return f"{value:016x}" if value else "-"
