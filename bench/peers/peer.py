"""What the bench needs of a system that it measures, and what those that speak HTTP share."""

from __future__ import annotations

import http.client
import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from bench.load import KEYS, VALUE_BYTES, Load, Outcome, Workload, key
from bench.processes import BenchError, Process, stop_all

NODES = 3
ASK_S = 30.0
FILL_CLIENTS = 16


class Cluster(ABC):
    """Three running nodes of one system. All load goes to the leader."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.processes = list(processes)

    @abstractmethod
    def fill(self) -> None:
        """Put a value under each key."""

    @abstractmethod
    def load(self, load: Load) -> Outcome:
        """Run the load against the node that leads now."""

    def cpu_s(self) -> float:
        """Processor time of all nodes since their start."""
        return sum(process.cpu_s() for process in self.processes)

    def resident_bytes(self) -> int:
        """Of all nodes together."""
        return sum(process.resident_bytes() for process in self.processes)

    def check(self) -> None:
        """Raise `BenchError` if a node has ended."""
        for process in self.processes:
            process.check()

    def stop(self) -> None:
        stop_all(self.processes)


class Peer(Protocol):
    """A system to measure."""

    @property
    def name(self) -> str: ...

    @property
    def workloads(self) -> frozenset[Workload]:
        """What it can be asked for."""

    @property
    def how(self) -> str:
        """How it is set up and loaded, for the page: a sentence or two."""

    def missing(self) -> str:
        """What has to be installed before it can take part; empty if nothing."""

    def version(self) -> str: ...

    def start(self, directory: str) -> Cluster:
        """Start three nodes with their data in `directory`, and wait until they take writes."""


def ask(
    address: str, path: str, *, method: str = "GET", body: bytes | None = None, timeout_s: float = ASK_S
) -> tuple[int, bytes]:
    """One HTTP request on a connection of its own: status and body. Raises `OSError`."""
    scheme, _, place = address.rpartition("://")
    if scheme == "https":  # our own node on this machine: it is measured, and not checked
        unchecked = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            place, timeout=timeout_s, context=unchecked
        )
    else:
        connection = http.client.HTTPConnection(place, timeout=timeout_s)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{address}{path}: {error}") from error
    finally:
        connection.close()


def ask_json(address: str, path: str, body: object | None = None) -> dict[str, object]:
    """GET, or POST where there is a body. Raises `OSError`, also where the answer is no JSON object or no success."""
    data = None if body is None else json.dumps(body).encode()
    status, answer = ask(address, path, method="GET" if data is None else "POST", body=data)
    if status != 200:
        raise OSError(f"{address}{path}: {status} {answer[:200]!r}")
    found = json.loads(answer)
    if not isinstance(found, dict):
        raise OSError(f"{address}{path}: {answer[:200]!r}")
    return found


def fill_over_http(address: str) -> None:
    """PUT a value to /key/{key} for every key."""
    with ThreadPoolExecutor(FILL_CLIENTS) as pool:
        list(pool.map(lambda start: _fill_some(address, start), range(FILL_CLIENTS)))


def _fill_some(address: str, start: int) -> None:
    connection = http.client.HTTPConnection(address, timeout=ASK_S)
    try:
        for number in range(start, KEYS, FILL_CLIENTS):
            connection.request("PUT", f"/key/{key(number)}", b"x" * VALUE_BYTES)
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 300:
                raise BenchError(f"{address} answered {answer.status} to a write")
    finally:
        connection.close()
