"""Work that only the node that leads does: a part of `Raft`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import tzinfo
from typing import TypeVar

from syncline.node.arguments import check_timeout
from syncline.node.leadership import CONFIRM_S, LeaderSchedule, LeaderTerm, leadership
from syncline.node.operations import Operations
from syncline.platform.repeated_job import checked_job
from syncline.platform.times import parse_times
from syncline.platform.world import World

__all__ = ["LeaderOperations"]

R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""


class LeaderOperations(Operations[R_co]):
    """Blocks and jobs that run where the leader is. Base of `Raft`."""

    _world: World

    def leadership(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[LeaderTerm[R_co]]:
        """A block that runs while this node leads: it waits until it does, and is cancelled when that is lost.

            async with raft.leadership() as term:
                await term.apply(b"expire lease 7")

        A quorum has confirmed the leadership when the block begins. `timeout`: seconds for that; None: without a limit.
        When the leadership is lost the block is cancelled, and `LeadershipLost` takes the place of its cancellation. So
        it does if the block was just at its end. A node that is cut off learns it up to two election timeouts late, and
        another node may lead by then. So fence what must not happen twice: `term.apply` for commands, `term.number`
        for other systems.

        Raises:
            LeadershipLost: it was lost while the block ran (`unknown`).
            NotLeader: this node did not lead, confirmed by a quorum, before the deadline (`not_applied`).
            ConfigError, TypeError: `timeout` can't be used.
            Closed, NodeFailed: the node has stopped.
        """
        driver = self._driver
        driver.running.check_place()
        return leadership(
            driver.core,
            driver.running,
            lambda timeout_s: self.verify_leader(timeout=timeout_s),
            self.apply,
            None if timeout is None else check_timeout(timeout),
            driver.config.election_s,
        )

    def every(self, times: str | float, job: Callable[[], object], *, tz: str | tzinfo | None = None) -> LeaderSchedule:
        """Run a job again and again, on the node that leads. Call it on all nodes: those that follow do nothing.

            async with raft.every("5m", clean_up):
                await raft.barrier()

            schedule = raft.every("30 2 * * mon-fri", report, tz="Europe/Berlin")
            await schedule.stop()

        `times` and `tz` are those of `AsyncClient.every`: a duration such as `5m` or `1h30m` (multiples since 1970,
        UTC), seconds, or a cron expression of five fields. The job is a function without arguments, asynchronous or
        plain (it runs in a thread). Its exception is logged, and the schedule goes on.

        A quorum confirms the leadership before each run. An asynchronous job is cancelled when it is lost. Left out are
        times that come while the job still runs, and those at which no node leads. Around a change of leader two nodes
        may run the job for one time, because their clocks differ. Where that matters give the job's command its own
        guard in the state machine, or use `kv.every`, which keeps a record of each time.

        Raises:
            ConfigError, TypeError: an argument can't be used.
            UsageError: it is called on another thread or loop than the node's.
            Closed, NodeFailed: the node has stopped.
        """
        parsed = parse_times(times, tz)
        checked_job(job)
        self._driver.running.check()
        name = getattr(job, "__qualname__", type(job).__name__)
        return LeaderSchedule(
            parsed.next_s,
            job,
            f'the job "{name}" of the leader',
            self._world.wall_time_s,
            self.leadership,
            lambda: self.verify_leader(timeout=CONFIRM_S),
        )
