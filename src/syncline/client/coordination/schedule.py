"""Jobs that run again and again: once in the whole cluster at each of their times."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

from syncline.client.arguments import checked_flag
from syncline.client.calls import Key
from syncline.client.coordination.calls import TimedCalls
from syncline.client.coordination.claim import Claim, checked_on_crash, kept_s, until_free
from syncline.client.coordination.names import needed_ttl_s, shown, word_key
from syncline.client.coordination.once import TIME_BYTES, name_of
from syncline.client.coordination.waiting import PAUSE_S, passes
from syncline.client.txn import Compare, PutOp
from syncline.errors import OperationError, UsageError
from syncline.platform.repeated_job import RepeatedJob, checked_job
from syncline.platform.times import parse_time, parse_times, time_text, times_between
from syncline.platform.user_calls import result_in

__all__ = ["Schedule"]

logger: Final = logging.getLogger(__name__)

LATE_S: Final = 60.0
"""A time that no process could take for so long is missed."""

MAX_MISSED: Final = 100
"""So many missed times are made up for: the newest."""


class Schedule(RepeatedJob):
    """A job and its times. `AsyncClient.every` makes it; it runs until `stop`, or the end of its block.

    async with kv.every("5m", clean_up):
        await serve()
    """

    def __init__(
        self,
        kv: TimedCalls,
        times: str | float,
        job: Callable[[], object],
        *,
        name: Key | None,
        tz: object,
        catch_up: bool,
        on_crash: str,
        ttl: float,
    ) -> None:
        """See `AsyncClient.every`."""
        self._kv = kv
        self._times = parse_times(times, tz)
        given = name_of(checked_job(job), "kv.every") if name is None else name
        self._key = word_key(b"schedules", given, "a schedule", room=TIME_BYTES)
        self._catch_up = checked_flag(catch_up, "catch_up")
        self._on_crash = checked_on_crash(on_crash)
        self._ttl_s = needed_ttl_s(ttl, "a schedule")
        what = f'the job "{shown(self._key[len(b"schedules/") :])}"'
        super().__init__(self._times.next_s, job, what, kv._wall_time_s, caller="kv.every")

    async def _run(self) -> None:
        after_s = self._kv._wall_time_s()
        try:
            if self._catch_up:
                await self._make_up(after_s + LATE_S)
            while not self._stopping:
                due_s = self._times.next_s(after_s)
                if await self._has_come(due_s, after_s):
                    limit_s = min(due_s + LATE_S, self._times.next_s(due_s))
                    if self._catch_up:
                        await self._make_up(limit_s)
                    else:
                        await self._take(due_s, limit_s)
                after_s = self._kv._wall_time_s()
        except UsageError as error:
            logger.warning("%s ends here: %s", self._what, error)
        except Exception:
            logger.exception("%s ends here", self._what)
            raise

    async def _take(self, due_s: int, limit_s: float) -> None:
        """Run the job for this time, unless another process does."""
        record = self._record(due_s)
        while not self._stopping:
            claim = self._claim(due_s)
            try:
                if await self._claimed(claim, due_s, limit_s):
                    await self._work(claim)
                    return
            finally:
                await claim.leave()
            if self._on_crash == "skip" or not await self._given_up(record):
                return
            limit_s = math.inf  # the process that had taken it has died: it must be run, however late

    async def _given_up(self, record: bytes) -> bool:
        """If another process runs it: wait for its end, and return whether it died, so that the time is free again."""
        try:
            found = await self._kv.get(record)
            return found is not None and await until_free(self._kv, record)
        except OperationError as error:
            logger.warning("%s: is it done? %s", self._what, error)
            return False

    async def _claimed(self, claim: Claim, due_s: int, limit_s: float) -> bool:
        """Claim it; try again for as long as the time may still be taken."""
        while True:
            if self._kv._wall_time_s() >= limit_s:
                logger.warning("%s has missed %s: it could not be claimed in time", self._what, time_text(due_s))
                return False
            try:
                return await claim.claim()
            except OperationError as error:
                logger.warning("%s could not be claimed: %s", self._what, error)
                if not passes(error):
                    return False
            await asyncio.sleep(PAUSE_S)

    async def _work(self, claim: Claim) -> bool:
        """Run the job; whether it succeeded."""

        async def claimed() -> None:
            async with claim:
                await result_in(self._job)

        return await self._call(claimed)

    async def _make_up(self, limit_s: float) -> None:
        """Run the job for each time since the last one that was taken by any process."""
        last_key = self._key + b"/last"
        while not self._stopping:
            try:
                now_s = self._kv._wall_time_s()
                found = await self._kv.get(last_key)
                if found is None:
                    await self._kv.put(last_key, time_text(int(now_s)), if_absent=True)
                    return
                last_s = parse_time(found.value.decode(errors="replace")) or now_s
                missed = times_between(self._times, last_s, now_s, MAX_MISSED)
                if not missed or not await self._take_missed(missed[0], found.mod_revision):
                    return
            except OperationError as error:
                logger.warning("%s: the times that were missed: %s", self._what, error)
                if not passes(error) or self._kv._wall_time_s() >= limit_s:
                    return
                await asyncio.sleep(PAUSE_S)

    async def _take_missed(self, due_s: int, revision: int) -> bool:
        """Run the job for this time. Whether to go on with the next."""
        last_key = self._key + b"/last"
        unchanged = Compare(last_key, target="mod_revision", number=revision)
        taken = PutOp(last_key, time_text(due_s).encode())
        claim = self._claim(due_s, unless=[unchanged], also=[taken])
        try:
            if await claim.claim():
                # At least once: a time whose job fails stays missed, and is tried again at the next time.
                return await self._work(claim) or self._on_crash == "skip"
        finally:
            await claim.leave()
        if await self._kv.get(self._key + b"/running") is not None:
            return False  # another process is at work: it goes on with the next ones
        if await self._kv.get(self._record(due_s)) is not None:
            await self._kv.txn([unchanged], [taken], idempotent=True)
        return True

    def _claim(self, due_s: int, *, unless: list[Compare] | None = None, also: list[PutOp] | None = None) -> Claim:
        return Claim(
            self._kv,
            self._record(due_s),
            on_crash=self._on_crash,
            keep_s=kept_s(self._times.next_s(due_s) - due_s),
            ttl_s=self._ttl_s,
            what=f"{self._what} of {time_text(due_s)}",
            running=self._key + b"/running",
            unless=unless or (),
            also=also or (),
        )

    def _record(self, due_s: int) -> bytes:
        return self._key + b"/" + time_text(due_s).encode()
