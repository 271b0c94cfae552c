"""gRPC over HTTP/2: h2load, one thread, one connection a client, one body prepared beforehand.

h2load sends one body for all requests, so all go to one key; it can alternate between methods, which makes the mix.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence

from bench.load import Load, Outcome
from bench.processes import BenchError, run
from bench.stats import Histogram

HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")
SLACK_S = 60.0


def missing() -> str:
    return "" if shutil.which("h2load") else "h2load is not installed"


def grpc_body(message: bytes) -> bytes:
    """A gRPC message in its frame: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def bytes_field(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def bool_field(number: int) -> bytes:
    """A protobuf field that is true."""
    return varint(number << 3) + b"\1"


def varint(number: int) -> bytes:
    done = bytearray()
    while number > 0x7F:
        done.append(number & 0x7F | 0x80)
        number >>= 7
    done.append(number)
    return bytes(done)


def generate(address: str, methods: Sequence[str], message: bytes, load: Load) -> Outcome:
    """Call `methods` in turn, each with `message`, on the gRPC server at `address` (host:port)."""
    with tempfile.TemporaryDirectory(prefix="bench-h2load-") as directory:
        body, log = os.path.join(directory, "body"), os.path.join(directory, "log")
        with open(body, "wb") as file:
            file.write(grpc_body(message))
        whole_s = max(1, round(load.seconds))
        command = ["h2load", "-t1", f"-c{load.clients}", "-m1", "-D", str(whole_s), "-d", body, f"--log-file={log}"]
        command += [*HEADERS, *(f"http://{address}{method}" for method in methods)]
        ran = run(command, timeout_s=whole_s + SLACK_S)
        with open(log, encoding="ascii") as file:
            latencies = parse_log(file.read())
    return Outcome(latencies, whole_s, parse_errors(ran.output, latencies.count), ran.cpu_s)


def parse_log(text: str) -> Histogram:
    """Lines of start in microseconds, status, duration in microseconds."""
    return Histogram.of(int(line.split()[2]) for line in text.splitlines())


def parse_errors(output: str, logged: int) -> int:
    """Requests that failed, by the summary. Also sees to it that the log is complete."""
    found = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded", output)
    if found is None or int(found[1]) != logged:
        raise BenchError(f"h2load logged {logged} requests and says otherwise:\n{output[-500:]}")
    return int(found[1]) - int(found[2])
