"""The command `logs`: show and follow the log files of the nodes of `up`."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

import click

from syncline.cli.down import made_plan
from syncline.cli.exits import failure_of
from syncline.cli.output import json_key, json_text, print_line, shown
from syncline.cli.up.plan import DEFAULT_DATA_DIR, UpPlan
from syncline.errors import ConfigError, SynclineError
from syncline.platform.texts import escape_controls

__all__ = ["logs"]

DEFAULT_LINES: Final = 100
MAX_LINES: Final = 100_000
"""Lines of each node: a line has some hundred bytes, and those of all nodes are sorted in memory."""

TAIL_BYTES: Final = 16 << 20
"""Bytes of each file that are read: twice what a node's log has before it is rotated."""

POLL_S: Final = 0.2
"""Between two checks for new lines."""

CHUNK_BYTES: Final = 1 << 20

_TIME: Final = re.compile(rb'\d{4}-\d\d-\d\dT|\{"time"')
"""How a line of a node's log begins. Others belong to the line before them."""


@click.command("logs", short_help="Show what the nodes of 'up' have logged.")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, MAX_LINES), default=DEFAULT_LINES, show_default=True, help="Of each node."
)
@click.option(
    "--data-dir", type=click.Path(file_okay=False), default=DEFAULT_DATA_DIR, show_default=True, help="As with 'up'."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each record: node and text.")
def logs(name: str | None, follow: bool, lines: int, data_dir: str, as_json: bool) -> None:
    """Show the last lines of the logs of all nodes in the order of time, or of the node NAME alone.

    The name `up` stands for the output of 'syncline up --detach'.
    """
    try:
        files = _files(made_plan(data_dir), name)
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    with contextlib.ExitStack() as open_files:
        for file in files.values():
            open_files.callback(file.close)
        _show(files, lines, follow=follow, write=_write_json if as_json else _write)


def _show(files: dict[str, _LogFile], lines: int, *, follow: bool, write: Callable[[str, bytes], None]) -> None:
    records = [(name, record) for name, file in files.items() for record in file.last(lines)]
    for name, record in sorted(records, key=lambda one: _time(one[1])):
        write(name, record)
    pause = threading.Event()
    while follow:
        fresh = [(name, record) for name, file in files.items() for record in file.fresh()]
        for name, record in fresh:
            write(name, record)
        if not fresh:
            pause.wait(POLL_S)


def _files(plan: UpPlan, name: str | None) -> dict[str, _LogFile]:
    paths = {node.name: node.log_path for node in plan.nodes}
    if name is None:
        return {node: _LogFile(path) for node, path in paths.items()}
    paths["up"] = plan.own_log_path
    if name not in paths:
        raise ConfigError(f"no node is named {shown(os.fsencode(name))}: there are {', '.join(paths)}")
    return {name: _LogFile(paths[name])}


def _time(record: bytes) -> bytes:
    return record.split(b" ", 1)[0]


def _write(_node: str, record: bytes) -> None:
    """Print a record with what a terminal obeys escaped. A node escapes its own lines; other code writes there, too."""
    lines = record.decode(errors="backslashreplace").split("\n")
    sys.stdout.buffer.write("\n".join("\t".join(map(escape_controls, line.split("\t"))) for line in lines).encode())
    sys.stdout.buffer.flush()


def _write_json(node: str, record: bytes) -> None:
    print_line(json_text({"node": node, **json_key("text", record.rstrip(b"\n"))}))
    sys.stdout.buffer.flush()


class _LogFile:
    """One log file. After a rotation its name leads to a new file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def last(self, lines: int) -> list[bytes]:
        """The last lines, complete records only. `fresh` gives the lines after them."""
        file = self._open()
        if file is None:
            return []
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        found = self._whole_lines(file.read())
        found = found[-lines:] if lines else []
        records: list[bytes] = []
        for line in found:
            if records and not _TIME.match(line):
                records[-1] += line
            else:
                records.append(line)
        return records

    def fresh(self) -> Iterator[bytes]:
        """The lines that were written since the last call."""
        file = self._open()
        if file is None:
            return
        while chunk := file.read(CHUNK_BYTES):
            yield from self._whole_lines(chunk)
        if self._rotated(file):
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""

    def _open(self) -> BinaryIO | None:
        if self._file is None:
            try:
                self._file = open(self._path, "rb")  # noqa: SIM115 - it is kept for the lines to come
            except FileNotFoundError:
                return None
        return self._file

    def _rotated(self, file: BinaryIO) -> bool:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        here = os.fstat(file.fileno())
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) or there.st_size < file.tell()

    def _whole_lines(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line + b"\n" for line in lines]
