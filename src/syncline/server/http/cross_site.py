"""Refuse requests that a web page makes a browser send to this server without the operator's knowledge.

Two kinds (CVE-2018-1098 and CVE-2018-1099 in etcd). A page of any site can have a browser send a simple POST to
`http://localhost:8080`, and the page need not read the answer. And a page can be loaded under a name that its owner's
DNS then resolves to 127.0.0.1; for the browser, page and server are then one site (DNS rebinding).

- A method that changes something is refused (403 `cross_site`) if the browser says that the page is of another site:
  by `Origin` or by `Sec-Fetch-Site`. The Origin is the server's own if it has the request's Host; whether a page of
  http asks a server of https, `Sec-Fetch-Site` tells. `allowed_origins` lists other sites; their pages may read
  answers, too (CORS). Pages of the cluster's own nodes (the console) may read answers without being listed.
- On a loopback listener, and wherever `allowed_hosts` is set, a request under a name that is not this server's is
  refused (421 `foreign_host`). A name without a dot passes if the request is no browser's: public DNS has next to no
  such names, but the network that a laptop visits can answer for each of them. Over plain HTTP a browser sends no
  `Sec-Fetch-Site` to such a name, and no `Origin` with a read; it always sends `Accept-Language`, and no page can
  leave that out.

Clients that are no browsers send neither field and the server's own name. For them nothing changes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from syncline.server.api.errors import RequestError
from syncline.server.http.fields import SAFE_METHODS
from syncline.server.http.request import Request
from syncline.server.http.response import Deferred, Respond, Response
from syncline.server.http.stream import Stream

__all__ = ["ANY", "CrossSitePolicy", "host_name", "is_origin"]

ANY: Final = "*"
"""Among allowed hosts or origins: all of them."""

_OWN_SITES: Final = frozenset({b"same-origin", b"none"})
"""Of `Sec-Fetch-Site`: the page is this server's own, or there is none (a typed address)."""

_OF_BROWSERS: Final = frozenset({b"origin", b"sec-fetch-site", b"accept-language"})
"""Browsers send at least one of these fields with each request, whatever a page does."""

_EXPOSED: Final = b"ETag, Syncline-Revision, Retry-After, Allow"
"""Fields of an answer that a page may read."""
_SENT: Final = b"Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key"
"""Fields of a request that a page may set."""
_ALL: Final = b"GET, HEAD, PUT, POST, DELETE"
_READING: Final = b"GET, HEAD"
_PREFLIGHT_S: Final = 600
"""How long a browser may remember what a preflight said: Chromium takes two hours at most, Firefox a day."""
_FREQUENT: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Loopback names that need not be parsed for each request."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class CrossSitePolicy:
    """Which pages may change something here, and under which names this server may be asked.

    Without arguments: pages of the server's own site only, under any name.
    """

    def __init__(
        self,
        *,
        loopback: bool = False,
        own_hosts: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
    ) -> None:
        allowed = frozenset(host.lower() for host in allowed_hosts)
        self._any_host = ANY in allowed or not (loopback or allowed)
        own = frozenset(host.lower() for host in own_hosts if host)
        self._hosts = _FREQUENT | allowed | own
        origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._any_origin = ANY in origins
        self._origins = origins
        self.member_origins: Callable[[], Collection[str]] = frozenset
        """The origins of the cluster's own nodes: a page of one may read from the others, and change nothing there."""

    def admit(self, request: Request, respond: Respond) -> Respond:
        """Where to answer the request. Raises `RequestError` if it is refused."""
        headers, origin = request.headers, request.headers.get(b"origin")
        self._check_host(headers)
        if origin is not None and self._is_allowed(origin):
            return _with_fields(respond, _cors_fields(request, origin))
        if request.method in SAFE_METHODS:
            if origin is not None and origin.decode("latin-1").lower() in self.member_origins():
                return _with_fields(respond, _cors_fields(request, origin, methods=_READING))
        else:
            self._check_site(headers, origin)
        return respond

    def knows_host(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request with this header is asked under a name that this server has."""
        name = host_name(headers.get(b"host", b""))
        if self._any_host or not name or name in self._hosts:
            return True
        if "." in name or ":" in name:
            return _is_loopback_name(name)
        return _OF_BROWSERS.isdisjoint(headers)

    def _check_host(self, headers: Mapping[bytes, bytes]) -> None:
        if self.knows_host(headers):
            return
        shown = host_name(headers.get(b"host", b""))[:200]
        raise RequestError(
            f"this server is not known as {shown!r}. If it should be, give --allowed-hosts {shown} or its URL as"
            " --http-advertise; nothing was done",
            status=421,
            code="foreign_host",
        )

    def _check_site(self, headers: Mapping[bytes, bytes], origin: bytes | None) -> None:
        is_own = origin is None or _is_of(origin, headers.get(b"host", b""))
        if is_own and headers.get(b"sec-fetch-site", b"none") in _OWN_SITES:
            return
        shown = "another site" if origin is None else origin[:200].decode("ascii", "replace")
        raise RequestError(
            f"a web page of {shown} may not change anything here. If it should, give its origin as --allowed-origins;"
            " nothing was done",
            status=403,
            code="cross_site",
        )

    def _is_allowed(self, origin: bytes) -> bool:
        return self._any_origin or origin.decode("latin-1").lower() in self._origins


def host_name(host: bytes) -> str:
    """The name or address in a `Host` field, without port, brackets and a last dot, in lower case."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


def is_origin(text: str) -> bool:
    """Whether a text is an origin as browsers send it, `https://console.example:8443`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or port == 0:
        return False
    return text.rstrip("/").lower() == f"{parts.scheme}://{parts.netloc}".lower() and "@" not in parts.netloc


def _is_loopback_name(name: str) -> bool:
    """`localhost` and names below it (RFC 6761, 6.3), and loopback addresses."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_of(origin: bytes, host: bytes) -> bool:
    """Whether host and port of an origin are those of a `Host` field; either may leave out a default port."""
    try:
        page = urlsplit(origin.decode("ascii"))
        asked = urlsplit(f"{page.scheme}://{host.decode('ascii')}")
        default = _DEFAULT_PORTS[page.scheme]
        return (
            bool(page.hostname)
            and page.hostname == asked.hostname
            and (page.port or default) == (asked.port or default)
        )
    except (ValueError, KeyError):  # no origin of a page of HTTP: `null`, or what no browser sends
        return False


def _cors_fields(request: Request, origin: bytes, *, methods: bytes = _ALL) -> bytes:
    """What lets a page of an allowed origin read the answer; to a preflight, what it may send."""
    fields = b"Access-Control-Allow-Origin: %s\r\nVary: Origin\r\n" % origin
    headers = request.headers
    if request.method != "OPTIONS" or b"access-control-request-method" not in headers:
        return fields + b"Access-Control-Expose-Headers: %s\r\n" % _EXPOSED
    fields += b"Access-Control-Allow-Methods: %s\r\n" % methods
    fields += b"Access-Control-Allow-Headers: %s\r\nAccess-Control-Max-Age: %d\r\n" % (_SENT, _PREFLIGHT_S)
    if headers.get(b"access-control-request-private-network") == b"true":
        fields += b"Access-Control-Allow-Private-Network: true\r\n"
    return fields


def _with_fields(respond: Respond, fields: bytes) -> Respond:
    def extended(response: Response) -> Response:
        return Response(response.status, response.head + fields, response.body)

    def answer(response: Response) -> None:
        if isinstance(response, Deferred):
            make = response.make
            respond(Deferred.by(lambda: extended(make())))
        elif isinstance(response, Stream):
            response.head += fields
            respond(response)
        else:
            respond(extended(response))

    return answer
