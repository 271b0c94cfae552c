"""Locks: clients that hold a key by a lease, each sure of it for the time that it was promised."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import msgspec

from syncline.kv.commands import Delete, LeaseGrant, LeaseRevoke, Put, encode_command
from syncline.kv.records import PutAnswer
from syncline.testing.cluster import LOOK_S
from syncline.testing.faults.asking import ask_node, lease_calls
from syncline.testing.faults.base import Trouble
from syncline.testing.faults.leases import SURE
from syncline.testing.linearizability.history import ABSENT

__all__ = ["HELD", "locks"]

HELD: Final = "a lock has one holder"

CLIENTS: Final = 4
LOCKS: Final = (b"lock0", b"lock1")


async def locks(trouble: Trouble) -> None:
    """Some clients take a lock, keep its lease alive, and release it, end its lease, or let it lapse."""
    held: dict[bytes, dict[int, _Hold]] = {key: {} for key in LOCKS}
    seeds = [trouble.rng.getrandbits(64) for _ in range(CLIENTS)]
    await asyncio.gather(*(_LockClient(trouble, random.Random(seed), held).run() for seed in seeds))


class _Hold(msgspec.Struct):
    """A client's belief: it holds the lock until then, unless a clock has leaped since."""

    until_s: float
    leaps: int


class _LockClient:
    def __init__(self, trouble: Trouble, rng: random.Random, held: dict[bytes, dict[int, _Hold]]) -> None:
        self._trouble = trouble
        self._rng = rng
        self._home = rng.choice([None, rng.randrange(1 << 16)])
        self._loop = trouble.cluster.loop
        self._held = held
        self._lease = 0
        self._ttl_ms = 0
        self._sure = _Hold(0.0, 0)

    async def run(self) -> None:
        rng = self._rng
        while True:
            await self._trouble.wait(0.5)
            key = rng.choice(LOCKS)
            if not await self._grant():
                continue
            revision = await self._take(key)
            if revision is None:
                if rng.random() < 0.7:
                    await self._apply(LeaseRevoke(self._lease))
                continue
            for _ in range(rng.choice([0, 2, 5, 30])):
                await asyncio.sleep(rng.uniform(0.1, 0.9) * self._ttl_ms / 1000)
                await self._keep_alive()
            self._held[key].pop(self._lease)
            match rng.randrange(3):
                case 0:
                    await self._apply(LeaseRevoke(self._lease))
                case 1:
                    await self._apply(Delete(key, expect=revision))

    async def _grant(self) -> bool:
        self._lease = self._rng.getrandbits(62) + 1
        self._ttl_ms = int(
            self._rng.uniform(*self._rng.choice([(0.3, 1.0), (1.0, 4.0)])) * self._trouble.election_s * 1000
        )
        promise = self._promise()
        if await self._apply(LeaseGrant(self._lease, self._ttl_ms)) is None:
            return False
        self._sure = promise
        return True

    async def _take(self, key: bytes) -> int | None:
        """Put the key if it is absent, again while another client has it; the revision of the key that it has put."""
        while self._is_sure(self._sure):
            answer = await self._apply(Put(key, b"%016x" % self._lease, self._lease, expect=ABSENT))
            if isinstance(answer, PutAnswer):
                self._holds(key)
                return answer.revision
            await asyncio.sleep(LOOK_S)
            await self._keep_alive()
        return None

    def _holds(self, key: bytes) -> None:
        holders = self._held[key]
        if self._is_sure(self._sure):
            for lease, hold in holders.items():
                if self._is_sure(hold):
                    rest_s = hold.until_s - self._loop.true_time()
                    what = f"{key.decode()} is held by {self._lease:016x}, and {lease:016x} is sure for {rest_s:.3f} s"
                    self._trouble.broken(HELD, what)
        holders[self._lease] = self._sure

    async def _keep_alive(self) -> None:
        promise, lease = self._promise(), self._lease
        answer = await ask_node(
            self._trouble,
            self._rng,
            lambda raft: lease_calls(self._trouble, raft).keep_alive([lease], 1.0),
            home=self._home,
        )
        if answer is not None and answer[0][0].ttl_ms and promise.until_s > self._sure.until_s:
            self._sure.until_s, self._sure.leaps = promise.until_s, promise.leaps

    def _promise(self) -> _Hold:
        """What an answer promises to a request that is sent now."""
        return _Hold(self._loop.true_time() + SURE * self._ttl_ms / 1000, self._loop.leaps)

    def _is_sure(self, hold: _Hold) -> bool:
        # A clock that leaps has no rate: a real one does not.
        return self._loop.true_time() < hold.until_s and hold.leaps == self._loop.leaps

    async def _apply(self, command: LeaseGrant | LeaseRevoke | Put | Delete) -> object | None:
        data = encode_command(command)
        answer = await ask_node(self._trouble, self._rng, lambda raft: raft.apply(data, timeout=1.0), home=self._home)
        return answer[0] if answer is not None else None
