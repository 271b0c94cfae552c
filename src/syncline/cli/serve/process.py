"""The process of one node: its event loop, its log, its signals, and the watch on its parent process."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
from collections.abc import Callable
from typing import Final, TypeVar

from syncline.cli.log_lines import DescriptorStream, ThreadHandler
from syncline.cli.up.cutting import CuttableNetwork, check_order_pipe, follow_orders
from syncline.cli.up.drain import DRAIN_SIGNAL, DRAINED_LINE
from syncline.platform import descriptors, interpreter
from syncline.platform.service_manager import ServiceManager
from syncline.platform.world import World
from syncline.server.addresses import split_address
from syncline.server.app import KvServer
from syncline.server.config import ServerConfig
from syncline.server.logs import JsonFormatter, TextFormatter

__all__ = ["run_node"]

LOG_FILE_BYTES: Final = 8 * 1024 * 1024
LOG_FILES_KEPT: Final = 3
"""Older log files beside the current one: a node's log never takes more than four times `LOG_FILE_BYTES`."""

DRAIN_GRACE_S: Final = 0.15
"""Time for requests under way when `up` stops: longer than a busy client on this machine needs to send one."""

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Each stops the node in order, after a transfer of its leadership. SIGHUP: the terminal that started it was closed."""

STDERR: Final = 2

EXIT_AT_ONCE: Final = 130
"""The status after a second signal: not in order, though what was acknowledged is on disk all the same."""

Result = TypeVar("Result")

_log = logging.getLogger("syncline.cli.serve")


def run_node(config: ServerConfig, *, log_file: str | None, parent_fd: int | None, lab_fd: int | None = None) -> None:
    """Run a node until a signal, or the end of its parent. Raises what stopped it otherwise.

    `lab_fd`: the pipe by which `up` cuts it off from its peers, for trials; such a node has a parent.
    """
    if lab_fd is not None:
        check_order_pipe(lab_fd, parent_fd)
    output = _set_up_log(config, log_file)
    handlers = {number: signal.getsignal(number) for number in (*STOPPING, DRAIN_SIGNAL)}
    interpreter.prepare()
    descriptors.raise_limit()
    # A node of `up` is not the process that the manager watches.
    manager = ServiceManager.of(os.environ if parent_fd is None else {})
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(config, parent_fd, _world(config, lab_fd), output, manager))
    finally:
        manager.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)  # a loop of uvloop that is closed leaves its own, which does nothing
        output.close()


def _world(config: ServerConfig, lab_fd: int | None) -> Callable[[], World]:
    """What makes the node's world: the usual one, or one with a network that `up` can cut."""
    if lab_fd is None:
        return World

    def cuttable() -> World:
        network = CuttableNetwork(split_address(config.peer_listen)[1])
        follow_orders(asyncio.get_running_loop(), lab_fd, network)
        return World(network=network)

    return cuttable


async def _run(
    config: ServerConfig,
    parent_fd: int | None,
    world: Callable[[], World],
    output: ThreadHandler,
    manager: ServiceManager,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    manager.starting(loop)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has a terminal's end ignored: it stays so
            loop.add_signal_handler(number, _on_signal, stop, number)
    if parent_fd is not None:
        loop.add_reader(parent_fd, _on_parent_gone, loop, parent_fd, stop)
    opening = asyncio.create_task(KvServer.open(config, world=world()))
    if not await _done_before(stop, opening):
        _log.info("stopped before it was ready")
        return
    server = opening.result()
    interpreter.freeze()
    drains: list[asyncio.Task[None]] = []
    if parent_fd is not None:
        loop.add_signal_handler(DRAIN_SIGNAL, lambda: drains.append(loop.create_task(_drain(server, output))))
    output.say(f"syncline: node {config.name} serves {server.http_url}")
    manager.ready(loop, f"node {config.name} serves {server.http_url}")
    fault = asyncio.create_task(server.closed_by_fault())
    failed = await _done_before(stop, fault)
    manager.stopping()
    for drain in drains:  # the time is over: a request that is not answered now would wait for a quorum that stops, too
        drain.cancel()
    await server.close(drain_s=0 if drains else None)
    await asyncio.gather(*drains, return_exceptions=True)
    if failed:
        raise fault.result()


async def _drain(server: KvServer, output: ThreadHandler) -> None:
    await server.drain(grace_s=DRAIN_GRACE_S)
    output.say(DRAINED_LINE)


async def _done_before(stop: asyncio.Event, work: asyncio.Task[Result]) -> bool:
    """Wait for `work`, or for `stop`, which cancels it. Returns whether the work was done first."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if work.done():
        return True
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return False


def _on_signal(stop: asyncio.Event, number: signal.Signals) -> None:
    if stop.is_set():
        os._exit(EXIT_AT_ONCE)
    _log.info("stopping", extra={"signal": number.name})
    stop.set()


def _on_parent_gone(loop: asyncio.AbstractEventLoop, parent_fd: int, stop: asyncio.Event) -> None:
    """Call back when the parent process ends. It holds the other end of a pipe and never writes: readable means
    closed.
    """
    loop.remove_reader(parent_fd)
    _log.warning("the process that started this node is gone: stopping")
    stop.set()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on this platform: asyncio's own loop does
        return None
    return uvloop.new_event_loop


def _set_up_log(config: ServerConfig, log_file: str | None) -> ThreadHandler:
    formatter = (JsonFormatter if config.log_format == "json" else TextFormatter)(node=config.name)
    output = handler = ThreadHandler(logging.StreamHandler(DescriptorStream(STDERR)), formatter)
    if log_file is not None:
        rotating = logging.handlers.RotatingFileHandler(
            log_file, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES_KEPT, encoding="utf-8"
        )
        handler = ThreadHandler(rotating, formatter)
    root = logging.getLogger()
    root.setLevel(config.log_level.upper())
    root.addHandler(handler)
    return output
