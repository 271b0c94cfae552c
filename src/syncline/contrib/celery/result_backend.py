"""Celery's results in the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from kombu.exceptions import EncodeError

from syncline.client import Client
from syncline.contrib.celery.bases import StoreBackendBase
from syncline.contrib.celery.settings import client_for
from syncline.contrib.connection import client_of
from syncline.errors import DeadlineExceeded, Dropped, NoLeader, Rejected, TooLarge, Unreachable

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["ResultBackend"]

PREFIX: Final = b"celery-results/"
SHORTEST_S: Final = 2.0
"""The shortest time that a key can live."""


class ResultBackend(StoreBackendBase):
    """Results, groups and chords: `result_backend = "syncline.contrib.celery:ResultBackend"`.

    A result that is written is on a majority of the nodes, and each reader sees it. It ends after `result_expires`. The
    cluster is that of `syncline_url`, or stands in the setting itself: `"syncline.contrib.celery:ResultBackend+http://…"`.
    """

    supports_autoexpire = True
    persistent = True
    implements_incr = True

    def __init__(self, app: Celery, url: str | None = None, **named: object) -> None:
        super().__init__(app=app, url=url, **named)
        own = url if url and "://" in url else None
        options = app.conf.get("syncline_options")
        self._own_url = own
        self._kv: Client = client_of(own, options, where="Celery's syncline_options") if own else client_for(app)

    def as_uri(self, include_password: bool = False) -> str:
        """The URLs of the cluster, for the banner of a worker. There is no password in them."""
        del include_password
        found = self._own_url or self.app.conf.get("syncline_url") or "syncline"
        return found if isinstance(found, str) else ",".join(found)

    def __reduce__(
        self, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> str | tuple[object, ...]:
        return super().__reduce__(args, {**(kwargs or {}), "url": self._own_url})

    def get(self, key: str | bytes) -> bytes | None:
        """A value, read linearizably; None: there is none, or it has ended."""
        found = self._kv.get(_full(key))
        return None if found is None else found.value

    def mget(self, keys: Iterable[str | bytes]) -> list[bytes | None]:
        """Many values, in the order of the keys."""
        asked = [_full(key) for key in keys]
        found = self._kv.get_many(asked)
        return [found[key].value if key in found else None for key in asked]

    def set(self, key: str | bytes, value: bytes | str) -> None:
        """Write a value, which ends after `result_expires`.

        Raises:
            EncodeError: the value is too large. Celery then stores this error as the result of the task, so that a
                caller that waits for it gets it.
            OperationError: the cluster did not answer, or refused it.
        """
        try:
            self._kv.put(_full(key), value, ttl=self._ttl_s(self.expires), idempotent=True)
        except TooLarge as error:
            raise EncodeError(f"the result can't be stored: {error}") from error

    def delete(self, key: str | bytes) -> None:
        """Delete a value; it is no error if there is none."""
        self._kv.delete(_full(key), idempotent=True)

    def incr(self, key: str | bytes) -> int:
        """Add one to a number, for chords. It counts once, also if it is sent again."""
        return self._kv.increment(_full(key))

    def expire(self, key: str | bytes, value: float) -> None:
        """Let a key end after so many seconds; it is no error if there is none."""
        ttl_s = self._ttl_s(value)
        if ttl_s is None:
            return
        try:
            self._kv.touch(_full(key), ttl_s)
        except Rejected as error:
            if error.code != "not_found":  # another worker has finished the chord meanwhile
                raise

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether Celery may store a result again after this error."""
        return isinstance(exc, DeadlineExceeded | Dropped | NoLeader | Unreachable)

    def _ttl_s(self, seconds: float | None) -> float | None:
        return max(SHORTEST_S, float(seconds)) if seconds else None


def _full(key: str | bytes) -> bytes:
    return PREFIX + (key.encode() if isinstance(key, str) else key)
