"""A client of a fake node, for tests of the words of coordination."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from syncline.client import AsyncClient
from tests.helpers.site_server import SiteServer

__all__ = ["client_of_site"]


@asynccontextmanager
async def client_of_site(*, max_value_bytes: int = 10_000) -> AsyncIterator[tuple[AsyncClient, SiteServer]]:
    """A client, and the server behind it: the real routes and state machine, on one node without a clock."""
    async with SiteServer(max_value_bytes=max_value_bytes) as site, AsyncClient(site.url) as kv:
        yield kv, site
