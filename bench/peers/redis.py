"""Redis: a primary and two replicas, every write synced. No consensus: for orientation."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

from tests.helpers.ports import free_block

from bench.generators import closedloop, resp
from bench.load import KEYS, VALUE_BYTES, Load, Outcome, Workload, key
from bench.peers.peer import NODES, Cluster
from bench.processes import BenchError, Process, wait_for


class RedisCluster(Cluster):
    def __init__(self, directory: str) -> None:
        port = free_block(NODES)
        self._port = port
        processes = []
        for at in range(NODES):
            own = os.path.join(directory, f"n{at}")
            os.mkdir(own)
            command = ["redis-server", "--port", str(port + at), "--bind", "127.0.0.1", "--dir", own, "--save", ""]
            command += ["--appendonly", "yes", "--appendfsync", "always"]
            command += ["--replicaof", "127.0.0.1", str(port)] if at else []
            processes.append(Process(command, os.path.join(directory, f"n{at}.log")))
        super().__init__(processes)

    def wait_ready(self) -> None:
        """Until both replicas follow."""
        online = f"connected_slaves:{NODES - 1}".encode()
        wait_for("redis has its replicas", lambda: online in self.ask(resp.command("INFO", "replication")))
        wait_for("both answer", lambda: self.ask(resp.command("WAIT", str(NODES - 1), "100")) == b":2\r\n")

    def ask(self, command: bytes) -> bytes:
        """A command whose answer comes in one piece."""
        with socket.create_connection(("127.0.0.1", self._port), 5) as connection:
            connection.sendall(command)
            return connection.recv(1 << 16)

    def fill(self) -> None:
        value = "x" * VALUE_BYTES
        for number in range(KEYS):
            if self._filling(key(number), value) != b"+OK\r\n":
                raise BenchError("redis refused a write")

    def _filling(self, name: str, value: str) -> bytes:
        return self.ask(resp.command("SET", name, value))

    def load(self, load: Load) -> Outcome:
        value = "x" * load.value_bytes
        if load.workload is Workload.STALE:
            requests = [resp.command("GET", key(number)) for number in range(KEYS)]
            return closedloop.generate("127.0.0.1", self._port, requests, resp.one_answer, load)
        wait = resp.command("WAIT", "1", "0")
        requests = [resp.command("SET", key(number), value) + wait for number in range(KEYS)]
        return closedloop.generate("127.0.0.1", self._port, requests, resp.written_to_two, load)


class Redis:
    name = "redis"
    workloads = frozenset({Workload.WRITES, Workload.STALE})
    how = (
        "Debian's `redis-server`, a primary and two replicas, `appendfsync always`; a write is `SET` and `WAIT 1 0`, "
        "which waits for a replica to have it, not to have synced it. No consensus: for orientation. Loaded by the "
        "bench's own generator."
    )

    def missing(self) -> str:
        return "" if shutil.which("redis-server") else "redis-server is not installed"

    def version(self) -> str:
        shown = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout.split()
        return f"Redis {shown[2].removeprefix('v=')}"

    def start(self, directory: str) -> RedisCluster:
        cluster = RedisCluster(directory)
        try:
            cluster.wait_ready()
        except BenchError:
            cluster.check()
            cluster.stop()
            raise
        return cluster
