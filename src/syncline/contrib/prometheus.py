"""A node's figures and a client's retries for prometheus-client.

    REGISTRY.register(NodeCollector(raft, node="a"))

See docs/contrib/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from syncline.contrib.extras import missing_extra
from syncline.contrib.figures import FIGURES, ROLES, HasStats, RetryCounter, StatsSource, member_figures

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ModuleNotFoundError as _error:
    raise missing_extra("syncline.contrib.prometheus", "prometheus", _error) from _error

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["NodeCollector", "RetryCollector", "RetryCounter"]


class NodeCollector:
    """The figures of `raft.stats()`, under the names of the server's `/metrics`, with the label `node`.

    Several nodes of one process need names of their own, and a registry each, or one collector. Make it where the node
    lives: in the coroutine that has opened it, or anywhere for a blocking node. Any thread may collect.
    """

    def __init__(self, node: HasStats, *, name: str = "") -> None:
        self._source = StatsSource(node)
        self._name = name

    def describe(self) -> list[Metric]:
        """Nothing: a registry needs no figures to take it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One reading. A node that is closed has `syncline_node_up` alone."""
        stats = self._source.read()
        up = GaugeMetricFamily("syncline_node_up", "Whether the node answers.", labels=["node"])
        up.add_metric([self._name], float(stats is not None))
        yield up
        if stats is None:
            return
        for figure in FIGURES:
            family = GaugeMetricFamily if figure.kind == "gauge" else CounterMetricFamily
            metric = family(figure.name, figure.help, labels=["node"])
            metric.add_metric([self._name], float(getattr(stats, figure.field)))
            yield metric
        role = GaugeMetricFamily("syncline_raft_role", "1 for the role that it has.", labels=["node", "role"])
        for one in ROLES:
            role.add_metric([self._name, one], float(stats.role == one))
        yield role
        labels = ["node", "id"]
        lag = GaugeMetricFamily("syncline_raft_member_lag_entries", "Entries that a member is behind.", labels=labels)
        active = GaugeMetricFamily("syncline_raft_member_active", "Whether the leader hears from it.", labels=labels)
        for member, behind, heard in member_figures(stats):
            lag.add_metric([self._name, member], float(behind))
            active.add_metric([self._name, member], float(heard))
        yield lag
        yield active


class RetryCollector:
    """`syncline_client_retries_total`, by the code of the error: what a `RetryCounter` has counted."""

    def __init__(self, counter: RetryCounter) -> None:
        self._counter = counter

    def describe(self) -> list[Metric]:
        """Nothing: there may be no retry yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One reading."""
        metric = CounterMetricFamily(
            "syncline_client_retries_total", "Attempts of a client that were repeated.", labels=["code"]
        )
        for code, count in self._counter.counts().items():
            metric.add_metric([code], float(count))
        yield metric
