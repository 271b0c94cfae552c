"""The commands `lock` and `elect`: hold a lock or a leadership for as long as the input is open."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

import click

from syncline.cli.common import TTL, WAIT, Context, client_command, key_bytes, make_client
from syncline.cli.exits import EXIT_LOST, EXIT_NOT_ACQUIRED, Told, failure_of
from syncline.cli.output import json_key, json_text, print_line, shown
from syncline.cli.streams import say
from syncline.client import AsyncClient
from syncline.client.coordination.leaders import leaders_of
from syncline.client.coordination.names import word_key
from syncline.client.coordination.waiting import closing
from syncline.errors import DeadlineExceeded, LeaseLost, Outcome

__all__ = ["elect", "lock"]

DEFAULT_TTL_S: Final = 10.0
READ_BYTES: Final = 65536


@click.command("lock", short_help="Hold a lock until the input ends.")
@client_command
@click.argument("name")
@click.option("--ttl", "ttl_s", type=TTL, metavar="TIME", help="After a crash it is free after this.  [default: 10s]")
@click.option("--wait", "wait_s", type=WAIT, metavar="TIME", help="Wait no longer; 0: one try.")
@click.option("--holders", type=click.IntRange(min=1), default=1, help="As many hold it at a time.  [default: 1]")
async def lock(context: Context, *, name: str, ttl_s: float | None, wait_s: float | None, holders: int) -> None:
    """Acquire a lock, print its fencing token, and hold it until the standard input ends, Ctrl-C, or SIGTERM.

    Exit status 123 if the lock is lost meanwhile, 124 if it was not acquired within --wait.
    """
    key, ending = key_bytes(name), _Ending()
    async with make_client(context) as client:
        held = client.lock(key, ttl=ttl_s or DEFAULT_TTL_S, wait=wait_s, holders=holders)
        try:
            await ending.unless_signalled(held.acquire())
        except DeadlineExceeded as error:
            failure = failure_of(error, as_json=context.as_json)
            if error.outcome is Outcome.NOT_APPLIED and wait_s is not None:
                failure.status = EXIT_NOT_ACQUIRED
            raise failure from error
        try:
            _print_hold(context, key, held.token, held.key)
            await ending.until(held.lost)
            await held.release()
        except LeaseLost as error:
            failure = failure_of(error, as_json=context.as_json)
            failure.status = EXIT_LOST
            raise failure from error
        finally:
            await held.release()


@click.command("elect", short_help="Campaign for a leadership, or follow the leader.")
@client_command
@click.argument("name")
@click.option("--observe", is_flag=True, help="Don't campaign: print the leader, again at each change.")
@click.option("--value", metavar="TEXT", help="What others see of this candidate.  [default: this host's name]")
@click.option("--ttl", "ttl_s", type=TTL, metavar="TIME", help="After a crash others lead after this.  [default: 10s]")
async def elect(context: Context, *, name: str, observe: bool, value: str | None, ttl_s: float | None) -> None:
    """Campaign, and print the fencing token of each term when it begins: one line a term.

    It leads until the standard input ends, Ctrl-C, or SIGTERM; if a term is lost it campaigns again. With --observe it
    prints token and value of the leader instead, or a dash if there is none, until Ctrl-C.
    """
    key = key_bytes(name)
    if observe and (value is not None or ttl_s is not None):
        raise click.UsageError("--observe does not campaign: --value and --ttl go without it")
    async with make_client(context) as client:
        if observe:
            await _observe(client, key, context)
        else:
            own = os.fsencode(socket.gethostname() if value is None else value)
            ending = _Ending()
            await ending.unless_signalled(_campaign(client, key, own, ttl_s or DEFAULT_TTL_S, context, ending))


async def _campaign(
    client: AsyncClient, key: bytes, value: bytes, ttl_s: float, context: Context, ending: _Ending
) -> None:
    async with closing(client.elect(key, value=value, ttl=ttl_s)) as terms:
        async for term in terms:
            _print_hold(context, key, term.token, term.key)
            await ending.until(term.lost)
            if not term.lost.is_set():
                return
            say(f"syncline: the leadership of {shown(key)} is lost: campaigning again")


async def _observe(client: AsyncClient, key: bytes, context: Context) -> None:
    async for leader in leaders_of(client, word_key(b"elections", key, "an election") + b"/"):
        if context.as_json:
            found = None if leader is None else {**json_key("value", leader.value), "token": leader.token}
            print_line(json_text({"leader": found}))
        else:
            print_line("-" if leader is None else f"{leader.token}\t{shown(leader.value)}")
        sys.stdout.flush()


def _print_hold(context: Context, name: bytes, token: int, key: bytes) -> None:
    if context.as_json:
        print_line(json_text({**json_key("name", name), "token": token, **json_key("key", key)}))
    else:
        print_line(str(token))
    sys.stdout.flush()


class _Ending:
    """Waits for what ends a hold: a signal, or the end of the standard input."""

    def __init__(self) -> None:
        self._signal = 0
        self._ended = asyncio.Event()
        self._holding = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    async def unless_signalled(self, work: Coroutine[Any, Any, object]) -> None:
        """Await it. A signal ends it; if nothing is held then, `Told` is raised with the signal's status."""
        task = asyncio.ensure_future(work)
        await self._first(task)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            if not self._holding:
                raise Told(128 + self._signal)
        else:
            await task

    async def until(self, lost: asyncio.Event) -> None:
        """Wait for a signal, the end of the input, or the loss."""
        task = asyncio.ensure_future(lost.wait())
        self._holding = True
        with self._reading():
            await self._first(task)
        self._holding = self._ended.is_set()
        task.cancel()

    async def _first(self, task: asyncio.Task[Any]) -> None:
        """Wait until the task is done, or this has ended."""
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Read the standard input, and end with it. A file has no more to come: it has ended."""
        loop, descriptor = asyncio.get_running_loop(), _descriptor_of(sys.stdin)
        try:
            if descriptor < 0:
                raise io.UnsupportedOperation("no descriptor")
            loop.add_reader(descriptor, self._on_input, descriptor)
        except OSError:
            self._ended.set()
            yield
            return
        try:
            yield
        finally:
            loop.remove_reader(descriptor)

    def _on_input(self, descriptor: int) -> None:
        try:
            if os.read(descriptor, READ_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:  # a terminal that is gone
            self._ended.set()
            return
        self._ended.set()

    def _on_signal(self, number: int) -> None:
        self._signal = number
        self._ended.set()


def _descriptor_of(stream: TextIO) -> int:
    """Its descriptor; -1 if it has none."""
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return -1
