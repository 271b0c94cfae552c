"""A whole listing, page by page: for a client, and for an embedded node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from syncline.client.calls import Key
from syncline.client.results import KeyInfo, KeyPage

__all__ = ["PAGE_LIMIT", "Scans"]

PAGE_LIMIT: Final = 1000
"""Keys per page of a scan. Pages end earlier if values are large."""


class Scans(ABC):  # noqa: B024 - its abstract methods are for type checkers
    """Whole listings, of pages that the class that inherits it gets."""

    if TYPE_CHECKING:

        @abstractmethod
        async def list(
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
        ) -> KeyPage: ...

    async def scan(
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
    ) -> AsyncIterator[KeyInfo]:
        """Read all keys below a prefix, page by page while they are consumed, as they were at one revision.

            async for item in kv.scan("users/", values=True):
                print(item.key, item.value)

        The revision is the first page's, or `revision`. Each page is a read with its own deadline. With
        `consistent=False` each page has the keys of its own moment: compaction never ends such a scan.

        Raises:
            Rejected: the revision was compacted, before or meanwhile: code `compacted`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        after = None
        while True:
            part = await self.list(
                prefix,
                after=after,
                limit=page,
                values=values,
                reverse=reverse,
                revision=revision,
                consistency=consistency,
                timeout=timeout,
            )
            if consistent and revision is None:
                revision = part.revision or None
            for item in part.items:
                yield item
            after = part.next
            if after is None:
                return
