"""The nodes of a run: real `syncline serve` processes, and who of them ended without being told to."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from syncline.client import AsyncClient, NodeStatus
from syncline.errors import OperationError
from syncline.node.secret_file import write_secret_file
from tests.chaos.lan import Lan
from tests.helpers.ports import free_block
from tests.helpers.process_cluster import Node, eventually

__all__ = ["HEALED_WITHIN_S", "STARTED_WITHIN_S", "ChaosNode", "Fleet", "ring"]

HEARTBEAT_S: Final = 0.05
ELECTION_S: Final = 0.5
SETTINGS: Final = {
    "heartbeat-s": str(HEARTBEAT_S),
    "election-s": str(ELECTION_S),
    # Small enough that logs are compacted, and nodes that were away get snapshots, several times a minute.
    "snapshot-entries": "400",
    "trailing-entries": "100",
}
STARTED_WITHIN_S: Final = 120.0
"""For a process to start and read its log. It takes a second; on a machine that is busy with other things, many."""

HEALED_WITHIN_S: Final = 30.0
"""From then on. Ten election timeouts are 10 s; the rest is for links to come up, and for a loaded machine."""

HTTP_PORT, PEER_PORT = 8080, 8180

FAULTY_LINE: Final = re.compile(r"Traceback \(most recent|^\S+ (ERROR|CRITICAL) |stopped itself", re.MULTILINE)
"""What no fault of the world may bring a node to say."""


STOPPED: Final = {0, -signal.SIGKILL, None}
"""How a node ends that was told to; it may be killed on the way, and run again by now."""

FAREWELL: Final = "was removed from the cluster and has stopped"
SHOWN: Final = 2000
"""Characters of a log that are told with a fault: a traceback fits."""


class ChaosNode(Node):
    """One node. `running` is what is, `wanted` what should be."""

    def __init__(self, name: str, directory: str, port: int, settings: dict[str, str], *, host: str) -> None:
        super().__init__(name, directory, port, settings, host=host)
        self.wanted = False
        self.leaving = False
        self.paused = False
        self.life = 1
        """Grows when the node is removed, wiped, and joins as a stranger."""
        self._log_read = 0

    def command(self) -> list[str]:
        """The nodes have addresses of a network of their own. No other machine is in it, so clients need no TLS."""
        return [*super().command(), "--insecure-clients"]

    @property
    def label(self) -> str:
        """The name, and which of the members that had it in turn."""
        return self.name if self.life == 1 else f"{self.name}/{self.life}"

    @property
    def up(self) -> bool:
        """Whether the process is there and not stopped."""
        return self.running and not self.paused

    def check_not_ended(self) -> None:
        """Raise where the process ended and nobody told it to: what is waited for would never come."""
        if not self.running and self.process is not None and self.process.returncode not in STOPPED:
            raise AssertionError(f"{self.label} ended by itself with status {self.process.returncode}")

    def start(self) -> None:
        super().start()
        self.wanted = True

    def kill(self) -> None:
        self.wanted = False
        self.paused = False
        super().kill()

    def pause(self) -> None:
        super().pause()
        self.paused = True

    def resume(self) -> None:
        if self.running:
            super().resume()
        self.paused = False

    def ask_to_stop(self) -> None:
        self.wanted = False
        self.send(signal.SIGTERM)

    async def stopped(self) -> None:
        """Wait for the end of a node that was asked to stop. AssertionError where it does not end, or ends badly."""

        async def ended() -> bool:
            return not self.running or self.wanted  # wanted: it was killed meanwhile, and started again

        await eventually(f"{self.label} stops when it is told to", ended, deadline_s=HEALED_WITHIN_S)
        assert self.process is not None
        status = self.process.returncode
        assert status in STOPPED or self.leaving, f"{self.label} was told to stop and ended with status {status}"

    def wipe(self) -> None:
        """Lose the disk; who starts there next is somebody else."""
        assert not self.running
        shutil.rmtree(self.data_dir)
        self.life += 1
        self.leaving = False

    def new_faults(self) -> list[str]:
        """What the log, since the last call, says that no node should have to say."""
        text = self.log()
        fresh, self._log_read = text[self._log_read :], len(text)
        found = [fresh[match.start() : match.start() + SHOWN] for match in FAULTY_LINE.finditer(fresh)]
        may_leave = self.leaving or self.life > 1
        return [text for text in found if not (may_leave and FAREWELL in text)]


def ring(nodes: Sequence[ChaosNode], pick: float) -> list[ChaosNode]:
    """All of them in their order, beginning with the one that was picked (a number in [0, 1))."""
    first = int(pick * len(nodes))
    return [*nodes[first:], *nodes[:first]]


class Fleet:
    """All nodes of one cluster, on a network of their own (`lan`) or on loopback."""

    def __init__(self, directory: str, size: int, lan: Lan | None, planted: str = "") -> None:
        self.lan = lan
        self.nodes: list[ChaosNode] = []
        port = HTTP_PORT if lan else free_block(PEER_PORT - HTTP_PORT + size)
        names = self.names(size)
        hosts = {name: lan.host(name) if lan else "127.0.0.1" for name in names}
        ports = {name: port if lan else port + at for at, name in enumerate(names)}
        founders = ",".join(f"{name}={hosts[name]}:{ports[name] + PEER_PORT - HTTP_PORT}" for name in names)
        secret = os.path.join(directory, "peer-secret")
        if not os.path.exists(secret):
            write_secret_file(secret)
        program = (sys.executable, "-m", *(("tests.chaos.planted", planted) if planted else ("syncline",)))
        for name in names:
            settings = {**SETTINGS, "initial-cluster": founders, "peer-secret-file": secret}
            node = ChaosNode(name, directory, ports[name], settings, host=hosts[name])
            node.program = (*(lan.program(name) if lan else ()), *program)
            self.nodes.append(node)

    @staticmethod
    def names(size: int) -> list[str]:
        return [f"n{at + 1}" for at in range(size)]

    @property
    def endpoints(self) -> list[str]:
        return [node.url for node in self.nodes]

    def others(self, node: ChaosNode) -> list[ChaosNode]:
        return [other for other in self.nodes if other is not node]

    def client(self, timeout: float = 10.0) -> AsyncClient:
        return AsyncClient(self.endpoints, timeout=timeout)

    def start(self) -> None:
        for node in self.nodes:
            if not node.running:
                node.start()

    def rejoin(self, node: ChaosNode, pick: float) -> None:
        """Start a wiped node as a new member, through any of the others: the picked one is asked first."""
        settings = {name: value for name, value in node.settings.items() if name != "initial-cluster"}
        node.settings = {**settings, "join": ",".join(other.url for other in ring(self.others(node), pick))}
        node.start()

    def close(self) -> None:
        for node in self.nodes:
            if node.running:
                node.kill()

    # -- what is wrong with them

    def ended_by_themselves(self) -> Iterator[str]:
        """Processes that should run and do not, each told once."""
        for node in self.nodes:
            if node.wanted and not node.running:
                assert node.process is not None
                node.wanted = False
                if not node.leaving:
                    last = "\n    ".join(node.log().splitlines()[-15:])
                    yield f"{node.label} ended by itself with status {node.process.returncode}:\n    {last}"

    def said(self) -> Iterator[str]:
        """Errors and tracebacks in the nodes' logs, each told once."""
        for node in self.nodes:
            for text in node.new_faults():
                yield f"{node.label} says: {text}"

    # -- waiting for them

    async def healed(self) -> float:
        """Wait until every node serves linearizable reads; how long that took. AssertionError: one never does."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await asyncio.gather(*(self._started(node) for node in self.nodes))
        await asyncio.gather(*(self._ready(node) for node in self.nodes))
        return loop.time() - begun_s

    async def _started(self, node: ChaosNode) -> None:
        async def answers() -> NodeStatus:
            node.check_not_ended()
            return await self.status(node)

        await eventually(f"{node.label} is open", answers, deadline_s=STARTED_WITHIN_S)

    async def _ready(self, node: ChaosNode) -> None:
        async with node.client(timeout=2.0) as client:

            async def reads() -> bool:
                await client.get("readiness")
                return True

            await eventually(f"{node.label} serves reads again", reads, deadline_s=HEALED_WITHIN_S)

    async def status(self, node: ChaosNode, timeout_s: float = 1.0) -> NodeStatus:
        async with node.client(timeout=timeout_s) as client:
            return await client.status()

    async def leader(self) -> ChaosNode | None:
        """The reachable node that leads in the highest term, as they say themselves."""
        found = [pair for pair in await asyncio.gather(*map(self._leading, self.nodes)) if pair is not None]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    async def _leading(self, node: ChaosNode) -> tuple[int, ChaosNode] | None:
        if not node.up:
            return None
        try:
            status = await self.status(node, timeout_s=0.5)
        except OperationError:
            return None
        return (status.term, node) if status.role == "leader" else None

    def copy_logs(self, target: str) -> None:
        for node in self.nodes:
            if os.path.exists(node.log_path):
                shutil.copy(node.log_path, target)
