"""The server does what `/openapi.json` says: schemathesis makes requests of the document and checks the answers."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.client.schemas import PutReply
from syncline.server.api.declare import REVISION, Reply, Route
from syncline.server.api.error_codes import NOT_FOUND
from syncline.server.api.errors import problem
from syncline.server.api.parameters import Integer, Query
from syncline.server.auth.access import OPEN
from syncline.server.http.request import Parameters, Request
from syncline.server.http.response import Respond, json_response
from tests.helpers.schema_explorer import Exploration, explore
from tests.integration.test_route_fuzz import SEED, opened

pytestmark = pytest.mark.filterwarnings("default")  # those of schemathesis are not ours to mend


async def walk(path: Path, *, examples: int, coverage: bool) -> Exploration:
    """Explore a server of one node; it serves before and after, and each declared route was asked."""
    async with await opened(path) as server, AsyncClient(server.http_url) as client:
        await client.put("before", "v")
        found = await asyncio.to_thread(explore, server.http_url, examples=examples, coverage=coverage, seed=SEED)
        await client.put("after", "v")
        declared = {
            f"{method} {route.pattern.replace('...', '')}"
            for route in server.site.router.declared
            for method in route.methods.split()
        }
        assert declared == found.walked
        return found


def check(found: Exploration, caplog: pytest.LogCaptureFixture) -> None:
    assert not found.faults, "\n\n".join(found.faults[:5])
    assert {200, 400, 404, 413} <= {status for _, status in found.answers}, "the requests meet many cases"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.deadline(110.0)
async def test_schemathesis_finds_no_fault_in_a_short_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(await walk(tmp_path / "a", examples=3, coverage=False), caplog)


@pytest.mark.deadline(1800.0)
@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_schemathesis_finds_no_fault_in_a_long_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each edge of each schema, and hundreds of drawn requests to each route."""
    check(await walk(tmp_path / "a", examples=300, coverage=True), caplog)


LIMIT = Integer("limit", "How many.", default=1, low=1, high=5)


@pytest.mark.deadline(60.0)
async def test_schemathesis_notices_a_handler_that_differs_from_its_declaration(tmp_path: Path) -> None:
    """Differences are planted: a code, a header field, a member and a range that the declaration does not have."""

    def code(request: Request, respond: Respond) -> None:
        respond(problem(404, "teapot", "planted"))

    def fields(request: Request, respond: Respond) -> None:
        respond(json_response({"status": "success"}))

    def range_(request: Request, respond: Respond) -> None:
        Parameters(request.query, frozenset({"limit"}))
        respond(json_response({}))

    async with await opened(tmp_path / "a") as server:
        router, json = server.site.router, Reply("It.", ("application/json",))
        put = Reply("It.", (PutReply,), (REVISION,))
        router.declare(Route("GET", "/code", summary="x", access=OPEN, answers={200: json}, errors=(NOT_FOUND,)), code)
        router.declare(Route("GET", "/fields", summary="x", access=OPEN, answers={200: put}), fields)
        router.declare(
            Route("GET", "/range", summary="x", access=OPEN, query=Query(LIMIT), answers={200: json}), range_
        )
        others = tuple(pattern.replace("...", "") for pattern in router.routes if pattern not in PLANTED)
        found = await asyncio.to_thread(
            explore, server.http_url, examples=20, coverage=False, seed=SEED, leave_out=others
        )
    noticed = "\n".join(found.faults)
    assert "GET /code: response_schema_conformance" in noticed
    assert "GET /fields: response_headers_conformance" in noticed
    assert "GET /fields: response_schema_conformance" in noticed
    assert "GET /range: negative_data_rejection" in noticed


PLANTED = ("/code", "/fields", "/range")
