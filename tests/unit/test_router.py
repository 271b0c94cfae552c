"""Routing: patterns, methods, arguments, and what handlers raise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from syncline.errors import MembershipError
from syncline.server.api.declare import Reply, Route
from syncline.server.api.errors import RequestError, error_response
from syncline.server.api.parameters import Text
from syncline.server.api.router import Router, coroutine
from syncline.server.auth.access import OPEN
from syncline.server.http.request import MAX_PARAMETERS, Parameters, Request, parse_duration
from syncline.server.http.response import TEXT, Respond, Response, bare
from syncline.server.tasks import Tasks


def ask(router: Router, method: str, path: bytes) -> Response:
    answers: list[Response] = []
    router.handle(Request(method, path, b"", {}, b""), answers.append)
    assert len(answers) == 1
    return answers[0]


def add(router: Router, methods: str, pattern: str, handler: Callable[[Request, Respond], None]) -> None:
    argument = Text("argument", "What the braces match.", required=True) if "{" in pattern else None
    router.declare(
        Route(methods, pattern, summary="Answer", access=OPEN, argument=argument, answers={200: Reply("It.")}), handler
    )


def say(text: bytes) -> Router:
    router = Router()

    def handler(request: Request, respond: Respond) -> None:
        respond(bare(200, TEXT, b"%s %s %s" % (text, request.route.encode(), request.argument)))

    add(router, "GET", "/keys", handler)
    add(router, "GET POST", "/key/{key...}", handler)
    add(router, "GET", "/livez", handler)
    add(router, "GET", "/livez/{check}", handler)
    add(router, "GET", "/", handler)
    return router


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (b"/", b"x GET / "),
        (b"/keys", b"x GET /keys "),
        (b"/key/", b"x GET /key/{key...} "),
        (b"/key/a/b%20c//", b"x GET /key/{key...} a/b c//"),
        (b"/livez", b"x GET /livez "),
        (b"/livez/a%2Fb", b"x GET /livez/{check} a/b"),
    ],
)
def test_paths_find_their_routes(path: bytes, body: bytes) -> None:
    assert ask(say(b"x"), "GET", path).body == body


@pytest.mark.parametrize(
    "path", [b"/key", b"/keys/", b"/livez/", b"/livez/a/b", b"/KEYS", b"//", b"*", b"", b"/keys%20"]
)
def test_other_paths_are_404(path: bytes) -> None:
    answer = ask(say(b"x"), "GET", path)
    assert answer.status == 404
    assert b"unknown_route" in answer.body


def test_other_methods_are_405_with_allow() -> None:
    answer = ask(say(b"x"), "DELETE", b"/key/a")
    assert answer.status == 405
    assert b"Allow: GET, HEAD, OPTIONS, POST\r\n" in answer.head
    assert ask(say(b"x"), "HEAD", b"/keys").status == 200


def act() -> Router:
    """Routes with a segment behind their argument."""
    router = Router()

    def handler(request: Request, respond: Respond) -> None:
        respond(bare(200, TEXT, b"%s %s" % (request.route.encode(), request.argument)))

    add(router, "PUT POST", "/key/{key...}", handler)
    add(router, "POST", "/key/{key...}/touch", handler)
    add(router, "GET DELETE", "/lease/{id}", handler)
    add(router, "POST", "/lease/{id}/keepalive", handler)
    add(router, "POST", "/lease/keepalive", handler)
    return router


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", b"/key/a/touch", b"POST /key/{key...}/touch a"),
        ("POST", b"/key/a%2Ftouch", b"POST /key/{key...} a/touch"),
        ("PUT", b"/key/a/touch", b"PUT /key/{key...} a/touch"),
        ("POST", b"/key/touch", b"POST /key/{key...} touch"),
        ("GET", b"/lease/7", b"GET /lease/{id} 7"),
        ("POST", b"/lease/7/keepalive", b"POST /lease/{id}/keepalive 7"),
        ("POST", b"/lease/keepalive", b"POST /lease/keepalive "),
    ],
)
def test_router_segment_behind_an_argument_finds_its_route(method: str, path: bytes, body: bytes) -> None:
    assert ask(act(), method, path).body == body


@pytest.mark.parametrize("path", [b"/lease/7/keepalive", b"/lease/keepalive"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
def test_router_segment_behind_an_argument_tells_its_own_methods(method: str, path: bytes) -> None:
    """Schemathesis found it: for these methods the path was taken for a lease, or for nothing."""
    answer = ask(act(), method, path)
    assert answer.status == (204 if method == "OPTIONS" else 405)
    assert b"Allow: OPTIONS, POST\r\n" in answer.head


def test_a_bad_escape_in_the_argument_is_400() -> None:
    assert ask(say(b"x"), "GET", b"/key/%g0").status == 400


def test_what_a_handler_raises_is_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    errors: dict[str, Exception] = {
        "/bad": RequestError("no", status=418, code="teapot"),
        "/member": MembershipError("no"),
        "/bug": KeyError("oops"),
    }

    def handler(request: Request, respond: Respond) -> None:
        raise errors[request.path.decode()]

    router = Router()
    for path in errors:
        add(router, "GET", path, handler)
    assert ask(router, "GET", b"/bad").status == 418
    assert ask(router, "GET", b"/member").status == 409
    assert ask(router, "GET", b"/bug").status == 500
    assert "KeyError" in caplog.text


def test_two_patterns_that_can_not_be_told_apart_are_refused() -> None:
    router = say(b"x")
    with pytest.raises(AssertionError):
        add(router, "GET", "/key/{other}", lambda _request, _respond: None)
    with pytest.raises(AssertionError):
        add(router, "GET", "/keys", lambda _request, _respond: None)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_coroutines_answer_when_they_end_and_are_ended_on_close() -> None:
    tasks, gate = Tasks(), asyncio.Event()

    async def slow(request: Request) -> Response:
        if request.query == b"fail":
            raise MembershipError("no")
        await gate.wait()
        return bare(200, TEXT, b"done")

    handler = coroutine(tasks, slow, explain=error_response)
    answers: list[Response] = []
    handler(Request("POST", b"/", b"", {}, b""), answers.append)
    handler(Request("POST", b"/", b"fail", {}, b""), answers.append)
    await turns()
    assert [answer.status for answer in answers] == [409]
    gate.set()
    await turns()
    assert [answer.status for answer in answers] == [409, 200]
    gate.clear()
    handler(Request("POST", b"/", b"", {}, b""), answers.append)
    await tasks.close()
    handler(Request("POST", b"/", b"", {}, b""), answers.append)
    assert len(tasks) == 0
    assert len(answers) == 2


# --- parameters

ACCEPTED = frozenset({"a", "b"})


def test_parameters_are_decoded_once() -> None:
    parameters = Parameters(b"a=x%2By+z%20%2520&&b", ACCEPTED)
    assert parameters.octets("a") == b"x+y z %20"
    assert parameters.boolean("b") is True
    assert Parameters(b"", ACCEPTED).octets("a") is None
    assert Parameters(b"", ACCEPTED).text("a", "default") == "default"


@pytest.mark.parametrize(
    "query", [b"c=1", b"a=1&a=2", b"%61=1&a=2", b"a=%", b"%zz=1", b"&".join([b"a"] * (MAX_PARAMETERS + 2))]
)
def test_odd_queries_are_refused(query: bytes) -> None:
    with pytest.raises(RequestError):
        Parameters(query, ACCEPTED)


def test_typed_parameters_say_what_is_accepted() -> None:
    parameters = Parameters(b"a=%ff&b=12", ACCEPTED)
    with pytest.raises(RequestError, match="UTF-8"):
        parameters.text("a", "")
    with pytest.raises(RequestError, match="true and false"):
        parameters.boolean("b")
    with pytest.raises(RequestError, match="from 1 to 10"):
        parameters.integer("b", 1, low=1, high=10)
    with pytest.raises(RequestError, match="at most 5s"):
        parameters.duration_s("b", 1.0, high=5.0)
    with pytest.raises(RequestError, match="accepted are 'x', 'y'"):
        parameters.choice("b", ("x", "y"))
    assert parameters.integer("b", 1, low=1, high=12) == 12


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5.0), ("250ms", 0.25), ("1m", 60.0), ("2h", 7200.0), ("2.5", 2.5), ("0", 0.0), ("", None), ("s", None),
     ("-1s", None), ("1 s", None), ("1e3", None), ("nan", None), ("inf", None), ("٣s", None)],
)  # fmt: skip
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds
