"""Bugs of watches: what users of other systems have met, planted into the hub and into the client."""

from __future__ import annotations

import pytest

from syncline.client import watch
from syncline.client.caller import ClientRequest
from syncline.kv.store import KeyStore
from syncline.kv.watch import LIVE, KeyWatch, WatchForm
from syncline.kv.watch_hub import WatchHub

__all__ = [
    "client_resumes_one_revision_late",
    "event_twice_after_a_snapshot_install",
    "events_lost_at_a_snapshot_install",
    "future_watch_told_of_the_past",
    "missed_event_on_reconnect",
]


def missed_event_on_reconnect(patch: pytest.MonkeyPatch) -> None:
    """A watch that is one revision behind is taken for one that is up to date."""
    original = WatchHub._join

    def join(self: WatchHub, watch: KeyWatch[object]) -> None:
        if watch.next == self._next - 1:
            watch.next = self._next
        original(self, watch)

    patch.setattr(WatchHub, "_join", join)


def client_resumes_one_revision_late(patch: pytest.MonkeyPatch) -> None:
    """After a lost connection the client asks for the revision after the one that it needs."""
    original = watch._request

    def request(parameters: dict[str, str | bytes | None]) -> ClientRequest:
        first = parameters["from"]
        if isinstance(first, str):
            parameters = {**parameters, "from": str(int(first) + 1)}
        return original(parameters)

    patch.setattr(watch, "_request", request)


def events_lost_at_a_snapshot_install(patch: pytest.MonkeyPatch) -> None:
    """Watches go on with what comes after the installed state."""
    original = WatchHub._look_at_store

    def look(self: WatchHub) -> KeyStore:
        before = self._known
        store = original(self)
        if before is not None and store is not before:
            self._next = store.revision + 1
        return store

    patch.setattr(WatchHub, "_look_at_store", look)


def event_twice_after_a_snapshot_install(patch: pytest.MonkeyPatch) -> None:
    """A watch begins with the installed history again."""
    original = WatchHub._look_at_store

    def look(self: WatchHub) -> KeyStore:
        before = self._known
        store = original(self)
        if before is not None and store is not before and self._live:
            self._next = min(self._next, max(store.oldest, 1))
            for watch in self._watches:
                if watch.phase == LIVE:
                    watch.next = min(watch.next, self._next)
        return store

    patch.setattr(WatchHub, "_look_at_store", look)


def future_watch_told_of_the_past(patch: pytest.MonkeyPatch) -> None:
    """A watch from a revision that is still to come begins with the next one."""
    original = WatchHub.watch

    def begin(
        self: WatchHub, start: bytes, end: bytes | None, form: WatchForm[object], **more: object
    ) -> KeyWatch[object]:
        made = original(self, start, end, form, **more)  # type: ignore[arg-type]
        made.next = min(made.next, self._store().revision + 1)
        return made

    patch.setattr(WatchHub, "watch", begin)
