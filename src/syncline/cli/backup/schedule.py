"""Backups at intervals, and which of them are kept."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable, Collection, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

import msgspec

from syncline.cli.backup.places import BackupPlace, beside, place_of, shown
from syncline.cli.backup.saving import TIMEOUT_S, reported, save_backup
from syncline.cli.common import Context, make_client
from syncline.cli.exits import EXIT_FAILED, Failure
from syncline.cli.output import print_json, print_line
from syncline.cli.streams import say
from syncline.errors import OperationError
from syncline.kv.backups import SUM_SUFFIX
from syncline.platform.texts import counted

__all__ = ["BackupPlan", "Retention", "abandoned", "no_longer_kept", "run_schedule", "save_one"]

Result = TypeVar("Result")

NAME: Final = re.compile(r"(?P<prefix>.+)-(?P<time>\d{8}T\d{6}Z)\.backup")
PART: Final = re.compile(r"(?P<name>.+\.backup)\.[0-9a-f]+\.part(\.reduced)?")
"""A backup that is being received, or was when its command was killed."""
TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
ABANDONED_S: Final = 86_400.0
"""So long after its begin a part is taken for what a killed command has left."""
RETRY_S: Final = 60.0
"""After a failed backup the next attempt comes so soon, or at its interval if that is shorter."""


class Retention(msgspec.Struct, frozen=True):
    """The `keep` newest backups are kept, and all that are younger than `keep_for_s` (0: no age is looked at)."""

    keep: int
    keep_for_s: float = 0.0


class BackupPlan(msgspec.Struct, frozen=True):
    """What a schedule does. `target` is a directory or a URL; names begin with `prefix` and the id of the cluster."""

    target: str
    prefix: str
    retention: Retention
    stale: bool = False
    without: tuple[str, ...] = ()


class ScheduledDocument(msgspec.Struct, frozen=True):
    """One backup of a schedule, with `--json`."""

    file: str
    revision: int
    size_bytes: int
    sha256: str
    removed: list[str]


def time_of(name: str, prefix: str) -> datetime | None:
    """When a backup of this prefix was made; None for any other file."""
    found = NAME.fullmatch(name)
    if found is None or found["prefix"] != prefix:
        return None
    try:
        return datetime.strptime(found["time"], TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def complete(names: Collection[str], prefix: str) -> list[tuple[datetime, str]]:
    """The complete backups of a prefix, the oldest first. Other files are none of the schedule's."""
    here = set(names)
    found = [(made, name) for name in here if (made := time_of(name, prefix)) and name + SUM_SUFFIX in here]
    return sorted(found)


def no_longer_kept(
    names: Collection[str], prefix: str, retention: Retention, now: datetime, *, saved: str = ""
) -> list[str]:
    """The backups that may be removed, the oldest first. The newest one is always kept, and so is `saved`.

    Those of the future were made while a clock was wrong. They take no place of another one, and are kept: their true
    age is not known.
    """
    found = [(made, name) for made, name in complete(names, prefix) if made <= now]
    older = found[: max(0, len(found) - max(1, retention.keep))]
    return [name for made, name in older if (now - made).total_seconds() > retention.keep_for_s and name != saved]


def abandoned(names: Collection[str], prefix: str, now: datetime) -> list[str]:
    """What killed commands have left of backups of this prefix."""
    found: list[str] = []
    for name in sorted(names):
        part = PART.fullmatch(name)
        begun = time_of(part["name"], prefix) if part is not None else None
        if begun is not None and (now - begun).total_seconds() > ABANDONED_S:
            found.append(name)
    return found


class RemovalFailure(Failure):
    """The backup was saved. Old ones could not be removed."""


async def save_one(context: Context, plan: BackupPlan, now: Callable[[], datetime]) -> None:
    """Save one backup, and then remove those that are no longer kept."""
    with reported(plan.target, as_json=context.as_json):
        place = await beside(partial(place_of, plan.target))
        own = await _prefix_of(context, plan)
    name = f"{own}-{now().strftime(TIME_FORMAT)}.backup"
    path = shown(place.path(name))
    with reported(path, as_json=context.as_json):
        if await beside(partial(place.exists, name)):
            raise Failure(f"{path} exists: two schedules write to {shown(plan.target)}", EXIT_FAILED)
        await beside(place.prepare)
    facts = await save_backup(context, place.path(name), stale=plan.stale, without=plan.without)
    try:
        with reported(plan.target, as_json=context.as_json):
            removed = await beside(partial(remove_old, place, own, plan.retention, now(), saved=name))
    except Failure as failure:
        text = f"{path} was saved, and older backups can't be removed: {failure.message}"
        raise RemovalFailure(text, EXIT_FAILED, as_json=context.as_json) from failure
    if context.as_json:
        print_json(ScheduledDocument(path, facts.revision, facts.size_bytes, facts.sha256, removed))
        return
    print_line(f"{path}: revision {facts.revision}, {counted(facts.keys, 'key')}, {facts.size_bytes} bytes")
    for old in removed:
        print_line(f"removed {shown(place.path(old))}")


async def _prefix_of(context: Context, plan: BackupPlan) -> str:
    """How the names of this cluster's backups begin: those of another cluster in the same place are never removed."""
    async with make_client(context, timeout_s=TIMEOUT_S) as client:
        return f"{plan.prefix}-{(await client.status()).cluster_id}"


def remove_old(place: BackupPlace, prefix: str, retention: Retention, now: datetime, *, saved: str) -> list[str]:
    """Remove what is no longer kept after `saved`; return the removed backups."""
    names = place.names()
    for part in abandoned(names, prefix, now):
        place.remove(part)
    return remove(place, no_longer_kept(names, prefix, retention, now, saved=saved))


def remove(place: BackupPlace, names: Sequence[str]) -> list[str]:
    """Remove backups. Their sums go first: what is left of an interrupted removal counts as incomplete."""
    for name in names:
        place.remove(name + SUM_SUFFIX)
        place.remove(name)
    return list(names)


async def run_schedule(context: Context, plan: BackupPlan, every_s: float, now: Callable[[], datetime]) -> None:
    """Save a backup every `every_s` seconds until SIGTERM or SIGINT. A failure is told, and tried again.

    The first one comes at once, or when the newest one in the target is so old.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    wait_s = 0.0
    with contextlib.suppress(asyncio.CancelledError):
        wait_s = await _until(stop, _first_wait_s(context, plan, every_s, now()))
    while not await _stopped(stop, wait_s):
        begun_s, failed = loop.time(), False
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await _until(stop, save_one(context, plan, now))
        except RemovalFailure as failure:  # sooner backups would fill the target
            say(failure.line)
        except Failure as failure:
            say(failure.line)
            failed = True
        wait_s = min(every_s, RETRY_S) if failed else max(0.0, every_s - (loop.time() - begun_s))


async def _until(stop: asyncio.Event, work: Coroutine[object, object, Result]) -> Result:
    """The result of some work. The signal cancels it: then this raises `CancelledError`."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
    return await task


async def _first_wait_s(context: Context, plan: BackupPlan, every_s: float, now: datetime) -> float:
    with reported(plan.target, as_json=context.as_json):
        place = await beside(partial(place_of, plan.target))
        names = await beside(place.names)
    try:
        own = await _prefix_of(context, plan)
    except OperationError:
        return 0.0  # the first attempt tells of it
    found = [made for made, _ in complete(names, own) if made <= now]
    if not found:
        return 0.0
    return max(0.0, every_s - (now - found[-1]).total_seconds())


async def _stopped(stop: asyncio.Event, wait_s: float) -> bool:
    """Wait for the signal or so long; whether it was the signal."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await stop.wait()
    return stop.is_set()
