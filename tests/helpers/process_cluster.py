"""Real clusters for tests: `syncline serve` processes on loopback, and what one does to them.

Waiting is always for a state that is asked for again and again until a deadline, never for a time to pass.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from syncline.client import AsyncClient, NodeStatus
from syncline.errors import OperationError
from tests.helpers.ports import free_block

__all__ = ["Cluster", "Node", "eventually", "local_keys", "running_cluster"]

Result = TypeVar("Result")

DEADLINE_S: Final = 30.0
"""For anything that a cluster does by itself: an election, a catch-up, a start."""

ASK_AGAIN_S: Final = 0.02
EXIT_S: Final = 20.0
LOG_SHOWN: Final = 60
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


async def eventually(
    what: str, check: Callable[[], Awaitable[Result | None]], *, deadline_s: float = DEADLINE_S
) -> Result:
    """Ask until the answer is neither None nor False; an `OperationError` counts as not yet."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    last: object = None
    while True:
        try:
            last = await check()
        except OperationError as error:
            last = error
        else:
            if last is not None and last is not False:
                return last
        if loop.time() > end_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what}; last: {last!r}")
        await asyncio.sleep(ASK_AGAIN_S)


class Node:
    """One `syncline serve` process, and the settings that it is started with."""

    program: Sequence[str] = (sys.executable, "-m", "syncline")

    def __init__(
        self, name: str, directory: str, port: int, settings: dict[str, str], *, host: str = "127.0.0.1"
    ) -> None:
        self.name = name
        self.data_dir = os.path.join(directory, name)
        self.log_path = os.path.join(directory, f"{name}.log")
        self.http_port, self.peer_port = port, port + 100
        self.http = f"{host}:{self.http_port}"
        self.url = f"http://{self.http}"
        self.peer = f"{host}:{self.peer_port}"
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        given = {
            "name": self.name,
            "data-dir": self.data_dir,
            "http-listen": self.http,
            "peer-listen": self.peer,
            **self.settings,
        }
        flags = [part for name, value in given.items() for part in (f"--{name}", value)]
        return [*self.program, "serve", *flags]

    def start(self) -> None:
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a power cut ends a process, and see it gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Stop it in order; its exit status."""
        self.send(signal.SIGTERM)
        return self.wait()

    def pause(self) -> None:
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(EXIT_S)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def cpu_s(self) -> float:
        """Processor time that the process has used so far, by the kernel's account."""
        with open(f"/proc/{self.pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def client(self, **options: float) -> AsyncClient:
        return AsyncClient(self.url, **options)  # type: ignore[arg-type]

    def log(self) -> str:
        """What the node has written so far, whichever life it was in."""
        try:
            with open(self.log_path, encoding="utf-8", errors="backslashreplace") as file:
                return file.read()
        except FileNotFoundError:
            return ""


class Cluster:
    """Nodes n1, n2, … that start a cluster together, and later ones that join it."""

    def __init__(self, directory: str, size: int, settings: dict[str, str]) -> None:
        self._directory = directory
        self._port = free_block(110)
        self._common = {"heartbeat-s": "0.05", "election-s": "0.5", **settings}
        founders = ",".join(f"n{at + 1}=127.0.0.1:{self._port + 100 + at}" for at in range(size))
        self.nodes = [
            Node(f"n{at + 1}", directory, self._port + at, {**self._common, "initial-cluster": founders})
            for at in range(size)
        ]

    def joining(self, name: str, through: Sequence[Node]) -> Node:
        """A further node (not started) that joins through the given ones."""
        settings = {**self._common, "join": ",".join(node.url for node in through)}
        node = Node(name, self._directory, self._port + len(self.nodes), settings)
        self.nodes.append(node)
        return node

    @property
    def endpoints(self) -> list[str]:
        return [node.url for node in self.nodes]

    def client(self, timeout: float = 10.0) -> AsyncClient:
        return AsyncClient(self.endpoints, timeout=timeout)

    def start(self) -> None:
        for node in self.nodes:
            if not node.running:
                node.start()

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    async def status(self, node: Node) -> NodeStatus:
        async with node.client(timeout=1.0) as client:
            return await client.status()

    async def wait_ready(self, nodes: Sequence[Node] | None = None) -> None:
        """Wait until each node serves linearizable reads, and so has a leader and has applied what it should."""
        for node in self.nodes if nodes is None else nodes:
            await self._wait_ready(node)

    async def _wait_ready(self, node: Node) -> None:
        async with node.client(timeout=2.0) as client:

            async def reads() -> bool:
                assert node.running, f"{node.name} has ended:\n{node.log()}"
                await client.get("readiness")
                return True

            await eventually(f"{node.name} is ready", reads)

    async def leader(self) -> Node:
        """The node that leads, once one does."""

        async def leading() -> Node | None:
            for node in self.nodes:
                if node.running and (await self._role(node)) == "leader":
                    return node
            return None

        return await eventually("somebody leads", leading)

    async def followers(self) -> list[Node]:
        leader = await self.leader()
        return [node for node in self.nodes if node.running and node is not leader]

    async def _role(self, node: Node) -> str | None:
        try:
            return (await self.status(node)).role
        except OperationError:
            return None

    async def wait_caught_up(self) -> int:
        """Wait until every running node has applied all that the leader has committed by now; that index."""
        commit = (await self.status(await self.leader())).commit
        for node in self.nodes:
            if node.running:

                async def applied(node: Node = node) -> bool:
                    return (await self.status(node)).applied >= commit

                await eventually(f"{node.name} has applied {commit}", applied)
        return commit

    def close(self) -> None:
        for node in self.nodes:
            if node.running:
                node.send(signal.SIGKILL)
        for node in self.nodes:
            if node.process is not None:
                node.wait()

    def logs(self) -> str:
        """The end of every node's log, for a failed test."""
        parts = []
        for node in self.nodes:
            lines = node.log().splitlines()[-LOG_SHOWN:]
            parts.append("\n".join([f"--- {node.name}", *lines]))
        return "\n".join(parts)


async def local_keys(node: Node, prefix: str) -> dict[str, int]:
    """What one node holds itself: key and revision, without asking anybody else."""
    async with node.client(timeout=10.0) as client:
        return {
            item.key.decode(): item.mod_revision async for item in client.scan(prefix, consistency="stale", page=10_000)
        }


@asynccontextmanager
async def running_cluster(directory: str, size: int = 3, **settings: str) -> AsyncIterator[Cluster]:
    """A cluster that is up and ready. Settings are flags of `serve`, with underscores. A failed test shows the logs."""
    os.makedirs(directory, exist_ok=True)
    cluster = Cluster(directory, size, {name.replace("_", "-"): value for name, value in settings.items()})
    try:
        cluster.start()
        await cluster.wait_ready()
        yield cluster
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        cluster.close()
