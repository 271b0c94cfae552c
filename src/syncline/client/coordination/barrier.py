"""Barriers: so many parties wait for each other."""

from __future__ import annotations

import asyncio
from typing import Final

from syncline.client.calls import Key
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import checked_number_of, checked_wait_s, needed_ttl_s, shown, word_key
from syncline.client.coordination.place import Place
from syncline.client.coordination.place_queue import places_in, read_places
from syncline.client.coordination.waiting import PAUSE_S, SIGNS_S, closing, passes
from syncline.client.results import KeyInfo
from syncline.client.txn import Compare, DeleteOp, GetOp, Operation, PutOp
from syncline.errors import ConfigError, DeadlineExceeded, LeaseLost, OperationError, Outcome

__all__ = ["Barrier"]

WITHDRAW_S: Final = 5.0
"""How long it may take to find out whether a party that gives up was let through."""


class Barrier:
    """Lets its parties through when so many wait. `AsyncClient.barrier` makes it.

        barrier = kv.barrier("start", parties=3)
        await barrier.wait(timeout=60)

    It can be used again: the next so many parties that wait are the next round. Each waits with a key of its own, and
    a party that dies is no longer counted when its TTL is over. One that dies while the last party arrives may be.

    Below `barriers/NAME/` each party has a key. `opened` has the create revision of the last one that was let through.
    A party that opens the barrier, or gives up, changes `opened`: so nothing happens between.
    """

    def __init__(self, kv: KeyValueCalls, name: Key, parties: int, *, ttl: float = 10.0) -> None:
        """See `AsyncClient.barrier`."""
        self._kv = kv
        self._prefix = word_key(b"barriers", name, "a barrier") + b"/"
        self._opened_key = self._prefix + b"opened"
        self._parties = checked_number_of(parties, "parties")
        self._ttl_s = needed_ttl_s(ttl, "a barrier")
        self._what = f'the barrier "{shown(self._prefix[len(b"barriers/") : -1])}"'

    async def wait(self, *, timeout: float | None = None) -> None:
        """Wait until so many parties wait. `timeout`: seconds; None: without a limit; 0: only if this is the last one.

            await kv.barrier("start", parties=3).wait(timeout=60)

        Raises:
            DeadlineExceeded: too few came in time. `not_applied`: this party counted for nothing. `unknown`: no server
                said whether it was let through.
            LockLost: the party's place was lost: its lease ended, or its key was deleted.
            ConfigError: another party waits for another number of parties.
            Unreachable: no server could be reached.
            OperationError: the cluster refused it, or could not do it.
        """
        wait_s = checked_wait_s(timeout, "timeout")
        what = f"the place at {self._what}"
        place = Place(self._kv, self._prefix, self._ttl_s, value=str(self._parties).encode(), what=what)
        limit = asyncio.timeout(wait_s or None)
        try:
            try:
                async with limit:
                    await place.take()
                    if await place.unless_lost(self._pass(place, patient=wait_s != 0)):
                        return
            except TimeoutError:
                if not limit.expired():
                    raise
            await self._give_up(place, wait_s or 0.0)
        finally:
            await place.leave()

    async def _pass(self, place: Place, *, patient: bool) -> bool:
        await place.write(patient=patient)
        while True:
            try:
                revision, keys = await read_places(self._kv, self._prefix, values=True)
                if self._is_open_for(place, keys):
                    return True
                if await self._open(keys):
                    continue
                if not patient:
                    return False
                await self._change(revision)
            except OperationError as error:
                if not patient or not passes(error):
                    raise
                await asyncio.sleep(PAUSE_S)

    def _is_open_for(self, place: Place, keys: list[KeyInfo]) -> bool:
        """Whether this party was let through. Its key must be there: else it was not counted."""
        place.see(keys)
        last, number = self._opened(keys)
        if last >= place.revision:
            self._must_be_mine(number)
            return True
        for item in self._waiting(keys):
            if item.create_revision < place.revision:
                self._must_be_mine(_number(item.value))
        return False

    def _must_be_mine(self, number: int) -> None:
        if number != self._parties:
            raise ConfigError(f"parties is {self._parties}: another party waits at {self._what} for {number}")

    async def _open(self, keys: list[KeyInfo]) -> bool:
        """Let the first parties through if they are enough. Whether the state is another one now."""
        waiting = [item for item in self._waiting(keys) if _number(item.value) == self._parties]
        if len(waiting) < self._parties:
            return False
        opened = f"{waiting[self._parties - 1].create_revision} {self._parties}".encode()
        seen = next((item.mod_revision for item in keys if item.key == self._opened_key), 0)
        unchanged = Compare(self._opened_key, target="mod_revision", number=seen)
        await self._kv.txn([unchanged], [PutOp(self._opened_key, opened)], idempotent=True)
        return True

    def _waiting(self, keys: list[KeyInfo]) -> list[KeyInfo]:
        """The parties that wait, in their order."""
        last, _ = self._opened(keys)
        return [item for item in places_in(keys, self._prefix) if item.create_revision > last]

    def _opened(self, keys: list[KeyInfo]) -> tuple[int, int]:
        """The create revision of the last party that was let through, and how many were."""
        return next((_opened_in(item.value) for item in keys if item.key == self._opened_key), (0, 0))

    async def _change(self, revision: int) -> None:
        """Wait until the keys must be read again."""
        async with closing(
            self._kv.watch(prefix=self._prefix, from_revision=revision + 1, progress=SIGNS_S)
        ) as changes:
            async for _ in changes:
                return

    async def _give_up(self, place: Place, waited_s: float) -> None:
        """Take this party back, unless it was let through meanwhile."""
        try:
            async with asyncio.timeout(WITHDRAW_S):
                while True:
                    if await self._withdrawn(place):
                        break
        except _LetThrough:
            return
        except (OperationError, TimeoutError) as error:
            raise DeadlineExceeded(
                f"{self._what} did not open within {waited_s:g} s, and no server says whether it opened since",
                outcome=Outcome.UNKNOWN,
            ) from error
        raise DeadlineExceeded(
            f"{self._what} did not open within {waited_s:g} s: fewer than {self._parties} parties wait",
            outcome=Outcome.NOT_APPLIED,
        )

    async def _withdrawn(self, place: Place) -> bool:
        if not place.key:
            return True
        own, opened = (await self._kv.txn(then=[GetOp(place.key), GetOp(self._opened_key)])).results
        last, _ = _opened_in(opened.value)
        if not own.found:
            if place.revision == 0 or last >= place.revision:  # written since, or gone after it was let through
                raise LeaseLost(f"the key {shown(place.key)} is not there")
            return True
        if last >= own.create_revision:
            raise _LetThrough
        unchanged = Compare(self._opened_key, target="mod_revision", number=opened.mod_revision)
        withdraw: list[Operation] = [PutOp(self._opened_key, opened.value or b"0 0"), DeleteOp(place.key)]
        return (await self._kv.txn([unchanged], withdraw, idempotent=True)).succeeded


class _LetThrough(Exception):
    """A party that gives up was let through meanwhile."""


def _opened_in(value: bytes | None) -> tuple[int, int]:
    """The value of `opened`: a create revision, and a number of parties."""
    revision, _, parties = (value or b"").partition(b" ")
    return _number(revision), _number(parties)


def _number(value: bytes | None) -> int:
    return int(value) if value and value.isdigit() else 0
