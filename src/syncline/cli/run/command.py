"""The command `run`: hold a lock, a leadership, or the right to run once, and run a command meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Final, TypeAlias

import click
import msgspec

from syncline.cli.common import (
    ENDPOINTS_VARIABLE,
    TTL,
    WAIT,
    Context,
    Duration,
    client_command,
    key_bytes,
    make_client,
)
from syncline.cli.exits import EXIT_LOST, EXIT_NOT_ACQUIRED, EXIT_NOT_RUN, Failure, Told, failure_of
from syncline.cli.run.guarded import Ended, GuardedCommand, StopTimes, check_command
from syncline.cli.streams import say
from syncline.cli.user_command import WithCommand, user_command
from syncline.client import AsyncClient
from syncline.client.coordination.waiting import closing
from syncline.errors import ConfigError, DeadlineExceeded, LeaseLost, Outcome, SynclineError
from syncline.platform.child_guard import ChildGuard

__all__ = ["run"]

DEFAULT_TTL_S: Final = 10.0

Variables: TypeAlias = dict[str, str]
"""The environment of the command."""


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `run`, checked. `kind` is lock, leader or once."""

    kind: str
    name: bytes
    ttl_s: float
    holders: int
    wait_s: float | None
    every: str | None
    value: str
    times: StopTimes


@click.command("run", cls=WithCommand, short_help="Run a command under a lock, as the leader, or once.")
@client_command
@click.option("--lock", "lock", metavar="NAME", help="While this lock is held.")
@click.option("--leader", "leader", metavar="NAME", help="While this process leads; again at each term.")
@click.option("--once", "once", metavar="NAME", help="At most once in the cluster, or once for each --every.")
@click.option("--every", metavar="TIME", help="With --once: once for each period of this length: 5m, 1h, 1d.")
@click.option(
    "--ttl", "ttl_s", type=TTL, metavar="TIME", help="After a crash it is free after this time.  [default: 10s]"
)
@click.option("--wait", "wait_s", type=WAIT, metavar="TIME", help="With --lock: wait no longer; 0: one try.")
@click.option("--holders", type=click.IntRange(min=1), help="With --lock: as many hold it at a time.  [default: 1]")
@click.option(
    "--grace", "grace_s", type=Duration(), metavar="TIME", help="From TERM to KILL.  [default: a quarter of --ttl]"
)
@click.option("--value", metavar="TEXT", help="With --leader: what others see.  [default: this host's name]")
async def run(
    context: Context,
    *,
    lock: str | None,
    leader: str | None,
    once: str | None,
    every: str | None,
    ttl_s: float | None,
    wait_s: float | None,
    holders: int | None,
    grace_s: float | None,
    value: str | None,
) -> None:
    """Run COMMAND while a lock is held, while this process leads, or once in the whole cluster.

    The command has SYNCLINE_TOKEN (the fencing token) and SYNCLINE_LOCK, SYNCLINE_LEADER or SYNCLINE_ONCE (the name) in
    its environment. It gets the signals that this process gets. If the hold is about to be lost, it gets TERM and then
    KILL, so that it has ended before another process can hold it. --leader then campaigns again; --lock ends.

    Exit status: that of the command (128 + N if signal N ended it). 123: the lock was lost. 124: it was not acquired
    within --wait. 125: the cluster could not be asked. 126, 127: the command can't be run, or is not there. With --once
    it is 0 if another process has run it, or runs it.
    """
    names = {"lock": lock, "leader": leader, "once": once}
    settings = _checked(names, every=every, ttl_s=ttl_s, wait_s=wait_s, holders=holders, grace_s=grace_s, value=value)
    command = user_command()
    if command is None:
        raise click.UsageError("give the command to run after --")
    check_command(command[0], as_json=context.as_json)
    try:
        guard = ChildGuard()
    except OSError as error:
        raise Failure(f"can't start: {error.strerror}", EXIT_NOT_RUN, as_json=context.as_json) from error
    child = GuardedCommand(command, guard, as_json=context.as_json)
    child.listen()
    try:
        async with make_client(context, patient=True) as client:
            ended = await _KINDS[settings.kind](client, child, settings, _environment(context, settings))
    except asyncio.CancelledError:
        if child.signal is None:
            raise
        raise Told(128 + child.signal) from None
    except (ConfigError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    except SynclineError as error:
        raise _not_run(error, settings, context) from error
    finally:
        guard.close()
    if ended.status:
        raise Told(ended.status)


def _checked(
    names: dict[str, str | None],
    *,
    every: str | None,
    ttl_s: float | None,
    wait_s: float | None,
    holders: int | None,
    grace_s: float | None,
    value: str | None,
) -> RunSettings:
    """The options, if they fit together. Raises `UsageError`."""
    given = [(kind, name) for kind, name in names.items() if name is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --lock, --leader and --once")
    kind, name = given[0]
    fitting = {
        "--every": (every, "once"),
        "--wait": (wait_s, "lock"),
        "--holders": (holders, "lock"),
        "--value": (value, "leader"),
    }
    for option, (content, needed) in fitting.items():
        if content is not None and kind != needed:
            raise click.UsageError(f"{option} goes with --{needed} alone")
    if kind == "once" and (ttl_s is not None or grace_s is not None):
        raise click.UsageError("--once holds nothing while the command runs: --ttl and --grace go with the others")
    ttl_s = DEFAULT_TTL_S if ttl_s is None else ttl_s
    times = StopTimes.of(ttl_s, grace_s)
    if times.grace_s > ttl_s / 2:
        raise click.UsageError(f"--grace is {times.grace_s:g} s: accepted is up to half of --ttl, {ttl_s / 2:g} s")
    return RunSettings(
        kind=kind,
        name=key_bytes(name),
        ttl_s=ttl_s,
        holders=holders or 1,
        wait_s=wait_s,
        every=every,
        value=socket.gethostname() if value is None else value,
        times=times,
    )


def _environment(context: Context, settings: RunSettings) -> Variables:
    """The environment of the command, without a token."""
    own = {"SYNCLINE_TOKEN", "SYNCLINE_LOCK", "SYNCLINE_LEADER", "SYNCLINE_ONCE"}
    environment = {name: text for name, text in os.environ.items() if name not in own}
    environment[f"SYNCLINE_{settings.kind.upper()}"] = os.fsdecode(settings.name)
    if context.endpoints_given:
        environment[ENDPOINTS_VARIABLE] = context.endpoints
    return environment


async def _with_lock(kv: AsyncClient, child: GuardedCommand, settings: RunSettings, variables: Variables) -> Ended:
    lock = kv.lock(settings.name, ttl=settings.ttl_s, holders=settings.holders, wait=settings.wait_s)
    await lock.acquire()
    try:
        ended = await child.run({**variables, "SYNCLINE_TOKEN": str(lock.token)}, lock, settings.times)
    finally:
        with suppress(LeaseLost):  # it is told below
            await lock.release()
    if ended.lost:
        say(f"syncline: the lock {_shown(settings)} is lost: the command was stopped")
        return Ended(EXIT_LOST)
    return ended


async def _as_leader(kv: AsyncClient, child: GuardedCommand, settings: RunSettings, variables: Variables) -> Ended:
    terms = kv.elect(settings.name, value=os.fsencode(settings.value), ttl=settings.ttl_s)
    async with closing(terms):
        async for term in terms:
            ended = await child.run({**variables, "SYNCLINE_TOKEN": str(term.token)}, term, settings.times)
            if not ended.lost:
                return ended
            say(f"syncline: the leadership of {_shown(settings)} is lost: the command was stopped")
    raise AssertionError("an election has no end")


async def _once(kv: AsyncClient, child: GuardedCommand, settings: RunSettings, variables: Variables) -> Ended:
    @kv.once(settings.name, every=settings.every)
    async def run_once() -> Ended:
        return await child.run(variables, None, settings.times)

    ended = await run_once()
    if ended is None:
        say(f"syncline: {_shown(settings)} was run by another process, or is: the command is not run")
        return Ended(0)
    return ended


_KINDS: Final = {"lock": _with_lock, "leader": _as_leader, "once": _once}


def _not_run(error: SynclineError, settings: RunSettings, context: Context) -> Failure:
    """The failure of a command that was not started: its statuses differ from those of the command."""
    failure = failure_of(error, as_json=context.as_json)
    in_time = isinstance(error, DeadlineExceeded) and error.outcome is Outcome.NOT_APPLIED
    failure.status = EXIT_NOT_ACQUIRED if in_time and settings.wait_s is not None else EXIT_NOT_RUN
    return failure


def _shown(settings: RunSettings) -> str:
    return os.fsdecode(settings.name)
