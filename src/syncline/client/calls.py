"""What the calls of a client are made of: one request, its answer or its error, and the parameters of reads.

Each subject (keys, listings, transactions, the cluster) has a class of its own that inherits `ServerCalls`.
`AsyncClient` inherits them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeAlias

from syncline.client.arguments import checked_consistency, checked_revision, checked_timeout_s, duration_text
from syncline.client.caller import Caller, ClientRequest
from syncline.client.connection import ClientResponse
from syncline.client.gathering import Gathering
from syncline.client.wire import error_from
from syncline.errors import OperationError, Outcome

__all__ = ["JSON_BODY", "Key", "ServerCalls", "as_read", "reading"]

Key: TypeAlias = bytes | str

JSON_BODY: Final = (("Content-Type", "application/json"),)
"""The header fields of a request with a JSON body."""


class CallsWithKeys(Protocol):
    """Sends writes with the keys of a session (`sessions.SessionKeys`, `own_session.OwnSession`)."""

    async def call(self, caller: Caller, request: ClientRequest, timeout_s: float) -> ClientResponse: ...


class ServerCalls:
    """Sends requests through a `Caller`, each within a deadline. `AsyncClient` sets both fields."""

    _caller: Caller
    _timeout_s: float
    """The deadline of calls that give none."""
    _keys: CallsWithKeys | None = None
    """Of a session: its writes have keys."""
    _gathered_reads: Gathering | None = None
    _gathered_writes: Gathering | None = None
    """Operations that are in flight together leave as batches. None: each leaves alone."""

    async def _answer(self, request: ClientRequest, timeout_s: float | None) -> ClientResponse:
        response = await self._call(request, timeout_s, absent_ok=False)
        assert response is not None
        return response

    async def _call(self, request: ClientRequest, timeout_s: float | None, *, absent_ok: bool) -> ClientResponse | None:
        limit_s = self._limit_s(timeout_s)
        keys = self._keys
        response = await (
            self._caller.call(request, limit_s) if keys is None else keys.call(self._caller, request, limit_s)
        )
        if response.status < 300:
            return response
        error = error_from(response)
        if absent_ok and error.code == "not_found":
            return None
        raise error

    def _limit_s(self, timeout_s: float | None) -> float:
        """The time of one call. Raises `ConfigError` or `TypeError`."""
        return self._timeout_s if timeout_s is None else checked_timeout_s(timeout_s)

    async def _alone(
        self, gathering: Gathering | None, request: ClientRequest, timeout_s: float | None
    ) -> ClientResponse:
        """`_answer` for an operation that leaves alone: what comes meanwhile is gathered."""
        if gathering is None:
            return await self._answer(request, timeout_s)
        gathering.begin_alone()
        try:
            return await self._answer(request, timeout_s)
        finally:
            gathering.end_alone()


@contextmanager
def as_read() -> Iterator[None]:
    """Errors of a read: whatever a gateway says of the outcome, a read has taken no effect."""
    try:
        yield
    except OperationError as error:
        error.outcome = Outcome.NOT_APPLIED
        raise


def reading(
    consistency: str | None, max_stale_s: float | None, revision: int | None = None
) -> dict[str, str | bytes | None]:
    """The parameters for the consistency and revision of a read. Raises `ConfigError` or `TypeError`."""
    limit = None if max_stale_s is None else duration_text(checked_timeout_s(max_stale_s, "max_stale_s"))
    return {
        "consistency": None if consistency is None else checked_consistency(consistency),
        "max_stale": limit,
        "revision": None if revision is None else str(checked_revision(revision, "revision", 1)),
    }
