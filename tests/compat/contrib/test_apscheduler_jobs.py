"""Several schedulers share their jobs: one runs them, and its death loses and doubles no run."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.job import Job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
from apscheduler.triggers.combining import AndTrigger, OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from syncline.client import Client, TxnOp
from syncline.contrib.apscheduler import JobStore
from syncline.contrib.apscheduler.plain import json_dumps, json_loads
from syncline.errors import ConfigError, NoSpace
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.waiting import until

HERE: Final = Path(__file__).resolve().parent
LIMIT_S: Final = 60.0
KILLS: Final = 20
MOMENTS: Final = ("die-before", "die-after", "any")
NOW: Final = datetime(2026, 11, 29, 12, tzinfo=UTC)

pytestmark = pytest.mark.timeout(300)


class Pair(NamedTuple):
    first: int
    second: int


class Run(NamedTuple):
    """A run of the job, as its process has written it down. Times are in seconds."""

    process: int
    at_s: float
    scheduled_s: float


class Schedulers:
    """Schedulers as processes, and the runs of their job: one for each whole second."""

    def __init__(self, folder: Path, cluster: ProcessCluster, on_crash: str) -> None:
        self.folder = folder
        self.cluster = cluster
        self.on_crash = on_crash
        self.processes: list[subprocess.Popen[bytes]] = []
        self.kv = cluster.client(timeout=30)

    def start(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "JOBS_FOLDER": str(self.folder),
            "JOBS_ON_CRASH": self.on_crash,
            "SYNCLINE_ENDPOINTS": ",".join(self.cluster.endpoints),
        }
        with open(self.folder / "log", "ab") as log:
            command = [sys.executable, str(HERE / "jobs_program.py")]
            self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def runs(self) -> list[Run]:
        path = self.folder / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Run(int(one[0]), float(one[1]), float(one[2])) for one in (line.split() for line in lines)]

    def wait_for(self, more: int) -> None:
        expected = len(self.runs()) + more
        until(f"run {expected}", lambda: len(self.runs()) >= expected, deadline_s=LIMIT_S)

    def kill_owner(self, moment: str = "any") -> None:
        """Kill the process that runs the job, at this moment, and put another one in its place."""
        owner = self.runs()[-1].process
        [process] = [one for one in self.processes if one.pid == owner]
        if moment == "any":
            process.send_signal(signal.SIGKILL)
        else:
            (self.folder / moment).touch()
        assert process.wait(60) == -signal.SIGKILL
        self.processes.remove(process)
        self.start()
        until("another scheduler runs", lambda: self.runs()[-1].process != owner, deadline_s=LIMIT_S)

    def stop_all(self) -> None:
        """Kill all, so that no run begins any more."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def done_until(self) -> float:
        """The time of the job's next run, in seconds: all before it were begun."""
        found = self.kv.get("apscheduler/default/jobs/tick")
        assert found is not None
        return datetime.fromisoformat(msgspec.json.decode(found.value)["next_run"]).timestamp()

    def check(self, *, lost: int = 0, doubled: int = 0) -> None:
        """Each time of the job since the first run was run, and once, but for at most so many."""
        times = {*range(round(self.runs()[0].scheduled_s), round(self.done_until()))}
        until("the runs that were begun", lambda: len(times - self._ran()) <= lost, deadline_s=LIMIT_S)
        owner = self.runs()[-1].process
        for process in sorted(self.processes, key=lambda one: one.pid == owner):  # no other one takes over
            if process.pid == owner:
                self.wait_for(1)  # the next claim is almost a second away
            process.terminate()
            assert process.wait(30) in {0, -signal.SIGTERM}
        self.processes.clear()
        ran = [round(run.scheduled_s) for run in self.runs()]
        assert len(times - {*ran}) <= lost, "a run was lost"
        assert len(ran) - len({*ran}) <= doubled, "a run was doubled"

    def _ran(self) -> set[int]:
        return {round(run.scheduled_s) for run in self.runs()}


@pytest.fixture
def on_crash() -> str:
    return "skip"


@pytest.fixture
def schedulers(tmp_path: Path, kv: Client, syncline_cluster: ProcessCluster, on_crash: str) -> Iterator[Schedulers]:
    del kv
    made = Schedulers(tmp_path, syncline_cluster, on_crash)
    try:
        made.start()
        made.wait_for(1)
        made.start()
        yield made
    except BaseException:
        print((tmp_path / "log").read_text()[-5_000:])
        raise
    finally:
        made.stop_all()


@pytest.mark.parametrize(
    ("moment", "lost"), [("die-before", 1), ("die-after", 0), ("any", 1)], ids=["before", "after", "any"]
)
def test_scheduler_killed_doubles_no_run(schedulers: Schedulers, moment: str, lost: int) -> None:
    """A run is lost only if its scheduler dies between the claim and the call of its function: that one alone."""
    schedulers.wait_for(1)
    schedulers.kill_owner(moment)
    schedulers.wait_for(2)
    schedulers.check(lost=lost)


@pytest.mark.parametrize("on_crash", ["rerun"])
@pytest.mark.parametrize(("moment", "doubled"), [("die-before", 0), ("die-after", 1)], ids=["before", "after"])
def test_scheduler_killed_with_rerun_loses_no_run(schedulers: Schedulers, moment: str, doubled: int) -> None:
    """A run that was begun, and is not written down as begun, begins again."""
    schedulers.wait_for(1)
    schedulers.kill_owner(moment)
    schedulers.wait_for(2)
    schedulers.check(doubled=doubled)


@pytest.mark.slow
def test_schedulers_killed_twenty_times_double_no_run(schedulers: Schedulers) -> None:
    for at in range(KILLS):
        schedulers.kill_owner(MOMENTS[at % len(MOMENTS)])
        schedulers.wait_for(1)
    schedulers.check(lost=KILLS)


def test_schedulers_go_on_when_the_leading_node_is_killed(schedulers: Schedulers) -> None:
    leader = schedulers.cluster.leader()
    schedulers.cluster.kill(leader)
    schedulers.wait_for(3)
    schedulers.cluster.restart(leader)
    schedulers.check()


def test_scheduler_waits_for_the_answer_to_a_claim(
    kv: Client, syncline_cluster: ProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leading node has the claim, and no quorum for longer than the client's timeout. Then it takes effect."""
    del kv
    store = JobStore(syncline_cluster.endpoints, timeout=0.3)
    scheduler = BackgroundScheduler()
    store.start(scheduler, "default")
    assert store.get_due_jobs(NOW) == []  # it has the lock now
    store.add_job(_job(scheduler, "a"))
    batch = store._kv.batch
    followers = {*range(len(syncline_cluster.endpoints))} - {syncline_cluster.leader()}

    def resume_all() -> None:
        for node in followers:
            syncline_cluster.resume(node)

    def stalled(*arguments: Any, **named: Any) -> object:
        for node in followers:
            syncline_cluster.pause(node)
        resume = threading.Timer(0.6, resume_all)
        resume.start()
        try:
            return batch(*arguments, **named)
        finally:
            resume.join()

    monkeypatch.setattr(store._kv, "batch", stalled)
    assert [job.id for job in store.get_due_jobs(NOW)] == ["a"]
    monkeypatch.undo()
    syncline_cluster.wait_ready()
    until("the claim is written", lambda: _next(store, "a") == NOW + timedelta(hours=1), deadline_s=LIMIT_S)
    store.shutdown()


def test_jobs_that_were_claimed_run_if_another_one_is_refused(
    kv: Client, syncline_cluster: ProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    del kv
    store = JobStore(syncline_cluster.endpoints)
    scheduler = BackgroundScheduler()
    store.start(scheduler, "default")
    for job_id in ("a", "b"):
        store.add_job(_job(scheduler, job_id))
    batch = store._kv.batch

    def refused(writes: list[TxnOp], **named: Any) -> list[object]:
        return [*batch(writes[:1], **named), *(NoSpace("the store is full") for _ in writes[1:])]

    monkeypatch.setattr(store._kv, "batch", refused)
    assert len(store.get_due_jobs(NOW)) == 1
    monkeypatch.setattr(store._kv, "batch", lambda writes, **_: [NoSpace("the store is full") for _ in writes])
    with pytest.raises(NoSpace):
        store.get_due_jobs(NOW)
    monkeypatch.undo()
    assert len(store.get_due_jobs(NOW)) == 1, "the other one is still due"
    store.shutdown()


def test_schedulers_that_wait_write_nothing(kv: Client, syncline_cluster: ProcessCluster) -> None:
    """They read whether the lock is free."""
    first, second = (JobStore(syncline_cluster.endpoints, look_every=0.1) for _ in range(2))
    scheduler = BackgroundScheduler()
    first.start(scheduler, "default")
    second.start(scheduler, "default")
    assert first.get_due_jobs(datetime.now(UTC)) == []
    revision = kv.list("").revision
    assert second.get_due_jobs(datetime.now(UTC)) == []
    looks_at = second.get_next_run_time()
    assert looks_at is not None
    assert looks_at > datetime.now(UTC) - timedelta(seconds=1)
    assert kv.list("").revision == revision
    first.shutdown()
    second.get_due_jobs(datetime.now(UTC))
    assert kv.count("locks/apscheduler/default/") == 1
    second.shutdown()


def test_job_store_that_was_shut_down_may_be_started_again(
    kv: Client, syncline_cluster: ProcessCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """As with APScheduler's own stores. Its thread looks for jobs once more after the store was shut down."""
    store = JobStore(iter(syncline_cluster.endpoints))
    for start in range(2):
        scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": 60})
        scheduler.add_jobstore(store)
        scheduler.start()
        ran = threading.Event()
        scheduler.add_listener(lambda _, ran=ran: ran.set(), EVENT_JOB_EXECUTED)
        scheduler.add_job(print, "date", [start], id="a", replace_existing=True)
        assert ran.wait(LIMIT_S)
        scheduler.shutdown()
        assert kv.count("locks/apscheduler/default/") == 0
    assert not [one.message for one in caplog.records if one.levelname in ("WARNING", "ERROR")]


def test_job_that_is_added_again_keeps_the_run_that_is_due(kv: Client, syncline_cluster: ProcessCluster) -> None:
    """A program that adds its jobs at each start would else drop what was missed while no scheduler ran."""
    del kv
    scheduler = BackgroundScheduler()
    store = JobStore(syncline_cluster.endpoints)
    scheduler.add_jobstore(store)
    scheduler.start(paused=True)
    scheduler.add_job(print, "interval", hours=1, id="a", next_run_time=NOW)
    scheduler.add_job(print, "interval", hours=1, id="a", replace_existing=True)
    assert _next(store, "a") == NOW
    scheduler.add_job(print, "interval", hours=2, id="a", replace_existing=True)
    assert _next(store, "a") > NOW
    scheduler.shutdown()


def test_job_changed_by_another_process_is_not_overwritten(kv: Client, syncline_cluster: ProcessCluster) -> None:
    """The scheduler has taken it, and writes what has become of it later: the change stays."""
    del kv
    stores = [JobStore(syncline_cluster.endpoints, on_crash="rerun") for _ in range(2)]
    scheduler = BackgroundScheduler()
    for store in stores:
        store.start(scheduler, "default")
    scheduler._jobstores["default"] = stores[0]
    stores[0].add_job(_job(scheduler, "a"))
    [due] = stores[0].get_due_jobs(NOW + timedelta(hours=1))
    changed = stores[1].lookup_job("a")
    assert changed is not None
    changed._modify(name="changed", next_run_time=NOW + timedelta(days=9))
    stores[1].update_job(changed)
    due._modify(next_run_time=NOW + timedelta(hours=2))
    stores[0].update_job(due)
    left = stores[0].lookup_job("a")
    assert left is not None
    assert (left.name, left.next_run_time) == ("changed", NOW + timedelta(days=9))
    for store in stores:
        store.shutdown()


@pytest.fixture
def taken(kv: Client, syncline_cluster: ProcessCluster) -> Iterator[tuple[JobStore, JobStore, BackgroundScheduler]]:
    """The store of the scheduler that runs the job `a`, which is due, and that of another process."""
    del kv
    owner, other = (JobStore(syncline_cluster.endpoints) for _ in range(2))
    scheduler = BackgroundScheduler()
    for store in (owner, other):
        store.start(scheduler, "default")
    owner.add_job(_job(scheduler, "a"))
    yield owner, other, scheduler
    owner.shutdown()
    other.shutdown()


def test_job_changed_by_name_does_not_bring_a_run_back(
    taken: tuple[JobStore, JobStore, BackgroundScheduler],
) -> None:
    """Another process has read the job before its run was begun, and writes it after that."""
    owner, other, _ = taken
    read = other.lookup_job("a")
    assert read is not None
    assert [job.id for job in owner.get_due_jobs(NOW)] == ["a"]
    read._modify(name="changed")
    other.update_job(read)
    left = owner.lookup_job("a")
    assert left is not None
    assert (left.name, left.next_run_time) == ("changed", NOW + timedelta(hours=1))
    left._modify(next_run_time=NOW)
    other.update_job(left)  # a program may want it
    assert _next(owner, "a") == NOW


def test_job_added_again_does_not_bring_a_run_back(
    taken: tuple[JobStore, JobStore, BackgroundScheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is begun between the other process's read and its write; then its clock is a little late."""
    owner, other, scheduler = taken
    get = other._kv.get
    begun: list[Job] = []

    def read_then_begin(key: bytes) -> object:
        found = get(key)
        if not begun:
            begun.extend(owner.get_due_jobs(NOW))
        return found

    monkeypatch.setattr(other._kv, "get", read_then_begin)
    for _ in range(2):
        again = _job(scheduler, "a")
        again._jobstore_alias = None
        other.update_job(again)
        assert len(begun) == 1
        assert _next(owner, "a") == NOW + timedelta(hours=1)
    assert owner.get_due_jobs(NOW) == []


def test_job_begun_by_a_clock_far_ahead_comes_back_when_added(
    kv: Client, taken: tuple[JobStore, JobStore, BackgroundScheduler]
) -> None:
    owner, other, scheduler = taken
    assert owner.get_due_jobs(NOW.replace(year=2099))
    again = _job(scheduler, "a")
    again._jobstore_alias = None
    other.update_job(again)
    assert _next(owner, "a") == NOW
    kv.delete("apscheduler/default/jobs/a")
    with pytest.raises(JobLookupError):
        other.update_job(again)


def test_job_with_a_lost_lock_is_not_taken(
    kv: Client, syncline_cluster: ProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that was overtaken takes nothing, though it believes in its lock."""
    store = JobStore(syncline_cluster.endpoints)
    scheduler = BackgroundScheduler()
    store.start(scheduler, "default")
    store.add_job(_job(scheduler, "a"))
    assert store.get_due_jobs(NOW - timedelta(days=1)) == []  # it has the lock now
    assert store._lock is not None
    monkeypatch.setattr(store._lock, "check", lambda: None)
    [item] = kv.list("locks/apscheduler/default/").items
    kv.delete(item.key)
    assert store.get_due_jobs(NOW + timedelta(hours=1)) == []
    assert _next(store, "a") == NOW
    store.shutdown()


@pytest.mark.parametrize(
    "trigger",
    [
        CronTrigger.from_crontab("*/5 3 1-7 * mon-fri", timezone="Europe/Berlin"),
        CronTrigger(second="*/10", start_date=NOW, end_date=NOW + timedelta(days=1), timezone="UTC", jitter=3),
        IntervalTrigger(minutes=7, start_date=NOW, timezone="America/New_York"),
        CalendarIntervalTrigger(months=1, hour=3, start_date=NOW.date(), timezone="UTC"),
        OrTrigger([CronTrigger(hour=3, timezone="UTC"), IntervalTrigger(hours=5, start_date=NOW, timezone="UTC")]),
        AndTrigger([CronTrigger(hour=3, timezone="UTC"), CronTrigger(minute=0, timezone="UTC")], jitter=None),
    ],
    ids=lambda trigger: type(trigger).__name__,
)
def test_trigger_as_json_fires_at_the_same_times(trigger: object) -> None:
    state = json_loads(json_dumps({"trigger": trigger, "args": (1, "ä", b"\xff", {1: NOW}, [None, 1.5])}))
    read = state["trigger"]
    assert repr(read) == repr(trigger)
    assert state["args"] == (1, "ä", b"\xff", {1: NOW}, [None, 1.5])
    if getattr(trigger, "jitter", None) is None and not isinstance(trigger, AndTrigger):  # it may search without an end
        last = NOW
        for _ in range(5):
            expected = trigger.get_next_fire_time(last, last)  # type: ignore[attr-defined]
            assert read.get_next_fire_time(last, last) == expected  # type: ignore[attr-defined]
            last = expected


def test_job_argument_that_is_no_finite_number_comes_back() -> None:
    state = json_loads(json_dumps({"args": [float("nan"), -math.inf, 1.5]}))
    assert repr(state["args"]) == "[nan, -inf, 1.5]"


def test_job_argument_that_json_cannot_carry_is_refused() -> None:
    with pytest.raises(TypeError, match=r"an? job's argument of the type object .* give the job store dumps="):
        json_dumps({"args": (object(),)})
    for altered in (signal.SIGTERM, Pair(1, 2)):  # it would come back as another one
        with pytest.raises(TypeError, match="can't be written as JSON"):
            json_dumps({"args": (altered,)})
    deep: list[object] = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(TypeError, match="levels deep"):
        json_dumps({"args": deep})


@pytest.mark.parametrize(
    "state",
    [b"[]", b"1", b'{"trigger":{"!":"nothing"}}', b'{"t":{"!":"zone","name":"No/Where"}}', b'{"t":{"!":"tuple"}}',
     b'{"t":{"!":"trigger","class":"builtins:dict","state":{}}}'],
)  # fmt: skip
def test_job_state_that_is_none_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError):
        json_loads(state)


@pytest.mark.parametrize(
    "record",
    [b"\xff", b'{"next_run":"2026-01-01T00:00:00"}', b'{"job":' + b"[" * 9000 + b"]" * 9000 + b"}", b"[]", b""],
    ids=["no text", "no zone", "deep", "a list", "empty"],
)
def test_job_record_that_is_none_is_left_alone(record: bytes, kv: Client, syncline_cluster: ProcessCluster) -> None:
    """Another version may know it. The other jobs go on."""
    store = JobStore(syncline_cluster.endpoints)
    scheduler = BackgroundScheduler()
    store.start(scheduler, "default")
    kv.put("apscheduler/default/jobs/odd", record)
    store.add_job(_job(scheduler, "a"))
    assert [job.id for job in store.get_due_jobs(NOW + timedelta(hours=1))] == ["a"]
    assert store.lookup_job("odd") is None
    assert kv.get("apscheduler/default/jobs/odd") is not None
    with pytest.raises(JobLookupError):
        store.remove_job("nothing")
    store.shutdown()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_crash": "maybe"}, "accepted are skip"),
        ({"dumps": msgspec.json.encode}, "dumps and loads go together"),
        ({"look_every": 4000.0}, "accepted are 0.1 to 3600 seconds"),
        ({"ttl": 0}, "a TTL"),
        ({"ttl": 0.5}, "from 2 to"),
        ({"ttl": -1}, "a positive number of seconds"),
        ({"tokn": "x"}, "there is no option 'tokn'"),
        ({"timeout": "soon"}, "must be a number of seconds"),
        ({"token_file": "/nowhere"}, "can't be read"),
    ],
)
def test_job_store_with_a_bad_option_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        JobStore("http://127.0.0.1:1", **options)  # type: ignore[arg-type]


def _job(scheduler: BackgroundScheduler, job_id: str) -> Job:
    trigger = IntervalTrigger(hours=1, start_date=NOW, timezone="UTC")
    job = Job(
        scheduler,
        id=job_id,
        trigger=trigger,
        executor="default",
        func=print,
        args=(),
        kwargs={},
        name="first",
        misfire_grace_time=1,
        coalesce=True,
        max_instances=1,
        next_run_time=NOW,
    )
    job._jobstore_alias = "default"
    return job


def _next(store: JobStore, job_id: str) -> datetime:
    job = store.lookup_job(job_id)
    assert job is not None
    found: datetime = job.next_run_time
    return found
