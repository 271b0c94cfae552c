"""The command `up`: run a whole cluster on this machine, for trials and tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Collection, Mapping
from typing import Final

import click

from syncline.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, Failure, failure_of
from syncline.cli.up.lab import Lab
from syncline.cli.up.plan import (
    DEFAULT_DATA_DIR,
    MAX_NODES,
    UpPlan,
    command_for,
    free_ports_or_raise,
    make_plan,
    note_started,
    write_plan,
)
from syncline.cli.up.pulse import Pulse
from syncline.cli.up.supervisor import GUARDED, Supervisor, UpNode
from syncline.cli.up.traces import Traces
from syncline.cli.up.view import JsonView, PlainView, UpView
from syncline.errors import ConfigError, DirectoryLocked, SynclineError
from syncline.platform.disk import OsDisk

__all__ = ["make_view", "up"]

LOOK_EVERY_S: Final = 0.5
LOOKS_FOR_URLS: Final = 10
"""Looks that the line "ready" waits for the nodes to tell each other their URLs, which takes an entry of each."""

"""Short enough for the table to feel current, long enough to cost nothing."""

PLAIN_TERMINALS: Final = frozenset({"", "dumb", "unknown"})
"""Values of TERM for terminals that can't move their cursor: they get lines."""

_ROLES: Final = frozenset({"leader", "follower", "learner", GUARDED})


@click.command("up", short_help="Start a cluster on this machine.")
@click.option("--nodes", type=click.IntRange(1, MAX_NODES), help="How many nodes.  [default: 3, or as before]")
@click.option(
    "--data-dir", type=click.Path(file_okay=False), default=DEFAULT_DATA_DIR, show_default=True, help="For all files."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="First node's port for clients; the others follow, peers are 100 above.  [default: 8080, or as before]",
)
@click.option("--tls", is_flag=True, help="TLS for clients and between the nodes, from this start on.")
@click.option(
    "--etcd-api",
    type=click.Choice(["loopback", "on", "off"]),
    help="Serve clients of etcd on the same ports.  [default: loopback, or as before]",
)
@click.option("--restart", is_flag=True, help="Start a node again by itself when it ends.")
@click.option("-d", "--detach", is_flag=True, help="Return when the cluster is ready; 'syncline down' stops it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per event.")
@click.option("--ready-fd", type=int, hidden=True, help="Write the output there when the cluster is ready.")
def up(
    nodes: int | None,
    data_dir: str,
    port: int | None,
    tls: bool,
    etcd_api: str | None,
    restart: bool,
    detach: bool,
    as_json: bool,
    ready_fd: int | None,
) -> None:
    """Start a cluster on this machine and keep it running until Ctrl-C.

    Started again with the same --data-dir it carries on with the same data; with more --nodes than before the further
    ones join. A node that ends is reported, with the command that starts it again, and the others go on. Ctrl-C stops
    all nodes in order, a second Ctrl-C kills them.
    """
    try:
        if detach:
            from syncline.cli.up.detach import start_detached

            make_plan(data_dir, nodes=nodes, port=port, tls=tls)  # an impossible plan fails at once
            options = (["--restart"] if restart else []) + (["--tls"] if tls else [])
            options += ["--etcd-api", etcd_api] if etcd_api is not None else []
            start_detached(data_dir, nodes=nodes, port=port, options=options, as_json=as_json)
        else:
            plan = make_plan(data_dir, nodes=nodes, port=port, tls=tls, etcd_api=etcd_api)
            _keep_running(plan, restart, as_json=as_json, ready_fd=ready_fd)
    except DirectoryLocked as error:
        holder = f" (pid {error.pid})" if error.pid else ""
        stop = command_for("down", data_dir)
        message = (
            f"another 'syncline up'{holder} runs on {data_dir}: stop it with '{stop}', or choose another --data-dir"
            " and --port"
        )
        raise Failure(message, EXIT_FAILED, code="directory_locked", as_json=as_json) from error
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error


def _keep_running(plan: UpPlan, restart: bool, *, as_json: bool, ready_fd: int | None) -> None:
    disk, traces = OsDisk(), Traces(plan)
    try:
        disk.make_dirs(plan.data_dir)
        lock = disk.lock(plan.lock_path, b"%d\n" % os.getpid())
    except OSError as error:
        raise ConfigError(
            f"--data-dir {plan.data_dir} can't be used: {error.filename}: {error.strerror}. Name a directory that you "
            "may write to"
        ) from error
    served = False
    try:
        free_ports_or_raise(plan)
        write_plan(plan, disk)  # with TLS, the supervisor trusts the authority that this makes
        supervisor = Supervisor(plan, restart=restart)
        try:
            asyncio.run(_run(plan, supervisor, as_json=as_json, ready_fd=ready_fd))
        finally:
            served = supervisor.ever_served
    finally:
        if not served:  # no client can have written anything
            traces.remove()
        lock.release()


async def _run(plan: UpPlan, supervisor: Supervisor, *, as_json: bool, ready_fd: int | None) -> None:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    if ready_fd is None:
        view = make_view(as_json=as_json)
    else:
        from syncline.cli.up.detach import DetachedView

        view = DetachedView(plan, ready_fd)
    lab = Lab(plan, supervisor)
    try:
        plan = await lab.open()
        write_plan(plan, OsDisk())
        await supervisor.start()
        watch = asyncio.create_task(_watch(plan, supervisor, view))
        told = asyncio.create_task(signals.get())
        await asyncio.wait({watch, told}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            told.cancel()
            watch.result()  # it only ends by an error
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await _stop(plan, supervisor, view, signals)
    finally:
        view.close()
        await lab.close()
        await supervisor.close()


async def _watch(plan: UpPlan, supervisor: Supervisor, view: UpView) -> None:
    """Show the nodes until none is left. A node that ends, at its start too, does not end the others."""
    ready, left = False, LOOKS_FOR_URLS
    pulse = Pulse()
    while True:
        nodes = await supervisor.look()
        change = pulse.see(nodes)
        if ready and change is not None:
            view.new_leader(change)
        view.show(nodes, pulse.line)
        if not ready and _all_up(nodes):
            ready, left = not left or are_acquainted(nodes, supervisor.urls_known), left - 1
            if ready:
                note_started(plan, OsDisk())
                view.ready(plan, nodes)
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                name, reason = await supervisor.ends.get()
        except TimeoutError:
            continue
        view.ended(name, reason, restart=supervisor.restart_command(name), repair=supervisor.repair_command(name))
        if not supervisor.any_running:
            if not supervisor.ever_served:
                reason = reason.partition(" (log: ")[0] + "; nothing was kept of this start"
            raise Failure(f"every node has ended; the last one, {name}, {reason}", EXIT_FAILED)


async def _stop(plan: UpPlan, supervisor: Supervisor, view: UpView, signals: asyncio.Queue[signal.Signals]) -> None:
    view.say("stopping all nodes (Ctrl-C again kills them)")
    nodes = await supervisor.look()
    stopping = asyncio.create_task(supervisor.stop(nodes))
    again = asyncio.create_task(signals.get())
    await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        supervisor.kill()
        await stopping
        await _show_end(plan, supervisor, view)
        raise Failure("all nodes were killed", EXIT_INTERRUPTED)
    again.cancel()
    for name in stopping.result():
        view.say(f"{name} did not stop in time and was killed")
    for node in nodes:
        if node.by_hand:
            view.say(f"{node.name} (pid {node.pid}) was started by hand and still runs")
    await _show_end(plan, supervisor, view)


async def _show_end(plan: UpPlan, supervisor: Supervisor, view: UpView) -> None:
    view.show(await supervisor.look(), "")
    if supervisor.ever_served:
        view.stopped(plan.absolute_dir, command_for("up", plan.data_dir))
    else:
        view.say("stopped before any node was up: nothing was kept of this start")


def _all_up(nodes: list[UpNode]) -> bool:
    """Whether there is a leader, as far as the nodes tell, and every node that did not end takes part."""
    taking_part = [node for node in nodes if node.state in _ROLES]
    ended = sum(node.state == "ended" for node in nodes)
    return len(taking_part) + ended == len(nodes) and any(node.state in {"leader", GUARDED} for node in nodes)


def are_acquainted(nodes: list[UpNode], known: Mapping[str, Collection[str]]) -> bool:
    """Whether each node that can be asked knows the URLs of all: the console's page may ask those that it then has."""
    names = {node.name for node in nodes if node.state in _ROLES}
    return all(names.issubset(known.get(node.name, names)) for node in nodes if node.state in _ROLES - {GUARDED})


def make_view(*, as_json: bool) -> UpView:
    if as_json:
        return JsonView()
    if sys.stdout.isatty() and os.environ.get("TERM", "") not in PLAIN_TERMINALS:
        from syncline.cli.up.live import LiveView

        return LiveView()
    return PlainView()
