"""`up`: a whole cluster on this machine, for trying things out and for tests."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

import click

from syncline.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, Failure, failure_of
from syncline.cli.up_plan import MAX_NODES, Plan, free_ports_or_raise, make_plan, note_started, write_plan
from syncline.cli.up_supervisor import NodeView, Supervisor
from syncline.cli.up_view import View, make_view
from syncline.errors import DirectoryLocked, SynclineError
from syncline.platform.disk import OsDisk

__all__ = ["up"]

LOOK_EVERY_S: Final = 0.5
"""Short enough for the table to feel current, long enough to cost nothing."""

_ROLES: Final = frozenset({"leader", "follower", "learner"})


@click.command("up", short_help="Start a cluster on this machine.")
@click.option("--nodes", type=click.IntRange(1, MAX_NODES), help="How many nodes.  [default: 3, or as before]")
@click.option(
    "--data-dir", type=click.Path(file_okay=False), default="syncline-data", show_default=True, help="For all files."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="First node's port for clients; the others follow, peers are 100 above.  [default: 8080, or as before]",
)
@click.option("--restart", is_flag=True, help="Start a node again by itself when it ends.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per event.")
def up(nodes: int | None, data_dir: str, port: int | None, restart: bool, as_json: bool) -> None:
    """Start a cluster on this machine and keep it running until Ctrl-C.

    Started again with the same --data-dir it carries on with the same data; with more --nodes than before the further
    ones join. A node that ends is reported, with the command that starts it again, and the others go on. Ctrl-C stops
    all nodes in order, a second Ctrl-C kills them.
    """
    disk = OsDisk()
    try:
        plan = make_plan(data_dir, nodes=nodes, port=port)
        disk.make_dirs(data_dir)
        lock = disk.lock(os.path.join(data_dir, "LOCK"), b"%d\n" % os.getpid())
        try:
            free_ports_or_raise(plan)
            write_plan(plan, disk)
            asyncio.run(_run(plan, restart=restart, as_json=as_json))
        finally:
            lock.release()
    except DirectoryLocked as error:
        holder = f" (pid {error.pid})" if error.pid else ""
        message = f"another 'syncline up'{holder} runs on {data_dir}: stop it, or choose another --data-dir and --port"
        raise Failure(message, EXIT_FAILED, code="directory_locked", as_json=as_json) from error
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error


async def _run(plan: Plan, *, restart: bool, as_json: bool) -> None:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    supervisor = Supervisor(plan, restart=restart)
    view = make_view(as_json=as_json)
    try:
        await supervisor.start()
        watch = asyncio.create_task(_watch(plan, supervisor, view))
        told = asyncio.create_task(signals.get())
        await asyncio.wait({watch, told}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            told.cancel()
            watch.result()  # it only ends by an error
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await _stop(supervisor, view, signals)
    finally:
        view.close()
        await supervisor.close()


async def _watch(plan: Plan, supervisor: Supervisor, view: View) -> None:
    """Show the nodes until none is left. A node that ends, at its start too, does not end the others."""
    ready = False
    while True:
        nodes = await supervisor.look()
        view.show(nodes)
        if not ready and _all_up(nodes):
            ready = True
            note_started(plan, OsDisk())
            view.ready(plan, nodes)
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                name, reason = await supervisor.ends.get()
        except TimeoutError:
            continue
        view.ended(name, reason, restart=supervisor.restart_command(name), repair=supervisor.repair_command(name))
        if not supervisor.any_running:
            raise Failure(f"every node has ended; the last one, {name}, {reason}", EXIT_FAILED)


async def _stop(supervisor: Supervisor, view: View, signals: asyncio.Queue[signal.Signals]) -> None:
    view.say("stopping all nodes (Ctrl-C again kills them)")
    nodes = await supervisor.look()
    stopping = asyncio.create_task(supervisor.stop(nodes))
    again = asyncio.create_task(signals.get())
    await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        supervisor.kill()
        await stopping
        raise Failure("all nodes were killed", EXIT_INTERRUPTED)
    again.cancel()
    for name in stopping.result():
        view.say(f"{name} did not stop in time and was killed")
    for node in nodes:
        if node.by_hand:
            view.say(f"{node.name} (pid {node.pid}) was started by hand and still runs")


def _all_up(nodes: list[NodeView]) -> bool:
    """Whether there is a leader and every node that did not end takes part."""
    taking_part = [node for node in nodes if node.state in _ROLES]
    ended = sum(node.state == "ended" for node in nodes)
    return len(taking_part) + ended == len(nodes) and any(node.state == "leader" for node in nodes)
