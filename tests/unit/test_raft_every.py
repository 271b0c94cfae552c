"""`Raft.every`, in virtual time: a job at its times, on the node that leads."""

from __future__ import annotations

import asyncio
import logging

import pytest

from syncline import LeaderSchedule
from syncline.errors import Closed, ConfigError
from syncline.testing.sim.server import SimServer
from tests.helpers.leading import WALL_S, Leading, leading, raft_of


class Jobs:
    """Jobs of all nodes, and when each has run where, in seconds of the wall clock."""

    def __init__(self, at: Leading) -> None:
        self.at = at
        self.runs: list[tuple[str, float]] = []
        self.ends: list[str] = []
        self.hold_s = 0.0
        self.failing = False

    async def schedule(self, server: SimServer, times: str | float = "2s") -> LeaderSchedule:
        async def job() -> None:
            self.runs.append((server.name, self.at.wall_time_s()))
            try:
                await asyncio.sleep(self.hold_s)
                if self.failing:
                    raise ValueError("mine")
            finally:
                self.ends.append(server.name)

        return await server.call(lambda: raft_of(server).every(times, job))

    @property
    def times(self) -> list[float]:
        return [round(at_s - WALL_S, 1) for _, at_s in self.runs]


def test_every_runs_on_the_leader_alone_at_each_time() -> None:
    async def scenario(at: Leading) -> None:
        jobs, leader = Jobs(at), await at.leader()
        schedules = [await jobs.schedule(server) for server in at.cluster.running]
        await at.until(lambda: len(jobs.runs) == 5)
        assert {name for name, _ in jobs.runs} == {leader.name}
        assert all(time % 2 < 0.2 for time in jobs.times)
        assert [after - before for before, after in zip(jobs.times, jobs.times[1:], strict=False)] == [2.0] * 4
        assert schedules[0].next_time is not None
        for server, schedule in zip(at.cluster.running, schedules, strict=True):
            await at.start(server, schedule.stop)
        await asyncio.sleep(5)
        assert len(jobs.runs) == 5
        assert schedules[0].next_time is None

    leading(scenario)


def test_every_goes_on_at_the_next_leader_after_a_crash() -> None:
    async def scenario(at: Leading) -> None:
        jobs, leader = Jobs(at), await at.leader()
        for server in at.cluster.running:
            await jobs.schedule(server)
        await at.until(lambda: len(jobs.runs) == 2)
        leader.crash()
        await at.until(lambda: len(jobs.runs) == 4)
        assert [name for name, _ in jobs.runs[:2]] == [leader.name] * 2
        assert {name for name, _ in jobs.runs[2:]} == {(await at.leader()).name}
        assert len(set(jobs.times)) == 4, "no time twice"
        assert jobs.times[3] - jobs.times[0] <= 10.0, "at most the times without a leader are left out"

    leading(scenario)


def test_every_does_not_run_on_a_leader_that_is_cut_off() -> None:
    """It still believes that it leads, so a quorum must confirm it."""

    async def scenario(at: Leading) -> None:
        jobs, leader = Jobs(at), await at.leader()
        await jobs.schedule(leader)
        await at.until(lambda: len(jobs.runs) == 1)
        due_s = jobs.runs[0][1] + 2.0
        await asyncio.sleep(due_s - at.wall_time_s() - 0.1)
        assert raft_of(leader).is_leader
        at.cluster.partition([leader.name], [server.name for server in at.cluster.running if server is not leader])
        await asyncio.sleep(0.15)
        assert raft_of(leader).is_leader, "as far as it knows, and its time has come"
        await asyncio.sleep(3.0)
        assert len(jobs.runs) == 1

    leading(scenario)


def test_every_job_that_runs_is_cancelled_when_the_leadership_is_lost() -> None:
    async def scenario(at: Leading) -> None:
        jobs, leader, follower = Jobs(at), await at.leader(), await at.follower()
        jobs.hold_s = 1_000.0
        for server in at.cluster.running:
            await jobs.schedule(server)
        await at.until(lambda: len(jobs.runs) == 1)
        raft = raft_of(leader)
        await at.start(leader, lambda: raft.transfer_leadership(follower.name))
        await at.until(lambda: len(jobs.runs) == 2)
        assert jobs.ends == [leader.name], "before the next leader's run"
        assert jobs.runs[1][0] == follower.name

    leading(scenario)


def test_every_leaves_out_times_while_the_job_runs() -> None:
    async def scenario(at: Leading) -> None:
        jobs = Jobs(at)
        jobs.hold_s = 4.5
        await jobs.schedule(await at.leader())
        await at.until(lambda: len(jobs.runs) == 3)
        assert [after - before for before, after in zip(jobs.times, jobs.times[1:], strict=False)] == [6.0, 6.0]

    leading(scenario, nodes=1)


def test_every_goes_on_after_the_job_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(at: Leading) -> None:
        jobs = Jobs(at)
        jobs.failing = True
        await jobs.schedule(await at.leader())
        with caplog.at_level(logging.ERROR):
            await at.until(lambda: len(jobs.ends) == 3)
        failed = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert [message.endswith("of the leader failed") for message in failed] == [True] * 3

    leading(scenario, nodes=1)


def test_every_ends_with_the_node() -> None:
    async def scenario(at: Leading) -> None:
        jobs, leader = Jobs(at), await at.leader()
        raft = raft_of(leader)
        schedule = await jobs.schedule(leader)
        await at.until(lambda: len(jobs.runs) == 1)
        closing = await at.start(leader, raft.close)
        await asyncio.wait([closing], timeout=10)
        await at.until(lambda: schedule.next_time is None)
        with pytest.raises(Closed):
            await jobs.schedule(leader)

    leading(scenario, nodes=1)


def test_every_takes_cron_expressions_and_seconds() -> None:
    async def scenario(at: Leading) -> None:
        jobs, leader = Jobs(at), await at.leader()
        by_cron = await jobs.schedule(leader, "30 2 * * mon-fri")
        by_seconds = await jobs.schedule(leader, 3.0)
        assert by_cron.next_time is not None
        assert (by_cron.next_time.hour, by_cron.next_time.minute) == (2, 30)
        assert by_seconds.next_time is not None
        assert by_seconds.next_time.timestamp() % 3 == 0

    leading(scenario, nodes=1)


@pytest.mark.parametrize(
    ("times", "job", "error"),
    [
        ("5 minutes", print, ConfigError),
        (0.5, print, ConfigError),
        (None, print, TypeError),
        ("5m", "job", TypeError),
        ("5m", None, TypeError),
    ],
)
def test_every_with_wrong_arguments_is_refused(times: object, job: object, error: type[Exception]) -> None:
    async def scenario(at: Leading) -> None:
        with pytest.raises(error):
            raft_of(await at.leader()).every(times, job)  # type: ignore[arg-type]

    leading(scenario, nodes=1)
