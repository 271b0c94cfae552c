"""`/key?key=…`: keys whose path some clients would change before they send it.

Browsers, curl and many HTTP libraries resolve `.` and `..` segments of a path, `%2E` included (the WHATWG URL rules),
so that `/key/a/%2E%2E/b` would ask for `b`. No client changes a query in that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.server.api.errors import RequestError
from syncline.server.http.request import Parameters, Request, decode_percent
from syncline.server.http.response import Respond

__all__ = ["PATTERN", "by_query", "needs_query"]

PATTERN: Final = "/key"
NAME: Final = "key"
_DOTS: Final = frozenset({".", ".."})


def needs_query(path: str) -> bool:
    """Whether clients would change this path of a key, percent-encoded or not."""
    return "." in path and not _DOTS.isdisjoint(path.split("/"))


def by_query(handler: Callable[[Request, Respond], None]) -> Callable[[Request, Respond], None]:
    """The handler of `/key/{key...}` for requests with the key as a parameter; it handles the other parameters."""

    def handle(request: Request, respond: Respond) -> None:
        keys: list[bytes] = []
        others: list[bytes] = []
        for pair in request.query.split(b"&"):
            name, _, value = pair.partition(b"=")
            if Parameters.name_of(name.decode("latin-1")) == NAME:
                keys.append(decode_percent(value.replace(b"+", b" "), "the parameter 'key'"))
            else:
                others.append(pair)
        if not keys:
            path = request.path.decode("ascii", "replace")
            message = f"no key is given: /key/KEY, or {path}?key=KEY; percent-encoded"
            raise RequestError(message, status=404, code="unknown_route")
        if len(keys) > 1:
            raise RequestError("the parameter 'key' is given twice")
        request.argument, request.query = keys[0], b"&".join(others)
        handler(request, respond)

    return handle
