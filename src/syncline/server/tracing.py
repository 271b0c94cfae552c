"""Spans of requests for OpenTelemetry: propose, commit, apply; or confirm, apply of a read.

Only the API package is used. Without an SDK, which the operator configures, its spans cost little and go nowhere. A
request's span has the parent that its header `traceparent` names. The stages are those of the batch that the request
was part of (`slow_log`). While traces are off, nothing of this is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from syncline.node.stage_times import BatchTimes
from syncline.server.http.observing import Observe
from syncline.server.http.request import Request
from syncline.server.slow_log import ReadTimes, own_batch, waits_on_purpose
from syncline.version import __version__

__all__ = ["RequestTracing", "TracedStages"]

_log = logging.getLogger("syncline.server.tracing")

NANO: Final = 1_000_000_000
SERVER_FAULT: Final = 500
PARENT_FIELDS: Final = (b"traceparent", b"tracestate")


class TracedStages(Protocol):
    """What the spans are made of; by the clock of `now_s`."""

    def batch(self) -> BatchTimes | None:
        """The batch of entries that was applied last."""
        ...

    def read(self) -> ReadTimes:
        """The batch of reads that was answered last."""
        ...

    def now_s(self) -> float: ...


class RequestTracing:
    """Makes a span of each answer. `observe` is the HTTP server's `Observe`; the one given is called first."""

    def __init__(self, observe: Observe, wall_time_s: Callable[[], float], *, node: str) -> None:
        self._observe = observe
        self._wall_time_s = wall_time_s
        self._node = node
        self._tracer: Tracer = get_tracer("syncline", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self.stages: TracedStages | None = None
        """Set when the node is open: requests before it have no spans."""
        self.failures: int = 0
        """Requests without a span because the SDK failed."""

    def observe(
        self, route: str, status: int, duration_s: float, request: Request | None = None, code: str = ""
    ) -> None:
        """Count one answer, and make its span."""
        self._observe(route, status, duration_s, request, code)
        if self.stages is not None and route and not waits_on_purpose(route, request):
            try:
                self._trace(self.stages, route, status, duration_s, request, code)
            except Exception as error:  # noqa: BLE001 - of an SDK or its exporter: the answer must be sent all the same
                self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            _log.error("a span could not be made; further ones are not logged", exc_info=error)

    def _trace(
        self, stages: TracedStages, route: str, status: int, duration_s: float, request: Request | None, code: str
    ) -> None:
        now_s = stages.now_s()
        began_s, wall_s = now_s - duration_s, self._wall_time_s() - now_s

        def at(time_s: float) -> int:
            return int((wall_s + time_s) * NANO)

        parent = self._propagator.extract(_parent_fields(request))
        span = self._tracer.start_span(route, parent, SpanKind.SERVER, start_time=at(began_s))
        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            span.set_attribute("syncline.node", self._node)
            if code:
                span.set_attribute("error.type", code)
            if status >= SERVER_FAULT:
                span.set_status(Status(StatusCode.ERROR))
            self._add_stages(span, stages, began_s, at)
        span.end(at(now_s))

    def _add_stages(self, span: Span, stages: TracedStages, began_s: float, at: Callable[[float], int]) -> None:
        parent = set_span_in_context(span)

        def add(name: str, start_s: float, end_s: float) -> None:
            if start_s and end_s >= start_s:
                self._tracer.start_span(name, parent, start_time=at(start_s)).end(at(end_s))

        own = own_batch(stages.batch(), stages.read(), began_s)
        if isinstance(own, BatchTimes):
            span.set_attribute("syncline.index", own.last_index)
            add("propose", began_s, own.stored_s)
            add("sync", own.stored_s, own.durable_s)
            add("commit", own.stored_s, own.committed_s)
            add("apply", own.committed_s, own.applied_s)
        elif own is not None:
            asked_s, confirmed_s, read_s = own
            add("confirm", asked_s, confirmed_s)
            add("apply", confirmed_s, read_s)


def _parent_fields(request: Request | None) -> Mapping[str, str]:
    if request is None:
        return {}
    fields = {name.decode(): request.headers.get(name) for name in PARENT_FIELDS}
    return {name: value.decode("latin-1") for name, value in fields.items() if value is not None}
