"""The log of slow requests: what a line has, which requests have none, and how many lines there are."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.node.stage_times import BatchTimes
from syncline.server.app import KvServer
from syncline.server.http.request import Request
from syncline.server.logs import JsonFormatter, TextFormatter
from syncline.server.slow_log import LINES, WINDOW_S, SlowLog
from tests.unit.test_server_app import settings

LOGGER = "syncline.server.slow"


class Bench:
    """A log of slow requests, with the stages and the clock in the test's hands."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, logger=LOGGER)
        self._caplog = caplog
        self.now_s = 100.0
        self.batch: BatchTimes | None = None
        self.read = (0.0, 0.0, 0.0)
        self.log = SlowLog(lambda: self.batch, lambda: self.read, lambda: self.now_s)

    def records(self) -> list[dict[str, object]]:
        return [json.loads(JsonFormatter().format(one)) for one in self._caplog.records if one.name == LOGGER]

    def text(self) -> str:
        return TextFormatter().format(self._caplog.records[-1])


def request(key: bytes = b"jobs/7", query: bytes = b"") -> Request:
    return Request("PUT", b"/key/" + key, query, {}, b"", argument=key)


def batch(stored_s: float, durable_s: float, committed_s: float, applied_s: float) -> BatchTimes:
    made = BatchTimes(7, stored_s, leads=True)
    made.durable_s, made.committed_s, made.applied_s = durable_s, committed_s, applied_s
    return made


def test_slow_write_has_route_key_and_time_per_stage(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    bench.batch = batch(98.5, 99.5, 99.75, 99.875)
    bench.log(request(), "PUT /key/{key...}", 200, 2.0)
    [line] = bench.records()
    told = {name: value for name, value in line.items() if name not in ("time", "level", "logger")}
    assert told == {
        "message": "slow request",
        "route": "PUT /key/{key...}",
        "key": "jobs/7",
        "status": 200,
        "duration_s": 2.0,
        "queue_s": 0.5,
        "disk_s": 1.0,
        "commit_s": 1.25,
        "apply_s": 0.125,
        "answer_s": 0.125,
    }
    assert "slow request route='PUT /key/{key...}' key=jobs/7 status=200 duration_s=2.0 queue_s=0.5" in bench.text()


def test_slow_read_has_the_time_of_its_confirmation(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    bench.batch = batch(99.0, 99.1, 99.2, 99.3)  # a write of another client
    bench.read = (98.5, 99.5, 99.75)
    bench.log(request(), "GET /key/{key...}", 200, 2.0)
    [line] = bench.records()
    assert [line[name] for name in ("queue_s", "confirm_s", "apply_s", "answer_s")] == [0.5, 1.0, 0.25, 0.25]


def test_slow_request_that_entered_no_batch_has_no_stages(caplog: pytest.LogCaptureFixture) -> None:
    """The newest batches began before it."""
    bench = Bench(caplog)
    bench.batch, bench.read = batch(90, 91, 92, 93), (94, 95, 96)
    bench.log(request(), "PUT /key/{key...}", 503, 2.0)
    [line] = bench.records()
    assert not [name for name in line if name.endswith("_s") and name != "duration_s"]


def test_slow_read_logged_late_keeps_its_confirmation(caplog: pytest.LogCaptureFixture) -> None:
    """The process did not run for 10 ms between the taking of the duration and the line."""
    bench = Bench(caplog)
    bench.read = (98.0, 99.0, 99.5)
    bench.now_s += 0.01
    bench.log(request(), "GET /key/{key...}", 200, 2.0)
    [line] = bench.records()
    assert [line[name] for name in ("queue_s", "confirm_s", "apply_s", "answer_s")] == [0.0, 1.0, 0.5, 0.51]


@pytest.mark.parametrize(
    ("route", "query"),
    [
        ("GET /watch", b""),
        ("POST /etcdserverpb.Watch/Watch", b""),
        ("POST /v3lock/lock", b""),
        ("GET /key/{key...}", b"from=7&wait=30s"),
        ("GET /backup", b""),
        ("GET /readyz", b""),
    ],
)
def test_slow_log_leaves_out_requests_that_wait(caplog: pytest.LogCaptureFixture, route: str, query: bytes) -> None:
    bench = Bench(caplog)
    bench.log(request(query=query), route, 200, 30.0)
    assert bench.records() == []


def test_slow_log_is_limited_and_counts_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    for _ in range(LINES + 5):
        bench.log(None, "POST /batch", 200, 2.0)
    assert len(bench.records()) == LINES
    bench.now_s += WINDOW_S
    bench.log(None, "POST /batch", 200, 2.0)
    assert bench.records()[-1]["left_out"] == 5
    bench.log(None, "POST /batch", 200, 2.0)
    assert "left_out" not in bench.records()[-1]


def test_slow_log_line_of_a_hostile_key_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    bench.log(request(b"a\n\xff\x1b[31m" + b"k" * 5000), "PUT /key/{key...}", 200, 2.0)
    text = bench.text()
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 1000


async def test_server_logs_slow_requests_from_its_threshold_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a threshold that each request passes, a write, a read of the fast path and a batch have their lines."""
    caplog.set_level(logging.WARNING, logger=LOGGER)
    config = settings(tmp_path, slow_request_s=1e-9)
    async with KvServer.open(config) as server, AsyncClient(server.http_url) as client:
        await client.put("jobs/7", b"v")
        await client.get("jobs/7")
        host, port = server.http_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in range(6):  # the header is known from the third one on: then the GET fast path takes it
            writer.write(b"GET /key/jobs/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
            assert b" 404 " in await reader.read(2000)
        writer.close()
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.name == LOGGER]
    [put] = [line for line in lines if line["route"] == "PUT /key/{key...}"]
    gets = [line for line in lines if line["route"] == "GET /key/{key...}"]
    assert put["key"] == "jobs/7"
    assert all(put[stage] >= 0 for stage in ("queue_s", "disk_s", "commit_s", "apply_s", "answer_s"))
    assert [line["key"] for line in gets] == ["jobs/7", *(f"jobs/{number}" for number in range(6))]
    assert all("confirm_s" in line for line in gets)


async def test_server_with_threshold_zero_logs_no_slow_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger=LOGGER)
    async with KvServer.open(settings(tmp_path, slow_request_s=0)) as server, AsyncClient(server.http_url) as client:
        await client.put("a", b"v")
    assert [record for record in caplog.records if record.name == LOGGER] == []
