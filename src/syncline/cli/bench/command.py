"""`bench`: measure the disk, one node and three nodes of this machine, or a cluster that runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from syncline.cli.asking import client_tls, request_head
from syncline.cli.bench.load import Load, Measured, run_load
from syncline.cli.bench.verdict import DiskSpeed, disk_speed, line_of, verdict_lines
from syncline.cli.common import ENDPOINTS_VARIABLE, Context, Duration, client_command, make_client
from syncline.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, Failure
from syncline.cli.output import print_json, print_line
from syncline.client.endpoints import parse_endpoints
from syncline.client.txn import DeletePrefixOp
from syncline.errors import OperationError, SynclineError, UsageError

if TYPE_CHECKING:
    from syncline.testing import ProcessCluster
from syncline.platform.texts import counted

__all__ = ["bench"]

PREFIX: Final = "syncline-bench/"
"""All keys that are written to a cluster that runs. They are deleted at the end."""

KEYS: Final = 1000

DEFAULT_S, LONGEST_S = 3.0, 300.0
DEFAULT_CLIENTS: Final = 32
MAX_CLIENTS: Final = 1000


@click.command("bench", short_help="Measure what to expect of this machine, or of a cluster.")
@client_command
@click.option("--data-dir", metavar="DIR", help="The disk that is measured, if no cluster is named.  [default: here]")
@click.option(
    "--seconds", "seconds", type=Duration(), default=DEFAULT_S, metavar="TIME", help="Of each load.  [default: 3s]"
)
@click.option("--clients", type=click.IntRange(1, MAX_CLIENTS), default=DEFAULT_CLIENTS, show_default=True)
@click.option("--value-bytes", type=click.IntRange(0, 1 << 20), default=128, show_default=True)
@click.option("--nodes", type=click.IntRange(1, 5), multiple=True, help="Sizes of clusters.  [default: 1 and 3]")
async def bench(
    context: Context, *, data_dir: str | None, seconds: float, clients: int, value_bytes: int, nodes: tuple[int, ...]
) -> None:
    """Measure the disk's syncs, then writes and reads of clusters of one and of three nodes on this machine.

    The clusters are made in a new directory in --data-dir, and removed. With --endpoints a cluster that runs is
    measured instead: keys below `syncline-bench/` are written to it, and deleted at the end. Both are a heavy load, so
    SYNCLINE_ENDPOINTS alone names no cluster here.
    The client runs here, too, so on a machine with few processors it takes a part of what is measured.
    """
    if seconds > LONGEST_S:
        raise click.UsageError(f"--seconds is {seconds:g}: accepted are up to {LONGEST_S:g}")
    plan = _Measurement(context, seconds, clients, value_bytes)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # what was made is removed
    try:
        if context.endpoints_given:
            _check_named()
            if data_dir is not None or nodes:
                raise click.UsageError("--data-dir and --nodes go without --endpoints: for clusters that are made here")
            await _of_running(plan)
        else:
            await _of_machine(plan, data_dir or os.curdir, sorted(set(nodes)) or [1, 3])
    except asyncio.CancelledError as error:
        raise Failure("interrupted: what was made is removed", EXIT_INTERRUPTED, as_json=context.as_json) from error
    except SynclineError:  # before `OSError`, which some of them are
        raise
    except OSError as error:
        text = f"the measurement failed: {error.filename or ''} {error.strerror or error}"
        raise Failure(text, EXIT_FAILED, as_json=context.as_json) from error
    plan.end()


def _check_named() -> None:
    """The load is for a cluster that is named for it, and not for the one that other commands are set to."""
    context = click.get_current_context()
    if context.get_parameter_source("endpoints") is ParameterSource.ENVIRONMENT and not (
        context.find_root().params.get("endpoints")
    ):
        raise click.UsageError(
            f"{ENDPOINTS_VARIABLE} is set, and bench is a heavy load: name the cluster with --endpoints; or unset the"
            " variable, to measure this machine"
        )


class _Measurement:
    """The measurement: what is asked for, and what was found so far."""

    def __init__(self, context: Context, seconds: float, clients: int, value_bytes: int) -> None:
        self.context = context
        self._seconds = seconds
        self._clients = clients
        self._value = b"x" * value_bytes
        self.disk: DiskSpeed | None = None
        self._found: dict[str, list[Measured]] = {}

    def say(self, text: str) -> None:
        if not self.context.as_json:
            print_line(text)

    async def measure(self, title: str, urls: Sequence[str]) -> None:
        """All loads, one after the other."""
        found = self._found.setdefault(title, [])
        tls: ssl.SSLContext | None = None
        if any(url.startswith("https://") for url in urls):
            tls = client_tls(self.context)
        for load in self._loads():
            measured = await run_load(load, urls, clients=self._clients, seconds=self._seconds, tls=tls)
            found.append(measured)
            self.say(line_of(title, measured))

    def _loads(self) -> list[Load]:
        return [
            Load("writes", self._requests("PUT", "", self._value)),
            Load("reads", self._requests("GET", "", b"")),
            Load("stale reads", self._requests("GET", "?consistency=stale", b"")),
        ]

    def _requests(self, method: str, query: str, body: bytes) -> Callable[[str, int], bytes]:
        """The requests of one load, each made once for a host."""
        made: dict[str, list[bytes]] = {}

        def request(host: str, number: int) -> bytes:
            rows = made.get(host)
            if rows is None:
                paths = (f"/key/{PREFIX}{key}{query}" for key in range(KEYS))
                rows = made[host] = [request_head(self.context, host, method, path, len(body)) + body for path in paths]
            return rows[number % KEYS]

        return request

    def end(self) -> None:
        """Give the verdict."""
        verdict = verdict_lines(self.disk, self._found)
        if self.context.as_json:
            disk = self.disk
            print_json({"disk": disk, "clients": self._clients, "loads": self._found, "verdict": verdict})
            return
        for line in verdict:
            print_line(line)


async def _of_running(plan: _Measurement) -> None:
    urls = parse_endpoints(plan.context.endpoints)
    async with make_client(plan.context) as client:
        there = await client.count(PREFIX)
    if there:  # they would be deleted
        raise Failure(
            f"found {counted(there, 'key')} below {PREFIX}: another bench runs, or was killed, or they are yours."
            f" Delete them with: syncline del {PREFIX} --prefix",
            EXIT_FAILED,
            as_json=plan.context.as_json,
        )
    plan.say(f"measures {', '.join(urls)} with keys below {PREFIX}")
    try:
        await _fill(plan)
        await plan.measure("cluster", urls)
    except BaseException:
        with contextlib.suppress(OperationError):  # the first error is the one to show
            await _clear(plan)
        raise
    await _clear(plan)


async def _clear(plan: _Measurement) -> None:
    async with make_client(plan.context) as client:
        await client.txn(then=[DeletePrefixOp(PREFIX.encode())], idempotent=True)


async def _fill(plan: _Measurement) -> None:
    """Write each key once, so that reads find it."""
    async with make_client(plan.context) as client:
        for first in range(0, KEYS, 100):
            await asyncio.gather(*(client.put(f"{PREFIX}{number}", b"") for number in range(first, first + 100)))


async def _of_machine(plan: _Measurement, data_dir: str, sizes: Sequence[int]) -> None:
    if not os.path.isdir(data_dir):  # noqa: ASYNC240 - nothing else runs
        raise click.UsageError(f"--data-dir {data_dir} is no directory")
    plan.disk = disk_speed(data_dir)
    plan.say(plan.disk.line)
    with tempfile.TemporaryDirectory(prefix="syncline-bench-", dir=data_dir) as place:
        for size in sizes:
            title = "one node" if size == 1 else f"{size} nodes"
            starting = asyncio.ensure_future(asyncio.to_thread(_cluster, os.path.join(place, str(size)), size))
            try:
                await asyncio.shield(starting)
                await plan.measure(title, starting.result().endpoints)
            except UsageError as error:
                raise Failure(f"{title}: {error}", EXIT_FAILED, as_json=plan.context.as_json) from error
            finally:
                await asyncio.wait([starting])  # a start can't be interrupted: it has processes to end
                if starting.exception() is None:
                    await asyncio.to_thread(starting.result().close)


def _cluster(directory: str, size: int) -> ProcessCluster:
    from syncline.testing import ProcessCluster  # brings the test kit: other commands do without it

    return ProcessCluster(directory, nodes=size)
