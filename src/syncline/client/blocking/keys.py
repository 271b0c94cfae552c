"""Blocking calls about single keys."""

from __future__ import annotations

from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import DeleteResult, KeyValue, PutResult

__all__ = ["BlockingKeyCalls"]


class BlockingKeyCalls(PortalObject[AsyncClient]):
    """Read, write and delete one key."""

    def get(
        self,
        key: Key,
        *,
        revision: int | None = None,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Read a key, or what it was at a past revision; None if there is no such key, or was none.

            found = kv.get("greeting")
            print(found.value if found is not None else "no such key")

        Its arguments and errors are those of `AsyncClient.get`.
        """
        return self._call(
            lambda kv: kv.get(key, revision=revision, consistency=consistency, max_stale_s=max_stale_s, timeout=timeout)
        )

    def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        ttl: float | None = None,
        lease: str | int | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write a key, with at most one condition.

            written = kv.put("greeting", "hello")
            kv.put("greeting", "good day", if_revision=written.revision)
            kv.put("session/7", "open", ttl=30)

        Its arguments and errors are those of `AsyncClient.put`.
        """
        return self._call(
            lambda kv: kv.put(
                key,
                value,
                if_revision=if_revision,
                if_absent=if_absent,
                if_present=if_present,
                ttl=ttl,
                lease=lease,
                idempotent=idempotent,
                timeout=timeout,
            )
        )

    def delete(
        self, key: Key, *, if_revision: int | None = None, idempotent: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete a key; it is no error if there is none. `idempotent` as in `put`.

            print(kv.delete("greeting").deleted)

        Its arguments and errors are those of `AsyncClient.delete`.
        """
        return self._call(lambda kv: kv.delete(key, if_revision=if_revision, idempotent=idempotent, timeout=timeout))
