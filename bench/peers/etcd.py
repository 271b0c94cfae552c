"""etcd, as Debian's `etcd-server` has it, with its default settings."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess

from tests.helpers.ports import free_block

from bench.generators import h2load
from bench.generators.h2load import bool_field, bytes_field
from bench.load import KEYS, VALUE_BYTES, Load, Outcome, Workload, key
from bench.peers.peer import NODES, Cluster, ask_json
from bench.processes import BenchError, Process, wait_for

PUT, RANGE = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"
METHODS = {
    Workload.WRITES: (PUT,),
    Workload.READS: (RANGE,),
    Workload.STALE: (RANGE,),
    Workload.MIXED: (PUT, RANGE),
}
PUTS_PER_TXN = 100
KEY = key(KEYS // 2).encode()


class EtcdCluster(Cluster):
    def __init__(self, directory: str) -> None:
        port = free_block(2 * NODES)
        self.addresses = [f"127.0.0.1:{port + at}" for at in range(NODES)]
        peers = [f"http://127.0.0.1:{port + NODES + at}" for at in range(NODES)]
        members = ",".join(f"n{at}={peer}" for at, peer in enumerate(peers))
        super().__init__(
            [
                Process(
                    [
                        *("etcd", "--name", f"n{at}", "--data-dir", os.path.join(directory, f"n{at}")),
                        *("--listen-client-urls", f"http://{address}", "--advertise-client-urls", f"http://{address}"),
                        *("--listen-peer-urls", peers[at], "--initial-advertise-peer-urls", peers[at]),
                        *("--initial-cluster", members, "--log-level", "error"),
                    ],
                    os.path.join(directory, f"n{at}.log"),
                )
                for at, address in enumerate(self.addresses)
            ]
        )

    def leader(self) -> str:
        """The address of the node that leads; waits until one does."""
        found: list[str] = []

        def look() -> bool:
            for address in self.addresses:
                status = ask_json(address, "/v3/maintenance/status", {})
                header = status["header"]
                assert isinstance(header, dict)
                if status.get("leader") == header["member_id"]:
                    found.append(address)
                    return True
            return False

        wait_for("etcd has a leader", look)
        return found[-1]

    def fill(self) -> None:
        address = self.leader()
        value = base64.b64encode(b"x" * VALUE_BYTES).decode()
        for start in range(0, KEYS, PUTS_PER_TXN):
            keys = [base64.b64encode(key(start + at).encode()).decode() for at in range(PUTS_PER_TXN)]
            puts = [{"requestPut": {"key": name, "value": value}} for name in keys]
            ask_json(address, "/v3/kv/txn", {"success": puts})

    def load(self, load: Load) -> Outcome:
        return h2load.generate(self.leader(), METHODS[load.workload], message(load), load)


def message(load: Load) -> bytes:
    """The protobuf of the requests.

    The mix has one body for both: the fields of a put (1 key, 2 value) are those of a range (1 first key, 2 end),
    so with a value that follows the key directly in the order of keys the range is just this key.
    """
    match load.workload:
        case Workload.READS:
            return bytes_field(1, KEY)
        case Workload.STALE:
            return bytes_field(1, KEY) + bool_field(7)
        case Workload.WRITES | Workload.MIXED:
            return bytes_field(1, KEY) + bytes_field(2, (KEY + b"\0").ljust(load.value_bytes, b"x"))


class Etcd:
    name = "etcd"
    workloads = frozenset(Workload)
    how = "Debian's `etcd-server` with its default settings; gRPC, loaded by h2load, all requests to one of the keys."

    def missing(self) -> str:
        return h2load.missing() if shutil.which("etcd") else "etcd is not installed"

    def version(self) -> str:
        shown = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
        return shown.splitlines()[0].replace(" Version:", "")

    def start(self, directory: str) -> EtcdCluster:
        cluster = EtcdCluster(directory)
        try:
            cluster.leader()
        except BenchError:
            cluster.check()
            cluster.stop()
            raise
        return cluster
