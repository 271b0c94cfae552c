"""Spans of requests: parent, stages and times, by a tracer of the test's own; and none without the setting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, TraceFlags

from syncline.client import AsyncClient
from syncline.errors import ConfigError
from syncline.node.stage_times import BatchTimes
from syncline.server import tracing
from syncline.server.app import KvServer
from syncline.server.http.request import Request
from tests.unit.test_server_app import raw, settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class RecordedSpan(NonRecordingSpan):
    """A span that keeps what it is told."""

    def __init__(self, name: str, parent: SpanContext, number: int, start: int) -> None:
        super().__init__(SpanContext(parent.trace_id or 1, number, is_remote=False, trace_flags=TraceFlags(1)))
        self.name, self.parent, self.start, self.stop = name, parent, start, 0
        self.attributes: dict[str, object] = {}
        self.failed = False

    def is_recording(self) -> bool:
        return not self.stop

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_status(self, status: Any, description: str | None = None) -> None:
        del description
        self.failed = isinstance(status, Status) and not status.is_ok

    def end(self, end_time: int | None = None) -> None:
        self.stop = end_time or 0


class Tracer:
    """Keeps the spans that it starts."""

    def __init__(self) -> None:
        self.spans: list[RecordedSpan] = []

    def start_span(self, name: str, context: Any = None, _kind: object = None, start_time: int = 0) -> RecordedSpan:
        parent = trace.get_current_span(context).get_span_context()
        self.spans.append(RecordedSpan(name, parent, len(self.spans) + 1, start_time))
        return self.spans[-1]


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Tracer:
    made = Tracer()
    monkeypatch.setattr(tracing, "get_tracer", lambda *_: made)
    return made


class Stages:
    """Stages in the test's hands. The wall clock is 1,000 s ahead of this one."""

    def __init__(self) -> None:
        self.made: BatchTimes | None = None
        self.reads = (0.0, 0.0, 0.0)

    def batch(self) -> BatchTimes | None:
        return self.made

    def read(self) -> tuple[float, float, float]:
        return self.reads

    def now_s(self) -> float:
        return 100.0


def traced() -> tuple[tracing.RequestTracing, Stages, list[tuple[str, int]]]:
    seen: list[tuple[str, int]] = []
    made = tracing.RequestTracing(lambda route, status, *_: seen.append((route, status)), lambda: 1100.0, node="a")
    made.stages = stages = Stages()
    return made, stages, seen


def times(span: RecordedSpan) -> tuple[float, float]:
    return span.start / 1e9, span.stop / 1e9


def test_span_of_a_write_has_its_stages_and_the_callers_parent(tracer: Tracer) -> None:
    made, stages, seen = traced()
    stages.made = BatchTimes(7, 98.5, leads=True)
    stages.made.durable_s, stages.made.committed_s, stages.made.applied_s = 99.0, 99.5, 99.75
    headers = {b"traceparent": f"00-{TRACE}-{PARENT}-01".encode()}
    made.observe("PUT /key/{key...}", 200, 2.0, Request("PUT", b"/key/a", b"", headers, b""))
    request, *parts = tracer.spans
    assert seen == [("PUT /key/{key...}", 200)]
    assert (request.name, times(request)) == ("PUT /key/{key...}", (1098.0, 1100.0))
    assert (f"{request.parent.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert request.attributes == {"http.response.status_code": 200, "syncline.node": "a", "syncline.index": 7}
    assert {span.name: times(span) for span in parts} == {
        "propose": (1098.0, 1098.5),
        "sync": (1098.5, 1099.0),
        "commit": (1098.5, 1099.5),
        "apply": (1099.5, 1099.75),
    }
    assert {span.parent.span_id for span in parts} == {request.get_span_context().span_id}


def test_span_of_a_read_has_its_confirmation(tracer: Tracer) -> None:
    made, stages, _ = traced()
    stages.reads = 98.5, 99.0, 99.5
    made.observe("GET /key/{key...}", 200, 2.0, Request("GET", b"/key/a", b"", {}, b""))
    request, *parts = tracer.spans
    assert not request.parent.is_valid
    assert {span.name: times(span) for span in parts} == {"confirm": (1098.5, 1099.0), "apply": (1099.0, 1099.5)}


def test_span_of_an_error_has_its_code_and_no_stages(tracer: Tracer) -> None:
    made, _, _ = traced()
    made.observe(
        "PUT /key/{key...}", 503, 0.1, Request("PUT", b"/key/a", b"", {b"traceparent": b"rubbish"}, b""), "no_leader"
    )
    [span] = tracer.spans
    assert span.failed
    assert span.attributes["error.type"] == "no_leader"
    assert not span.parent.is_valid


def test_span_that_can_not_be_made_takes_no_answer(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """An answer is observed before it is written: an error there would have left the client without it."""

    class Broken(Tracer):
        def start_span(self, *_: Any, **__: Any) -> RecordedSpan:
            raise RuntimeError("the exporter's queue is closed")

    monkeypatch.setattr(tracing, "get_tracer", lambda *_: Broken())
    made, _, seen = traced()
    for _ in range(3):
        made.observe("GET /keys", 200, 0.5, Request("GET", b"/keys", b"", {}, b""))
    assert seen == [("GET /keys", 200)] * 3
    assert (made.failures, len(caplog.records)) == (3, 1)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        b"ff-" + TRACE.encode() + b"-" + PARENT.encode() + b"-01",
        b"00-\xff\xfe-1-1",
        b"-" * 8000,
        b"00-" + TRACE.encode() + b"-" + PARENT.encode() + b"-01" * 2000,
    ],
)
def test_span_of_a_forged_parent_has_none(tracer: Tracer, value: bytes) -> None:
    made, _, _ = traced()
    headers = {b"traceparent": value, b"tracestate": b"a=\xff," * 2000}
    made.observe("GET /keys", 200, 0.5, Request("GET", b"/keys", b"", headers, b""))
    assert not tracer.spans[0].parent.is_valid
    assert made.failures == 0


def test_no_span_of_requests_that_wait_or_come_too_early(tracer: Tracer) -> None:
    made, _, seen = traced()
    made.observe("GET /watch", 200, 30.0)
    made.observe("", 400, 0.0)
    made.stages = None
    made.observe("PUT /key/{key...}", 503, 0.0)
    assert tracer.spans == []
    assert len(seen) == 3


async def test_server_with_traces_makes_a_span_for_each_request(tmp_path: Path, tracer: Tracer) -> None:
    put = (
        b"PUT /key/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\ntraceparent: 00-%s-%s-01\r\n\r\nv"
    )
    async with KvServer.open(settings(tmp_path, traces=True)) as server, AsyncClient(server.http_url) as client:
        await client.put("warm", b"v")
        tracer.spans.clear()
        assert b"200 OK" in await raw(server.http_url, put % (TRACE.encode(), PARENT.encode()))
        names = [span.name for span in tracer.spans]
        assert names == ["PUT /key/{key...}", "propose", "sync", "commit", "apply"]
        assert f"{tracer.spans[0].parent.trace_id:032x}" == TRACE
        assert all(span.start <= span.stop for span in tracer.spans)
        assert "syncline_http_requests_total" in server.metrics.render().decode()


async def test_server_without_traces_makes_no_span(tmp_path: Path, tracer: Tracer) -> None:
    async with KvServer.open(settings(tmp_path)) as server, AsyncClient(server.http_url) as client:
        await client.put("a", b"v")
    assert tracer.spans == []


def test_server_without_traces_loads_no_opentelemetry() -> None:
    code = "import sys, syncline.server.app; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


async def test_server_with_traces_and_without_the_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "syncline.server.tracing", None)
    with pytest.raises(ConfigError, match=r"pip install 'syncline\[otel\]'"):
        await KvServer.open(settings(tmp_path, traces=True))
