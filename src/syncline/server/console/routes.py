"""`/console/…`: the web console's page and files. They are open; what the page asks for needs what it always needs.

The page does what the HTTP interface allows for the credential that its user gives. So the console adds no right, and
`read-only` is a promise of the page alone: it shows no button that changes something. A client that is refused nothing
by the HTTP interface is refused nothing by that setting; roles are (docs/users.md).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

import msgspec

from syncline.client.schemas import ConsoleSettings
from syncline.server.api.declare import Field, Reply, Route
from syncline.server.api.error_codes import UNKNOWN_ROUTE
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Query, Text
from syncline.server.api.router import Router
from syncline.server.auth.access import OPEN
from syncline.server.config import ConsoleMode
from syncline.server.console.files import PAGE, TYPES, ConsoleFile, console_files
from syncline.server.http.request import Request
from syncline.server.http.response import NO_CACHE, Respond, Response, bare, json_response, status_line

__all__ = ["Console", "ConsoleRoutes", "origins_of"]

_ORIGIN: Final = re.compile(r"https?://[a-z0-9._:\[\]-]{1,300}", re.ASCII)
"""What may stand in the policy: no member can add a word to it by its URL."""

SAFETY: Final = (
    b"X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\n"
    b"Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n"
)
POLICY: Final = (
    "default-src 'self'; connect-src 'self'{origins}; object-src 'none'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""No script, style or picture from elsewhere, and none in the page itself. The page may ask the cluster's nodes."""

_PLACE: Final = b'<meta name="origins" content="'
"""Stands in the page before the origins of its policy: the page then knows which nodes it may ask."""

NO_QUERY: Final = Query()
_ETAG: Final = Field("ETag", "Of this file.", '"[0-9a-f]{32}"')
_NONE_MATCH: Final = Field("If-None-Match", "Answer 304 if the file is still this one.")
_LOCATION: Final = Field("Location", "The console.")

_FILE: Final = Route(
    "GET",
    "/console/{file...}",
    summary="Read a file of the web console",
    access=OPEN,
    argument=Text("file", "The file's path; empty: the page."),
    query=NO_QUERY,
    fields=(_NONE_MATCH,),
    answers={
        200: Reply("The file.", tuple(sorted(one.decode() for one in TYPES.values())), (_ETAG,)),
        304: Reply("It is still the one of `If-None-Match`.", (), (_ETAG,)),
    },
    errors=(UNKNOWN_ROUTE,),
)
_SHORT: Final = Route(
    "GET",
    "/console",
    summary="Find the web console",
    access=OPEN,
    query=NO_QUERY,
    answers={308: Reply("It is there.", (), (_LOCATION,))},
)
_SETTINGS: Final = Route(
    "GET",
    "/console-settings",
    summary="Read what the web console's page needs to know of this server",
    access=OPEN,
    query=NO_QUERY,
    answers={200: Reply("The settings.", (ConsoleSettings,))},
)


class Console(msgspec.Struct, frozen=True):
    """The console of one server. `lab` is the URL of the door of `syncline up`, whose nodes may be killed for trials;
    empty: there is none.
    """

    mode: ConsoleMode = "on"
    lab: str = ""


class ConsoleRoutes:
    """The routes of the console. `origins` gives the origins of the cluster's nodes, which the page may ask."""

    def __init__(self, console: Console, *, name: str, origins: Callable[[], Iterable[str]]) -> None:
        assert console.mode != "off"
        self._console = console
        self._name = name
        self._origins = origins

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        router.declare(_FILE, self._get)
        router.declare(_SHORT, self._move)
        router.declare(_SETTINGS, self._settings)

    def _get(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        name = request.argument.decode("utf-8", "replace") or PAGE
        found = console_files().get(name)
        if found is None:
            raise RequestError(f"the console has no file {name[:80]!r}", status=404, code="unknown_route")
        origins = "".join(f" {origin}" for origin in sorted({*self._origins(), *origins_of([self._console.lab])}))
        if name == PAGE:
            found = _with_origins(found, origins.strip().encode())
        head = b"%s%sETag: %s\r\n" % (NO_CACHE, SAFETY, found.etag)
        head += b"Content-Security-Policy: %s\r\n" % POLICY.format(origins=origins).encode()
        asked = request.headers.get(b"if-none-match", b"")
        if found.etag in asked or asked == b"*":
            respond(Response(304, status_line(304) + head))
            return
        head += b"Content-Type: %s\r\nContent-Length: %d\r\n" % (found.media_type, len(found.content))
        respond(Response(200, status_line(200) + head, found.content))

    def _move(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        respond(bare(308, b"Location: %s/console/\r\n" % request.mount.encode("ascii", "replace"), b""))

    def _settings(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        console = self._console
        respond(json_response(ConsoleSettings(name=self._name, mode=console.mode, lab=console.lab)))


def _with_origins(page: ConsoleFile, origins: bytes) -> ConsoleFile:
    """The page with the origins of its policy. Its ETag changes with them: a page that is kept has the old policy."""
    content = page.content.replace(_PLACE, _PLACE + origins, 1)
    etag = b'"%s"' % hashlib.blake2b(content, digest_size=16).hexdigest().encode()
    return ConsoleFile(page.media_type, content, etag)


def origins_of(urls: Iterable[str]) -> set[str]:
    """The origins of members' URLs, those that have one."""
    found = set()
    for url in urls:
        try:
            parts = urlsplit(url)
        except ValueError:  # such as http://[::1; a member of another version may announce what this one would not
            continue
        origin = f"{parts.scheme}://{parts.netloc}".lower()
        if _ORIGIN.fullmatch(origin):
            found.add(origin)
    return found
