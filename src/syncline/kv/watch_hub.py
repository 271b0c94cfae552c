"""Watches of the store: what changes from a revision on, in order, each revision once and whole.

The hub reads the store's history (`KeyStore.changes`); nothing is copied while a command is applied. It keeps one place
in the history for all watches that are up to date: each change is looked up in an index, made into a message once per
form, and given to the watches that it concerns. Watches that begin in the past catch up together in a round: one pass
over the history from the oldest of their revisions. A watch whose reader is slow leaves the round, and joins another
one when its messages were read; so it is never cut off while it catches up.

| phase of a watch | is given | leaves by |
| --- | --- | --- |
| new | nothing: its reader is not there yet | `start` |
| waiting | nothing: the next round takes it | the next round |
| in a round | what the round passes | the end of the round: live; messages unread: full |
| full | nothing, until its reader has read all | `read` |
| live | each revision, soon after it is applied | its end |
| ended | nothing; what it was given can be read, then `error` | |

Invariants: a message of revision N is given to a watch at most once, and only if the watch asked for N or before; when
it is given, each revision before N that concerns the watch was given. A live watch that begins in the future is given
nothing before its revision.

Everything runs on one event loop, that of the node, where the state machine is applied.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final, TypeVar, cast

from syncline.errors import LimitReached, NoLeader, OperationError, RevisionCompacted, WatchEnded
from syncline.kv.records import Change
from syncline.kv.store import KeyStore
from syncline.kv.watch import ENDED, FULL, IN_ROUND, LIVE, WAITING, KeyWatch, WatchForm, WatchLimits
from syncline.kv.watch_clock import WatchClock
from syncline.kv.watch_index import WatchIndex
from syncline.node.futures import ReadFuture

__all__ = ["WatchHub"]

KIB: Final = 1024

SLICE_CHANGES: Final = 1000
"""Changes that are looked at in one turn of the event loop: one or two milliseconds."""
SLICE_BYTES: Final = 64 * KIB
"""Bytes of messages that are made in one turn; one message may be larger. A reader takes as much in a turn
(`server/http/stream.py`), so a quick one is never behind."""
AT_ONCE_WATCHES: Final = 2000
"""With more live watches what is new is given in a later turn. A change may concern all of them, and the client that
has made it waits meanwhile for its acknowledgement: some 10 µs for each."""
FULL_BYTES: Final = 64 * KIB
"""Unread messages of a watch that catches up: with more it waits until they were read."""

Message = TypeVar("Message")

logger: logging.Logger = logging.getLogger("syncline.kv")


class WatchHub:
    """All watches of one node.

    `store`: the state as applied here; it may be replaced as a whole. `has_leader`: whether the node knows a leader.
    `confirm`: a read that a quorum confirms (`Raft.read_index`). Call `changed` after each change of the store, on the
    event loop: a state machine restores snapshots on another thread.
    """

    def __init__(
        self,
        store: Callable[[], KeyStore],
        *,
        has_leader: Callable[[], bool],
        confirm: Callable[[float], ReadFuture],
        election_s: float,
        limits: WatchLimits | None = None,
    ) -> None:
        self._store = store
        self._clock = WatchClock(
            has_leader=has_leader,
            confirm=confirm,
            election_s=election_s,
            leaderless=self._end_leaderless,
            confirmed=self._is_confirmed,
        )
        self.limits: WatchLimits = limits or WatchLimits()
        self._watches: dict[KeyWatch[object], None] = {}
        self._counts: Counter[tuple[str, Hashable]] = Counter()
        """Watches of each owner, user and group."""
        self._live: WatchIndex[KeyWatch[object]] = WatchIndex()
        self._next = 0
        """The next revision that the live watches are given."""
        self._known: KeyStore | None = None
        """The store as it was looked at last, while there are watches."""
        self._seen = 0
        """Its revision then."""
        self._waiting: dict[KeyWatch[object], None] = {}
        self._round: WatchIndex[KeyWatch[object]] = WatchIndex()
        self._round_next = 0
        self._scheduled = False
        self._closed = False
        self.given: Callable[[], None] = _nothing
        """Called when watches were given what a change of the store brought: what they were given can be sent, so that
        it leaves together with the acknowledgement of the change. It must not call the hub or the state machine."""
        self._confirmed: tuple[int, float] | None = None
        """A revision that a quorum has confirmed as the present one, and when it was asked."""
        self.unread_bytes: int = 0
        """What all unread messages count for. A message that several watches share counts for each."""
        self.sent: int = 0
        """Changes given to watches."""
        self.cut_off: int = 0
        """Watches that were ended because their readers were too slow."""

    def __len__(self) -> int:
        return len(self._watches)

    @property
    def passed(self) -> int:
        """The revision up to which the live watches were given all that concerns them."""
        return self._next - 1 if self._live else self._store().revision

    def watch(
        self,
        start: bytes,
        end: bytes | None,
        form: WatchForm[Message],
        *,
        from_revision: int = 0,
        puts: bool = True,
        deletes: bool = True,
        stale: bool = False,
        progress_s: float = 0.0,
        owner: Hashable | None = None,
        user: str = "",
        group: str = "",
    ) -> KeyWatch[Message]:
        """Watch the keys in `[start, end)` from a revision on, inclusive; 0: the next one. Call `start` to begin.

        `stale`: go on while no leader is known. `progress_s`: seconds between progress marks (0: none). `owner`: its
        watches are limited together, and so are those of a `user`. `group`: such as the clients of one address, which
        have as many watches as are free, so half of all at most; each newcomer gets some.

        Raises:
            RevisionCompacted: the history begins after `from_revision`.
            LimitReached: there are too many watches already.
            NoLeader: this node has known no leader for two election timeouts, and `stale` was not given.
            WatchEnded: the node is closing (code `closed`).
        """
        store = self._store()
        revision = from_revision or store.revision + 1
        if self._closed:
            raise WatchEnded("this node is closing: watch on another one", code="closed", resume=revision)
        if revision < store.oldest:
            raise _compacted(revision, store.oldest)
        if not stale and self._clock.is_leaderless:
            raise NoLeader("this node has known no leader for two election timeouts: watch on another one")
        self._check_limits(owner, user, group)
        watch = KeyWatch(self, start, end, form)
        watch.next = revision
        watch.puts, watch.deletes, watch.stale = puts, deletes, stale
        watch.progress_s = progress_s
        names: tuple[tuple[str, Hashable], ...] = (("owner", owner), ("user", user), ("group", group))
        watch.counted = tuple((kind, name) for kind, name in names if name not in {None, ""})
        self._watches[cast("KeyWatch[object]", watch)] = None
        self._counts.update(watch.counted)
        self._clock.start()
        return watch

    def number_at(self, key: bytes) -> int:
        """How many watches include a key, whatever changes they want, and however far they are.

        One that has ended is none, though its reader may not know yet.
        """
        if len(self._live) == len(self._watches):
            return len(self._live.at(key))
        return sum(
            watch.start_key <= key and (watch.end is None or key < watch.end) and watch.phase != ENDED
            for watch in self._watches
        )

    def changed(self) -> None:
        """Give the watches what is new: the store has changed, or was replaced.

        A slice is given at once, so that a client hears of a change when it is acknowledged. The rest, and what watches
        that catch up are given, comes in later turns of the loop. It raises nothing: commands are applied around it.
        """
        if not self._watches or self._scheduled or self._closed:
            return
        if len(self._live) > AT_ONCE_WATCHES:
            self._schedule()
            return
        try:
            store = self._look_at_store()
            if self._next <= store.revision:
                self._next = self._pass_on(self._live, store, self._next, store.revision)
                self.given()
            if self._has_work(store):
                self._schedule()
        except Exception:
            logger.exception("watches could not be told of a change")

    def close(self) -> None:
        """End all watches with `closed`, and take no more."""
        self._closed = True
        for watch in tuple(self._watches):
            self._end(watch, "closed", "this node is closing")
        self._stop()

    def check(self) -> None:
        """Assert the invariants; for tests."""
        self._live.check()
        self._round.check()
        phases = Counter(watch.phase for watch in self._watches)
        assert phases[LIVE] == len(self._live)
        assert phases[IN_ROUND] == len(self._round)
        assert phases[WAITING] == len(self._waiting)
        assert self.unread_bytes == sum(watch.unread_bytes for watch in self._watches)
        assert +self._counts == Counter(one for watch in self._watches for one in watch.counted)
        assert all((watch.phase == ENDED) == (watch.error is not None) for watch in self._watches)

    # --- the watches' side

    def begin(self, watch: KeyWatch[Message]) -> None:
        """Give a watch what it asks for from now on: its reader is there."""
        self._look_at_store()
        if watch.progress_s:
            self._clock.mark_later(cast("KeyWatch[object]", watch))
        self._join(cast("KeyWatch[object]", watch))

    def go_on(self, watch: KeyWatch[Message]) -> None:
        """Catch up further: its reader has read all."""
        self._look_at_store()
        if watch.phase == FULL:
            self._join(cast("KeyWatch[object]", watch))

    def _position_of(self, watch: KeyWatch[object]) -> int:
        """From which revision on a watch was not given what concerns it."""
        if watch.phase == LIVE:
            return max(watch.next, self._next)
        if watch.phase == IN_ROUND:
            return max(watch.next, self._round_next)
        return watch.next

    def forget(self, closed: KeyWatch[Message]) -> None:
        """Give a watch nothing any more."""
        watch = cast("KeyWatch[object]", closed)
        if watch not in self._watches:
            return
        self._leave(watch)
        watch.phase = ENDED
        self._clock.forget(watch)
        del self._watches[watch]
        for counted in watch.counted:
            self._counts[counted] -= 1
            if not self._counts[counted]:
                del self._counts[counted]
        if not self._watches:
            self._stop()

    # --- inside: what the watches are given

    def _join(self, watch: KeyWatch[object]) -> None:
        if watch.next >= self._next:
            watch.phase = LIVE
            self._live.add(watch.start_key, watch.end, watch)
        else:
            watch.phase = WAITING
            self._waiting[watch] = None
            self._schedule()

    def _leave(self, watch: KeyWatch[object]) -> None:
        """Take a watch out of what it is in."""
        watch.next = self._position_of(watch)
        if watch.phase == LIVE:
            self._live.remove(watch.start_key, watch.end, watch)
        elif watch.phase == IN_ROUND:
            self._round.remove(watch.start_key, watch.end, watch)
        elif watch.phase == WAITING:
            del self._waiting[watch]

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        """Give the watches a slice of what is new to them."""
        self._scheduled = False
        if not self._watches or self._closed:
            return
        store = self._look_at_store()
        if self._next <= store.revision:
            self._next = self._pass_on(self._live, store, self._next, store.revision)
        if self._waiting and not self._round:
            self._begin_round()
        if self._round:
            self._go_on_with_round(store)
        self._mark_progress()
        if self._has_work(store):
            self._schedule()

    def _has_work(self, store: KeyStore) -> bool:
        return bool(self._next <= store.revision or self._round or self._waiting)

    def _look_at_store(self) -> KeyStore:
        """The store as it is now. What the watches can't be given any more ends them."""
        store = self._store()
        if self._known is not None and store is not self._known and store.revision < self._seen:
            self._went_back(store)
        if not self._live:
            self._next = store.revision + 1
        elif self._next < store.oldest:
            self._compacted_below(self._live, store.oldest)
            self._next = store.oldest
        self._known, self._seen = store, store.revision
        return store

    def _went_back(self, store: KeyStore) -> None:
        """An older store has taken the place of a newer one: what watches were given may be no part of its history."""
        for watch in tuple(self._watches):
            if self._position_of(watch) <= self._seen + 1:
                self._fail(watch, _compacted(watch.next, store.oldest))
        self._next = store.revision + 1

    def _compacted_below(self, index: WatchIndex[KeyWatch[object]], oldest: int) -> None:
        for watch in index.items():
            if (revision := self._position_of(watch)) < oldest:
                self._fail(watch, _compacted(revision, oldest))

    def _begin_round(self) -> None:
        self._round_next = min(watch.next for watch in self._waiting)
        for watch in self._waiting:
            watch.phase = IN_ROUND
            self._round.add(watch.start_key, watch.end, watch)
        self._waiting = {}

    def _go_on_with_round(self, store: KeyStore) -> None:
        """Pass over a slice of the history; at its end the watches of the round are live."""
        if self._round_next < store.oldest:
            self._compacted_below(self._round, store.oldest)
            self._round_next = store.oldest
        if self._round_next < self._next:
            self._round_next = self._pass_on(self._round, store, self._round_next, self._next - 1)
        if self._round_next < self._next:
            return
        for watch in self._round.items():
            self._leave(watch)
            self._join(watch)

    def _pass_on(self, index: WatchIndex[KeyWatch[object]], store: KeyStore, revision: int, last: int) -> int:
        """Give the watches of an index the changes from a revision on, up to `last` at most; return the next one."""
        left_changes, left_bytes = SLICE_CHANGES, SLICE_BYTES
        for current, changes in store.changes(revision, last):
            left_bytes -= self._tell(index, current, changes)
            left_changes -= len(changes)
            if left_changes <= 0 or left_bytes <= 0:
                return current + 1
        return last + 1

    def _tell(self, index: WatchIndex[KeyWatch[object]], revision: int, changes: list[Change]) -> int:
        """Give the changes of one revision to the watches that they concern; return the bytes that were made."""
        if len(changes) == 1:
            return self._tell_one(index, revision, changes)
        chosen: dict[KeyWatch[object], list[int]] = {}
        for place, change in enumerate(changes):
            is_put = change.record.version > 0
            for watch in index.at(change.record.key):
                if revision >= watch.next and (watch.puts if is_put else watch.deletes):
                    chosen.setdefault(watch, []).append(place)
        made: dict[tuple[WatchForm[object], tuple[int, ...]], tuple[object, int]] = {}
        made_bytes = 0
        for watch, places in chosen.items():
            form, key = watch.form, (watch.form, tuple(places))
            if key not in made:
                message = form.changes(revision, [changes[place] for place in places])
                made[key] = message, form.size_bytes(message)
                made_bytes += made[key][1]
            self._give(watch, revision, *made[key], len(places))
        return made_bytes

    def _tell_one(self, index: WatchIndex[KeyWatch[object]], revision: int, changes: list[Change]) -> int:
        """`_tell` for a revision of one change, as most have."""
        record = changes[0].record
        is_put = record.version > 0
        made: dict[WatchForm[object], tuple[object, int]] = {}
        made_bytes = size_bytes = 0
        form: WatchForm[object] | None = None
        message: object = None
        for watch in index.at(record.key):
            if revision < watch.next or not (watch.puts if is_put else watch.deletes):
                continue
            if watch.form is not form:  # most watches have that of the one before
                form = watch.form
                if form not in made:
                    message = form.changes(revision, changes)
                    made[form] = message, form.size_bytes(message)
                    made_bytes += made[form][1]
                message, size_bytes = made[form]
            self._give(watch, revision, message, size_bytes, 1)
        return made_bytes

    def _give(self, watch: KeyWatch[object], revision: int, message: object, size_bytes: int, count: int) -> None:
        assert revision >= watch.next, "a watch is given no revision twice, and none before its first"
        unread_bytes = watch.unread_bytes
        if (
            unread_bytes
            and watch.phase == LIVE
            and (
                unread_bytes + size_bytes > self.limits.max_unread_bytes
                or self._is_above_share(unread_bytes + size_bytes, size_bytes)
            )
        ):
            self._cut_off(watch)
            return
        watch.next = revision + 1
        self.sent += count
        watch.give(revision, message, size_bytes)
        if watch.phase == IN_ROUND and (watch.unread_bytes > FULL_BYTES or self._is_above_share(watch.unread_bytes, 0)):
            self._round.remove(watch.start_key, watch.end, watch)
            watch.phase = FULL

    def _is_above_share(self, unread_bytes: int, more_bytes: int) -> bool:
        """Whether a watch with so many unread bytes holds more than its share, while all together have no room.

        Watches within their share go on: clients that don't read can't have those of others cut off.
        """
        limit_bytes = self.limits.max_total_unread_bytes
        return self.unread_bytes + more_bytes > limit_bytes and unread_bytes > limit_bytes // len(self._watches)

    # --- inside: how watches end

    def _cut_off(self, watch: KeyWatch[object]) -> None:
        self.cut_off += 1
        resume, unread_bytes = watch.first_unread, watch.unread_bytes
        watch.drop()
        self._end(watch, "slow_watcher", f"its client reads too slowly ({unread_bytes} bytes wait)", resume)

    def _end_leaderless(self) -> None:
        for watch in tuple(self._watches):
            if not watch.stale:
                self._end(watch, "no_leader", "this node has known no leader for two election timeouts")

    def _end(self, watch: KeyWatch[object], code: str, why: str, resume: int = 0) -> None:
        resume = resume or self._position_of(watch)
        message = f"the watch has ended: {why}; watch again from revision {resume}"
        self._fail(watch, WatchEnded(message, code=code, resume=resume))

    def _fail(self, watch: KeyWatch[object], error: OperationError) -> None:
        if watch.phase != ENDED:
            self._leave(watch)
            watch.fail(error)

    @property
    def most_user_watches(self) -> int:
        """The watches of the user that has most."""
        return max((count for (kind, _), count in self._counts.items() if kind == "user"), default=0)

    def _check_limits(self, owner: Hashable | None, user: str, group: str) -> None:
        limits = self.limits
        if len(self._watches) >= limits.max_watches:
            raise LimitReached(f"this node has {limits.max_watches} watches already; use another node")
        if owner is not None and self._counts["owner", owner] >= limits.max_owner_watches:
            raise LimitReached(f"this connection has {limits.max_owner_watches} watches already")
        if user and self._counts["user", user] >= limits.max_user_watches:
            raise LimitReached(f"the user {user} has {limits.max_user_watches} watches on this node already")
        if group and (held := self._counts["group", group]) >= limits.max_watches - len(self._watches):
            raise LimitReached(
                f"the clients of {group} have {held} watches here, and the rest is for others: use another node"
            )

    # --- inside: time

    def _stop(self) -> None:
        """There are no watches any more."""
        self._clock.stop()
        self._known = self._confirmed = None

    def _is_confirmed(self, asked_s: float) -> None:
        self._confirmed = self._store().revision, asked_s
        if self._watches:
            self._schedule()

    def _mark_progress(self) -> None:
        """Send the marks that are due, if the live watches were given all that a quorum has confirmed."""
        if self._confirmed is None or self._next <= self._confirmed[0]:
            return
        (_, asked_s), self._confirmed = self._confirmed, None
        revision = self._next - 1
        made: dict[tuple[WatchForm[object], bool], object] = {}
        for watch in self._clock.take_due(asked_s):
            if watch.phase == ENDED:
                continue
            self._clock.mark_later(watch)
            if watch.phase != LIVE or watch.unread_bytes:
                continue  # it will be told when it has read what it was given
            form, resumable = watch.form, watch.next <= revision + 1
            if (form, resumable) not in made:
                made[form, resumable] = form.progress(revision, resumable=resumable)
            message = made[form, resumable]
            watch.give(max(watch.next, revision + 1), message, form.size_bytes(message))


def _nothing() -> None:
    pass


def _compacted(revision: int, oldest: int) -> RevisionCompacted:
    return RevisionCompacted(
        f"revision {revision} was compacted: the oldest that can be watched from is {oldest}", oldest=oldest
    )
