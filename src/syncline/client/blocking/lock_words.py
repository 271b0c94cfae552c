"""Blocking words about locks, elections, schedules and barriers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo

from syncline.client.blocking.barrier import BlockingBarrier
from syncline.client.blocking.election import BlockingTerm, blocking_terms
from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.lock import BlockingLock
from syncline.client.blocking.once import BlockingOnce
from syncline.client.blocking.portal import PortalObject
from syncline.client.blocking.schedule import BlockingSchedule
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.coordination.election import ElectedLeader
from syncline.client.coordination.once import OncePlan
from syncline.client.coordination.schedule import Schedule
from syncline.platform.user_calls import is_async

__all__ = ["BlockingLockWords"]


class BlockingLockWords(PortalObject[AsyncClient]):
    """Locks, elections, work that is done once, schedules, barriers."""

    def lock(self, name: Key, *, ttl: float = 10.0, holders: int = 1, wait: float | None = None) -> BlockingLock:
        """A lock that at most `holders` clients have at a time, each for as long as its block runs.

            with kv.lock("printer", ttl=10) as held:
                print(held.token)

        Its arguments and errors are those of `AsyncClient.lock`.
        """
        return BlockingLock(self._portal, self._plain(lambda kv: kv.lock(name, ttl=ttl, holders=holders, wait=wait)))

    def elect(self, name: Key, *, value: bytes | str = b"", ttl: float = 10.0) -> PortalIterator[BlockingTerm]:
        """Campaign for the leadership of `name`, and campaign again when a term is over: one leads at a time.

            for term in kv.elect("master", value="10.0.0.1"):
                with term:
                    print(term.token)
                break  # resigns

        To resign before the next line of the program: `with kv.elect("master") as terms:` around the loop.

        Its arguments and errors are those of `AsyncClient.elect`.
        """
        portal = self._portal
        return self._iterate(lambda kv: blocking_terms(portal, kv.elect(name, value=value, ttl=ttl)), ahead=1)

    def leader(self, name: Key) -> ElectedLeader | None:
        """The leader of the election `name`; None if there is none. It is read from the cluster, not remembered.

            leader = kv.leader("master")
            print("no leader" if leader is None else leader.value)

        Its arguments and errors are those of `AsyncClient.leader`.
        """
        return self._call(lambda kv: kv.leader(name))

    def once(
        self,
        name: Key | None = None,
        *,
        every: str | float | None = None,
        on_crash: str = "skip",
        ttl: float = 10.0,
    ) -> BlockingOnce:
        """Decorate a function so that it runs once in the whole cluster, or once in each period.

            @kv.once("nightly", every="1d")
            def report() -> str:
                return "sent"

            print(report())  # None if it ran elsewhere, or before

        The decorated function is a plain one, and runs in the thread that calls it.

        Its arguments and errors are those of `AsyncClient.once`.
        """
        return BlockingOnce(self._portal, self._object, OncePlan(name, every, on_crash, ttl))

    def every(
        self,
        times: str | float,
        job: Callable[[], object],
        *,
        name: Key | None = None,
        tz: str | tzinfo | None = None,
        catch_up: bool = False,
        on_crash: str = "skip",
        ttl: float = 10.0,
    ) -> BlockingSchedule:
        """Run a job again and again, once in the whole cluster at each of its times. It begins at once.

            with kv.every("5m", clean_up):
                serve()

        The job is a plain function without arguments, and runs in a thread of its own.

        Raises:
            TypeError: the job is an asynchronous function.

        Its arguments and errors are those of `AsyncClient.every`.
        """
        if is_async(job):
            raise TypeError("the job is asynchronous: give it to the `every` of an AsyncClient")

        def begin(kv: AsyncClient) -> Schedule:
            return kv.every(times, job, name=name, tz=tz, catch_up=catch_up, on_crash=on_crash, ttl=ttl)

        return BlockingSchedule(self._portal, self._plain(begin))

    def barrier(self, name: Key, parties: int, *, ttl: float = 10.0) -> BlockingBarrier:
        """A barrier: so many parties wait for each other, and go on together.

            barrier = kv.barrier("start", parties=1)
            barrier.wait(timeout=60)

        Its arguments and errors are those of `AsyncClient.barrier`.
        """
        return BlockingBarrier(self._portal, self._plain(lambda kv: kv.barrier(name, parties, ttl=ttl)))
