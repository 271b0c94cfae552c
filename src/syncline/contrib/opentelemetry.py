"""A node's figures and a client's retries as observable instruments of an OpenTelemetry meter.

    observe_node(metrics.get_meter("app"), raft, name="a")

See docs/contrib/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from syncline.contrib.extras import missing_extra
from syncline.contrib.figures import FIGURES, HasStats, RetryCounter, StatsSource, member_figures

try:
    from opentelemetry.metrics import Observation
except ModuleNotFoundError as _error:
    raise missing_extra("syncline.contrib.opentelemetry", "otel", _error) from _error

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter

__all__ = ["RetryCounter", "observe_node", "observe_retries"]


def observe_node(meter: Meter, node: HasStats, *, name: str = "") -> None:
    """Let the meter observe the figures of `raft.stats()`, with the attribute `node`.

    Call it where the node lives: in the coroutine that has opened it, or anywhere for a blocking node. A node that is
    closed has no figures. The names are those of the server's `/metrics`, with dots: `syncline.raft.term`.
    """
    source = StatsSource(node)
    attributes = {"node": name}

    def of(field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            stats = source.read()
            return [] if stats is None else [Observation(getattr(stats, field), attributes)]

        return read

    for figure in FIGURES:
        make = meter.create_observable_gauge if figure.kind == "gauge" else meter.create_observable_counter
        make(dotted(figure.name), callbacks=[of(figure.field)], description=figure.help)

    def lags(_: CallbackOptions) -> Iterable[Observation]:
        stats = source.read()
        if stats is None:
            return []
        return [Observation(lag, {**attributes, "id": member}) for member, lag, _heard in member_figures(stats)]

    def leads(_: CallbackOptions) -> Iterable[Observation]:
        stats = source.read()
        return [] if stats is None else [Observation(int(stats.role == "leader"), attributes)]

    meter.create_observable_gauge("syncline.raft.member_lag_entries", callbacks=[lags])
    meter.create_observable_gauge("syncline.server.is_leader", callbacks=[leads])


def observe_retries(meter: Meter, counter: RetryCounter) -> None:
    """Let the meter observe `syncline.client.retries`, by the code of the error."""

    def read(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, {"code": code}) for code, count in counter.counts().items()]

    meter.create_observable_counter("syncline.client.retries", callbacks=[read])


def dotted(name: str) -> str:
    """`syncline_raft_term` as OpenTelemetry writes it: `syncline.raft.term`, without `_total`."""
    first, group, *rest = name.removesuffix("_total").split("_", 2)
    return ".".join([first, group, *rest])
