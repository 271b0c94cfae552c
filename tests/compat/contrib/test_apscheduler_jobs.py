"""Several schedulers share their jobs: one runs them, and its death loses and doubles no run."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest
from apscheduler.job import Job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.calendarinterval import CalendarIntervalTrigger
from apscheduler.triggers.combining import AndTrigger, OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from syncline.client import Client
from syncline.contrib.apscheduler import JobStore
from syncline.contrib.apscheduler.plain import json_dumps, json_loads
from syncline.errors import ConfigError
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.waiting import until

HERE: Final = Path(__file__).resolve().parent
LIMIT_S: Final = 60.0
NOW: Final = datetime(2026, 11, 29, 12, tzinfo=UTC)

pytestmark = pytest.mark.timeout(300)


class Pair(NamedTuple):
    first: int
    second: int


class Schedulers:
    """Schedulers as processes, and the runs of their job."""

    def __init__(self, folder: Path, cluster: ProcessCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self.processes: list[subprocess.Popen[bytes]] = []
        self.kv = cluster.client(timeout=30)

    def start(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "JOBS_FOLDER": str(self.folder),
            "SYNCLINE_ENDPOINTS": ",".join(self.cluster.endpoints),
        }
        with open(self.folder / "log", "ab") as log:
            command = [sys.executable, str(HERE / "jobs_program.py")]
            self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def runs(self) -> list[tuple[int, float]]:
        path = self.folder / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), float(line.split()[1])) for line in lines]

    def wait_for(self, more: int) -> None:
        expected = len(self.runs()) + more
        until(f"run {expected}", lambda: len(self.runs()) >= expected, deadline_s=LIMIT_S)

    def wait_for_another(self, owner: int) -> None:
        """Wait until another process runs the job."""
        until("another scheduler runs", lambda: self.runs()[-1][0] != owner, deadline_s=LIMIT_S)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def done_until(self) -> datetime:
        """The time of the job's next run: all before it were begun."""
        found = self.kv.get("apscheduler/default/jobs/tick")
        assert found is not None
        return datetime.fromisoformat(msgspec.json.decode(found.value)["next_run"])


@pytest.fixture
def schedulers(tmp_path: Path, kv: Client, syncline_cluster: ProcessCluster) -> Iterator[Schedulers]:
    del kv
    made = Schedulers(tmp_path, syncline_cluster)
    try:
        made.start()
        made.wait_for(1)
        made.start()
        yield made
    except BaseException:
        print((tmp_path / "log").read_text()[-5_000:])
        raise
    finally:
        made.end()


def check_all_runs(schedulers: Schedulers) -> None:
    """As many runs as there were times since the first one: none is lost, none doubled."""
    [(_, first), *_] = schedulers.runs()
    begun = schedulers.done_until()
    times = round(begun.timestamp() - first)  # the job has one time each second, and runs within it
    until("the runs that were begun", lambda: len(schedulers.runs()) >= times)
    assert abs(len([1 for _, at in schedulers.runs() if at < begun.timestamp() + 0.5]) - times) <= 1


def test_schedulers_killed_one_after_the_other_run_each_time_once(schedulers: Schedulers) -> None:
    for _ in range(3):
        schedulers.wait_for(1)
        owner = schedulers.runs()[-1][0]
        [process] = [one for one in schedulers.processes if one.pid == owner]
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        schedulers.processes.remove(process)
        schedulers.start()
        schedulers.wait_for_another(owner)
    check_all_runs(schedulers)


def test_schedulers_go_on_when_the_leading_node_is_killed(schedulers: Schedulers) -> None:
    leader = schedulers.cluster.leader()
    schedulers.cluster.kill(leader)
    schedulers.wait_for(3)
    schedulers.cluster.restart(leader)
    check_all_runs(schedulers)


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
        ({"look_every": 0.0}, "accepted are 0.1 to 3600 seconds"),
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
