"""A fuzzer over all routes of a live server: no 5xx but 501, 503 and 507, no hang, and it goes on serving.

`SYNCLINE_FUZZ_SECONDS` makes the long run longer, `SYNCLINE_FUZZ_SEED` makes both another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.server.api.declare import Reply, Route
from syncline.server.app import KvServer
from syncline.server.auth.access import OPEN
from syncline.server.config import ServerConfig
from tests.helpers.ports import free_block
from tests.helpers.route_fuzzer import Fault, RouteFuzzer

SECONDS = float(os.environ.get("SYNCLINE_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("SYNCLINE_FUZZ_SEED", "1"))


async def opened(path: Path) -> KvServer:
    return await KvServer.open(
        ServerConfig(
            name="a",
            data_dir=str(path),
            http_listen="127.0.0.1:0",
            peer_listen=f"127.0.0.1:{free_block(1)}",
            heartbeat_s=0.02,
            election_s=0.2,
            reserve_bytes=0,
            max_value_bytes=64 * 1024,
        )
    )


async def walk(path: Path, *, rounds: int, seconds: float) -> RouteFuzzer:
    """Fuzz at least so many rounds and so long; the server serves before and after."""
    loop = asyncio.get_running_loop()
    async with await opened(path) as server, AsyncClient(server.http_url) as client:
        routes = server.site.router.routes
        fuzzer = RouteFuzzer(random.Random(SEED), int(server.http_url.rpartition(":")[2]), routes)
        await client.put("before", "v")
        await fuzzer.learn()
        end_s, done = loop.time() + seconds, 0
        while done < rounds or loop.time() < end_s:
            await fuzzer.rounds(1)
            done += 1
        await client.put("after", "v")
        declared = {(method, pattern) for pattern, methods in routes.items() for method in methods}
        assert declared <= fuzzer.walked, "every route is walked"
        return fuzzer


def check(fuzzer: RouteFuzzer, caplog: pytest.LogCaptureFixture) -> None:
    statuses = Counter[int]()
    for (_, _, status), count in fuzzer.seen.items():
        statuses[status] += count
    assert {200, 204, 400, 403, 404, 405, 413, 415, 421} <= set(statuses), "the walk meets many cases"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_route_fuzzer_finds_no_fault_in_a_short_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(await walk(tmp_path / "a", rounds=20, seconds=0), caplog)


@pytest.mark.deadline(3600.0)
@pytest.mark.slow
@pytest.mark.timeout(int(SECONDS) + 300)
async def test_route_fuzzer_finds_no_fault_in_a_long_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(await walk(tmp_path / "a", rounds=12, seconds=SECONDS), caplog)


async def test_route_fuzzer_walks_a_new_route_and_notices_its_fault(tmp_path: Path) -> None:
    """A route that fails on one parameter, added where the router takes it: nothing else tells the fuzzer of it."""
    async with await opened(tmp_path / "a") as server:
        router = server.site.router
        faults = {"raise": ZeroDivisionError("planted")}

        def planted(request: object, respond: object) -> None:
            raise faults["raise"]

        router.declare(Route("POST", "/planted", summary="Fail", access=OPEN, answers={200: Reply("Never.")}), planted)
        fuzzer = RouteFuzzer(random.Random(SEED), int(server.http_url.rpartition(":")[2]), router.routes)
        with pytest.raises(Fault, match=r"500 .*POST /planted"):
            await fuzzer.rounds(20)
