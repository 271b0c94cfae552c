"""Express requests: a key is wanted, and nothing else is said.

Most requests to a store are one short line with the header that the same connection sent before. Such a one is known by
its two ends, compared as bytes, and what it asks for is between them: no field is looked at, no route is looked for,
and the connection answers it without objects made for it alone. It is answered as its route would answer it. Whatever
is not plainly such a request takes the ordinary way: a query, a percent-escape, a condition, a body, a second request
before the first is answered.

`HttpConnection` finds them and keeps their order among others; the route that has them says what they are (`Express`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from syncline.server.http.request import Request
from syncline.server.http.response import Respond

__all__ = ["CONDITIONS", "Express", "ExpressRequest", "is_plain"]

CONDITIONS: Final = frozenset({b"if-match", b"if-none-match"})
"""Fields that change what a route answers: a request with one of them is no express request."""

_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/"
"""What stands in a path for itself (RFC 3986, 3.3)."""


class ExpressRequest(Protocol):
    """One request, until it is answered: the connection's next one uses the same object. Answer it exactly once."""

    argument: bytes
    """What the path has behind the pattern's fixed part."""
    respond: Respond

    def found(self, head: bytes, body: bytes) -> None:
        """Answer 200, with a head and a body as those of a `Response`."""
        ...


class Express(msgspec.Struct, frozen=True):
    """The express requests of one server."""

    start: bytes
    """Method and path, up to the argument."""
    request: Request
    """Stands for each of them: method and route."""
    handler: Callable[[ExpressRequest], None]
    """Answers one, now or later. Runs on the event loop and must not block."""


def is_plain(argument: bytes) -> bool:
    """Whether it is there, and means itself."""
    return bool(argument) and not argument.translate(None, _PLAIN)
