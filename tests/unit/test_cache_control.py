"""`Cache-Control`: a cache in between must ask with the ETag for each value, and keeps nothing else."""

from __future__ import annotations

import pytest

from tests.helpers.kv_node import KvWire


@pytest.mark.parametrize(
    ("method", "path", "fields", "status", "expected"),
    [
        ("GET", "/key/a", (), 200, "no-cache"),
        ("HEAD", "/key/a", (), 200, "no-cache"),
        ("GET", "/key/a?consistency=stale", (), 200, "no-cache"),
        ("GET", "/key/a", ('If-None-Match: "1"',), 304, "no-cache"),
        ("GET", "/key/a", ('If-Match: "7"',), 412, "no-store"),
        ("GET", "/key/absent", (), 404, "no-store"),
        ("PUT", "/key/b", (), 200, "no-store"),
        ("DELETE", "/key/b", (), 200, "no-store"),
        ("GET", "/keys?values=true", (), 200, "no-store"),
        ("GET", "/raft/status", (), 200, "no-store"),
        ("GET", "/raft/members", (), 200, "no-store"),
        ("GET", "/livez", (), 200, "no-store"),
        ("GET", "/readyz?verbose", (), 200, "no-store"),
        ("GET", "/health", (), 200, "no-store"),
        ("GET", "/metrics", (), 200, "no-store"),
        ("GET", "/version", (), 200, "no-store"),
        ("GET", "/", (), 200, "no-store"),
        ("GET", "/nothing", (), 404, "no-store"),
        ("POST", "/livez", (), 405, "no-store"),
    ],
)
async def test_cache_control_is_on_every_answer(
    method: str, path: str, fields: tuple[str, ...], status: int, expected: str
) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    answer = await wire.ask(method, path, b"", *fields)
    assert (answer.status, answer.headers["cache-control"]) == (status, expected)


async def test_cache_control_is_on_answers_of_the_fast_path_and_refusals() -> None:
    """The GET fast path begins with the second read of one connection; a malformed request has no route."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    for _ in range(4):
        assert (await wire.ask("GET", "/key/a")).headers["cache-control"] == "no-cache"
        assert (await wire.ask("GET", "/key/absent")).headers["cache-control"] == "no-store"
    wire.send(b"\x00")
    await wire.settle()
    assert wire.answers[-1].headers["cache-control"] == "no-store"
