"""What the bench reads from its load generators, and what it gives them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from bench.generators import closedloop, grpc, h2load, http1, resp, watching, wrk
from bench.generators.closedloop import Answer
from bench.load import KEYS, Load, Outcome, Workload, key
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


@pytest.mark.parametrize(
    ("data", "length", "succeeded"),
    [
        (b"+OK\r\n", 5, True),
        (b":2\r\n+OK\r\n", 4, True),
        (b"-ERR no\r\n", 9, False),
        (b"$3\r\nabc\r\n", 9, True),
        (b"$-1\r\n", 5, False),
    ],
)
def test_an_answer_of_redis(data: bytes, length: int, succeeded: bool) -> None:
    assert resp.one_answer(bytearray(data)) == Answer(length, succeeded)


@pytest.mark.parametrize("data", [b"", b"+OK", b"$3\r\nabc"])
def test_an_incomplete_answer_of_redis(data: bytes) -> None:
    assert resp.one_answer(bytearray(data)) is None


def test_a_write_of_redis_counts_once_a_replica_has_it() -> None:
    assert resp.written_to_two(bytearray(b"+OK\r\n")) is None
    assert resp.written_to_two(bytearray(b"+OK\r\n:1\r\n")) == Answer(9, True)
    assert resp.written_to_two(bytearray(b"+OK\r\n:0\r\n")) == Answer(9, False)
    assert resp.written_to_two(bytearray(b"-ERR\r\n:1\r\n")) == Answer(10, False)


def test_a_command_of_redis() -> None:
    assert resp.command("GET", "é") == b"*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa9\r\n"


def test_an_answer_of_http() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    assert http1.answer(bytearray(whole + b"HTTP/1.1 ")) == Answer(len(whole), True)
    assert http1.answer(bytearray(whole[:-1])) is None
    assert http1.answer(bytearray(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")) == Answer(38, False)


class Counting(asyncio.Protocol):
    """Answers each byte with one, every third with an error, and closes the connection after `lives` answers."""

    def __init__(self, lives: int) -> None:
        self._lives = lives
        self._answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert data == b"?", "more than one request in flight"
        self._answered += 1
        self._transport.write(b"!" if self._answered % 3 else b"x")
        if self._answered == self._lives:
            self._transport.close()


def one_byte(data: bytearray) -> Answer | None:
    return Answer(1, data[:1] == b"!") if data else None


async def run_against(lives: int, clients: int) -> Outcome:
    """Run our own generator against `Counting` for a moment."""
    server = await asyncio.get_running_loop().create_server(lambda: Counting(lives), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        load = Load(Workload.WRITES, clients, 0.2)
        return await asyncio.to_thread(closedloop.generate, "127.0.0.1", port, [b"?"], one_byte, load)


async def test_our_generator_counts_successes_and_errors() -> None:
    outcome = await run_against(lives=1 << 30, clients=3)
    assert outcome.latencies_us.count > 10
    assert outcome.errors == pytest.approx(outcome.latencies_us.count / 2, abs=3)
    assert 0 < outcome.generator_cpu_s < 10


async def test_our_generator_counts_a_lost_connection_as_an_error() -> None:
    outcome = await run_against(lives=2, clients=4)
    assert (outcome.latencies_us.count, outcome.errors) == (8, 4)


class _Counted(grpc.Connection):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def message(self) -> None:
        self.seen.append("message")

    def ended(self) -> None:
        self.seen.append("ended")


class _Written:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("piece", [1, 5, 9, 1000])
def test_grpc_frames_are_read_in_pieces_of_any_size(piece: int) -> None:
    connection, transport = _Counted(), _Written()
    connection.connection_made(cast("asyncio.Transport", transport))
    assert transport.data == grpc.PREFACE
    received = b"".join(
        (
            grpc.frame(grpc.SETTINGS, 0, 0, b"\0\3\0\0\0\1"),
            grpc.frame(grpc.SETTINGS, grpc.ACK, 0, b""),
            grpc.frame(grpc.HEADERS, grpc.END_HEADERS, 1, b"block"),
            grpc.data(1, b"one", last=False),
            grpc.frame(grpc.PING, 0, 0, b"12345678"),
            grpc.data(1, b"x" * 300, last=False),
            grpc.frame(grpc.HEADERS, grpc.END_HEADERS | grpc.END_STREAM, 1, b"trailers"),
        )
    )
    for at in range(0, len(received), piece):
        connection.data_received(received[at : at + piece])
    assert connection.seen == ["message", "message", "ended"]
    answers = grpc.frame(grpc.SETTINGS, grpc.ACK, 0, b"") + grpc.frame(grpc.PING, grpc.ACK, 0, b"12345678")
    assert transport.data == grpc.PREFACE + answers
    assert not connection.lost
    connection.data_received(grpc.frame(grpc.GO_AWAY, 0, 0, bytes(8)))
    assert connection.lost


def test_events_of_watches_are_found_by_the_number_of_the_write() -> None:
    board = watching.Board(3)
    board.found(b'{"value":"@00000002@xxx"}\n{"value":"@00000000@xxx"}')
    assert [number for number, _ in board.heard] == [2, 0]
