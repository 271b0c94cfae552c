"""Sessions of a blocking client: writes that take effect exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from syncline.client.blocking.portal import PortalObject
from syncline.client.blocking.process import PortalProcess
from syncline.client.client import AsyncClient

__all__ = ["BlockingSessionCalls"]


class BlockingSessionCalls(PortalObject[AsyncClient]):
    """Sessions."""

    @contextmanager
    def session(self, *, timeout: float | None = None) -> Iterator[Self]:
        """Open a session: a client like this one, whose writes take effect exactly once (docs/exactly-once.md).

            with kv.session() as once:
                once.put("order/7", "paid")

        It belongs to this process: in a forked child its calls are a `UsageError`.

        Its arguments and errors are those of `AsyncClient.session`.
        """
        process = self._portal.process
        with self._scope(lambda kv: kv.session(timeout=timeout), "the session") as opened:
            yield self._like(lambda: _held(opened, process, self._portal.process))


def _held(opened: AsyncClient, process: PortalProcess, now: PortalProcess) -> AsyncClient:
    process.check(now, "the session")
    return opened
