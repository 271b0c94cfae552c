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

from syncline.kv.auth.flag import AuthFlag
from syncline.server.api.declare import Route
from syncline.server.api.errors import RequestError, error_response, problem
from syncline.server.auth.access import OPEN, Access
from syncline.server.auth.audit import AuditLog
from syncline.server.auth.gate import AccessGate
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


class _Pattern:
    """One pattern, with a handler for each of its methods."""

    __slots__ = ("actions", "handlers", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.actions: dict[bytes, _Pattern] = {}
        """By the last segment, with its slash: the pattern with that segment behind the argument."""
        self.handlers: dict[str, tuple[Handler, str, Access]] = {}
        """By method: the handler, how metrics name the two, and what the route needs."""


_PERCENT: Final = ord("%")  # a number is looked for in bytes several times as fast as bytes are
_NO_ROUTE: Final[tuple[_Pattern | None, bool]] = (None, False)


class Router:
    """Finds the route of a request and calls it; turns its exception into an answer."""

    def __init__(
        self,
        *,
        explain: Explain = error_response,
        explain_read: Explain | None = None,
        policy: CrossSitePolicy | None = None,
        gate: AccessGate | None = None,
    ) -> None:
        self._explain = explain
        self._explain_read = explain_read or explain
        self._policy = policy or CrossSitePolicy()
        self._gate = gate
        self._auth = AuthFlag() if gate is None else gate.flag
        self._exact: dict[bytes, _Pattern] = {}
        self._prefixes: dict[bytes, tuple[_Pattern, bool]] = {}
        """By the pattern's fixed part, up to and with its last slash: the route, and whether it takes the rest."""
        self._mounts: dict[bytes, Handler] = {}
        """By the first segment, with both its slashes: what takes each request below it that no route takes."""
        self._any_body: set[str] = set()
        """The patterns whose bodies are ignored."""
        self.declared: list[Route] = []
        """What the routes declare of themselves, in the order of their registration."""

    def declare(self, route: Route, handler: Handler) -> None:
        """Register a handler by what its route declares. One prefix has one argument pattern."""
        pattern = self._route(route.pattern)
        if route.refused_fields:
            handler = partial(_unconditional, handler, route.pattern, route.refused_fields)
        if route.audited and self._gate is not None:
            handler = partial(_audited, self._gate.audit, handler)
        for method in route.methods.split():
            assert method in METHODS, method
            assert method not in pattern.handlers, (method, route.pattern)
            pattern.handlers[method] = (handler, f"{method} {route.pattern}", route.access)
            if method == "GET":
                pattern.handlers["HEAD"] = (handler, f"HEAD {route.pattern}", route.access)
        self.declared.append(route)

    def mount(self, prefix: str, handler: Handler) -> None:
        """Give requests below a first segment, such as `/v3/`, to a handler that sees to methods and users itself.

        The checks of `Origin` and `Host` come before it.
        """
        assert prefix.count("/") == 2, prefix
        assert prefix[0] == prefix[-1] == "/", prefix
        self._mounts[prefix.encode()] = handler

    def ignore_body(self, pattern: str) -> None:
        """Ignore the body of a GET on this route: other programs' clients may send one, such as `{}`."""
        self._any_body.add(pattern)

    def _route(self, pattern: str) -> _Pattern:
        assert pattern.startswith("/"), pattern
        fixed, brace, argument = pattern.partition("{")
        if not brace:
            return self._exact.setdefault(pattern.encode(), _Pattern(pattern))
        argument, _, action = argument.partition("}")
        if action:
            assert action.rfind("/") == 0, f"{pattern}: one segment follows the argument"
            return self._route(f"{fixed}{{{argument}}}").actions.setdefault(action.encode(), _Pattern(pattern))
        assert fixed.count("/") == 2, f"{pattern}: arguments follow one fixed segment"
        rest = argument.endswith("...")
        route, _ = self._prefixes.setdefault(fixed.encode(), (_Pattern(pattern), rest))
        assert route.pattern == pattern, f"{pattern} and {route.pattern} can't be told apart"
        return route

    @property
    def patterns(self) -> list[str]:
        """Every pattern with its methods, for people."""
        return sorted(f"{' '.join(sorted(methods))} {pattern}" for pattern, methods in self.routes.items())

    @property
    def routes(self) -> dict[str, tuple[str, ...]]:
        """The methods of every pattern."""
        prefixed = [route for route, _ in self._prefixes.values()]
        actions = [action for route in prefixed for action in route.actions.values()]
        routes = [*self._exact.values(), *prefixed, *actions]
        return {route.pattern: tuple(route.handlers) for route in routes}

    def _action(self, route: _Pattern, path: bytes, end: int, *, takes_rest: bool) -> tuple[_Pattern | None, bytes]:
        """The pattern of a path with one more segment, or of an exact path, and the path up to the argument's end.

        If the argument takes the rest, only a POST comes here: `PUT /key/a/touch` writes that key. A slash that is
        percent-encoded begins no segment: `/key/a%2Ftouch` is a key, too.
        """
        cut = path.rfind(b"/")
        if cut >= end and (action := route.actions.get(path[cut:])) is not None:
            return action, path[:cut]
        return (None if path in self._exact and not takes_rest else route), path

    def handle(self, request: Request, respond: Respond) -> None:
        """The handler for the server."""
        path = request.path
        end = path.find(b"/", 1) + 1
        try:
            if request.unusual:
                respond = self._policy.admit(request, respond)
                check_fields(request.method, request.headers)
            route, takes_rest = self._prefixes.get(path[:end], _NO_ROUTE)
            if route is not None and route.actions and (not takes_rest or request.method == "POST"):
                route, path = self._action(route, path, end, takes_rest=takes_rest)
            raw = path[end:]
            if route is not None and (takes_rest or (raw and b"/" not in raw)):
                request.argument = decode_percent(raw, "the path") if _PERCENT in raw else raw
            else:
                route = self._exact.get(path)
            if route is None:
                if (mounted := self._mounts.get(path[:end])) is not None:
                    mounted(request, respond)
                    return
                whole = request.method == "OPTIONS" and path == b"*"
                respond(_options(METHODS) if whole else _unknown(request))
                return
            found = route.handlers.get(request.method)
            if found is None:
                respond(_options(route.handlers) if request.method == "OPTIONS" else _not_allowed(request, route))
                return
            handler, request.route, access = found
            if request.body and request.method in WITHOUT_BODY and route.pattern not in self._any_body:
                respond(_unexpected_body(request.method))
            elif self._auth.on and access is not OPEN:
                assert self._gate is not None
                self._gate.handle(request, respond, handler, access)
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


def _audited(audit: AuditLog, handler: Handler, request: Request, respond: Respond) -> None:
    """Log what became of a request to change the cluster or its users."""

    def answered(response: Response) -> None:
        audit.done(request, "" if request.principal is None else request.principal.user, response.status)
        respond(response)

    handler(request, answered)


def _unconditional(
    handler: Handler, pattern: str, refused: frozenset[bytes], request: Request, respond: Respond
) -> None:
    check_unconditional(request.headers, pattern, refused)
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


def _not_allowed(request: Request, route: _Pattern) -> Response:
    allowed = _allowed(route.handlers)
    return problem(
        405,
        "method_not_allowed",
        f"{request.method} is not possible on {route.pattern}; it takes {allowed}",
        fields=b"Allow: %s\r\n" % allowed.encode(),
    )
