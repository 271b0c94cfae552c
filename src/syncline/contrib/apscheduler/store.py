"""The job store: jobs below `apscheduler/NAME/jobs/`, of which the scheduler with the lock runs what is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from apscheduler.job import Job
from apscheduler.jobstores.base import ConflictingIdError, JobLookupError

from syncline.client import BlockingLock, Compare, DeleteOp, DeletePrefixOp, OperationResult, PutOp, TxnOp
from syncline.client.arguments import checked_timeout_s
from syncline.client.coordination.names import needed_ttl_s
from syncline.contrib.apscheduler.bases import JobBase, JobStoreBase
from syncline.contrib.apscheduler.plain import json_dumps, json_loads
from syncline.contrib.apscheduler.records import NO_JSON, JobRecord, StoredJob
from syncline.contrib.connection import checked_name, client_of
from syncline.errors import ConfigError, DeadlineExceeded, Dropped, LockLost, OperationError, Rejected, SynclineError

if TYPE_CHECKING:
    from apscheduler.schedulers.base import BaseScheduler

__all__ = ["JobStore"]

MOST_DUE: Final = 500
"""Jobs that are begun in one round: half of what a batch may hold. The next round follows at once."""

CLAIM_S: Final = 60.0
"""How long a claim waits for a cluster that does not answer. One that was given up could take effect later: its runs
would be lost."""

CHANGES: Final = 100
"""Attempts to write a job that other processes change at the same time."""

AHEAD: Final = timedelta(minutes=1)
"""A record that is further ahead of the own clock was written by a clock that was wrong."""

LATEST: Final = datetime.max.replace(tzinfo=UTC)


class JobStore(JobStoreBase):
    """Jobs of APScheduler 3 in the store; of several schedulers one runs them, and the next one if that dies.

        scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": 60})
        scheduler.add_jobstore(JobStore("http://10.0.0.1:8080"))
        scheduler.add_job(report, "cron", hour=3, id="report", replace_existing=True)

    Any process with the store may add, change and remove jobs. With `on_crash="skip"` the time of a job's next run is
    written before a run begins: a run begins at most once. With `"rerun"` it is written as soon as the executor has the
    run: one whose scheduler dies before that begins again. Both take effect only while the lock is held.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str] | None = None,
        *,
        name: str = "default",
        ttl: float = 10.0,
        on_crash: str = "skip",
        look_every: float = 5.0,
        dumps: Callable[[dict[str, object]], bytes] | None = None,
        loads: Callable[[bytes], object] | None = None,
        **options: object,
    ) -> None:
        """`endpoints`, `options`: `syncline.contrib.connection.client_of`.

        `name`: schedulers with one name share their jobs. `ttl` (seconds): how soon another scheduler takes over.
        `look_every` (seconds): how soon a job is noticed that another process has added, and how often a scheduler that
        waits looks for the lock. `dumps` and `loads` (both or none) write and read the states of jobs in place of JSON.

        Raises:
            TypeError: an argument has a wrong type.
            ConfigError: an argument can't be used.
        """
        super().__init__()
        if on_crash not in ("skip", "rerun"):
            raise ConfigError(f"on_crash is {on_crash!r}: accepted are skip (at most once) and rerun (at least once)")
        if (dumps is None) != (loads is None):
            raise ConfigError("dumps and loads go together")
        look_every_s = checked_timeout_s(look_every, "look_every")
        if not 0.1 <= look_every_s <= 3600:
            raise ConfigError(f"look_every is {look_every}: accepted are 0.1 to 3600 seconds")
        places = list(endpoints) if isinstance(endpoints, Iterator) else endpoints  # a client is made at each start
        self._make_client = partial(client_of, places, options, where="the job store's options")
        self._kv = self._make_client()
        self._is_shut_down = False
        self._name = checked_name(name, "the job store's name")
        self._prefix = f"apscheduler/{name}/jobs/"
        self._ttl_s = needed_ttl_s(ttl, "the job store's lock")
        self._reruns = on_crash == "rerun"
        self._look_every = timedelta(seconds=look_every_s)
        self._dumps = dumps
        self._loads = loads
        self._lock: BlockingLock | None = None
        self._waits = False
        self._begun: dict[str, int] = {}
        """Jobs that the scheduler was given and has not reported: by id, the revision of the record; 0: removed."""
        self._looked_at: datetime | None = None
        """The scheduler's time when it was given those jobs."""
        self._unusable: set[tuple[str, int]] = set()
        """Records that this process can't read, which it has logged."""

    # -- what the scheduler asks

    def get_due_jobs(self, now: datetime) -> list[Job]:
        """Take the jobs that are due, if this scheduler has the lock. Raises `OperationError`."""
        self._begun = {}
        self._looked_at = now
        if self._is_shut_down:
            return []  # the scheduler's thread looks once more before it ends
        lock = self._held_lock()
        if lock is None:
            return []
        due = sorted(
            (one for one in self._stored() if one.record.next_run is not None and one.record.next_run <= now),
            key=_by_time,
        )
        jobs = [(one, job) for one in due[:MOST_DUE] if (job := self._restored(one)) is not None]
        return [job for _, job in jobs] if self._took(lock, jobs, now) else []

    def get_next_run_time(self) -> datetime | None:
        """When the scheduler is to look again: the next run, or earlier if it waits for the lock."""
        self._begun = {}
        if self._is_shut_down:
            return None
        look_at = datetime.now(UTC) + self._look_every
        if self._waits:
            return look_at
        try:
            times = [
                one.record.next_run
                for one in self._stored()
                if one.record.next_run is not None and self._restored(one) is not None
            ]
        except OperationError as error:
            self._logger.warning("the cluster did not answer, trying again: %s", error)
            return look_at
        found = min(times, default=None)
        if found is None and self._scheduler is None:
            return None
        return look_at if found is None else min(found, look_at)

    def lookup_job(self, job_id: str) -> Job | None:
        """A job by its id, or None."""
        found = self._kv.get(self._key(job_id))
        if found is None:
            return None
        record = self._record_in(job_id, found.mod_revision, found.value)
        return None if record is None else self._restored(StoredJob(job_id, found.mod_revision, record))

    def get_all_jobs(self) -> list[Job]:
        """All jobs in the order of their next runs; those that are paused at the end."""
        jobs = [self._restored(one) for one in sorted(self._stored(), key=_by_time)]
        return [job for job in jobs if job is not None]

    def add_job(self, job: Job) -> None:
        """Add a job. Raises `ConflictingIdError` if there is one with its id."""
        try:
            self._kv.put(self._key(job.id), self._value(job, job.next_run_time), if_absent=True)
        except Rejected as error:
            if error.code != "precondition_failed":
                raise
            raise ConflictingIdError(job.id) from error

    def update_job(self, job: Job) -> None:
        """Replace a job. Raises `JobLookupError` if there is none with its id."""
        if job.id in self._begun:
            revision = self._begun.pop(job.id)
            if self._reruns:
                value = self._value(job, job.next_run_time, self._looked_at)
                self._report(job.id, revision, PutOp(self._key(job.id), value))
            return  # else it was written before the run began
        key = self._key(job.id)
        for _ in range(CHANGES):
            found = self._kv.get(key)
            if found is None:
                raise JobLookupError(job.id)
            record = self._record_in(job.id, found.mod_revision, found.value) or JobRecord(job.next_run_time)
            value = self._value(job, _next_run(job, record), record.begun_until)
            try:
                self._kv.put(key, value, if_revision=found.mod_revision)
            except Rejected as error:
                if error.code != "precondition_failed":
                    raise
            else:
                return
        raise Dropped(f"the job {job.id} was changed by others at each of {CHANGES} attempts to write it")

    def remove_job(self, job_id: str) -> None:
        """Remove a job. Raises `JobLookupError` if there is none with this id."""
        if job_id in self._begun:
            revision = self._begun.pop(job_id)
            if revision:
                self._report(job_id, revision, DeleteOp(self._key(job_id)))
            return  # else it was removed before its last run began
        if not self._kv.delete(self._key(job_id)).deleted:
            raise JobLookupError(job_id)

    def remove_all_jobs(self) -> None:
        """Remove all jobs of this name."""
        self._kv.txn(then=[DeletePrefixOp(self._prefix.encode())], idempotent=True)

    def shutdown(self) -> None:
        """Give the lock back: another scheduler goes on at once. The store may be started again."""
        self._is_shut_down = True
        self._release()
        self._kv.close()

    def start(self, scheduler: BaseScheduler, alias: str) -> None:
        """Begin to belong to a scheduler."""
        super().start(scheduler, alias)
        if self._is_shut_down:  # it belonged to another scheduler, or was taken out of this one
            self._kv = self._make_client()
            self._is_shut_down = False
        self._waits = False

    # -- the lock

    def _held_lock(self) -> BlockingLock | None:
        """The lock, if this scheduler has it or can have it at once."""
        if self._lock is not None:
            try:
                self._lock.check()
            except LockLost as error:
                self._logger.warning("another scheduler may run the jobs now: %s", error)
                self._release()
            else:
                return self._lock
        self._waits = True
        name = f"apscheduler/{self._name}"
        if self._kv.list(f"locks/{name}/", limit=1).items:
            return None  # it is read first: a scheduler that waits writes nothing
        try:
            self._lock = self._kv.lock(name, ttl=self._ttl_s, wait=0).acquire()
        except DeadlineExceeded:
            return None
        self._waits = False
        self._logger.info("this scheduler runs the jobs now, with the token %d", self._lock.token)
        return self._lock

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            try:
                lock.release()
            except SynclineError as error:
                self._logger.debug("the lock was lost before it was released: %s", error)

    # -- runs

    def _took(self, lock: BlockingLock, jobs: list[tuple[StoredJob, Job]], now: datetime) -> bool:
        """Write the times of the next runs, unless they are written afterwards. False: the lock is lost.

        A job that another process has changed meanwhile is taken out of the list: the next round sees it as it is.
        """
        if self._reruns:
            self._begun = {one.id: one.revision for one, _ in jobs}
            return True
        if not jobs:
            return True
        held = Compare(lock.key, target="create_revision", number=lock.token)
        writes = [
            TxnOp((held, Compare(self._key(one.id), number=one.revision)), (self._after_run(job, now),))
            for one, job in jobs
        ]
        results = self._kv.batch(writes, idempotent=True, timeout=CLAIM_S)
        taken: list[tuple[StoredJob, Job]] = []
        refused: list[OperationError] = []
        for result, (one, job), write in zip(results, jobs, writes, strict=True):
            if not isinstance(result, OperationResult):
                refused.append(result)
                self._logger.error("the job %s can't be claimed: %s", one.id, result)
            elif result.succeeded:
                taken.append((one, job))
                self._begun[one.id] = 0 if isinstance(write.then[0], DeleteOp) else result.revision
        if not taken:
            if refused:
                raise refused[0]
            lock.check()
        jobs[:] = taken
        return True

    def _after_run(self, job: Job, now: datetime) -> PutOp | DeleteOp:
        """What the scheduler would write after the runs up to now."""
        times = job._get_run_times(now)
        following = job.trigger.get_next_fire_time(times[-1], now) if times else job.next_run_time
        key = self._key(job.id)
        return DeleteOp(key) if following is None else PutOp(key, self._value(job, following, now))

    def _report(self, job_id: str, revision: int, write: PutOp | DeleteOp) -> None:
        """Write what has become of a job that was begun here, while the lock is held and the job is the same."""
        lock = self._lock
        try:
            if lock is None:
                raise LockLost("the lock is held no longer")
            held = Compare(lock.key, target="create_revision", number=lock.token)
            same = Compare(self._key(job_id), number=revision)
            if self._kv.txn([held, same], [write], idempotent=True).succeeded:
                return
            self._logger.info("the job %s was changed meanwhile by another process: that is kept", job_id)
        except OperationError as error:  # the scheduler's thread would end
            self._logger.error("the end of the job %s could not be written: it may run again: %s", job_id, error)

    # -- records

    def _stored(self) -> Iterator[StoredJob]:
        for item in self._kv.scan(self._prefix, values=True):
            job_id = item.key[len(self._prefix.encode()) :].decode("utf-8", "backslashreplace")
            record = self._record_in(job_id, item.mod_revision, item.value or b"")
            if record is not None:
                yield StoredJob(job_id, item.mod_revision, record)

    def _record_in(self, job_id: str, revision: int, value: bytes) -> JobRecord | None:
        try:
            return msgspec.json.decode(value, type=JobRecord)
        except (msgspec.DecodeError, RecursionError) as error:
            self._cannot_read(job_id, revision, error)
            return None

    def _restored(self, one: StoredJob) -> Job | None:
        """The job of a record. One that this process can't read stays in the store: another one may know it."""
        record = one.record
        try:
            if record.dumped is not None and self._loads is not None:
                state = self._loads(record.dumped)
            elif bytes(record.job) != bytes(NO_JSON):
                state = json_loads(bytes(record.job))
            else:
                raise ValueError("it was written with dumps=: give this job store the same loads=")
            job = LookedUpJob.__new__(LookedUpJob)
            job.__setstate__(state)
            if record.next_run is None:
                job.next_run_time = None
            job.next_run_read = job.next_run_time
        except Exception as error:  # noqa: BLE001 - the job's own modules are imported
            self._cannot_read(one.id, one.revision, error)
            return None
        job._scheduler = self._scheduler
        job._jobstore_alias = self._alias
        return job

    def _cannot_read(self, job_id: str, revision: int, error: Exception) -> None:
        if (job_id, revision) not in self._unusable:
            self._unusable = {known for known in self._unusable if known[0] != job_id} | {(job_id, revision)}
            self._logger.error("the job %s can't be read here, and is left to others: %s", job_id, error)

    def _value(self, job: Job, next_run: datetime | None, begun_until: datetime | None = None) -> bytes:
        state = {**job.__getstate__(), "next_run_time": next_run}
        words = str(job.trigger)
        if self._dumps is None:
            record = JobRecord(next_run, words, job=msgspec.Raw(json_dumps(state)), begun_until=begun_until)
        else:
            record = JobRecord(next_run, words, dumped=self._dumps(state), begun_until=begun_until)
        return msgspec.json.encode(record)

    def _key(self, job_id: str) -> bytes:
        return (self._prefix + job_id).encode()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} (name={self._name})>"


def _by_time(one: StoredJob) -> datetime:
    return LATEST if one.record.next_run is None else one.record.next_run


class LookedUpJob(JobBase):
    """A job that was read, with the time of its next run as it was then."""

    __slots__ = ("next_run_read",)
    next_run_read: datetime | None


def _next_run(job: Job, record: JobRecord) -> datetime | None:
    """The next run of a job that is written again. A run that was begun meanwhile must not come back."""
    given: datetime | None = job.next_run_time
    if isinstance(job, LookedUpJob) and given == job.next_run_read:
        return record.next_run  # what was changed is something else
    if getattr(job, "_jobstore_alias", None) is not None:
        return given
    # It is added again at a start: what is due, or was missed, stays due.
    if record.next_run is None or given is None or record.trigger != str(job.trigger):
        return given
    begun = record.begun_until
    if begun is not None and given <= begun < datetime.now(UTC) + AHEAD:
        return record.next_run  # this process is a little late, or its clock is
    return min(record.next_run, given)
