"""Keep-alives and times of leases on any node: they are gathered, and the leader is asked for many leases at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias

import msgspec

from syncline.errors import DeadlineExceeded, Dropped, NoLeader, NotLeader, Outcome, SynclineError
from syncline.kv.lease_calls import MAX_CALL_LEASES, KeepAlive, LeaseCall, LeaseTime, TimesLeft, decode_times
from syncline.kv.lease_rounds import WaitingCall

__all__ = ["GATHER_S", "MAX_GATHER_S", "LeaseCaller"]

GATHER_S: Final = 0.01
MAX_GATHER_S: Final = 0.04
MANY: Final = 4
"""Keep-alives wait for others for `GATHER_S`. If at least `MANY` have come in that time, the next ones wait twice as
long, up to `MAX_GATHER_S`. Each call to the leader has a quorum confirm it, which costs as much as many keep-alives. A
thousand a second cost it 25 calls. A TTL is seconds long. A caller with a short deadline waits for less: half of its
time, but no less than `GATHER_S`."""

ATTEMPT_S: Final = 2.0
"""One call's share of the deadline: the answer of a leader that can't be reached any more may never come."""


class AskingHandle(Protocol):
    """The method of `Raft` that is used here."""

    async def ask_leader(self, data: bytes, *, timeout: float) -> bytes: ...


Then: TypeAlias = Callable[[LeaseTime | None, SynclineError | None], None]
"""Called once with the time of the lease, or with None and the error. It must not raise."""


class _Gathered(Protocol):
    """A caller, and the leases that it has named."""

    leases: Sequence[int]
    deadline_s: float

    def answered(self, times: Mapping[int, LeaseTime]) -> None: ...

    def failed(self, error: SynclineError) -> None: ...

    def closed(self) -> None:
        """There is no answer, because the node closes; or there was one before."""
        ...


class _FutureCaller:
    """A caller that waits for a future."""

    __slots__ = ("deadline_s", "future", "leases")

    def __init__(self, leases: Sequence[int], deadline_s: float, future: asyncio.Future[list[LeaseTime]]) -> None:
        self.leases = leases
        self.deadline_s = deadline_s
        self.future = future

    def answered(self, times: Mapping[int, LeaseTime]) -> None:
        if not self.future.done():
            self.future.set_result([times[lease] for lease in self.leases])

    def failed(self, error: SynclineError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # its caller may have given up

    def closed(self) -> None:
        self.future.cancel()


class _CallbackCaller:
    """A caller that is called back. It costs no future, and no turn of the loop of its own."""

    __slots__ = ("_then", "deadline_s", "leases")

    def __init__(self, lease: int, deadline_s: float, then: Then) -> None:
        self.leases: Sequence[int] = (lease,)
        self.deadline_s = deadline_s
        self._then = then

    def answered(self, times: Mapping[int, LeaseTime]) -> None:
        self._then(times[self.leases[0]], None)

    def failed(self, error: SynclineError) -> None:
        self._then(None, error)

    def closed(self) -> None:
        pass


class LeaderHere(Protocol):
    """The lessor of the same node."""

    def keep_alive_here(self, call: WaitingCall) -> bool: ...

    def join(self, gathered: Callable[[], None] | None) -> None: ...


class _CallHere:
    """Keep-alives that the lessor of this node answers. `ended` is called once, with None if it gave no answer."""

    __slots__ = ("_ended", "_over", "deadline_s", "group", "leases", "timer")

    def __init__(
        self,
        group: list[_Gathered],
        leases: tuple[int, ...],
        deadline_s: float,
        ended: Callable[[_CallHere, list[LeaseTime] | None], None],
    ) -> None:
        self.leases = leases
        self.deadline_s = deadline_s
        self.group = group
        self.timer: asyncio.TimerHandle | None = None
        self._ended = ended
        self._over = False

    def done(self) -> bool:
        return self._over

    def answered(self, times: list[LeaseTime]) -> None:
        self._end(times)

    def failed(self, _: SynclineError) -> None:
        self._end(None)

    def cancel(self) -> None:
        self._end(None)

    def _end(self, times: list[LeaseTime] | None) -> None:
        if not self._over:
            self._over = True
            self._ended(self, times)


class LeaseCaller:
    """Asks the leader about leases, for the callers of one node. Keep-alives wait for others: `gather_s`, and longer
    while many come in."""

    def __init__(self, raft: AskingHandle, *, gather_s: float = GATHER_S) -> None:
        self._raft = raft
        self._least_gather_s = self._gather_s = gather_s
        self._loop = asyncio.get_running_loop()
        self._gathered: list[_Gathered] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._here: LeaderHere | None = None
        self._calls_here: dict[_CallHere, None] = {}
        self._closed = False

    def answer_here(self, lessor: LeaderHere) -> None:
        """Have the lessor of this node answer while it leads: without a message, and with its next confirmation."""
        self._here = lessor
        lessor.join(self._flush)

    async def close(self) -> None:
        """End the calls under way: their callers are cancelled."""
        self._closed = True
        if self._here is not None:
            self._here.join(None)
        for call in list(self._calls_here):
            call.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for caller in self._gathered:
            caller.closed()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def keep_alive(self, leases: Sequence[int], timeout_s: float) -> asyncio.Future[list[LeaseTime]]:
        """Give up to `MAX_CALL_LEASES` leases their full time. An answer has a `ttl_ms` of 0 if there is no such lease.

        It may be made again, so it is until the deadline. The future raises what `Raft.ask_leader` raises; `close`
        cancels it.
        """
        assert 0 < len(leases) <= MAX_CALL_LEASES
        future: asyncio.Future[list[LeaseTime]] = self._loop.create_future()
        self._gather(_FutureCaller(leases, self._loop.time() + timeout_s, future), timeout_s)
        return future

    def keep_alive_then(self, lease: int, timeout_s: float, then: Then) -> None:
        """`keep_alive` of one lease, with a callback in place of the future. After `close` it is not called."""
        self._gather(_CallbackCaller(lease, self._loop.time() + timeout_s, then), timeout_s)

    def _gather(self, caller: _Gathered, timeout_s: float) -> None:
        self._gathered.append(caller)
        wait_s, timer = self._gather_s, self._timer
        if timeout_s < 2 * wait_s:  # at least half of the caller's time is for the call
            wait_s = max(self._least_gather_s, timeout_s / 2)
            if timer is not None and self._loop.time() + wait_s < timer.when():
                timer.cancel()
                timer = None
        if timer is None:
            self._timer = self._loop.call_later(wait_s, self._gather_time_over)

    async def times_left(self, leases: Sequence[int], timeout_s: float) -> list[LeaseTime]:
        """What is left of the time of up to `MAX_CALL_LEASES` leases. Raises what `keep_alive` raises."""
        assert 0 < len(leases) <= MAX_CALL_LEASES
        return list(await self._ask(TimesLeft(tuple(leases)), len(leases), self._loop.time() + timeout_s))

    def _gather_time_over(self) -> None:
        came = len(self._gathered)
        if came >= MANY:
            self._gather_s = min(2 * self._gather_s, MAX_GATHER_S)
        elif came == 1:
            self._gather_s = self._least_gather_s
        self._flush()

    def _flush(self) -> None:
        if self._timer is None:
            return  # nothing has gathered
        self._timer.cancel()
        self._timer = None
        gathered, self._gathered = self._gathered, []
        group: list[_Gathered] = []
        count = 0
        for waiting in gathered:
            if count + len(waiting.leases) > MAX_CALL_LEASES:
                self._start(group)
                group, count = [], 0
            group.append(waiting)
            count += len(waiting.leases)
        self._start(group)

    def _start(self, group: list[_Gathered]) -> None:
        if group and not self._start_here(group):
            self._ask_for(group)

    def _start_here(self, group: list[_Gathered]) -> bool:
        """Whether the lessor of this node has taken the keep-alives."""
        lessor = self._here
        if lessor is None:
            return False
        leases, deadline_s = _named(group)
        # As with a call to a leader elsewhere: if the quorum is silent for so long, the callers may have other fates.
        deadline_s = min(deadline_s, self._loop.time() + ATTEMPT_S)
        call = _CallHere(group, leases, deadline_s, self._ended_here)
        if not lessor.keep_alive_here(call):
            return False
        self._calls_here[call] = None
        call.timer = self._loop.call_at(deadline_s, call.cancel)
        return True

    def _ended_here(self, call: _CallHere, times: list[LeaseTime] | None) -> None:
        del self._calls_here[call]
        if call.timer is not None:
            call.timer.cancel()
        if times is not None:
            by_lease = dict(zip(call.leases, times, strict=True))
            for caller in call.group:
                caller.answered(by_lease)
        elif self._closed:
            for caller in call.group:
                caller.closed()
        else:  # this node leads no more, or no quorum has confirmed it
            self._ask_for(call.group)

    def _ask_for(self, group: list[_Gathered]) -> None:
        task = self._loop.create_task(self._keep_alive(group))
        self._tasks[task] = None
        # Not in the task itself: one that is cancelled before its first step runs nothing of its own.
        task.add_done_callback(partial(self._ended, group))

    def _ended(self, group: list[_Gathered], task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        for caller in group:
            caller.closed()

    async def _keep_alive(self, group: list[_Gathered]) -> None:
        """Ask for all of a group. A caller whose time is over gets its error; the others are asked for again."""
        waiting = group
        while waiting:
            leases, deadline_s = _named(waiting)
            try:
                answers = await self._ask(KeepAlive(leases), len(leases), deadline_s)
            except SynclineError as error:
                now_s = self._loop.time()
                ended = [caller for caller in waiting if caller.deadline_s <= now_s] or waiting
                waiting = [caller for caller in waiting if caller not in ended]
                for caller in ended:
                    caller.failed(error)
            else:
                times = dict(zip(leases, answers, strict=True))
                for caller in waiting:
                    caller.answered(times)
                return

    async def _ask(self, call: LeaseCall, count: int, deadline_s: float) -> tuple[LeaseTime, ...]:
        """Ask until there is an answer: what is asked here may be asked twice."""
        data = msgspec.msgpack.encode(call)
        while True:
            now_s = self._loop.time()
            attempt_s = min(max(deadline_s - now_s, 0.001), ATTEMPT_S)
            try:
                return decode_times(await self._raft.ask_leader(data, timeout=attempt_s), count)
            except (DeadlineExceeded, NoLeader, NotLeader, Dropped) as error:
                later_s = self._loop.time()
                # What ends before its time without an effect would end so again at once.
                is_final = error.outcome is Outcome.NOT_APPLIED and later_s < now_s + attempt_s
                if is_final or later_s >= deadline_s:
                    raise


def _named(callers: Sequence[_Gathered]) -> tuple[tuple[int, ...], float]:
    """The leases of some callers, each once, and the first of their deadlines."""
    leases: dict[int, None] = {}
    deadline_s = math.inf
    for caller in callers:
        for lease in caller.leases:
            leases[lease] = None
        if caller.deadline_s < deadline_s:
            deadline_s = caller.deadline_s
    return tuple(leases), deadline_s
