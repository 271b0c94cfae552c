"""Celery beat of which one runs at a time, and whose schedule survives its host."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from celery import beat
from celery.utils import uuid
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError as BrokerError

from syncline.client import BlockingLock, Client
from syncline.contrib.celery.bases import SchedulerBase
from syncline.contrib.celery.schedule_state import EntryState, ScheduleState
from syncline.contrib.celery.settings import client_for, number_setting
from syncline.contrib.connection import checked_name
from syncline.errors import DeadlineExceeded, LockLost, OperationError, SynclineError, TooLarge

if TYPE_CHECKING:
    from celery import Celery
    from celery.result import AsyncResult

__all__ = ["RUN_HEADER", "Scheduler"]

RUN_HEADER: Final = "syncline_run"
"""Header of each message of this beat: the id of the run, the same if the message is sent again."""

WAIT_S: Final = 5.0
"""How long one tick waits for the lock: beat looks in between whether it is to stop."""

PAUSE_S: Final = 1.0
"""After a failure of the cluster or the broker."""

AHEAD: Final = timedelta(days=1)
"""A last run that is later than this from now was written by a clock that was wrong: the entry would wait for it."""

UNUSABLE: Final = (TooLarge, TypeError, UnicodeEncodeError)
"""What is raised for a name that is too long for a key, is no text, or is no UTF-8."""

_log = get_logger(__name__)


class Scheduler(SchedulerBase):
    """Celery's scheduler with its state in the store: `beat_scheduler = "syncline.contrib.celery:Scheduler"`.

    Any number of hosts may run `celery beat`. One has the lock and sends; the others wait for it. Before a run is sent,
    its id and the new time of the entry are written; after the message is with the broker, that it was sent. So the
    next beat sends a run again, under the same id, if the one before has died in between. A task with the base
    `OnceTask` then runs once for each id. Each write takes effect only while the lock is held.

    Settings of the application: `syncline_url`, `syncline_options` (`syncline.contrib.connection.client_of`),
    `syncline_beat_name` ("beat"), `syncline_beat_ttl` (10 seconds).
    """

    def __init__(self, app: Celery, *arguments: object, **named: object) -> None:
        self._name = checked_name(app.conf.get("syncline_beat_name", "beat"), "Celery's setting syncline_beat_name")
        self._ttl_s = number_setting(app, "syncline_beat_ttl", 10.0)
        self._kv: Client | None = None
        self._lock: BlockingLock | None = None
        self._state: ScheduleState | None = None
        self._sending: dict[str, str] = {}
        """Runs that are written down and not sent, by entry."""
        self._waits = False
        self._ticks = False
        self._failure: Exception | None = None
        """Why the last run was not sent: Celery's `apply_entry` keeps it to itself."""
        super().__init__(app, *arguments, **named)

    def tick(self, *arguments: object, **named: object) -> float:
        """Send what is due, if this beat has the lock. Returns after how many seconds it wants to be called again."""
        self._ticks = True
        try:
            state = self._begin()
            if state is None:
                return 0.0
            self._send_again()
            wait_s = super().tick(*arguments, **named)
        except LockLost as error:
            _log.warning("beat: %s", error)
            self._give_up()
            return 0.0
        except OperationError as error:
            _log.error("beat: the state can't be read or written, trying again: %s", error)
            self._give_up()
            return PAUSE_S
        finally:
            self._ticks = False
        return min(wait_s, PAUSE_S) if self._sending else wait_s

    def reserve(self, entry: beat.ScheduleEntry) -> beat.ScheduleEntry:
        """Write down the next run of an entry, before it is sent. Raises `LockLost`, `OperationError`."""
        following = super().reserve(entry)
        if self._state is not None:
            run = uuid()
            self._state.write({entry.name: _state_of(following, run)})
            self._sending[entry.name] = run
        return following

    def apply_async(
        self, entry: beat.ScheduleEntry, producer: object = None, advance: bool = True, **named: object
    ) -> AsyncResult:
        """Send a run under its id, and write down that it was sent."""
        if advance:
            entry = self.reserve(entry)
        run = self._sending.get(entry.name)
        if run is None or self._state is None:
            return super().apply_async(entry, producer=producer, advance=False, **named)
        options = dict(entry.options)
        options["task_id"] = run
        options["headers"] = {**(options.get("headers") or {}), RUN_HEADER: run}
        message = self.Entry(**{**dict(entry), "options": options})
        try:
            result = super().apply_async(message, producer=producer, advance=False, **named)
            self._sent(entry.name)
        except (beat.SchedulingError, OperationError) as error:
            self._failure = error
            raise
        return result

    def setup_schedule(self) -> None:
        """Read the application's schedule. The store is asked with the first tick, when this beat has the lock."""
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.data)

    def close(self) -> None:
        """Give the lock back: another beat goes on at once.

        Celery calls it in the handler of a signal, too. A tick that was interrupted then ends with the client's calls,
        so the client is left to it.
        """
        try:
            super().close()
        finally:
            self._give_up()
            if self._kv is not None and not self._ticks:
                self._kv.close()
                self._kv = None

    @property
    def info(self) -> str:
        """For the banner of `celery beat`."""
        return f"    . db -> syncline, beat/{self._name}"

    def _begin(self) -> ScheduleState | None:
        """The state, with the lock held; None: another beat runs."""
        if self._state is not None and self._lock is not None:
            self._lock.check()
            return self._state
        if self._kv is None:
            self._kv = client_for(self.app)
        lock = self._kv.lock(f"beat/{self._name}", ttl=self._ttl_s, wait=WAIT_S)
        try:
            lock.acquire()
        except DeadlineExceeded as error:
            if not self._waits:
                _log.info("beat: waiting: %s", error)
                self._waits = True
            return None
        self._lock = lock
        state = ScheduleState(self._kv, self._name, lock)
        self._load(state)
        state.note(f"{socket.gethostname()}:{os.getpid()}")
        self._state = state
        self._waits = False
        _log.info("beat: this one runs now, with the token %d", lock.token)
        return state

    def _load(self, state: ScheduleState) -> None:
        """Go on where the last beat was. What is new is written, so that its first time is counted from now."""
        known = state.read()
        new: dict[str, EntryState] = {}
        self._sending = {}
        for name, entry in self.schedule.items():
            found = known.pop(name, None)
            last = None if found is None else _time_of(found.last_run_at)
            if last is not None and _is_ahead(last, self.app.now()):
                _log.warning("beat: the last run of %s is in the future, at %s: it counts from now", name, last)
                last = None
            if found is None or last is None:
                new[name] = _state_of(entry, "")
                continue
            entry.last_run_at, entry.total_run_count = last, found.total_run_count
            if found.sending:
                self._sending[name] = found.sending
        self._write_new(state, new)
        state.forget(sorted(known))
        if any(name not in new for name in self.schedule):
            self._heap = None  # Celery fills it again, by the times that were read

    def _write_new(self, state: ScheduleState, new: dict[str, EntryState]) -> None:
        """Write the states of new entries. One whose name no key can have is left out: the others go on."""
        try:
            state.write(new)
            return
        except UNUSABLE as error:
            _log.debug("beat: the new entries are written one by one: %s", error)
        for name, entry in new.items():
            try:
                state.write({name: entry})
            except UNUSABLE as error:
                text = "beat: the entry %.80r is left out, and never sent: its state can't be kept: %s. Rename it"
                _log.error(text, name, error)
                del self.schedule[name]

    def _send_again(self) -> None:
        """Send what was written down as being sent: by a beat that has died, or while the broker was away."""
        for name in list(self._sending):
            entry = self.schedule.get(name)
            if entry is None:
                del self._sending[name]
                continue
            _log.info("beat: sending a run again that may not have been sent: %s", name)
            self.apply_entry(entry, producer=self.producer)

    def apply_entry(self, entry: beat.ScheduleEntry, producer: object = None) -> None:
        """Send a run. If the broker can't be reached, it is sent again with the next tick."""
        self._failure = None
        super().apply_entry(entry, producer=producer)  # it logs what fails
        failure = self._failed()
        if isinstance(failure, OperationError):
            raise failure
        if failure is not None and not isinstance(failure.__context__, OSError | BrokerError):
            _log.error("beat: this run of %s can't be sent, and is left out", entry.name)
            self._sent(entry.name)

    def _failed(self) -> Exception | None:
        return self._failure

    def _sent(self, name: str) -> None:
        if self._state is not None and name in self._sending:
            self._state.write({name: _state_of(self.schedule[name], "")})
            del self._sending[name]

    def _give_up(self) -> None:
        """Release the lock, and forget what was read under it."""
        lock, self._lock, self._state = self._lock, None, None
        self._sending = {}
        self._heap = None
        if lock is not None:
            try:
                lock.release()
            except SynclineError as error:
                _log.debug("beat: the lock was lost before it was released: %s", error)


def _state_of(entry: beat.ScheduleEntry, run: str) -> EntryState:
    return EntryState(entry.last_run_at.isoformat(), entry.total_run_count, run)


def _is_ahead(last: datetime, now: datetime) -> bool:
    return (last if last.tzinfo else last.replace(tzinfo=UTC)) - now > AHEAD


def _time_of(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
