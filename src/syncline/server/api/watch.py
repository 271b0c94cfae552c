"""`GET /watch`: the changes of a key, a prefix or a range, as they happen, from any revision that the history has.

`GET /watchers`: how many watches include a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.client.watch_schemas import WatchersReply
from syncline.errors import OperationError
from syncline.kv.serving.reads import MAX_REVISION
from syncline.kv.store import prefix_end
from syncline.kv.watch import KeyWatch
from syncline.kv.watch_hub import WatchHub
from syncline.server.api.backend import Backend
from syncline.server.api.declare import REVISION, Field, Reply, Route
from syncline.server.api.error_codes import COMPACTED, READING, WATCH_LIMIT
from syncline.server.api.errors import RequestError, operation_error
from syncline.server.api.list_stream import accepts_ndjson
from syncline.server.api.parameters import Boolean, Choice, Integer, Octets, Query, Seconds
from syncline.server.api.router import Explain, Router
from syncline.server.api.watch_forms import (
    LINES,
    LINES_WITH_PREVIOUS,
    SSE,
    SSE_WITH_PREVIOUS,
    EventStreamForm,
    LinesForm,
)
from syncline.server.auth.access import KEYS
from syncline.server.auth.gate import AccessGate
from syncline.server.http.request import Parameters, Request
from syncline.server.http.response import NO_STORE, Respond, json_response, status_line
from syncline.server.http.stream import Stream

__all__ = ["WatchRoutes"]

DEFAULT_PROGRESS_S: Final = 10.0
"""Proxies end a connection on which nothing comes for 30 to 60 s."""
LEAST_PROGRESS_S: Final = 1.0
"""The hub looks once a second which marks are due."""
MOST_PROGRESS_S: Final = 3600.0

KEY: Final = Octets("key", "Watch this key.")
PREFIX: Final = Octets("prefix", "Watch the keys that begin with it; empty: all keys.")
START: Final = Octets("start", "Watch the keys from this one on.")
END: Final = Octets("end", "With `start`: up to this key, and without it.")
FROM: Final = Integer("from", "The first revision of interest; the next one by default.", low=1, high=MAX_REVISION)
PREV: Final = Boolean("prev", "Give the record before each change, too.")
EVENTS: Final = Choice("events", "Which changes.", choices=("put,delete", "delete,put", "put", "delete"))
PROGRESS: Final = Seconds(
    "progress",
    "How often progress is told.",
    default_s=DEFAULT_PROGRESS_S,
    low_s=LEAST_PROGRESS_S,
    high_s=MOST_PROGRESS_S,
)
STALE: Final = Boolean("stale", "Go on while this node knows no leader.")
QUERY: Final = Query(KEY, PREFIX, START, END, FROM, PREV, EVENTS, PROGRESS, STALE)

ROUTE: Final = Route(
    "GET",
    "/watch",
    summary="Watch keys",
    access=KEYS,
    about="Server-Sent Events, one for each revision. With `Accept: application/x-ndjson` a line of JSON for each. The"
    " stream has no end of its own. If the node ends it, the last message is the error, with the revision to watch from"
    " again in `details.from`.",
    query=QUERY,
    fields=(
        Field(
            "Last-Event-ID",
            "The last revision that was received: the watch begins after it, whatever `from` is. Empty: none was.",
            "[0-9]{0,19}",
        ),
    ),
    answers={200: Reply("The changes.", ("text/event-stream", "application/x-ndjson"), (REVISION,))},
    errors=(*READING, COMPACTED, WATCH_LIMIT),
)

WATCHERS_KEY: Final = Octets("key", "The key.", required=True)
WATCHERS_QUERY: Final = Query(WATCHERS_KEY)
WATCHERS: Final = Route(
    "GET",
    "/watchers",
    summary="Count the watches of a key",
    access=KEYS,
    about="Those of this node that include the key: of the key, of a prefix or of a range, and reads that wait for it."
    " The key need not exist.",
    query=WATCHERS_QUERY,
    answers={200: Reply("How many there are now.", (WatchersReply,))},
)

_FORMS: Final[dict[tuple[bool, bool], LinesForm | EventStreamForm]] = {
    (True, False): LINES,
    (True, True): LINES_WITH_PREVIOUS,
    (False, False): SSE,
    (False, True): SSE_WITH_PREVIOUS,
}
"""By whether lines of JSON are asked for, and previous records."""


class WatchRoutes:
    """Watches over HTTP. `hub` gives them the changes."""

    def __init__(
        self, backend: Backend, hub: WatchHub, *, name: str, gate: AccessGate, explain: Explain, max_key_bytes: int
    ) -> None:
        self._name = name
        self._backend = backend
        self._hub = hub
        self._gate = gate
        self._explain = explain
        self._max_key_bytes = max_key_bytes

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        router.declare(ROUTE, self.watch)
        router.declare(WATCHERS, self.watchers)

    def watch(self, request: Request, respond: Respond) -> None:
        """Stream the changes."""
        parameters = QUERY.parse(request.query)
        start, end = self._range(parameters)
        if request.principal is not None:
            request.principal.check_read(start, end)
        events, progress_s = EVENTS.of(parameters).split(","), PROGRESS.of(parameters)
        last = _last_event(request.headers.get(b"last-event-id"))
        asked = FROM.given(parameters) or 0
        by_lines = accepts_ndjson(request.headers.get(b"accept", b""), b"text/event-stream")
        form = _FORMS[by_lines, PREV.of(parameters)]
        try:
            watch = self._hub.watch(
                start,
                end,
                form,
                from_revision=asked if last is None else last + 1,
                puts="put" in events,
                deletes="delete" in events,
                stale=STALE.of(parameters),
                progress_s=progress_s,
                user=request.principal.user if request.principal is not None else "",
            )
        except OperationError as refusal:
            respond(self._explain(refusal))
            return
        revision = b"Syncline-Revision: %d\r\n" % self._backend.store.revision
        head = b"%s%s%s%s" % (status_line(200), form.fields, NO_STORE, revision)
        source = self._gate.guarded(_WatchSource(watch, form), request, start, end, form.error)
        respond(Stream(200, head, source=source, live=True))

    def watchers(self, request: Request, respond: Respond) -> None:
        """Count the watches of a key."""
        key = WATCHERS_KEY.of(WATCHERS_QUERY.parse(request.query))
        if not key:
            raise RequestError("give the key, percent-encoded: /watchers?key=KEY")
        self._check_size("key", key)
        if request.principal is not None:
            request.principal.check_key_readable(key)
        respond(json_response(WatchersReply(name=self._name, watches=self._hub.number_at(key))))

    def _check_size(self, name: str, value: bytes) -> None:
        if len(value) > self._max_key_bytes:
            limit = f"{name} has {len(value)} bytes; the limit is {self._max_key_bytes}"
            raise RequestError(limit, status=413, code="too_large")

    def _range(self, parameters: Parameters) -> tuple[bytes, bytes | None]:
        """The keys to watch: from the first one, up to the second."""
        key, prefix = KEY.of(parameters), PREFIX.of(parameters)
        start, end = START.of(parameters), END.of(parameters)
        for name, value in (("key", key), ("prefix", prefix), ("start", start), ("end", end)):
            if value is not None:
                self._check_size(name, value)
        if (key is not None) + (prefix is not None) + (start is not None) != 1:
            raise RequestError("give one of key, prefix, and start (with end or without); prefix= is all keys")
        if end is not None and start is None:
            raise RequestError("end needs start")
        if key is not None:
            if not key:
                raise RequestError("key is empty, and a key has at least 1 byte; prefix= is all keys")
            return key, key + b"\0"
        if prefix is not None:
            return prefix, prefix_end(prefix)
        assert start is not None
        if end is not None and end <= start:
            raise RequestError("end is not above start, so there is no key between them")
        return start, end


class _WatchSource:
    """The body of a watch's answer."""

    def __init__(self, watch: KeyWatch[bytes], form: LinesForm | EventStreamForm) -> None:
        self._watch = watch
        self._form = form
        self._beginning = form.begin(watch.next)
        self._ended = False

    def start(self, wake: Callable[[], None]) -> None:
        self._watch.start(wake)

    @property
    def has_more(self) -> bool:
        return self._watch.has_more

    def read(self) -> bytes | None:
        if self._beginning:
            beginning, self._beginning = self._beginning, b""
            return beginning
        message = self._watch.read()
        if message is not None:
            return message
        if self._ended:
            return None
        if (error := self._watch.error) is None:
            return b""
        self._ended = True
        return self._form.error(operation_error(error)[1])

    def close(self) -> None:
        self._watch.close()


def _last_event(raw: bytes | None) -> int | None:
    """The revision of `Last-Event-ID`; None if there is none."""
    if not raw:
        return None
    if not raw.isdigit() or len(raw) > 19 or int(raw) >= MAX_REVISION:
        shown = raw[:40].decode("ascii", "replace")
        raise RequestError(f"Last-Event-ID: {shown!r} is not a revision, such as 42")
    return int(raw)
