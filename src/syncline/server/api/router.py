"""The router: from a path to its handler.

Patterns are exact (`/keys`), take one segment (`/livez/{check}`), or take all the rest, slashes included
(`/key/{key...}`). The argument is given percent-decoded, as bytes. A path without a route gets 404, a method
without one 405 with `Allow`. GET routes answer HEAD as well, and each route answers OPTIONS.

A handler is a plain function that answers now or later. `coroutine` makes one of a coroutine function, for routes
that people call rather than thousands of times a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from syncline.server.api.errors import RequestError, error_response, problem
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.fields import SAFE_METHODS, check_fields, check_unconditional
from syncline.server.http.request import Request, decode_percent
from syncline.server.http.response import NO_STORE, Respond, Response, status_line
from syncline.server.tasks import Tasks

__all__ = ["Explain", "Router", "coroutine"]

Handler = Callable[[Request, Respond], None]
Explain = Callable[[BaseException], Response]
"""Makes an answer of an error: `error_response`, or one that adds more fields."""

METHODS: Final = ("DELETE", "GET", "HEAD", "POST", "PUT")

WITHOUT_BODY: Final = frozenset({"DELETE", "GET", "HEAD"})
"""Methods whose requests take no body (RFC 9110, 9.3.1 and 9.3.5)."""


class _Route:
    """One pattern, with a handler for each of its methods."""

    __slots__ = ("handlers", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.handlers: dict[str, tuple[Handler, str]] = {}
        """By method: the handler, and how metrics name the two."""


_PERCENT: Final = ord("%")  # a number is looked for in bytes several times as fast as bytes are
_NO_ROUTE: Final[tuple[_Route | None, bool]] = (None, False)


class Router:
    """Finds the route of a request and calls it; turns its exception into an answer."""

    def __init__(
        self,
        *,
        explain: Explain = error_response,
        explain_read: Explain | None = None,
        policy: CrossSitePolicy | None = None,
    ) -> None:
        self._explain = explain
        self._explain_read = explain_read or explain
        self._policy = policy or CrossSitePolicy()
        self._exact: dict[bytes, _Route] = {}
        self._prefixes: dict[bytes, tuple[_Route, bool]] = {}
        """By the pattern's fixed part, up to and with its last slash: the route, and whether it takes the rest."""

    def add(self, methods: str, pattern: str, handler: Handler, *, conditions: bool = False) -> None:
        """Route `methods` (such as "GET" or "PUT POST") of a pattern. One prefix has one argument pattern.

        `conditions`: the handler applies `CONDITIONAL_FIELDS`, or refuses them itself. Otherwise they are refused
        here.
        """
        assert pattern.startswith("/"), pattern
        route = self._route(pattern)
        if not conditions:
            handler = partial(_unconditional, handler, pattern)
        for method in methods.split():
            assert method in METHODS, method
            assert method not in route.handlers, (method, pattern)
            route.handlers[method] = (handler, f"{method} {pattern}")
            if method == "GET":
                route.handlers["HEAD"] = (handler, f"HEAD {pattern}")

    def _route(self, pattern: str) -> _Route:
        fixed, brace, argument = pattern.partition("{")
        if not brace:
            return self._exact.setdefault(pattern.encode(), _Route(pattern))
        assert argument.endswith("}"), f"{pattern}: the argument is the pattern's end"
        assert fixed.count("/") == 2, f"{pattern}: arguments follow one fixed segment"
        rest = argument.endswith("...}")
        route, _ = self._prefixes.setdefault(fixed.encode(), (_Route(pattern), rest))
        assert route.pattern == pattern, f"{pattern} and {route.pattern} can't be told apart"
        return route

    @property
    def patterns(self) -> list[str]:
        """Every pattern with its methods, for people."""
        return sorted(f"{' '.join(sorted(methods))} {pattern}" for pattern, methods in self.routes.items())

    @property
    def routes(self) -> dict[str, tuple[str, ...]]:
        """The methods of every pattern."""
        routes = [*self._exact.values(), *(route for route, _ in self._prefixes.values())]
        return {route.pattern: tuple(route.handlers) for route in routes}

    def handle(self, request: Request, respond: Respond) -> None:
        """The handler for the server."""
        path = request.path
        end = path.find(b"/", 1) + 1
        try:
            if request.unusual:
                respond = self._policy.admit(request, respond)
                check_fields(request.method, request.headers)
            route, takes_rest = self._prefixes.get(path[:end], _NO_ROUTE)
            if route is not None and (takes_rest or (len(path) > end and b"/" not in path[end:])):
                raw = path[end:]
                request.argument = decode_percent(raw, "the path") if _PERCENT in raw else raw
            else:
                route = self._exact.get(path)
            if route is None:
                whole = request.method == "OPTIONS" and path == b"*"
                respond(_options(METHODS) if whole else _unknown(request))
                return
            found = route.handlers.get(request.method)
            if found is None:
                respond(_options(route.handlers) if request.method == "OPTIONS" else _not_allowed(request, route))
                return
            handler, request.route = found
            if request.body and request.method in WITHOUT_BODY:
                respond(_unexpected_body(request.method))
            else:
                handler(request, respond)
        except RequestError as error:
            respond(error.response())
        except Exception as error:  # noqa: BLE001 - becomes a 500, and is logged there
            respond((self._explain_read if request.method in SAFE_METHODS else self._explain)(error))


def coroutine(tasks: Tasks, function: Callable[[Request], Awaitable[Response]], *, explain: Explain) -> Handler:
    """A handler that runs `function` as a task, and answers with its result or its exception."""

    async def answer(request: Request, respond: Respond) -> None:
        try:
            response = await function(request)
        except Exception as error:  # noqa: BLE001 - becomes the answer
            response = explain(error)
        respond(response)

    def handle(request: Request, respond: Respond) -> None:
        tasks.spawn(answer(request, respond), name=request.route)

    return handle


def _unconditional(handler: Handler, pattern: str, request: Request, respond: Respond) -> None:
    check_unconditional(request.headers, pattern)
    handler(request, respond)


def _options(methods: Iterable[str]) -> Response:
    """The methods of a route, or of the server as a whole (RFC 9110, 9.3.7)."""
    return Response(204, b"%s%sAllow: %s\r\n" % (status_line(204), NO_STORE, _allowed(methods).encode()))


def _allowed(methods: Iterable[str]) -> str:
    return ", ".join(sorted({*methods, "OPTIONS"}))


def _unknown(request: Request) -> Response:
    shown = request.path[:200].decode("ascii", "replace")
    return problem(404, "unknown_route", f"there is nothing at {shown}; GET / lists what there is")


def _unexpected_body(method: str) -> Response:
    """Refuse a body: its conditions would be ignored, so that a conditional delete would delete without its
    condition.
    """
    return problem(400, "bad_request", f"a {method} takes no body here: options go into the URL or the fields")


def _not_allowed(request: Request, route: _Route) -> Response:
    allowed = _allowed(route.handlers)
    return problem(
        405,
        "method_not_allowed",
        f"{request.method} is not possible on {route.pattern}; it takes {allowed}",
        fields=b"Allow: %s\r\n" % allowed.encode(),
    )
