"""HTTP/1.1 for our own generator: for bodies that differ, and where wrk is not installed."""

from __future__ import annotations

import re

from bench.generators import closedloop
from bench.generators.closedloop import Answer
from bench.load import KEYS, Load, Outcome, Workload, key

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def request(method: str, path: str, body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def answer(data: bytearray) -> Answer | None:
    """A response with its length in its head; a status of 300 and above is no success."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = LENGTH.search(data, 0, end + 2)
    whole = end + 4 + (int(found[1]) if found else 0)
    return Answer(whole, succeeded=data[9:10] == b"2") if len(data) >= whole else None


def requests(load: Load, *, stale_query: str, keys: int = KEYS) -> list[bytes]:
    """The requests of a load, of which each is made in turn at random."""
    value = b"x" * load.value_bytes
    query = stale_query if load.workload is Workload.STALE else ""
    writes = [request("PUT", f"/key/{key(number)}", value) for number in range(keys)]
    reads = [request("GET", f"/key/{key(number)}{query}") for number in range(keys)]
    return {Workload.WRITES: writes, Workload.MIXED: writes + reads}.get(load.workload, reads)


def generate(address: str, load: Load, *, stale_query: str) -> Outcome:
    """The load of `wrk.generate`, from our own generator."""
    host, port = address.split(":")
    return closedloop.generate(host, int(port), requests(load, stale_query=stale_query), answer, load)
