"""Jobs at their times, in virtual time: once in the cluster, none at the same time, missed ones, and the end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from syncline.client.coordination.schedule import MAX_MISSED, Schedule
from syncline.errors import ConfigError, UsageError
from syncline.platform.repeated_job import RepeatedJob
from syncline.platform.user_calls import result_in
from tests.helpers.virtual_kv import LOST_ANSWER, WALL_S, VirtualKv, VirtualStore, virtual

NAME = "tidy"


class Job:
    """Notes when it runs, by the true clock."""

    def __init__(self, hold_s: float = 0.0) -> None:
        self.hold_s = hold_s
        self.at: list[float] = []
        self.running = self.most = 0
        self.failing = 0

    async def __call__(self) -> None:
        self.at.append(WALL_S + asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.hold_s)
            if self.failing:
                self.failing -= 1
                raise ValueError("mine")
        finally:
            self.running -= 1

    @property
    def minutes(self) -> list[int]:
        return [int((at - self.at[0]) // 60) for at in self.at]


def every(kv: VirtualKv, job: Callable[[], object], times: str | float = "1m", **options: object) -> Schedule:
    return kv.every(times, job, name=NAME, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("on_crash", ["skip", "rerun"])
def test_schedule_runs_once_in_the_cluster_at_each_time(on_crash: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job(0.1)
        schedules = [every(store.client(), job, on_crash=on_crash) for _ in range(4)]
        await asyncio.sleep(600)
        assert len(job.at) == 10
        assert all(at % 60 < 1 for at in job.at)
        assert job.most == 1
        for schedule in schedules:
            await schedule.stop()
        await asyncio.sleep(120)
        assert len(job.at) == 10

    virtual(scenario)


def test_schedule_with_clocks_that_differ_runs_once_at_each_time() -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job()
        schedules = []
        for off_s in (-20.0, 0.0, 25.0):
            kv = store.client()
            kv.wall_off_s = off_s
            schedules.append(every(kv, job))
        await asyncio.sleep(600)
        assert 10 <= len(job.at) <= 11
        for schedule in schedules:
            await schedule.stop()

    virtual(scenario)


def test_schedule_leaves_out_times_while_the_job_runs_anywhere() -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job(150.0)
        schedules = [every(store.client(), job) for _ in range(3)]
        await asyncio.sleep(660)
        assert job.most == 1
        assert job.minutes == [0, 3, 6, 9]
        for schedule in schedules:
            await schedule.stop(timeout=200)

    virtual(scenario)


def test_schedule_takes_times_again_after_a_crash_of_the_job() -> None:
    """The running mark ends with the lease."""

    async def scenario(store: VirtualStore) -> None:
        job, dead = Job(30.0), store.client()
        first = every(dead, job, ttl=3)
        await asyncio.sleep(50)
        assert job.running == 1
        dead.connect(False)
        second = every(store.client(), job)
        await asyncio.sleep(120)
        assert job.most == 1
        assert len(job.at) >= 2
        dead.connect(True)
        await first.stop()
        await second.stop()

    virtual(scenario)


def test_schedule_rerun_is_taken_over_after_a_crash() -> None:
    async def scenario(store: VirtualStore) -> None:
        job, dead = Job(100.0), store.client()
        first, second = (every(kv, job, "1h", on_crash="rerun", ttl=3) for kv in (dead, store.client()))
        await asyncio.sleep(3600 - WALL_S % 3600 + 80)  # it may be late now: nothing else counts than that it is run
        assert job.running == 1
        dead.connect(False)
        await asyncio.sleep(10)
        assert job.running == 1
        dead.connect(True)
        await asyncio.sleep(120)
        assert (len(job.at), job.running) == (2, 0)
        assert b"done" in b"".join(item.value or b"" for item in store.below(b"schedules/"))
        await first.stop()
        await second.stop()

    virtual(scenario)


def test_schedule_goes_on_after_the_job_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job()
        job.failing = 2
        async with every(store.client(), job):
            await asyncio.sleep(240)
        assert len(job.at) == 4

    with caplog.at_level(logging.ERROR):
        virtual(scenario)
    assert [record.getMessage() for record in caplog.records] == ['the job "tidy" failed'] * 2


def test_schedule_goes_on_after_errors_of_the_servers() -> None:
    async def scenario(store: VirtualStore) -> None:
        job, kv = Job(), store.client()
        kv.faults = [("txn", LOST_ANSWER), ("grant", LOST_ANSWER)]
        async with every(kv, job, ttl=30):
            await asyncio.sleep(55)
            assert len(job.at) == 1
            kv.connect(False)
            await asyncio.sleep(150)
            kv.connect(True)
            await asyncio.sleep(130)
            assert 3 <= len(job.at) <= 4

    virtual(scenario)


def test_schedule_misses_what_comes_a_minute_late() -> None:
    """The machine slept: the clock jumps over a time, by more than may be late."""

    async def scenario(store: VirtualStore) -> None:
        job, kv = Job(), store.client()
        async with every(kv, job, "1h"):
            await asyncio.sleep(1)
            kv.wall_off_s = 3600 - WALL_S % 3600 + 90
            await asyncio.sleep(100)
            assert not job.at
            kv.wall_off_s += 3600 - 200
            await asyncio.sleep(100)
            assert len(job.at) == 1

    virtual(scenario)


def test_schedule_survives_a_clock_that_is_set_back() -> None:
    async def scenario(store: VirtualStore) -> None:
        job, kv = Job(), store.client()
        async with every(kv, job, "5m"):
            await asyncio.sleep(300)
            assert len(job.at) == 1
            kv.wall_off_s = -290
            await asyncio.sleep(305)
            assert len(job.at) == 1, "this time was taken already"
            kv.wall_off_s -= 86400
            await asyncio.sleep(300)
            assert len(job.at) == 2, "the times of yesterday were not"

    virtual(scenario)


def test_schedule_without_catch_up_leaves_missed_times_out() -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job()
        async with every(store.client(), job):
            await asyncio.sleep(90)
        count = len(job.at)
        await asyncio.sleep(600)
        async with every(store.client(), job):
            await asyncio.sleep(1)
            assert len(job.at) == count

    virtual(scenario)


@pytest.mark.parametrize("on_crash", ["skip", "rerun"])
def test_schedule_with_catch_up_makes_up_for_missed_times(on_crash: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job()
        async with every(store.client(), job, catch_up=True, on_crash=on_crash):
            await asyncio.sleep(1)
            assert not job.at, "nothing is missed before the first begin"
            await asyncio.sleep(119)
        assert len(job.at) == 2
        await asyncio.sleep(600)
        schedules = [every(store.client(), job, catch_up=True, on_crash=on_crash) for _ in range(3)]
        await asyncio.sleep(30)
        assert len(job.at) == 12
        await asyncio.sleep(60)
        assert len(job.at) == 13
        for schedule in schedules:
            await schedule.stop()

    virtual(scenario)


def test_schedule_that_makes_up_leaves_a_run_elsewhere_alone() -> None:
    """It does not ask again and again meanwhile."""

    async def scenario(store: VirtualStore) -> None:
        job, kv = Job(30.0), store.client()
        await every(store.client(), job, catch_up=True).stop()
        first = every(store.client(), job, catch_up=True)
        await asyncio.sleep(50)
        assert job.running == 1
        async with every(kv, job, catch_up=True):
            await asyncio.sleep(10)
            assert len(kv.calls) < 15
        assert len(job.at) == 1
        await first.stop()

    virtual(scenario)


def test_schedule_that_makes_up_runs_a_time_again_after_a_crash() -> None:
    """With `rerun` a time that another process runs is not taken: it may die."""

    async def scenario(store: VirtualStore) -> None:
        job, dead = Job(80.0), store.client()
        schedules = [
            every(kv, job, catch_up=True, on_crash="rerun", ttl=3) for kv in (dead, store.client(), store.client())
        ]
        await asyncio.sleep(60)
        assert job.running == 1
        dead.connect(False)
        await asyncio.sleep(200)
        records = [item for item in store.below(b"schedules/tidy/") if item.key.endswith(b"Z")]
        assert records[0].value is not None
        assert records[0].value.startswith(b"done "), "the first time"
        dead.connect(True)
        for schedule in schedules:
            await schedule.stop(timeout=100)

    virtual(scenario)


def test_schedule_makes_up_for_the_newest_missed_times_only() -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job()
        await every(store.client(), job, catch_up=True).stop()
        async with every(store.client(), job, catch_up=True):
            await asyncio.sleep(1)
        await asyncio.sleep(60 * 2 * MAX_MISSED)
        async with every(store.client(), job, catch_up=True):
            await asyncio.sleep(20)
        assert len(job.at) == MAX_MISSED

    virtual(scenario)


def test_schedule_with_catch_up_tries_a_failed_time_again_with_rerun() -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job()
        job.failing = 1
        async with every(store.client(), job, catch_up=True, on_crash="rerun"):
            await asyncio.sleep(60)
            assert len(job.at) == 1
            await asyncio.sleep(60)
            assert len(job.at) == 3, "the failed one, and the next"

    virtual(scenario)


def test_schedule_stop_waits_for_the_job() -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job(20.0)
        schedule = every(store.client(), job)
        await asyncio.sleep(45)
        assert job.running == 1
        await schedule.stop()
        assert job.running == 0
        assert 55 < asyncio.get_running_loop().time() < 70
        await schedule.stop()
        assert schedule.next_time is None

    virtual(scenario)


def test_schedule_stop_cancels_the_job_after_its_time() -> None:
    async def scenario(store: VirtualStore) -> None:
        job = Job(1000.0)
        schedule = every(store.client(), job)
        await asyncio.sleep(45)
        await schedule.stop(timeout=5)
        assert job.running == 0
        assert asyncio.get_running_loop().time() < 55
        assert not store.below(b"schedules/tidy/running")

    virtual(scenario)


def test_schedule_block_that_is_cancelled_cancels_an_async_job() -> None:
    """Ctrl-C cancels the main task of `asyncio.run`: the program must not go on for half a minute."""

    async def scenario(store: VirtualStore) -> None:
        job, loop = Job(1000.0), asyncio.get_running_loop()

        async def program() -> None:
            async with every(store.client(), job):
                await asyncio.sleep(3600)

        task = loop.create_task(program())
        await asyncio.sleep(45)
        assert job.running == 1
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert job.running == 0
        assert loop.time() < 47
        assert not store.below(b"schedules/tidy/running")

    virtual(scenario)


class AtOnce(RepeatedJob):
    """Runs its job one time, on the real loop."""

    async def _run(self) -> None:
        await self._call(lambda: result_in(self._job))


async def test_schedule_block_that_is_cancelled_waits_for_a_thread() -> None:
    """A thread goes on: if its place was given up, another process would run the job at the same time."""
    began, go_on = threading.Event(), threading.Event()
    ended = False

    def job() -> None:
        nonlocal ended
        began.set()
        assert go_on.wait(20)
        ended = True

    async def program() -> None:
        async with AtOnce(lambda _: 0, job, "the job", lambda: 0.0, caller="test"):
            await asyncio.to_thread(began.wait, 20)
            leaving.cancel()
            loop.call_soon(loop.call_soon, go_on.set)  # the block ends before it
            await asyncio.sleep(20)

    loop = asyncio.get_running_loop()
    leaving = loop.create_task(program())
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    assert ended


def test_schedule_that_its_own_job_stops_ends_after_it() -> None:
    async def scenario(store: VirtualStore) -> None:
        runs = 0

        async def job() -> None:
            nonlocal runs
            runs += 1
            await schedule.stop()

        schedule = every(store.client(), job)
        await asyncio.sleep(200)
        assert runs == 1
        assert schedule.next_time is None

    virtual(scenario)


def test_schedule_whose_client_is_closed_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(store: VirtualStore) -> None:
        job, kv = Job(), store.client()
        schedule = every(kv, job)
        kv.closed = True
        await asyncio.sleep(200)
        assert schedule.next_time is None
        assert not job.at

    with caplog.at_level(logging.WARNING):
        virtual(scenario)
    assert "ends here: the client is closed" in caplog.text


def test_schedule_next_time_is_in_utc() -> None:
    async def scenario(store: VirtualStore) -> None:
        async with every(store.client(), Job(), "30 2 * * *", tz="Europe/Berlin") as schedule:
            assert str(schedule.next_time) == "2026-09-22 00:30:00+00:00"

    virtual(scenario)


def test_schedule_arguments_that_cannot_be_used_are_refused() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv, job = store.client(), Job()
        for options in ({"on_crash": "x"}, {"ttl": 0}, {"tz": "Europe/Berlin"}, {"times": "5"}, {"times": 0}):
            with pytest.raises(ConfigError):
                every(kv, job, **{"times": "1m", **options})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="catch_up"):
            every(kv, job, catch_up=1)
        with pytest.raises(TypeError, match="must be a function"):
            kv.every("1m", "job", name=NAME)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="needs a name"):
            kv.every("1m", lambda: None)
        async with every(kv, job) as schedule:
            with pytest.raises(ConfigError, match="timeout"):
                await schedule.stop(timeout=0)

    virtual(scenario)


def test_schedule_without_a_running_loop_is_refused() -> None:
    with pytest.raises(UsageError, match="running event loop"):
        VirtualStore().client().every("1m", Job(), name=NAME)
