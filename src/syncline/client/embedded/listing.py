"""Calls about many keys: pages, whole listings, counts."""

from __future__ import annotations

from syncline.client.arguments import checked_limit, checked_text, to_bytes
from syncline.client.calls import Key
from syncline.client.embedded.calls import EmbeddedCalls, read_plan
from syncline.client.embedded.results import key_info
from syncline.client.results import KeyPage
from syncline.client.scanning import PAGE_LIMIT, Scans
from syncline.kv.serving.key_limits import bad_request
from syncline.kv.serving.pages import MAX_LIMIT, PageWanted, decode_cursor, page_items
from syncline.kv.store import KeyStore

__all__ = ["EmbeddedListingCalls"]


class EmbeddedListingCalls(EmbeddedCalls, Scans):
    """List and count keys."""

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
    ) -> KeyPage:
        """Read one page of keys in their order (as bytes), all of one revision. `after` is a page's `next`.

            page = await store.list("users/", limit=100)
            print([item.key for item in page.items])

        The arguments and errors are those of `AsyncClient.list`.

        Raises:
            Rejected: the revision was compacted: code `compacted`, and the oldest readable one in `details`.
            DeadlineExceeded: it could not be confirmed in time.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used.
        """
        first = to_bytes(prefix, "prefix")
        behind = None if after is None else checked_text(after, "after")
        if checked_limit(limit, "limit") > MAX_LIMIT:
            raise bad_request(f"limit is {limit}: it must be at most {MAX_LIMIT}")
        plan = read_plan(consistency, max_stale_s, revision, self._limit_s(timeout))
        place = decode_cursor(None if behind is None else behind.encode()) or None
        wanted = PageWanted(first, place, limit, bool(values), bool(reverse), revision=plan.revision)

        def look(store: KeyStore) -> KeyPage:
            page = wanted.read(store)
            items, cursor = page_items(page, values=wanted.values)
            found = tuple(key_info(record, values=wanted.values) for record in items)
            return KeyPage(page.revision, found, page.count, cursor)

        return await self._read(look, plan)

    async def count(
        self,
        prefix: Key = b"",
        *,
        revision: int | None = None,
        consistency: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Count the keys below a prefix, now or at a past revision.

            print(await store.count("users/"))

        Raises:
            Rejected: the revision was compacted: code `compacted`, and the oldest readable one in `details`.
            DeadlineExceeded: it could not be confirmed in time.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used.
        """
        first = to_bytes(prefix, "prefix")
        plan = read_plan(consistency, None, revision, self._limit_s(timeout))
        wanted = PageWanted(first, None, 1, values=False, count_only=True, revision=plan.revision)
        return await self._read(lambda store: wanted.read(store).count, plan)
