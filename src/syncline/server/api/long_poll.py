"""`GET /key/{key}?wait=30s&from=N`: wait until the key has changed at revision N or after, then answer as a read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from syncline.errors import OperationError, RevisionCompacted, WatchEnded
from syncline.kv.records import Change
from syncline.kv.serving.reads import MAX_REVISION, ConfirmedReads, ReadPlan
from syncline.kv.watch import KeyWatch
from syncline.kv.watch_hub import WatchHub
from syncline.server.api.answering import answering
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Integer, Seconds
from syncline.server.api.reads import read_plan
from syncline.server.api.router import Explain
from syncline.server.http.request import ClientOrigin, Parameters, Request
from syncline.server.http.response import NO_CACHE, Respond, Response, status_line

__all__ = ["FROM", "WAIT", "LongPolls", "PollPlan"]

MAX_WAIT_S: Final = 60.0
"""So long a client whose machine has vanished is waited for: nothing tells that it has left."""

WAIT: Final = Seconds("wait", "Wait so long for a change of the key; then 304.", high_s=MAX_WAIT_S)
FROM: Final = Integer(
    "from", "With `wait`: the first revision of interest; the next one by default.", low=1, high=MAX_REVISION
)


class PollPlan(ReadPlan, frozen=True, gc=False, kw_only=True):
    """A read that waits for a change."""

    wait_s: float
    first: int
    """The first revision of interest; 0: the next one."""

    @classmethod
    def waiting(cls, parameters: Parameters) -> PollPlan | None:
        """The plan of a request with `wait`; None without. Raises `RequestError`."""
        wait_s, first = WAIT.given(parameters), FROM.given(parameters)
        if wait_s is None:
            if first is not None:
                raise RequestError("from is for wait: give wait=30s, for example, too")
            return None
        plan = read_plan(parameters)
        if plan.revision:
            raise RequestError("wait and revision can't both be given: the past does not change")
        return cls(plan.level, plan.timeout_s, plan.max_stale_s, wait_s=wait_s, first=first or 0)


class _ChangedForm:
    """Messages without content: that something has changed is all that matters."""

    def changes(self, revision: int, changes: Sequence[Change]) -> int:
        del changes
        return revision

    def progress(self, revision: int, *, resumable: bool) -> int:
        del resumable
        return revision

    def size_bytes(self, message: int) -> int:
        del message
        return 0


_CHANGED: Final = _ChangedForm()


class LongPolls:
    """The reads that wait. `answer` makes the answer of a read from the present state."""

    def __init__(
        self,
        backend: Backend,
        hub: WatchHub,
        reads: ConfirmedReads[Respond],
        *,
        answer: Callable[[Request], Response],
        refusal: Callable[[Request], Response | None],
        explain: Explain,
    ) -> None:
        self._backend = backend
        self._hub = hub
        self._reads = reads
        self._answer = answer
        self._refusal = refusal
        self._explain = explain

    def poll(self, plan: PollPlan, request: Request, respond: Respond) -> None:
        """Answer at once if the key has changed at the plan's revision or after, else when it does."""
        self._reads.confirm(plan, self._confirmed, (plan, request), respond)

    def _confirmed(self, poll: tuple[PollPlan, Request], respond: Respond, error: BaseException | None) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        plan, request = poll
        key, store = request.argument, self._backend.store
        record, first = store.get(key), plan.first or store.revision + 1
        if record is not None and record.mod_revision < first:
            first = max(first, store.revision + 1)  # it has not changed since, so there is nothing to look for
        elif record is not None or first < store.oldest:  # without the history: it may have been deleted since
            respond(self._answer(request))
            return
        try:
            user = request.principal.user if request.principal is not None else ""
            stale = plan.level == "stale"
            watch = self._hub.watch(key, key + b"\0", _CHANGED, from_revision=first, stale=stale, user=user)
        except OperationError as refusal:
            respond(self._explain(refusal))
            return
        then = answering(respond, lambda outcome: respond(self._end(request, outcome)), read=True)
        _Poll(watch, plan.wait_s, then, request.origin)

    def _end(self, request: Request, outcome: OperationError | bool) -> Response:
        """The answer: `outcome` is whether the key has changed, or why that is not known."""
        if outcome is True or isinstance(outcome, RevisionCompacted):
            return self._answer(request)
        if isinstance(outcome, WatchEnded) and outcome.code == "no_leader":
            return self._explain(outcome)
        if (refusal := self._refusal(request)) is not None:
            return refusal
        store = self._backend.store
        record = store.get(request.argument)
        fields = b'ETag: "%d"\r\n' % record.mod_revision if record is not None else b""
        fields += b"Syncline-Revision: %d\r\n" % store.revision
        return Response(304, b"%s%s%s" % (status_line(304), NO_CACHE, fields))


class _Poll:
    """One read that waits: until its watch has something, its time is over, or its client has left."""

    def __init__(
        self,
        watch: KeyWatch[int],
        wait_s: float,
        then: Callable[[OperationError | bool], None],
        origin: ClientOrigin | None,
    ) -> None:
        self._watch = watch
        self._then: Callable[[OperationError | bool], None] | None = then
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(wait_s, self._end, False)
        self._stay = origin.when_left(self._left) if origin is not None else None
        watch.start(self._wake)

    def _wake(self) -> None:
        changed = self._watch.read() is not None
        self._loop.call_soon(self._end, True if changed or self._watch.error is None else self._watch.error)

    def _end(self, outcome: OperationError | bool) -> None:
        if (then := self._then) is not None:
            if self._stay is not None:
                self._stay()
            self._left()
            then(outcome)

    def _left(self) -> None:
        self._then = None
        self._timer.cancel()
        self._watch.close()
