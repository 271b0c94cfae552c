"""The command `watch`: print what changes, or run a command for each change."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from typing import Final, cast

import click

from syncline.cli.common import Context, client_command, key_bytes, make_client
from syncline.cli.completing import complete_keys
from syncline.cli.exits import EXIT_FAILED, Failure, one_line
from syncline.cli.output import json_key, json_text, print_line, shown
from syncline.cli.streams import say
from syncline.cli.user_command import WithCommand, user_command
from syncline.client import KeyEvent, KeyInfo, RevisionEvents
from syncline.errors import OperationError, WatchEnded

__all__ = ["watch"]

VARIABLE: Final = b"SYNCLINE_WATCH_"
VARIABLE_BYTES: Final = 100_000
"""Linux takes 128 KiB for one variable. A longer value is on the command's standard input alone."""


@click.command("watch", cls=WithCommand, short_help="Print what changes, as it happens.")
@client_command
@click.argument("key", required=False, shell_complete=complete_keys)
@click.option("--prefix", help="Watch the keys that begin with it; an empty one: all keys.")
@click.option("--rev", "revision", type=click.IntRange(min=1), help="From this revision on.  [default: the next one]")
@click.option("--prev", is_flag=True, help="Print the value before each change, too.")
@click.option("--only", type=click.Choice(["put", "delete"]), help="Only changes of this type.")
async def watch(
    context: Context, *, key: str | None, prefix: str | None, revision: int | None, prev: bool, only: str | None
) -> None:
    """Print each change of KEY, or of the keys below a prefix: REVISION<tab>put|delete<tab>KEY<tab>VALUE.

    It goes on with another server when one is lost; no change is missed and none comes twice. While none can be
    watched, the error output says why. With --json each line is one revision.

    With a COMMAND, it is run for each change instead, one at a time. The variables SYNCLINE_WATCH_REVISION,
    SYNCLINE_WATCH_TYPE, SYNCLINE_WATCH_KEY and SYNCLINE_WATCH_VALUE tell the change; the value is on its standard
    input, too (and there alone if no variable can hold it). If it fails, the watch ends.
    """
    if (key is None) == (prefix is None):
        raise click.UsageError("give a KEY, or --prefix (an empty one for all keys)")
    command = user_command()
    reasons = _Reasons()
    async with make_client(context, on_retry=reasons.add) as client:
        changes = client.watch(
            None if key is None else key_bytes(key),
            prefix=None if prefix is None else prefix.encode("utf-8", "surrogateescape"),
            from_revision=revision,
            prev=prev,
            events=only,
        )
        async with contextlib.aclosing(cast("AsyncGenerator[RevisionEvents, None]", changes)):
            async for change in changes:
                reasons.clear()
                if command is None:
                    _print(change, as_json=context.as_json, prev=prev)
                    continue
                for event in change.events:
                    await _run(command, change.revision, event, as_json=context.as_json)


class _Reasons:
    """Says on the error output why nothing can be watched: each reason once, until something comes."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def add(self, error: OperationError) -> None:
        """Another attempt follows."""
        if error.code not in self._told:
            self._told.add(error.code)
            if isinstance(error, WatchEnded):  # its own text asks to watch again, which is done here
                say(f"syncline: the watch was interrupted ({error.code}); still trying")
            else:
                say(f"syncline: {one_line(str(error))}; still trying")

    def clear(self) -> None:
        """Something has come."""
        self._told.clear()


def _print(change: RevisionEvents, *, as_json: bool, prev: bool) -> None:
    if as_json:
        print_line(json_text({"revision": change.revision, "events": [_json(event) for event in change.events]}))
    else:
        for event in change.events:
            cells = [str(change.revision), event.type, shown(event.key)]
            if event.type == "put" or prev:
                cells.append(shown(event.value))
            if prev:
                cells.append("" if event.previous is None else shown(event.previous.value or b""))
            print_line("\t".join(cells))
    sys.stdout.flush()


def _json(event: KeyEvent) -> dict[str, object]:
    found: dict[str, object] = {"type": event.type, **json_key("key", event.key)}
    if event.type == "put":
        found |= {
            **json_key("value", event.value),
            "create_revision": event.create_revision,
            "version": event.version,
        }
    if event.lease:
        found["lease"] = f"{event.lease:016x}"
    if event.previous is not None:
        found["prev"] = _previous(event.previous)
    return found


def _previous(info: KeyInfo) -> dict[str, object]:
    """The key before the change, in the fields of `GET /watch`."""
    fields: dict[str, object] = {
        **json_key("value", info.value or b""),
        "mod_revision": info.mod_revision,
        "create_revision": info.create_revision,
        "version": info.version,
    }
    return {**fields, "lease": f"{info.lease:016x}"} if info.lease else fields


async def _run(command: tuple[str, ...], revision: int, event: KeyEvent, *, as_json: bool) -> None:
    """Run the command for one change, and wait for its end."""
    told = {b"REVISION": b"%d" % revision, b"TYPE": event.type.encode(), b"KEY": event.key, b"VALUE": event.value}
    fitting = {VARIABLE + name: text for name, text in told.items() if len(text) <= VARIABLE_BYTES and 0 not in text}
    environment = {name: text for name, text in os.environb.items() if not name.startswith(VARIABLE)}
    again = f"watch again with --rev {revision}"
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, env=cast("dict[str, str]", {**environment, **fitting})
        )
    except OSError as error:
        raise Failure(
            f"can't run {command[0]}: {error.strerror or error}; {again}", EXIT_FAILED, as_json=as_json
        ) from error
    await child.communicate(event.value)
    if child.returncode:
        raise Failure(
            f"the command {command[0]} ended with status {child.returncode} at revision {revision}; {again}",
            EXIT_FAILED,
            as_json=as_json,
        )
