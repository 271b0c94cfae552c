"""Blocking watches."""

from __future__ import annotations

from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import RevisionEvents
from syncline.client.watch_schemas import Watchers

__all__ = ["BlockingWatchCalls"]


class BlockingWatchCalls(PortalObject[AsyncClient]):
    """Watch keys."""

    def watch(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        from_revision: int | None = None,
        events: str | None = None,
        prev: bool = False,
        stale: bool = False,
        progress: float | None = None,
        timeout: float | None = None,
    ) -> PortalIterator[RevisionEvents]:
        """Watch a key, the keys below a prefix, or those from `start` up to `end`: what changes, revision by revision.

            for change in kv.watch(prefix="", from_revision=1):
                for event in change.events:
                    print(change.revision, event.type, event.key, event.value)
                break  # or go on

        Its arguments and errors are those of `AsyncClient.watch`.
        """
        return self._iterate(
            lambda kv: kv.watch(
                key,
                prefix=prefix,
                start=start,
                end=end,
                from_revision=from_revision,
                events=events,
                prev=prev,
                stale=stale,
                progress=progress,
                timeout=timeout,
            )
        )

    def watchers(self, key: Key, *, timeout: float | None = None) -> Watchers:
        """Count the watches that include a key, and the reads that wait for it, on the node that answers.

            print(kv.watchers("config/size").watches)

        Its arguments and errors are those of `AsyncClient.watchers`.
        """
        return self._call(lambda kv: kv.watchers(key, timeout=timeout))
