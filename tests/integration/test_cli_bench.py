"""`bench`: loads on a server, the verdict in words, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from syncline.cli.bench.load import Load, Measured, run_load
from syncline.cli.bench.verdict import DiskSpeed, line_of, verdict_lines
from syncline.client import Client
from syncline.errors import Unreachable
from tests.helpers.command import syncline
from tests.helpers.http_server import HttpDouble, Reply, refused_url, scripted
from tests.helpers.running_server import running_server
from tests.unit.test_server_app import settings

MEASURED = Measured("writes", 32, 3.0, 3000, 0, 1000.0, 0.02, 0.08, 0.2)


def test_bench_of_a_running_cluster_measures_it_and_deletes_its_keys(tmp_path: Path) -> None:
    with running_server(settings(tmp_path)) as server:
        arguments = ("--endpoints", server.http_url, "--seconds", "0.2", "--clients", "4", "--value-bytes", "64")
        ran = syncline("bench", "--json", *arguments)
        text = syncline("bench", *arguments)
        with Client(server.http_url) as kv:
            left = kv.count("syncline-bench/")
            refused = [text for text in server.metrics.render().decode().splitlines() if 'status="4' in text]
    assert (ran.status, ran.err, text.status, left, refused) == (0, "", 0, 0, [])
    found = ran.json()
    loads = msgspec.convert(found["loads"], dict[str, list[Measured]])
    assert [one.name for one in loads["cluster"]] == ["writes", "reads", "stale reads"]
    for one in loads["cluster"]:
        assert one.failed == 0
        assert one.done > 0
        assert one.clients == 4
        assert 0 < one.p50_s <= one.p99_s <= one.slowest_s
    rows = text.text.splitlines()
    assert rows[0].startswith("measures http://")
    assert [row.split()[1] for row in rows[1:4]] == ["writes", "reads", "stale"]
    assert rows[4].startswith("verdict: ")


def test_bench_of_a_running_cluster_needs_to_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is set in many shells, and keys that were there are nobody's to delete."""
    with running_server(settings(tmp_path)) as server:
        monkeypatch.setenv("SYNCLINE_ENDPOINTS", server.http_url)
        from_environment = syncline("bench", "--seconds", "0.1", endpoints=None)
        with Client(server.http_url) as kv:
            kv.put("syncline-bench/mine", b"v")
            there = syncline("bench", "--endpoints", server.http_url, "--seconds", "0.1")
            kept = kv.get("syncline-bench/mine")
            assert kept is not None
            assert kept.value == b"v"
            assert kv.count("syncline-bench/") == 1
    assert (from_environment.status, "SYNCLINE_ENDPOINTS is set" in from_environment.err) == (2, True), from_environment
    assert (there.status, "found 1 key below syncline-bench/" in there.error()) == (1, True)


def test_bench_of_this_machine_makes_a_cluster_and_removes_it(tmp_path: Path) -> None:
    ran = syncline("bench", "--json", "--data-dir", str(tmp_path), "--nodes", "1", "--seconds", "0.2")
    assert (ran.status, ran.err) == (0, "")
    found = ran.json()
    disk = msgspec.convert(found["disk"], DiskSpeed)
    assert 0 < disk.sync_p50_s <= disk.sync_p99_s
    assert list(msgspec.convert(found["loads"], dict[str, list[Measured]])) == ["one node"]
    assert found["verdict"]
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_bench_that_is_terminated_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "syncline", "bench", "--data-dir", str(tmp_path), "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith("disk")
        while not any(name.startswith("syncline-bench") for name in os.listdir(tmp_path)):
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130
        assert "interrupted" in running.stderr.read()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--endpoints", "http://127.0.0.1:1", "--nodes", "3"), 2, "go without --endpoints"),
        (("--data-dir", "/nowhere/at/all"), 2, "is no directory"),
        (("--seconds", "1h"), 2, "accepted are up to 300"),
        (("--clients", "0"), 2, "--clients"),
    ],
)
def test_bench_with_wrong_options_says_so(arguments: tuple[str, ...], status: int, words: str) -> None:
    ran = syncline("bench", *arguments)
    assert ran.status == status
    assert words in ran.error()


def test_bench_of_a_cluster_that_is_away_is_unavailable() -> None:
    ran = syncline("bench", "--endpoints", refused_url(), "--timeout", "500ms")
    assert ran.status == 4
    assert "can't reach" in ran.err


async def test_load_counts_refusals_and_ends_with_them(tmp_path: Path) -> None:
    """Every second answer is 503: they are counted, and not timed."""
    replies = [Reply(200, b"x"), Reply(503, b"no")] * 50_000
    load = Load("reads", lambda host, number: b"GET /key/%d HTTP/1.1\r\nHost: %s\r\n\r\n" % (number, host.encode()))
    async with HttpDouble(scripted(*replies)) as double:
        found = await run_load(load, [double.url], clients=1, seconds=0.2)
    assert found.done > 0
    assert abs(found.done - found.failed) <= 2


async def test_load_on_a_server_that_refuses_all_raises() -> None:
    load = Load("reads", lambda host, _: b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
    async with HttpDouble(scripted(*[Reply(503, b"no")] * 100_000)) as double:
        with pytest.raises(Unreachable, match="no request succeeded"):
            await run_load(load, [double.url], clients=2, seconds=0.1)
    with pytest.raises(Unreachable, match="can't reach"):
        await run_load(load, [refused_url()], clients=1, seconds=0.1)


def test_bench_verdict_names_what_decides() -> None:
    disk = DiskSpeed(0.015, 0.02, "ok", "a sync takes 15 ms: usable")
    assert verdict_lines(disk, {"one node": [MEASURED]}) == [
        "verdict: one node: the disk decides about writes: a faster one, or more clients, make more of them"
    ]
    quick = msgspec.structs.replace(disk, sync_p50_s=0.001)
    assert verdict_lines(quick, {"one node": [MEASURED]}) == [
        "verdict: one node: the processor decides about writes, and not the disk"
    ]
    slow = msgspec.structs.replace(MEASURED, p99_s=0.7, failed=3)
    lines = verdict_lines(msgspec.structs.replace(disk, verdict="fail", text="slow. Use an SSD"), {"3 nodes": [slow]})
    assert [line.partition("; ")[0] for line in lines][:2] == [
        "verdict: 3 nodes: requests failed",
        "verdict: 3 nodes: one write in a hundred takes 700 ms: too slow for most callers",
    ]
    assert lines[-1] == "verdict: disk: slow. Use an SSD"
    assert verdict_lines(None, {"cluster": [MEASURED]}) == ["verdict: nothing stands out"]


def test_bench_line_of_a_load_has_rate_and_times() -> None:
    assert line_of("one node", MEASURED) == (
        "one node      writes           1,000 a second, half within 20 ms, 99 in 100 within 80 ms"
    )
    assert line_of("x", msgspec.structs.replace(MEASURED, failed=2)).endswith(", 2 failed")
