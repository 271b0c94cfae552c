"""`GET /keys`: the keys in order, a page at a time.

A page is of one revision. The pages of a listing are too, if the first one is asked for with a `revision` or with
`consistent=true`: then its `next_url` names the revision. A whole listing at one revision is streamed: `list_stream`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from syncline.client.schemas import CountReply, KeyItemPage
from syncline.errors import Rejected
from syncline.kv.records import RangePage
from syncline.kv.serving.pages import MAX_LIMIT, PageWanted, decode_cursor, page_items
from syncline.kv.serving.reads import ConfirmedReads
from syncline.kv.store import KeyStore, prefix_end
from syncline.server.api.backend import Backend
from syncline.server.api.declare import REVISION, Reply, Route
from syncline.server.api.error_codes import COMPACTED, READING, WAIT_LIMIT
from syncline.server.api.json_bytes import item_of
from syncline.server.api.list_stream import NDJSON, WholeListing, accepts_ndjson
from syncline.server.api.parameters import Boolean, Integer, Octets
from syncline.server.api.reads import READ_QUERY, read_plan
from syncline.server.api.router import Explain, Router
from syncline.server.api.watch_forms import LINES
from syncline.server.auth.access import KEYS
from syncline.server.auth.gate import AccessGate
from syncline.server.http.request import Parameters, Request, encode_percent
from syncline.server.http.response import Deferred, Respond, Response, json_response
from syncline.server.http.stream import Stream

__all__ = ["ListingRoutes"]

DEFAULT_LIMIT: Final = 1000

PREFIX: Final = Octets("prefix", "Only keys that begin with it.")
AFTER: Final = Octets("after", "The page begins behind this key: the `next` of the page before.")
LIMIT: Final = Integer("limit", "The most keys of a page.", default=DEFAULT_LIMIT, low=1, high=MAX_LIMIT)
VALUES: Final = Boolean("values", "Whether the values are given; `base64`: never as text.", others=("base64",))
REVERSE: Final = Boolean("reverse", "From the last key to the first.")
COUNT: Final = Boolean("count", "Only how many keys there are.")
CONSISTENT: Final = Boolean("consistent", "Whether `next_url` names the revision of the first page.")
QUERY: Final = READ_QUERY.plus(PREFIX, AFTER, LIMIT, VALUES, REVERSE, COUNT, CONSISTENT)

ROUTE: Final = Route(
    "GET",
    "/keys",
    summary="List keys in order, a page at a time",
    access=KEYS,
    query=QUERY,
    about="With `Accept: application/x-ndjson` the whole listing at one revision, a key a line. The last line is"
    ' `{"end": {"revision": N, "keys": M}}`, or `{"error": …}` if the revision was compacted meanwhile.',
    answers={
        200: Reply(
            "A page, the number of keys, or all keys.",
            (KeyItemPage, CountReply, "application/x-ndjson"),
            (REVISION,),
        )
    },
    errors=(*READING, COMPACTED, WAIT_LIMIT),
)


class ListingRoutes:
    """The keys by prefix."""

    def __init__(self, backend: Backend, reads: ConfirmedReads[Respond], *, gate: AccessGate, explain: Explain) -> None:
        self._backend = backend
        self._reads = reads
        self._gate = gate
        self._explain = explain

    def add_to(self, router: Router) -> None:
        """Register the route."""
        router.declare(ROUTE, self.list)

    def list(self, request: Request, respond: Respond) -> None:
        """A page of keys, or their number."""
        parameters = QUERY.parse(request.query)
        plan = read_plan(parameters)
        listing = _Listing(parameters, request, plan.revision, self._gate)
        if request.principal is not None:
            request.principal.check_read(listing.prefix, prefix_end(listing.prefix))
        self._reads.confirm(plan, self._read, listing, respond)

    def _read(self, listing: _Listing, respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        if (refusal := listing.refusal) is not None:
            respond(self._explain(refusal))
        elif listing.count_only:
            respond(self._answer(listing))  # it is small
        elif listing.whole:
            respond(self._stream(listing))
        else:
            respond(Deferred.by(partial(self._answer, listing)))

    def _answer(self, listing: _Listing) -> Response:
        if (denied := listing.refusal) is not None:  # a large answer is made later
            return self._explain(denied)
        store = self._backend.store
        try:
            page = listing.wanted.read(store)
        except Rejected as refusal:  # compacted
            return self._explain(refusal)
        return listing.answer(page, store.revision)

    def _stream(self, listing: _Listing) -> Response:
        whole = listing.at(lambda: self._backend.store)
        try:
            first = whole.first_page()
        except Rejected as refusal:  # compacted
            return self._explain(refusal)
        fields = b"%sSyncline-Revision: %d\r\n" % (NDJSON, self._backend.store.revision)
        stream = Stream.of(200, fields, whole.lines(first))
        stream.source = self._gate.guarded(
            stream.source, listing.request, listing.prefix, prefix_end(listing.prefix), LINES.error
        )
        return stream


class _Listing:
    """One request for a page, or for the whole listing."""

    def __init__(self, parameters: Parameters, request: Request, revision: int, gate: AccessGate) -> None:
        self._gate = gate
        self.revision = revision
        self.request = request
        self.consistent = CONSISTENT.of(parameters)
        self.whole = accepts_ndjson(request.headers.get(b"accept", b""), b"application/json")
        self.query = request.query
        self.mount = request.mount
        self.prefix = PREFIX.of(parameters) or b""
        self.after = decode_cursor(AFTER.of(parameters)) or None  # an empty one is before the first page
        self.limit = LIMIT.of(parameters)
        self.whole_limit = LIMIT.given(parameters) or 0
        self.values = VALUES.word(parameters)
        self.reverse = REVERSE.of(parameters)
        self.count_only = COUNT.of(parameters)
        self.wanted = PageWanted(
            self.prefix, self.after, self.limit, self.values != "false", self.reverse, self.count_only, revision
        )

    @property
    def refusal(self) -> Rejected | None:
        """Why the user may not read the keys (any more)."""
        user = self._gate.present(self.request.principal)
        return user.read_refusal(self.prefix, prefix_end(self.prefix))

    def at(self, store: Callable[[], KeyStore]) -> WholeListing:
        """The whole listing at its revision: the one that was asked for, or the present one."""
        return WholeListing(
            store=store,
            revision=self.revision or store().revision,
            prefix=self.prefix,
            after=self.after,
            limit=self.whole_limit,
            reverse=self.reverse,
            values=self.values,
            mount=self.mount,
        )

    def answer(self, page: RangePage, store_revision: int) -> Response:
        fields = b"Syncline-Revision: %d\r\n" % store_revision
        if self.count_only:
            return json_response(CountReply(page.revision, page.count), fields=fields)
        items, cursor = page_items(page, values=self.wanted.values)
        body = KeyItemPage(
            revision=page.revision,
            keys=[item_of(record, values=self.values, mount=self.mount) for record in items],
            count=page.count,
            more=cursor is not None,
            next=cursor,
            next_url=None if cursor is None else self._next_url(cursor, page.revision),
        )
        return json_response(body, fields=fields)

    def _next_url(self, cursor: str, revision: int) -> str:
        kept = [pair for pair in self.query.decode("ascii", "replace").split("&") if _name(pair) not in {"", "after"}]
        if self.consistent and not self.revision:
            kept.append(f"revision={revision}")
        return f"{self.mount}/keys?" + "&".join([*kept, "after=" + encode_percent(cursor.encode(), safe="")])


def _name(pair: str) -> str:
    return Parameters.name_of(pair.partition("=")[0])
