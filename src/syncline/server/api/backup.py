"""`GET /backup`: the whole state of the store at one revision, as a stream, while writes go on.

It is the stream of a snapshot of the state machine (`kv.snapshots`): keys, leases, history, users and their passwords'
hashes. Each frame has a checksum, and the last one the digest of the state: a stream that was cut off is no backup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from syncline.errors import LimitReached
from syncline.kv.serving.reads import ConfirmedReads, ReadPlan
from syncline.kv.snapshots import KvSnapshot
from syncline.server.api.backend import Backend
from syncline.server.api.declare import REVISION, Reply, Route
from syncline.server.api.error_codes import BACKUP_LIMIT, READING
from syncline.server.api.parameters import Boolean, Query
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router
from syncline.server.auth.access import ADMIN
from syncline.server.http.request import Request
from syncline.server.http.response import NO_STORE, Respond, status_line
from syncline.server.http.stream import Stream

__all__ = ["BackupRoutes"]

MEDIA_TYPE: Final = "application/octet-stream"

MAX_BACKUPS: Final = 4
"""Under way at once on a node. Each keeps in memory what has been replaced since it began, however slowly its client
reads."""

STALE: Final = Boolean("stale", "From the state of this node as it is, without a quorum.")
QUERY: Final = Query(STALE, TIMEOUT)

ROUTE: Final = Route(
    "GET",
    "/backup",
    summary="Stream the whole state at one revision",
    access=ADMIN,
    query=QUERY,
    about="The state machine's snapshot: keys, leases, history and users. Its last frame has the digest of the state.",
    answers={200: Reply("The state.", (MEDIA_TYPE,), (REVISION,))},
    errors=(*READING, BACKUP_LIMIT),
)


class BackupRoutes:
    """The backup of the store."""

    def __init__(self, backend: Backend, reads: ConfirmedReads[Respond], *, explain: Explain) -> None:
        self._backend = backend
        self._reads = reads
        self._explain = explain
        self._under_way = 0

    def add_to(self, router: Router) -> None:
        """Register the route."""
        router.declare(ROUTE, self.get)

    def get(self, request: Request, respond: Respond) -> None:
        """Stream the state as of a moment after the request came."""
        parameters = QUERY.parse(request.query)
        level = "stale" if STALE.of(parameters) else "linearizable"
        self._reads.confirm(ReadPlan(level, TIMEOUT.of(parameters)), self._stream, None, respond)

    def _stream(self, _request: None, respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        if self._under_way >= MAX_BACKUPS:
            text = f"{MAX_BACKUPS} backups of this node are under way: try later, or ask another node"
            respond(self._explain(LimitReached(text)))
            return
        self._under_way += 1
        view = KvSnapshot(self._backend.store.view())
        fields = b"Content-Type: %s\r\nSyncline-Revision: %d\r\n" % (MEDIA_TYPE.encode(), view.revision)
        head = b"%s%s%s" % (status_line(200), fields, NO_STORE)
        respond(Stream(200, head, source=_BackupSource(view, self._ended)))

    def _ended(self) -> None:
        self._under_way -= 1


class _BackupSource:
    """The frames of a view, which is released at the end, or if the client leaves."""

    has_more: Final = True

    def __init__(self, view: KvSnapshot, ended: Callable[[], None]) -> None:
        self._view = view
        self._ended = ended
        self._pieces: Iterator[bytes] = view.pieces()

    def start(self, wake: Callable[[], None]) -> None:
        """There is always something to read."""

    def read(self) -> bytes | None:
        return next(self._pieces, None)

    def close(self) -> None:
        self._view.release()
        self._ended()
