"""`/openapi.json`: valid, complete, cached, and made of what the handlers use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from syncline import errors
from syncline.server.api import errors as problems
from syncline.server.api.declare import Reply, Route
from syncline.server.api.router import Router
from syncline.server.auth.access import OPEN
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response
from syncline.version import __version__
from tests.helpers.kv_node import KvWire, error_in

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text()


async def read(wire: KvWire) -> dict[str, dict[str, dict[str, object]]]:
    answer = await wire.ask("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


def codes_in(node: object) -> Iterator[str]:
    """The error codes that a document names anywhere."""
    if isinstance(node, dict):
        code = node.get("code")
        if isinstance(code, dict):
            yield from code.get("enum", [])
        for child in node.values():
            yield from codes_in(child)
    elif isinstance(node, list):
        for child in node:
            yield from codes_in(child)


async def test_openapi_document_is_valid_and_names_the_version() -> None:
    document = await read(KvWire())
    validate(document)
    assert document["info"]["version"] == __version__  # type: ignore[comparison-overlap]


async def test_openapi_document_has_every_route_and_nothing_else() -> None:
    wire = KvWire()
    paths = (await read(wire))["paths"]
    shown = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    routes = wire.site.router.routes
    registered = {(method, pattern.replace("...", "")) for pattern, methods in routes.items() for method in methods}
    assert shown == {(method, path) for method, path in registered if method != "HEAD"}


def rows() -> set[tuple[int, str]]:
    """Each status and code of the table in docs/http.md."""
    table = TEXT.partition("| status | code | when |")[2].partition("\n\n")[0]
    return {
        (int(status), code)
        for row in table.splitlines()[2:]
        for status in row.split("|")[1].split(",")
        for code in re.findall("`([a-z_]+)`", row)
    }


def status_of(kind: type[errors.OperationError]) -> int:
    """The status that an error of this class is answered with."""
    error = kind.__new__(kind)
    if isinstance(error, errors.Rejected):
        errors.Rejected.__init__(error, "x", code=kind.code)
    else:
        errors.OperationError.__init__(error, "x")
    return problems.error_response(error).status


async def test_openapi_error_codes_are_those_of_the_manual_and_of_errors() -> None:
    declared = {(one.status, one.code) for route in KvWire().site.router.declared for one in route.all_errors}
    assert set(codes_in(await read(KvWire()))) == {code for _, code in declared}
    assert not declared - rows(), "docs/http.md has not all of them in its table"
    known = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    known |= {*problems.STATUS_BY_CODE, *problems.CODE_BY_CLASS.values()}
    folders = (Path(problems.__file__).parents[1], Path(errors.__file__).parent / "kv")
    source = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    raised = set(re.findall(r'(?:code=|problem\(\s*\d+,\s*)"([a-z_]+)"', source))
    assert {code for _, code in declared} <= known | raised


def test_openapi_refusals_of_the_store_are_declared() -> None:
    declared = {one.code for route in KvWire().site.router.declared for one in route.all_errors}
    folder = Path(errors.__file__).parent / "kv"
    refused = {code for path in folder.rglob("*.py") for code in re.findall(r'code="([a-z_]+)"', path.read_text())}
    assert len(refused) > 10
    of_calls = {"bad_answer", "bad_call"}  # of one node to another: no client sees them
    assert refused - of_calls <= declared


async def test_openapi_statuses_of_errors_are_those_that_are_answered() -> None:
    """The status of a code follows from its class: the declarations say the same."""
    wire = KvWire()
    declared = {(one.code, one.status) for route in wire.site.router.declared for one in route.all_errors}
    for kind in vars(errors).values():
        if not isinstance(kind, type) or not issubclass(kind, errors.OperationError):
            continue
        statuses = {status for code, status in declared if code == kind.code}
        if statuses and kind is not errors.TooLarge:
            assert statuses == {status_of(kind)}, kind
    for code in {code for code, _ in declared} & set(problems.STATUS_BY_CODE) - {"too_large"}:
        assert {status for one, status in declared if one == code} == {problems.STATUS_BY_CODE[code]}, code


async def test_openapi_document_is_made_once_and_has_an_etag() -> None:
    wire = KvWire()
    first, again = await wire.ask("GET", "/openapi.json"), await wire.ask("GET", "/openapi.json")
    assert first.body == again.body
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    same = await wire.ask("GET", "/openapi.json", b"", f'If-None-Match: "x", {etag}')
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    assert (await wire.ask("GET", "/openapi.json", b"", "If-None-Match: *")).status == 304
    other = await wire.ask("GET", "/openapi.json", b"", 'If-None-Match: "x"')
    assert other.status == 200


async def test_openapi_route_refuses_parameters_and_other_conditions() -> None:
    wire = KvWire()
    assert (await wire.ask("GET", "/openapi.json?a=1")).status == 400
    answer = await wire.ask("GET", "/openapi.json", b"", 'If-Match: "x"')
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")


def test_openapi_server_is_the_mount_point() -> None:
    site = KvWire().site
    answers: list[Response] = []
    site(Request("GET", b"/openapi.json", b"", {}, b"", mount="/kv"), answers.append)
    assert json.loads(answers[0].body)["servers"] == [{"url": "/kv"}]


async def test_index_lists_the_document() -> None:
    assert "GET HEAD /openapi.json" in json.loads((await KvWire().ask("GET", "/")).body)["routes"]


def test_route_with_an_argument_must_declare_it() -> None:
    with pytest.raises(AssertionError, match="argument"):
        Route("GET", "/key/{key...}", summary="Read", access=OPEN, answers={200: Reply("It.")})


def test_router_refuses_conditions_that_a_route_does_not_declare() -> None:
    def handler(request: Request, respond: Respond) -> None:
        raise AssertionError

    router, answers = Router(), list[Response]()
    router.declare(Route("GET", "/x", summary="Read", access=OPEN, answers={200: Reply("It.")}), handler)
    router.handle(Request("GET", b"/x", b"", {b"if-match": b"*"}, b""), answers.append)
    assert [answer.status for answer in answers] == [400]
