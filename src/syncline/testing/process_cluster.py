"""A cluster of real processes for tests: `syncline serve` on loopback, and faults on order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Final, Self

from syncline.client import Client, NodeStatus
from syncline.client.txn import DeletePrefixOp
from syncline.errors import ConfigError, OperationError, Rejected, UsageError
from syncline.testing.ports import free_block

__all__ = ["ProcessCluster"]

DEADLINE_S: Final = 30.0
"""For what a cluster does by itself: an election, a catch-up, a start. On a busy machine, too."""

ATTEMPT_S: Final = 1.0
"""One look at a node: then it is seen whether its process has ended."""

NAMES: Final = "abcdefghi"
EXIT_S: Final = 20.0
LOG_SHOWN: Final = 30
TIMERS: Final = ("--heartbeat-s", "0.05", "--election-s", "0.5")
"""Quick elections: a test that kills a leader waits for one."""


class ProcessCluster:
    """Nodes 0, 1, … of one cluster (named a, b, …), each a `syncline serve` process of its own on loopback.

        with ProcessCluster("data") as cluster:
            kv = cluster.client()
            kv.put("greeting", "hello")
            cluster.kill(cluster.leader())
            assert kv.get("greeting").value == b"hello"

    They all serve when it is made. The pytest fixture `syncline_cluster` makes one. The methods are for one thread;
    clients may run in others.
    """

    _closed = False

    def __init__(self, directory: str, *, nodes: int = 3) -> None:
        """`directory` gets the data and the logs.

        Raises:
            ConfigError: `nodes` is below 1 or above 9.
            TypeError: `nodes` is no number.
            UsageError: a node has ended at its start; with the end of its log.
        """
        if type(nodes) is not int:
            raise TypeError(f"nodes must be an int, not {type(nodes).__name__}")
        if not 1 <= nodes <= len(NAMES):
            raise ConfigError(f"nodes is {nodes}: accepted are 1 to {len(NAMES)}")
        os.makedirs(directory, exist_ok=True)
        port = free_block(2 * nodes)
        names = NAMES[:nodes]
        members = ",".join(f"{name}=127.0.0.1:{port + nodes + at}" for at, name in enumerate(names))
        self._life = os.pipe()  # a node stops when the end that this process holds is closed, however it ends
        self._nodes = [
            _Node(directory, name, port + at, port + nodes + at, members, self._life[0])
            for at, name in enumerate(names)
        ]
        self._clients: list[Client] = []
        try:
            for node in self._nodes:
                node.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise

    @property
    def endpoints(self) -> list[str]:
        """The URLs of all nodes, for a client."""
        return [node.url for node in self._nodes]

    def client(self, *, timeout: float = 10.0) -> Client:
        """A client of all nodes. It is closed with the cluster.

            kv = cluster.client()

        Raises:
            ConfigError, TypeError: `timeout` (seconds) can't be used.
            UsageError: the cluster was closed; so do all methods but `logs` and `close`.
        """
        self._check_open()
        self._clients.append(Client(self.endpoints, timeout=timeout))
        return self._clients[-1]

    def kill(self, node: int) -> None:
        """End a node's process at once, as a power cut does, and wait for its end.

            cluster.kill(0)

        Raises:
            UsageError: its process has ended before.
        """
        self._node(node).send(signal.SIGKILL)
        self._node(node).wait()

    def pause(self, node: int) -> None:
        """Stop a node's process where it is (SIGSTOP). It holds its connections, and answers nothing.

            cluster.pause(1)

        Raises:
            UsageError: its process has ended.
        """
        self._node(node).send(signal.SIGSTOP)
        self._node(node).paused = True

    def resume(self, node: int) -> None:
        """Let a paused node go on.

            cluster.resume(1)

        Raises:
            UsageError: its process has ended.
        """
        self._node(node).send(signal.SIGCONT)
        self._node(node).paused = False

    def restart(self, node: int) -> None:
        """Start a node again with its data, and wait until it serves. One that runs is stopped in order first.

            cluster.restart(0)

        Raises:
            UsageError: it has ended at its start, or does not serve; with the end of its log.
        """
        one = self._node(node)
        if one.running:
            one.send(signal.SIGCONT)
            one.send(signal.SIGTERM)
            one.wait()
        one.start()
        self._wait_ready(one)

    def leader(self) -> int:
        """Wait until a node leads, and return its number. A node that is paused does not count.

            cluster.pause(cluster.leader())

        Raises:
            UsageError: no node leads after 30 seconds; with the nodes' logs.
        """
        self._check_open()
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            found = [(status.term, at) for at in self._up() if (status := self._status(at)) and status.role == "leader"]
            if found:
                return max(found)[1]
            if not self._up():
                raise UsageError("no node runs: call restart or resume")
            self._ask(self._nodes[self._up()[0]])
        raise UsageError(f"no node leads after {DEADLINE_S:g} s\n{self.logs()}")

    def clear(self) -> None:
        """Delete all keys and end all leases.

            cluster.clear()

        Raises:
            OperationError: the cluster did not do it.
        """
        self._check_open()
        with Client(self.endpoints, timeout=DEADLINE_S) as kv:
            for lease in kv.leases():
                try:
                    kv.revoke_lease(lease.id)
                except Rejected as error:
                    if error.code != "lease_not_found":  # it has ended meanwhile
                        raise
            kv.txn(then=[DeletePrefixOp(b"")], idempotent=True)

    def heal(self) -> None:
        """Resume what is paused, start what has ended, and wait until all nodes serve.

            cluster.heal()

        Raises:
            UsageError: a node does not serve; with the end of its log.
        """
        self._check_open()
        for at, node in enumerate(self._nodes):
            if not node.running:
                node.start()
            elif node.paused:
                self.resume(at)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until each node serves linearizable reads: there is a leader, and the node has caught up.

            cluster.wait_ready()

        Raises:
            UsageError: a node does not serve after 30 seconds, or has ended; with the end of its log.
        """
        self._check_open()
        for node in self._nodes:
            self._wait_ready(node)

    def logs(self) -> str:
        """The last lines that each node has logged.

            print(cluster.logs())

        They are those of its present and of its earlier processes.
        """
        return "\n".join(node.log() for node in self._nodes)

    def close(self) -> None:
        """Close the clients, and kill all nodes.

            cluster.close()

        Their directories stay. What was closed before stays closed.
        """
        self._closed = True
        for client in self._clients:
            client.close()
        for node in self._nodes:
            if node.running:
                node.send(signal.SIGKILL)
                node.wait()
        for end in self._life:
            if end >= 0:
                os.close(end)
        self._life = -1, -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        """A node that starts after `close` would outlive the tests: nothing tells it that they have ended."""
        if self._closed:
            raise UsageError("this cluster was closed: make another one")

    def _node(self, at: int) -> _Node:
        self._check_open()
        if type(at) is not int:
            raise TypeError(f"a node is given by its number, an int, not {type(at).__name__}")
        if not 0 <= at < len(self._nodes):
            raise UsageError(f"there is no node {at}: the nodes are 0 to {len(self._nodes) - 1}")
        return self._nodes[at]

    def _up(self) -> list[int]:
        return [at for at, node in enumerate(self._nodes) if node.running and not node.paused]

    def _status(self, at: int) -> NodeStatus | None:
        with Client(self._nodes[at].url, timeout=ATTEMPT_S) as kv:
            try:
                return kv.status()
            except OperationError:
                return None  # it starts, or has ended

    def _wait_ready(self, node: _Node) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not self._ask(node):
            if not node.running:
                raise UsageError(f"node {node.name} has ended with status {node.status}\n{node.log()}")
            if time.monotonic() > end_s:
                raise UsageError(f"node {node.name} does not serve after {DEADLINE_S:g} s\n{node.log()}")

    def _ask(self, node: _Node) -> bool:
        """Whether a node answers a read. It waits for the answer; the client asks again by itself."""
        with Client(node.url, timeout=ATTEMPT_S) as kv:
            try:
                kv.get("ready")
            except OperationError:
                return False
            return True


class _Node:
    """One process, and how it is started."""

    def __init__(self, directory: str, name: str, http_port: int, peer_port: int, members: str, life: int) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{http_port}"
        self.paused = False
        self._log_path = os.path.join(directory, f"{name}.log")
        self._command = [
            *(sys.executable, "-m", "syncline", "serve", *TIMERS),
            *("--name", name, "--data-dir", os.path.join(directory, name), "--initial-cluster", members),
            *("--http-listen", f"127.0.0.1:{http_port}", "--peer-listen", f"127.0.0.1:{peer_port}"),
            *("--parent-fd", str(life)),
        ]
        self._life = life
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        self.paused = False
        with open(self._log_path, "ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, with settings of this class
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=(self._life,)
            )

    def send(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            raise UsageError(f"the process of node {self.name} has ended: call restart")
        self._process.send_signal(number)

    def wait(self) -> None:
        assert self._process is not None
        self._process.wait(EXIT_S)

    def log(self) -> str:
        """Its name, and the last lines of its log."""
        with open(self._log_path, encoding="utf-8", errors="backslashreplace") as file:
            return "\n".join([f"--- {self.name}", *file.read().splitlines()[-LOG_SHOWN:]])
