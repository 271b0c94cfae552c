"""What the bench reads from its load generators, and what it gives them."""

from __future__ import annotations

import pytest
from bench.generators import h2load, wrk
from bench.load import KEYS, Load, Workload, key
from bench.peers.etcd import KEY, message
from bench.processes import BenchError

WRK = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 2 connections
Requests/sec:      4.00
summary 1000000 4 1
latency 200 2
latency 700 1
latency 900 1
"""

H2LOAD = """
requests: 3 total, 3 started, 3 done, 2 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 2 2xx, 0 3xx, 0 4xx, 1 5xx
"""


def test_wrk_is_read() -> None:
    outcome = wrk.parse(WRK, clients=2, cpu_s=0.5)
    assert outcome.per_s == 4.0
    assert outcome.errors == 1
    assert outcome.generator_cpu_s == 0.5
    assert outcome.latencies_us.percentile_us(50) == 200
    assert outcome.latencies_us.percentile_us(100) == 900


def test_wrk_that_completed_nothing_is_an_error() -> None:
    with pytest.raises(BenchError, match="completed nothing"):
        wrk.parse("summary 1000000 0 7\n", clients=1, cpu_s=0.0)


def test_wrk_that_shows_too_few_latencies_is_an_error() -> None:
    with pytest.raises(BenchError, match="3 latencies of 4 requests"):
        wrk.parse(WRK.replace("latency 900 1\n", ""), clients=2, cpu_s=0.0)


def test_h2load_is_read() -> None:
    latencies = h2load.parse_log("1795636544384139\t200\t17520\n1795636544384156\t200\t17561\n17\t500\t30000\n")
    assert latencies.count == 3
    assert latencies.percentile_us(50) == 17561
    assert h2load.parse_errors(H2LOAD, 3) == 1


def test_an_incomplete_log_of_h2load_is_an_error() -> None:
    with pytest.raises(BenchError, match="logged 2"):
        h2load.parse_errors(H2LOAD, 2)


def test_protobuf_and_its_frame() -> None:
    assert h2load.varint(300) == b"\xac\x02"
    assert h2load.bytes_field(2, b"ab") == b"\x12\x02ab"
    assert h2load.bool_field(7) == b"\x38\x01"
    assert h2load.grpc_body(b"abc") == b"\0\0\0\0\3abc"


def test_the_value_of_the_mix_ends_the_range_behind_its_key() -> None:
    body = message(Load(Workload.MIXED, 1, 1.0, value_bytes=20))
    value = body[-20:]
    assert body == h2load.bytes_field(1, KEY) + h2load.bytes_field(2, value)
    assert value > KEY, "an empty range"
    assert not any(KEY < key(number).encode() < value for number in range(KEYS)), "another key in the range"
