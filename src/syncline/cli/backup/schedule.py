"""Backups at intervals, and which of them are kept."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from syncline.cli.backup.places import BackupPlace, place_of
from syncline.cli.backup.saving import reported, save_backup
from syncline.cli.common import Context
from syncline.cli.exits import EXIT_FAILED, Failure
from syncline.cli.output import print_json, print_line
from syncline.cli.streams import say
from syncline.kv.backups import SUM_SUFFIX

__all__ = ["BackupPlan", "Retention", "no_longer_kept", "run_schedule", "save_one"]

NAME: Final = re.compile(r"(?P<prefix>.+)-(?P<time>\d{8}T\d{6}Z)\.backup")
TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
RETRY_S: Final = 60.0
"""After a failed backup the next attempt comes so soon, or at its interval if that is shorter."""


class Retention(msgspec.Struct, frozen=True):
    """The `keep` newest backups are kept, and all that are younger than `keep_for_s` (0: no age is looked at)."""

    keep: int
    keep_for_s: float = 0.0


class BackupPlan(msgspec.Struct, frozen=True):
    """What a schedule does. `target` is a directory or a URL."""

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


def no_longer_kept(names: Collection[str], prefix: str, retention: Retention, now: datetime) -> list[str]:
    """The backups that may be removed, the oldest first. The newest one is always kept."""
    found = complete(names, prefix)
    older = found[: max(0, len(found) - max(1, retention.keep))]
    return [name for made, name in older if (now - made).total_seconds() > retention.keep_for_s]


async def save_one(context: Context, plan: BackupPlan, now: Callable[[], datetime]) -> None:
    """Save one backup, and then remove those that are no longer kept."""
    place = place_of(plan.target)
    name = f"{plan.prefix}-{now().strftime(TIME_FORMAT)}.backup"
    with reported(place.path(name), as_json=context.as_json):
        if place.exists(name):
            raise Failure(f"{place.path(name)} exists: two schedules write to {plan.target}", EXIT_FAILED)
        place.prepare()
    facts = await save_backup(context, place.path(name), stale=plan.stale, without=plan.without)
    with reported(plan.target, as_json=context.as_json):
        removed = remove(place, no_longer_kept(place.names(), plan.prefix, plan.retention, now()))
    if context.as_json:
        print_json(ScheduledDocument(place.path(name), facts.revision, facts.size_bytes, facts.sha256, removed))
        return
    print_line(f"{place.path(name)}: revision {facts.revision}, {facts.keys} keys, {facts.size_bytes} bytes")
    for old in removed:
        print_line(f"removed {place.path(old)}")


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
    wait_s = _first_wait_s(context, plan, every_s, now())
    while not await _stopped(stop, wait_s):
        begun_s = loop.time()
        work = asyncio.ensure_future(save_one(context, plan, now))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not work.done():
            work.cancel()
        wait_s = max(0.0, every_s - (loop.time() - begun_s))
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await work
        except Failure as failure:
            say(failure.line)
            wait_s = min(every_s, RETRY_S)


def _first_wait_s(context: Context, plan: BackupPlan, every_s: float, now: datetime) -> float:
    with reported(plan.target, as_json=context.as_json):
        found = complete(place_of(plan.target).names(), plan.prefix)
    if not found:
        return 0.0
    age_s = (now - found[-1][0]).total_seconds()
    return min(every_s, max(0.0, every_s - age_s))


async def _stopped(stop: asyncio.Event, wait_s: float) -> bool:
    """Wait for the signal or so long; whether it was the signal."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await stop.wait()
    return stop.is_set()
