"""Probes: alive, ready, and why not."""

from __future__ import annotations

import json

import pytest

import syncline
from syncline.errors import NodeFailed, NoLeader
from tests.helpers.kv_node import KvWire, error_in


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/livez/node", "/readyz/linearizable_read"])
async def test_a_healthy_node_says_ok(path: str) -> None:
    answer = await KvWire().ask("GET", path)
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_verbose_lists_every_check() -> None:
    wire = KvWire()
    answer = await wire.ask("GET", "/readyz?verbose")
    assert answer.body.decode().splitlines() == [
        "[+]node ok",
        "[+]local_read ok",
        "[+]not_stopping ok",
        "[+]digest ok",
        "[+]disk ok",
        "[+]linearizable_read ok",
        "[+]disk_space ok",
        "[+]store_space ok",
        "ok",
    ]
    assert b"linearizable" not in (await wire.ask("GET", "/livez?verbose")).body


async def test_without_a_leader_a_node_is_alive_but_not_ready() -> None:
    wire = KvWire()
    wire.backend.read_error = NoLeader("nobody leads")
    assert (await wire.ask("GET", "/livez")).status == 200
    answer = await wire.ask("GET", "/readyz")
    assert answer.status == 503
    assert b"[-]linearizable_read failed: nobody leads\n" in answer.body
    assert b"[+]node ok\n" in answer.body
    assert (await wire.ask("GET", "/readyz?exclude=linearizable_read")).status == 200
    assert (await wire.ask("GET", "/readyz/node")).status == 200
    assert (await wire.ask("GET", "/readyz/linearizable_read")).status == 503


async def test_ready_fails_with_digest_while_no_majority_agrees() -> None:
    """The node is alive, and a restart changes nothing; clients that need the right answer go elsewhere."""
    wire = KvWire()
    wire.backend.state_alarm = "the voters' states differ at log index 8192"
    answer = await wire.ask("GET", "/readyz")
    assert answer.status == 503
    assert b"[-]digest failed: the voters' states differ at log index 8192\n" in answer.body
    assert (await wire.ask("GET", "/readyz/digest")).status == 503
    assert (await wire.ask("GET", "/readyz?exclude=digest")).status == 200
    assert (await wire.ask("GET", "/livez")).status == 200
    wire.backend.state_alarm = ""
    assert (await wire.ask("GET", "/readyz")).status == 200


async def test_ready_fails_while_the_disk_hangs() -> None:
    """Clients go elsewhere; a restart would not help, so the node is alive."""
    wire = KvWire()
    wire.backend.disk_stall = "the disk hangs: a write has waited for 3.0 s"
    answer = await wire.ask("GET", "/readyz")
    assert answer.status == 503
    assert b"[-]disk failed: the disk hangs: a write has waited for 3.0 s\n" in answer.body
    assert (await wire.ask("GET", "/readyz?exclude=disk")).status == 200
    assert (await wire.ask("GET", "/livez")).status == 200
    health = await wire.ask("GET", "/health")
    assert (health.status, json.loads(health.body)["reason"][:23]) == (503, "DISK HANGS: the disk ha")
    assert (await wire.ask("GET", "/health?serializable=true")).status == 200


async def test_health_tells_of_a_shortage_and_stays_healthy() -> None:
    """Reads and deletes go on, and no other node would take what this one refuses."""
    wire = KvWire()
    wire.backend.shortages = {"disk_space": "", "store_space": "no_space: delete keys"}
    health = await wire.ask("GET", "/health")
    told = {"health": "true", "reason": "", "warnings": ["no_space: delete keys"]}
    assert (health.status, json.loads(health.body)) == (200, told)
    answer = await wire.ask("GET", "/readyz?verbose")
    assert answer.status == 200
    assert b"[+]disk_space ok\n[!]store_space short: no_space: delete keys\nok\n" in answer.body
    assert (await wire.ask("GET", "/readyz")).body == b"ok\n"
    assert b"store_space" not in (await wire.ask("GET", "/readyz?verbose&exclude=store_space")).body
    assert b"store_space" in (await wire.ask("GET", "/readyz?verbose&exclude=linearizable_read")).body
    for target in ("/livez?verbose", "/readyz/linearizable_read?verbose"):
        assert b"store_space" not in (await wire.ask("GET", target)).body


async def test_a_stopped_node_is_not_alive() -> None:
    wire = KvWire()
    wire.backend.failure = NodeFailed("a sync failed")
    answer = await wire.ask("GET", "/livez")
    assert answer.status == 503
    assert b"[-]node failed: the node has stopped: a sync failed\n" in answer.body
    health = await wire.ask("GET", "/health")
    assert json.loads(health.body)["reason"].startswith("NODE FAILED")


async def test_a_stopping_server_is_not_ready() -> None:
    wire = KvWire()
    wire.site.stopping()
    assert (await wire.ask("GET", "/livez")).status == 200
    assert b"[-]not_stopping" in (await wire.ask("GET", "/readyz")).body


async def test_an_unknown_check_is_404_and_an_unknown_exclusion_is_harmless() -> None:
    wire = KvWire()
    answer = await wire.ask("GET", "/readyz/nonsense")
    assert (answer.status, error_in(answer)["code"]) == (404, "unknown_route")
    assert (await wire.ask("GET", "/livez/linearizable_read")).status == 404
    assert (await wire.ask("GET", "/readyz?exclude=nonsense,node")).status == 200
    assert (await wire.ask("POST", "/livez")).status == 405
    assert (await wire.ask("HEAD", "/livez")).status == 200


async def test_health_in_etcds_shape() -> None:
    wire = KvWire()
    answer = await wire.ask("GET", "/health")
    assert (answer.status, json.loads(answer.body)) == (200, {"health": "true", "reason": ""})
    wire.backend.read_error = NoLeader("nobody")
    assert json.loads((await wire.ask("GET", "/health")).body)["reason"] == "READ ERROR: nobody"
    wire.backend.leader_name = None
    answer = await wire.ask("GET", "/health")
    assert (answer.status, json.loads(answer.body)) == (503, {"health": "false", "reason": "RAFT NO LEADER"})
    assert (await wire.ask("GET", "/health?serializable=true")).status == 200


async def test_the_probe_that_reads_waits_as_long_as_it_is_told() -> None:
    wire = KvWire()
    await wire.ask("GET", "/readyz")
    await wire.ask("GET", "/readyz?timeout=500ms")
    assert wire.backend.timeouts_s == [2.0, 0.5]


async def test_version_metrics_and_the_list_of_routes() -> None:
    wire = KvWire()
    assert json.loads((await wire.ask("GET", "/version")).body) == {"syncline": syncline.__version__, "api": 1}
    metrics = await wire.ask("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert metrics.body == b"up 1\n"
    routes = json.loads((await wire.ask("GET", "/")).body)["routes"]
    assert "DELETE GET HEAD POST PUT /key/{key...}" in routes
