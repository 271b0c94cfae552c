"""The words about locks, elections, schedules and barriers, as methods: `AsyncClient` inherits them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from datetime import tzinfo

from syncline.client.arguments import to_bytes
from syncline.client.calls import Key
from syncline.client.coordination.barrier import Barrier
from syncline.client.coordination.calls import KeyValueCalls, TimedCalls
from syncline.client.coordination.election import ElectedLeader, Term, leader_of, terms_of
from syncline.client.coordination.lock import Lock
from syncline.client.coordination.names import needed_ttl_s, shown, word_key
from syncline.client.coordination.once import Once
from syncline.client.coordination.schedule import Schedule
from syncline.platform.entropy import Entropy

__all__ = ["LockWords"]


class LockWords:
    """Locks, elections, work that is done once, schedules, barriers. The class that inherits it sets the fields."""

    _entropy: Entropy
    _wall_time_s: Callable[[], float]
    """Seconds since 1970, UTC."""

    def lock(self: KeyValueCalls, name: Key, *, ttl: float = 10.0, holders: int = 1, wait: float | None = None) -> Lock:
        """A lock that at most `holders` clients have at a time, each for as long as its block runs.

            async with kv.lock("printer", ttl=10) as held:
                print(held.token)

        `ttl`: seconds (2 or more) after which it is free again if its holder dies. It is renewed by itself. `wait`:
        seconds to wait for it; None: without a limit; 0: one try. `docs/locks.md` says what a lock can't promise, and
        what the token is for.

        Raises:
            ConfigError, TypeError: an argument can't be used. `Lock.acquire` says what a block begins with.
        """
        return Lock(self, name, ttl=ttl, holders=holders, wait=wait)

    def elect(
        self: KeyValueCalls, name: Key, *, value: bytes | str = b"", ttl: float = 10.0
    ) -> AsyncGenerator[Term, None]:
        """Campaign for the leadership of `name`, and campaign again when a term is over: one leads at a time.

            async for term in kv.elect("master", value="10.0.0.1"):
                async with term:  # cancelled when the term is lost
                    print(term.token)
                break  # resigns

        `value` is what others see (`leader`). `ttl`: seconds (2 or more) after which another candidate leads if this
        one dies. The next step of the loop resigns, and so do its end, `break` and an exception. A server must be
        reached at the begin; later the loop waits for one, for as long as it takes.

        Raises:
            Unreachable, DeadlineExceeded: at the begin no server could be reached.
            OperationError: the cluster refused it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        prefix = word_key(b"elections", name, "an election") + b"/"
        what = f'the leadership of "{shown(prefix[len(b"elections/") : -1])}"'
        return terms_of(self, prefix, needed_ttl_s(ttl, "an election"), to_bytes(value, "value"), what)

    async def leader(self: KeyValueCalls, name: Key) -> ElectedLeader | None:
        """The leader of the election `name`; None if there is none. It is read from the cluster, not remembered.

            leader = await kv.leader("master")
            print("no leader" if leader is None else leader.value)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await leader_of(self, word_key(b"elections", name, "an election") + b"/")

    def once(
        self: TimedCalls,
        name: Key | None = None,
        *,
        every: str | float | None = None,
        on_crash: str = "skip",
        ttl: float = 10.0,
    ) -> Once:
        """Decorate a function so that it runs once in the whole cluster, or once in each period.

            @kv.once("nightly", every="1d")
            async def report() -> str:
                return "sent"

            print(await report())  # None if it ran elsewhere, or before

        The decorated function is asynchronous; a plain one runs in a thread. Its result goes to the caller that ran
        it, all others get None. Without a `name` it is that of the function, with its module.

        `every`: a duration such as `5m`, or seconds. The periods begin at multiples of it since 1970, UTC, by each
        caller's clock. Without it there is one period without an end.

        `on_crash`: `skip` runs it at most once, and never again after a crash or an exception. `rerun` runs it at
        least once: a caller waits while another one runs it, and takes over if that one fails, or dies (`ttl` seconds
        later). If such a run loses its lease it ends with `LockLost`.

        Raises:
            ConfigError, TypeError: an argument can't be used.
        """
        return Once(self, name, every=every, on_crash=on_crash, ttl=ttl)

    def every(
        self: TimedCalls,
        times: str | float,
        job: Callable[[], object],
        *,
        name: Key | None = None,
        tz: str | tzinfo | None = None,
        catch_up: bool = False,
        on_crash: str = "skip",
        ttl: float = 10.0,
    ) -> Schedule:
        """Run a job again and again, once in the whole cluster at each of its times. It begins at once.

            async with kv.every("5m", clean_up):
                await serve()

            schedule = kv.every("30 2 * * mon-fri", report, tz="Europe/Berlin")
            await schedule.stop()

        `times`: a duration such as `5m` or `1h30m` (multiples since 1970, UTC), or a cron expression of five fields
        (minute, hour, day, month, day of the week), or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Cron
        times are UTC unless `tz` says otherwise. `docs/run-once.md` says what happens when clocks are changed.

        The job is a function without arguments, asynchronous or plain (it runs in a thread). Its exception is logged,
        and the schedule goes on. A time that comes while the job still runs, anywhere, is left out, and so is one that
        no process took within a minute. With `catch_up` such times are made up for, the newest 100.

        `on_crash` and `name` are as in `once`. `ttl`: seconds after which a process that died no longer counts.

        Raises:
            ConfigError, TypeError: an argument can't be used.
            UsageError: no event loop runs.
        """
        return Schedule(self, times, job, name=name, tz=tz, catch_up=catch_up, on_crash=on_crash, ttl=ttl)

    def barrier(self: KeyValueCalls, name: Key, parties: int, *, ttl: float = 10.0) -> Barrier:
        """A barrier: so many parties wait for each other, and go on together.

            barrier = kv.barrier("start", parties=1)
            await barrier.wait(timeout=60)

        `ttl`: seconds (2 or more) after which a party that died is no longer counted.

        Raises:
            ConfigError, TypeError: an argument can't be used.
        """
        return Barrier(self, name, parties, ttl=ttl)
