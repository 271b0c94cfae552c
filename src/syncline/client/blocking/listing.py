"""Blocking calls about many keys: pages, whole listings, counts."""

from __future__ import annotations

from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import KeyInfo, KeyPage
from syncline.client.scanning import PAGE_LIMIT

__all__ = ["BlockingListingCalls"]


class BlockingListingCalls(PortalObject[AsyncClient]):
    """List and count keys."""

    def list(
        self,
        prefix: Key = b"",
        *,
        after: str | None = None,
        limit: int = PAGE_LIMIT,
        values: bool = False,
        reverse: bool = False,
        revision: int | None = None,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyPage:
        """Read one page of keys in their order (as bytes), all of one revision. `after` is a page's `next`.

            page = kv.list("users/", limit=100)
            print([item.key for item in page.items])

        Its arguments and errors are those of `AsyncClient.list`.
        """
        return self._call(
            lambda kv: kv.list(
                prefix,
                after=after,
                limit=limit,
                values=values,
                reverse=reverse,
                revision=revision,
                consistency=consistency,
                max_stale_s=max_stale_s,
                timeout=timeout,
            )
        )

    def scan(
        self,
        prefix: Key = b"",
        *,
        values: bool = False,
        reverse: bool = False,
        page: int = PAGE_LIMIT,
        revision: int | None = None,
        consistent: bool = True,
        consistency: str | None = None,
        timeout: float | None = None,
    ) -> PortalIterator[KeyInfo]:
        """Read all keys below a prefix, page by page while they are consumed, as they were at one revision.

            for item in kv.scan("users/", values=True):
                print(item.key, item.value)

        Its arguments and errors are those of `AsyncClient.scan`.
        """
        return self._iterate(
            lambda kv: kv.scan(
                prefix,
                values=values,
                reverse=reverse,
                page=page,
                revision=revision,
                consistent=consistent,
                consistency=consistency,
                timeout=timeout,
            )
        )

    def count(
        self,
        prefix: Key = b"",
        *,
        revision: int | None = None,
        consistency: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Count the keys below a prefix, now or at a past revision.

            print(kv.count("users/"))

        Its arguments and errors are those of `AsyncClient.count`.
        """
        return self._call(lambda kv: kv.count(prefix, revision=revision, consistency=consistency, timeout=timeout))
