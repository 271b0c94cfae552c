"""Calls about many keys: pages, whole listings, counts."""

from __future__ import annotations

from syncline.client.arguments import checked_limit, checked_text, to_bytes
from syncline.client.caller import ClientRequest
from syncline.client.calls import Key, ServerCalls, as_read, reading
from syncline.client.results import KeyPage
from syncline.client.scanning import PAGE_LIMIT, Scans
from syncline.client.wire import key_page

__all__ = ["ListingCalls"]


class ListingCalls(ServerCalls, Scans):
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

            page = await kv.list("users/", limit=100)
            print([item.key for item in page.items])

        `revision`: the page as it was then. With the `revision` of the first page all pages fit together.

        Raises:
            Rejected: the revision was compacted: code `compacted`, and the oldest readable one in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        parameters: dict[str, str | bytes | None] = {
            "prefix": to_bytes(prefix, "prefix") or None,
            "after": None if after is None else checked_text(after, "after"),
            "limit": str(checked_limit(limit, "limit")),
            "values": "base64" if values else None,
            "reverse": "true" if reverse else None,
            **reading(consistency, max_stale_s, revision),
        }
        request = ClientRequest(method="GET", target="/keys", parameters=parameters, idempotent=True)
        with as_read():
            return key_page(await self._answer(request, timeout))

    async def count(
        self,
        prefix: Key = b"",
        *,
        revision: int | None = None,
        consistency: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Count the keys below a prefix, now or at a past revision.

            print(await kv.count("users/"))

        Raises:
            Rejected: the revision was compacted: code `compacted`, and the oldest readable one in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        parameters = {
            "prefix": to_bytes(prefix, "prefix") or None,
            "count": "true",
            **reading(consistency, None, revision),
        }
        request = ClientRequest(method="GET", target="/keys", parameters=parameters, idempotent=True)
        with as_read():
            return key_page(await self._answer(request, timeout)).count
