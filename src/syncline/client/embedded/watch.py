"""Calls that watch keys: the node's own hub tells the changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from syncline.client.arguments import checked_revision, checked_timeout_s, to_key
from syncline.client.calls import Key
from syncline.client.embedded.calls import EmbeddedCalls
from syncline.client.embedded.errors import client_error, closed
from syncline.client.embedded.results import key_info
from syncline.client.results import KeyEvent, RevisionEvents
from syncline.client.watch import checked_progress_s, watched_keys
from syncline.client.watch_schemas import Watchers
from syncline.errors import NoLeader, OperationError, Outcome, WatchEnded
from syncline.kv.records import Change
from syncline.kv.serving.key_limits import bad_request
from syncline.kv.serving.reads import MAX_REVISION
from syncline.kv.store import prefix_end
from syncline.kv.watch import KeyWatch
from syncline.kv.watch_hub import WatchHub

__all__ = ["EmbeddedWatchCalls"]

PAUSE_S: Final = 0.1
"""Between two looks for a leader."""

EVENT_BYTES: Final = 400
"""What an unread event counts for beside its keys and values."""


class _EventsForm:
    """Changes as events, with the previous records or without."""

    def __init__(self, *, previous: bool) -> None:
        self._previous = previous

    def changes(self, revision: int, changes: Sequence[Change]) -> RevisionEvents:
        return RevisionEvents(revision, tuple(_event(change, previous=self._previous) for change in changes))

    def progress(self, revision: int, *, resumable: bool) -> RevisionEvents:
        del resumable
        return RevisionEvents(revision, ())

    def size_bytes(self, message: RevisionEvents) -> int:
        return sum(EVENT_BYTES + len(event.key) + len(event.value) for event in message.events)


EVENTS: Final = _EventsForm(previous=False)
EVENTS_WITH_PREVIOUS: Final = _EventsForm(previous=True)


class _Wanted(msgspec.Struct, frozen=True):
    """What a watch is of."""

    start: bytes
    end: bytes | None
    form: _EventsForm
    puts: bool
    deletes: bool
    stale: bool


class EmbeddedWatchCalls(EmbeddedCalls):
    """Watch keys. `Store` sets the field."""

    _hub: WatchHub

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
    ) -> AsyncIterator[RevisionEvents]:
        """Watch a key, the keys below a prefix, or those from `start` up to `end`: what changes, revision by revision.

            async for change in store.watch(prefix="", from_revision=1):
                for event in change.events:
                    print(change.revision, event.type, event.key, event.value)
                break  # or go on

        The arguments are those of `AsyncClient.watch`. While this node knows no leader the watch waits, and then goes
        on where it was: no revision is lost, none comes twice, and each is whole. A reader that is too slow for the
        memory that a watch may take goes on from the history.

        At the beginning a leader must be known within the store's timeout. Later the watch waits for one as long as
        `timeout` says (seconds); without it there is no limit.

        Raises:
            RevisionCompacted: the history begins after the revision that is wanted: read the present state, and watch
                from the revision after it. `oldest` has where the history begins.
            NoLeader: no leader was known in time.
            Closed: the store was closed.
            OperationError: the node has stopped itself, or it has too many watches.
            ConfigError, TypeError: an argument can't be used.
        """
        asked = watched_keys(key, prefix, start, end, events)
        first = 0 if from_revision is None else checked_revision(from_revision, "from_revision", 1)
        checked_progress_s(progress)  # of no use without a connection
        patience_s = math.inf if timeout is None else checked_timeout_s(timeout)
        form = EVENTS_WITH_PREVIOUS if prev else EVENTS
        return self._watching(asked, first, patience_s, form, stale=bool(stale))

    async def watchers(self, key: Key, *, timeout: float | None = None) -> Watchers:
        """Count the watches that include a key, and the reads that wait for it, on the node that answers.

            print((await store.watchers("config/size")).watches)

        Those of this store are counted, and no server's. On a log of another engine the node has no name.

        Raises:
            RequestFailed, TooLarge: the key is none.
            ConfigError, TypeError, UsageError: an argument can't be used, or the store is closed.
        """
        self._limit_s(timeout)
        name, embedded = to_key(key), self._embedded
        embedded.limits.check_key(name, "watchers")
        return Watchers(name=embedded.name, watches=self._hub.number_at(name))

    async def _watching(
        self, asked: dict[str, str | bytes | None], revision: int, patience_s: float, form: _EventsForm, *, stale: bool
    ) -> AsyncIterator[RevisionEvents]:
        embedded = self._embedded
        embedded.check()
        first, last = self._range(asked)
        if revision > MAX_REVISION:
            raise bad_request(f"from_revision is {revision}: it must be at most {MAX_REVISION}")
        kinds = asked["events"]
        wanted = _Wanted(first, last, form, kinds != "delete", kinds != "put", stale)
        now_s = embedded.loop.time
        give_up_s = now_s() + embedded.timeout_s
        while True:
            try:
                watch = self._begin(wanted, revision)
            except NoLeader as error:
                if now_s() + PAUSE_S >= give_up_s:
                    raise client_error(error, read=True) from None
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                async for message in _messages(watch):
                    yield message
            finally:
                watch.close()
            assert watch.error is not None
            revision = self._resumed(watch.error)
            give_up_s = now_s() + patience_s

    def _begin(self, wanted: _Wanted, revision: int) -> KeyWatch[RevisionEvents]:
        """Begin the watch. Raises what the hub raises, as a client's errors; `NoLeader` as it is."""
        node = self._embedded.node
        if (failure := node.failure) is not None:
            raise client_error(failure, read=True)
        if self._embedded.is_closed:
            raise closed()
        if not wanted.stale and node.leader() is None:  # the hub's own patience begins with each first watch
            raise NoLeader("this node knows no leader")
        try:
            return self._hub.watch(
                wanted.start,
                wanted.end,
                wanted.form,
                from_revision=revision,
                puts=wanted.puts,
                deletes=wanted.deletes,
                stale=wanted.stale,
            )
        except NoLeader:
            raise
        except WatchEnded:
            raise closed() from None
        except OperationError as error:
            raise client_error(error, read=True) from None

    def _resumed(self, error: OperationError) -> int:
        """The revision to go on from after the hub has ended the watch. Raises if there is no going on."""
        if not isinstance(error, WatchEnded):
            raise client_error(error, read=True)
        if error.code == "closed":
            raise closed(Outcome.NOT_APPLIED)
        return error.resume

    def _range(self, asked: dict[str, str | bytes | None]) -> tuple[bytes, bytes | None]:
        """The keys to watch: from the first one, up to the second."""
        limits = self._embedded.limits
        given = {name: value for name, value in asked.items() if isinstance(value, bytes)}
        for name, value in given.items():
            if len(value) > limits.max_key_bytes:
                limits.check_key(value, name)
        if (key := given.get("key")) is not None:
            return key, key + b"\0"
        if (prefix := given.get("prefix")) is not None:
            return prefix, prefix_end(prefix)
        start, end = given["start"], given.get("end")
        if end is not None and end <= start:
            raise bad_request("end is not above start, so there is no key between them")
        return start, end


async def _messages(watch: KeyWatch[RevisionEvents]) -> AsyncIterator[RevisionEvents]:
    """What a watch is given, until it ends."""
    there_is_more = asyncio.Event()
    watch.start(there_is_more.set)
    while True:
        message = watch.read()
        if message is not None:
            yield message
        elif watch.error is not None:
            return
        else:
            there_is_more.clear()
            await there_is_more.wait()


def _event(change: Change, *, previous: bool) -> KeyEvent:
    record, before = change.record, change.previous
    return KeyEvent(
        "put" if record.version else "delete",
        record.key,
        record.value,
        record.create_revision,
        record.version,
        record.lease,
        key_info(before, values=True) if previous and before is not None else None,
    )
