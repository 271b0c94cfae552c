"""`GET /keys`: the keys in order, a page at a time. A page is of one revision; the pages of a listing are not."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from typing import Final

from syncline.client.schemas import KeyItemPage, split
from syncline.kv.commands import MAX_RANGE_ITEMS
from syncline.kv.records import KeyRecord, RangePage
from syncline.kv.store import prefix_end
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError
from syncline.server.api.json_bytes import item_of
from syncline.server.api.reads import READ_PARAMETERS, ConfirmedReads, ReadPlan
from syncline.server.api.router import Explain, Router
from syncline.server.http.request import Parameters, Request, encode_percent
from syncline.server.http.response import Deferred, Respond, Response, json_response

__all__ = ["MAX_PAGE_BYTES", "ListingRoutes", "decode_cursor", "encode_cursor"]

DEFAULT_LIMIT: Final = 1000
MAX_LIMIT: Final = MAX_RANGE_ITEMS
MAX_PAGE_BYTES: Final = 1024 * 1024
"""Keys and values of one page, roughly: some 10 ms of encoding. One larger record is still given, alone."""
CURSOR_MARK: Final = "base64:"
"""The first character of a cursor for a key that is not text."""

PARAMETERS: Final = READ_PARAMETERS | {"prefix", "after", "limit", "values", "reverse", "count"}
LATER: Final = frozenset({"revision"})
UNBOUNDED: Final = 2**62


class ListingRoutes:
    """The keys by prefix."""

    def __init__(self, backend: Backend, reads: ConfirmedReads, *, explain: Explain) -> None:
        self._backend = backend
        self._reads = reads
        self._explain = explain

    def add_to(self, router: Router) -> None:
        """Register the route."""
        router.add("GET", "/keys", self.list)

    def list(self, request: Request, respond: Respond) -> None:
        """A page of keys, or their number."""
        parameters = Parameters(request.query, PARAMETERS, later=LATER)
        listing = _Listing(parameters, request)
        self._reads.confirm(ReadPlan.of(parameters), self._read, listing, respond)

    def _read(self, listing: _Listing, respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        if listing.count_only:
            respond(self._answer(listing))
        else:
            respond(Deferred.by(partial(self._answer, listing)))

    def _answer(self, listing: _Listing) -> Response:
        store = self._backend.store
        page = store.range(
            listing.prefix,
            prefix_end(listing.prefix),
            limit=listing.limit,
            after=listing.after,
            reverse=listing.reverse,
            count_only=listing.count_only,
            max_bytes=UNBOUNDED if listing.values == "false" else MAX_PAGE_BYTES,
        )
        return listing.answer(page)


class _Listing:
    """One request for a page."""

    def __init__(self, parameters: Parameters, request: Request) -> None:
        self.query = request.query
        self.mount = request.mount
        self.prefix = parameters.octets("prefix") or b""
        self.after = decode_cursor(parameters.octets("after")) or None  # an empty one is before the first page
        self.limit = parameters.integer("limit", DEFAULT_LIMIT, low=1, high=MAX_LIMIT)
        self.values = _values(parameters)
        self.reverse = parameters.boolean("reverse")
        self.count_only = parameters.boolean("count")

    def answer(self, page: RangePage) -> Response:
        fields = b"Syncline-Revision: %d\r\n" % page.revision
        if self.count_only:
            return json_response({"revision": page.revision, "count": page.count}, fields=fields)
        items = self._cut(page.items)
        more = page.more or len(items) < len(page.items)
        cursor = encode_cursor(items[-1].key) if more and items else None
        body = KeyItemPage(
            revision=page.revision,
            keys=[item_of(record, values=self.values, mount=self.mount) for record in items],
            count=page.count,
            more=cursor is not None,
            next=cursor,
            next_url=None if cursor is None else self._next_url(cursor),
        )
        return json_response(body, fields=fields)

    def _cut(self, items: list[KeyRecord]) -> list[KeyRecord]:
        """As many items as fit into a page: a key is in it twice, as itself and in its URL."""
        size_bytes, with_values = 0, self.values != "false"
        for position, record in enumerate(items):
            size_bytes += 2 * len(record.key) + (len(record.value) if with_values else 0)
            if size_bytes > MAX_PAGE_BYTES and position:
                return items[:position]
        return items

    def _next_url(self, cursor: str) -> str:
        kept = [pair for pair in self.query.decode("ascii", "replace").split("&") if _name(pair) not in {"", "after"}]
        return f"{self.mount}/keys?" + "&".join([*kept, "after=" + encode_percent(cursor.encode(), safe="")])


def _name(pair: str) -> str:
    return Parameters.name_of(pair.partition("=")[0])


def _values(parameters: Parameters) -> str:
    if parameters.octets("values") == b"base64":
        return "base64"
    return "true" if parameters.boolean("values", others=", and base64") else "false"


def encode_cursor(key: bytes) -> str:
    """The `after` value that continues behind this key: its text, or base64 if it has none."""
    text, _ = split(key)
    if isinstance(text, str) and not text.startswith(CURSOR_MARK):
        return text
    return CURSOR_MARK + base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")


def decode_cursor(raw: bytes | None) -> bytes | None:
    """Decode the key of an `after` value, in either form."""
    mark = CURSOR_MARK.encode()
    if raw is None or not raw.startswith(mark):
        return raw
    encoded = raw[len(mark) :]
    try:
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise RequestError(
            f"after: what follows {CURSOR_MARK!r} is not base64url; a key of that text takes it"
        ) from None
