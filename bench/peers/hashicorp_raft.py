"""hashicorp/raft under the small key-value server of `hashicorp/`, built with Debian's Go and packages."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.helpers.ports import free_block

from bench.generators import wrk
from bench.load import Load, Outcome, Workload
from bench.peers.peer import NODES, Cluster, ask, fill_over_http
from bench.processes import BenchError, Process, wait_for

SOURCE = os.path.join(os.path.dirname(__file__), "hashicorp")
GOPATH = "/usr/share/gocode"
"""Where Debian puts the sources of Go packages: the build needs no network."""


class HashicorpCluster(Cluster):
    def __init__(self, directory: str, program: str) -> None:
        port = free_block(2 * NODES)
        self.addresses = [f"127.0.0.1:{port + at}" for at in range(NODES)]
        peers = [f"127.0.0.1:{port + NODES + at}" for at in range(NODES)]
        members = ",".join(f"n{at}={peer}" for at, peer in enumerate(peers))
        super().__init__(
            [
                Process(
                    [
                        *(program, "-id", f"n{at}", "-dir", os.path.join(directory, f"n{at}"), "-peers", members),
                        *("-http", self.addresses[at], "-raft", peers[at]),
                    ],
                    os.path.join(directory, f"n{at}.log"),
                )
                for at in range(NODES)
            ]
        )

    def leader(self) -> str:
        """The address of the node that leads; waits until one does."""
        found: list[str] = []

        def look() -> bool:
            found.extend(address for address in self.addresses if ask(address, "/leader")[0] == 200)
            return bool(found)

        wait_for("hashicorp/raft has a leader", look)
        return found[-1]

    def fill(self) -> None:
        fill_over_http(self.leader())

    def load(self, load: Load) -> Outcome:
        return wrk.generate(self.leader(), load, stale_query="?stale=1")


class HashicorpRaft:
    name = "hashicorp"
    workloads = frozenset(Workload)
    how = (
        "hashicorp/raft with its default settings, BoltDB and Go's net/http (`bench/peers/hashicorp`), linearizable "
        "reads with VerifyLeader; HTTP/1.1, loaded by wrk."
    )

    def missing(self) -> str:
        if not shutil.which("go"):
            return "go is not installed"
        for package in ("raft", "raft-boltdb"):
            if not os.path.isdir(f"{GOPATH}/src/github.com/hashicorp/{package}"):
                return f"the Go package hashicorp/{package} is not installed"
        return wrk.missing()

    def version(self) -> str:
        shown = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", "golang-github-hashicorp-raft-dev"],
            capture_output=True,
            text=True,
            check=True,
        )
        go = subprocess.run(["go", "version"], capture_output=True, text=True, check=True).stdout.split()[2]
        return f"hashicorp/raft {shown.stdout}, {go}"

    def start(self, directory: str) -> HashicorpCluster:
        cluster = HashicorpCluster(directory, build(directory))
        try:
            cluster.leader()
        except BenchError:
            cluster.check()
            cluster.stop()
            raise
        return cluster


def build(directory: str) -> str:
    """Compile the server into `directory`; its path."""
    program = os.path.join(directory, "hashicorp-kv")
    environment = {**os.environ, "GOPATH": GOPATH, "GO111MODULE": "off", "GOFLAGS": ""}
    done = subprocess.run(
        ["go", "build", "-o", program, "."], cwd=SOURCE, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"go build: {done.stderr[-1000:]}")
    return program
