"""Blocking calls that read or write many keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import KeyValue, PutResult

__all__ = ["BlockingManyCalls"]


class BlockingManyCalls(PortalObject[AsyncClient]):
    """Read and write many keys."""

    def get_many(self, keys: Iterable[Key], *, timeout: float | None = None) -> dict[bytes, KeyValue]:
        """Read many keys, linearizably. A key that does not exist is not in the result.

            found = kv.get_many(["greeting", "visits"])
            print(found[b"greeting"].value if b"greeting" in found else "no such key")

        Its arguments and errors are those of `AsyncClient.get_many`.
        """
        # A generator of the caller runs in the caller's thread.
        given = keys if isinstance(keys, str | bytes) else list(keys)
        return self._call(lambda kv: kv.get_many(given, timeout=timeout))

    def put_many(
        self,
        values: Mapping[str, bytes | str] | Mapping[bytes, bytes | str],
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> dict[bytes, PutResult]:
        """Write many keys: in order, and not atomically (`txn` is). The result has the revision of each.

            written = kv.put_many({"greeting": "hello", "farewell": "bye"})
            print(written[b"farewell"].revision)

        Its arguments and errors are those of `AsyncClient.put_many`.
        """
        return self._call(lambda kv: kv.put_many(values, ttl=ttl, timeout=timeout))
