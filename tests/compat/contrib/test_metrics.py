"""A node's figures and a client's retries in prometheus-client and OpenTelemetry."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from syncline.client import Client
from syncline.contrib.figures import FIGURES
from syncline.contrib.opentelemetry import observe_node, observe_retries
from syncline.contrib.prometheus import NodeCollector, RetryCollector, RetryCounter
from syncline.errors import Unreachable
from syncline.node.stats import Stats
from tests.helpers.store_node import one_store


def samples(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_figures_are_fields_of_the_stats() -> None:
    assert {figure.field for figure in FIGURES} <= set(Stats.__struct_fields__)


def test_prometheus_collects_a_node_from_another_thread(tmp_path: Path) -> None:
    """The node's own thread is asked: the figures of one moment. After its end there is one figure left."""

    async def run() -> None:
        registry = CollectorRegistry()
        async with one_store(tmp_path) as store:
            registry.register(NodeCollector(store.raft, name="a"))
            await store.put("a", "1")
            found = samples((await asyncio.to_thread(generate_latest, registry)).decode())
            assert found['syncline_node_up{node="a"}'] == 1
            assert found['syncline_raft_term{node="a"}'] >= 1
            assert found['syncline_raft_role{node="a",role="leader"}'] == 1
            assert found['syncline_server_snapshots_taken_total{node="a"}'] == 0
            assert [value for name, value in found.items() if name.startswith("syncline_raft_member_active")] == [1]
            here = samples(generate_latest(registry).decode())
            assert here.keys() == found.keys()

    asyncio.run(run())


def test_prometheus_of_a_loop_that_has_ended_says_that_the_node_is_down(tmp_path: Path) -> None:
    registry = CollectorRegistry()

    async def run() -> None:
        async with one_store(tmp_path) as store:
            registry.register(NodeCollector(store.raft))

    asyncio.run(run())
    assert samples(generate_latest(registry).decode()) == {'syncline_node_up{node=""}': 0}


def test_opentelemetry_observes_a_node(tmp_path: Path) -> None:
    async def run() -> None:
        reader = InMemoryMetricReader()
        meter = MeterProvider([reader]).get_meter("tests")
        async with one_store(tmp_path) as store:
            observe_node(meter, store.raft, name="a")
            await store.put("a", "1")
            data = await asyncio.to_thread(reader.get_metrics_data)
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        found = {metric.name: metric.data.data_points[0] for metric in metrics}
        assert found["syncline.raft.term"].value >= 1
        assert found["syncline.server.is_leader"].value == 1
        assert found["syncline.raft.member_lag_entries"].value == 0
        assert dict(found["syncline.raft.applied_index"].attributes) == {"node": "a"}

    asyncio.run(run())


def test_retries_of_a_client_are_counted_by_their_code() -> None:
    counter = RetryCounter()
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    registry.register(RetryCollector(counter))
    observe_retries(MeterProvider([reader]).get_meter("tests"), counter)
    with Client("http://127.0.0.1:1", timeout=0.5, on_retry=counter) as kv, pytest.raises(Unreachable):
        kv.get("a")
    [(code, count)] = counter.counts().items()
    assert samples(generate_latest(registry).decode()) == {f'syncline_client_retries_total{{code="{code}"}}': count}
    data = reader.get_metrics_data()
    assert data is not None
    [metric] = data.resource_metrics[0].scope_metrics[0].metrics
    assert metric.data.data_points[0].value == count
