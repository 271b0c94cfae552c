"""Bugs planted in the HTTP server's fast paths, and what must notice each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from syncline.errors import SynclineError
from syncline.kv.commands import encode_put
from syncline.kv.lease_calls import LeaseTime
from syncline.server.api import site
from syncline.server.api.fast_keys import FastKeyRoutes
from syncline.server.api.fast_leases import fast_keep_alive
from syncline.server.api.keys import WRITTEN
from syncline.server.http.response import Respond
from syncline.server.http.shortcuts import FastRequest, FastRoute, FastWriteLane
from syncline.testing.faults.leases import LASTS
from syncline.testing.invariants.outcomes import ONCE, ORDER, TOLD
from tests.mutations.catalogue import Hunt, Mutation, simulator_hunt
from tests.mutations.newer import default_seeds

__all__ = ["HTTP"]

PUT_TIMEOUT_S = 5.0


def fast_read_without_a_confirmation(patch: pytest.MonkeyPatch) -> None:
    """The fast path of reads shows what the node has applied, and asks no leader."""

    def get(self: FastKeyRoutes, request: FastRequest) -> None:
        self._read(request, request.respond, None)

    patch.setattr(FastKeyRoutes, "_get", get)


def fast_put_answered_when_proposed(patch: pytest.MonkeyPatch) -> None:
    """The fast path of puts does not wait for the entry: it tells the revision that comes next."""

    def put(self: FastKeyRoutes, request: FastRequest) -> None:
        key, body = request.argument, request.body
        try:
            self._backend.propose(encode_put(key, body), PUT_TIMEOUT_S, lambda _result, _error: None)
        except SynclineError as error:
            request.respond(self._explain(error))
            return
        revision = self._backend.store.revision + 1
        answer = b'{"status":"success","revision":%d}\n' % revision
        request.found(WRITTEN % (revision, revision, self._leader.line, len(answer)), answer)

    patch.setattr(FastKeyRoutes, "_put", put)


class _OwnLeases:
    """Answers keep-alives by what the node has applied."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def keep_alive_then(self, lease: int, _timeout_s: float, then: Callable[[LeaseTime, None], None]) -> None:
        record = self._backend.store.leases.get(lease)
        ttl_ms = record.ttl_ms if record is not None else 0
        then(LeaseTime(ttl_ms, ttl_ms), None)


class _OwnBackend:
    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.lease_calls: _OwnLeases = _OwnLeases(backend)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def fast_keep_alive_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """The fast path of keep-alives answers by the node's own state: neither the leader nor a quorum is asked."""

    def route(backend: Any, **named: Any) -> FastRoute:
        return fast_keep_alive(_OwnBackend(backend), **named)  # type: ignore[arg-type]

    patch.setattr(site, "fast_keep_alive", route)


def fast_put_takes_the_key_before(patch: pytest.MonkeyPatch) -> None:
    """A connection's fast path of writes keeps the key of its first request."""
    original = FastWriteLane.take

    def take(self: FastWriteLane, data: bytes) -> bool:
        before = self.argument
        taken = original(self, data)
        if taken and before:
            self.argument = before
        return taken

    patch.setattr(FastWriteLane, "take", take)


def fast_read_of_no_key_left_without_an_answer(patch: pytest.MonkeyPatch) -> None:
    """The fast path of reads answers nothing if there is no such key."""
    original = FastKeyRoutes._read

    def read(self: FastKeyRoutes, request: FastRequest, respond: Respond, error: BaseException | None) -> None:
        if error is not None or self._backend.store.get(request.argument) is not None:
            original(self, request, respond, error)

    patch.setattr(FastKeyRoutes, "_read", read)


def _hunts(expects: str) -> tuple[Hunt, ...]:
    return simulator_hunt(expects, "http-clients"), default_seeds(expects)


HTTP: tuple[Mutation, ...] = (
    Mutation(
        "a fast path of reads that skips the read index",
        "planted",
        fast_read_without_a_confirmation,
        _hunts(f"{ORDER}|linearizable histories"),
    ),
    Mutation(
        "a fast path of puts that answers before the commit",
        "planted",
        fast_put_answered_when_proposed,
        _hunts(f"{ONCE}|{TOLD}|{ORDER}|linearizable histories"),
    ),
    Mutation(
        "a fast path of keep-alives that asks no quorum",
        "two holders",
        fast_keep_alive_without_a_quorum,
        _hunts(LASTS),
    ),
    Mutation(
        "a fast path that gives a request the key of another one",
        "planted",
        fast_put_takes_the_key_before,
        _hunts(f"{ONCE}|{TOLD}|{ORDER}|linearizable histories|{LASTS}"),
    ),
    Mutation(
        "a fast path that leaves a request without an answer",
        "planted",
        fast_read_of_no_key_left_without_an_answer,
        _hunts("every request is answered"),
    ),
)
