"""Holders of leases by etcd's JSON gateway: no fault, but clients that rely on a lease for the promised time.

The rules are etcd's: no lease ends before its time, and one that has ended stays ended. Its keys end with it.
"""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any, Final, TypeAlias

import msgspec

from syncline.server.http.request import Request
from syncline.server.http.response import Response
from syncline.server.http.stream import Stream
from syncline.testing.faults.asking import ask_server
from syncline.testing.faults.base import Trouble
from syncline.testing.faults.leases import SURE
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.recovery import LONGEST_TTL_S

__all__ = ["ENDED", "HELD", "KEYS", "etcd_leases"]

HELD: Final = "a lease of etcd's interface lasts for the time that was promised"
ENDED: Final = "a lease of etcd's interface that has ended stays ended"
KEYS: Final = "a lease of etcd's interface has the keys that were put with it, and they end with it"

HOLDERS: Final = 2
LEAST_TTL_S: Final = 2
REFUSED: Final = 400
NO_SPACE: Final = 429
SERVER_FAULT: Final = 500
NOT_FOUND: Final = 404
OK: Final = 200

Json: TypeAlias = dict[str, Any]


async def etcd_leases(trouble: Trouble) -> None:
    """Some clients grant leases, keep them alive, put keys with them and end them, by any server."""
    seeds = [trouble.rng.getrandbits(64) for _ in range(HOLDERS)]
    await asyncio.gather(*(_GatewayHolder(trouble, random.Random(seed)).run() for seed in seeds))


class _GatewayHolder:
    """Has one lease at a time, with a new id for each."""

    def __init__(self, trouble: Trouble, rng: random.Random) -> None:
        assert trouble.changes is not None, "a scenario records what is applied"
        self._trouble = trouble
        self._rng = rng
        self._record: ChangeRecord = trouble.changes
        self._loop = trouble.cluster.loop
        self._key = b"etcd-lease/%08x" % rng.getrandbits(32)
        self._lease = 0
        self._ttl_s = 0
        self._sure_s = 0.0
        """Until then the lease exists, by what was promised."""
        self._ended = False
        """A server has said that it does not exist any more."""
        self._revoked = False
        """It was asked to end: that may still come, whatever was answered."""
        self._leaps = 0

    async def run(self) -> None:
        while True:
            await self._trouble.wait(1.0)
            if not await self._grant():
                continue
            may_revoke = self._rng.random() < 0.5
            end_s = self._loop.true_time() + self._rng.uniform(0.2, 2.5) * self._ttl_s
            while self._loop.true_time() < end_s:
                await asyncio.sleep(self._rng.uniform(0.02, 0.2) * self._ttl_s)
                match self._rng.randrange(9):
                    case 0 | 1 | 2 | 3:
                        await self._keep_alive()
                    case 4:
                        await self._put()
                    case 5 if may_revoke:
                        await self._revoke()
                    case _:
                        await self._time_to_live()

    async def _grant(self) -> bool:
        self._lease, self._ended, self._revoked = self._rng.getrandbits(62) + 1, False, False
        self._ttl_s = self._rng.choice([LEAST_TTL_S, LEAST_TTL_S, LONGEST_TTL_S])
        sent_s, leaps = self._loop.true_time(), self._loop.leaps
        answer = await self._ask(b"/v3/lease/grant", {"ID": str(self._lease), "TTL": str(self._ttl_s)})
        if answer is None:
            return False
        if (found := (answer["ID"], answer["TTL"])) != (str(self._lease), str(self._ttl_s)):
            self._broken(HELD, f"a grant is answered with {found}")
        self._sure_s, self._leaps = sent_s + SURE * self._ttl_s, leaps
        return True

    async def _keep_alive(self) -> None:
        sent_s, leaps, ended = self._loop.true_time(), self._loop.leaps, self._ended
        answer = await self._ask(b"/v3/lease/keepalive", {"ID": str(self._lease)})
        if answer is None:
            return
        if ttl_s := int(answer.get("TTL", 0)):
            self._lives("a keep-alive", ttl_s, ended=ended)
            if ttl_s != self._ttl_s:
                self._broken(HELD, f"a keep-alive gives it {ttl_s} s")
            if not self._revoked:
                self._sure_s, self._leaps = max(self._sure_s, sent_s + SURE * self._ttl_s), leaps
        else:
            self._gone("a keep-alive")

    async def _time_to_live(self) -> None:
        ended = self._ended
        answer = await self._ask(b"/v3/lease/timetolive", {"ID": str(self._lease), "keys": True})
        if answer is None:
            return
        ttl_s = int(answer.get("TTL", 0))
        if ttl_s < 0:
            self._gone("the question for its time")
            return
        self._lives("the question for its time", ttl_s, ended=ended)
        if int(answer["grantedTTL"]) != self._ttl_s or ttl_s > self._ttl_s:
            self._broken(HELD, f"its time is told as {ttl_s} of {answer['grantedTTL']} s")
        revision = int(answer["header"]["revision"])
        shown = [base64.b64decode(key) for key in answer.get("keys", [])]
        if shown != (kept := self._keys_at(revision)):
            self._broken(KEYS, f"its keys at revision {revision} are shown as {shown}: expected {kept}")

    async def _put(self) -> None:
        """Put a key with the lease. That it was not found says that it has ended."""
        ended = self._ended
        body = {"key": _text(self._key), "value": "", "lease": str(self._lease)}
        answer = await self._ask(b"/v3/kv/put", body, may_be_gone=True)
        if answer is None:
            return
        if "error" in answer:
            self._gone("a put")
        elif ended:
            self._broken(ENDED, "a put with it succeeds")

    async def _revoke(self) -> None:
        """End the lease. Whatever the answer is, nothing is sure from now on."""
        answer = await self._ask(b"/v3/lease/revoke", {"ID": str(self._lease)}, may_be_gone=True)
        if answer is not None and "error" in answer and not self._revoked:
            self._gone("its end")
        self._revoked, self._sure_s = True, 0.0
        if answer is None:
            return
        self._ended = True
        if "error" not in answer and (left := self._keys_at(int(answer["header"]["revision"]))):
            self._broken(KEYS, f"it was revoked, and left {left}")

    async def _ask(self, path: bytes, body: Json, *, may_be_gone: bool = False) -> Json | None:
        """The answer, or None if no server has given one. A refusal for the request's own sake is a fault."""
        response = await ask_server(self._trouble, self._rng, Request("POST", path, b"", {}, msgspec.json.encode(body)))
        if response is None:
            return None
        data = _body_of(response)
        if response.status == NOT_FOUND and may_be_gone:
            return {"error": True}
        if REFUSED <= response.status < SERVER_FAULT and response.status != NO_SPACE:
            self._broken(HELD, f"{path!r} {body} is refused: {response.status} {data!r}")
        if response.status != OK or not data:
            return None
        found: Json = msgspec.json.decode(data)
        if "error" in found:
            return None
        result: Json = found.get("result", found)
        return result

    def _keys_at(self, revision: int) -> list[bytes]:
        return [key for key, record in self._record.keys_at(revision).items() if record.lease == self._lease]

    def _lives(self, what: str, ttl_s: int, *, ended: bool) -> None:
        """A server says that the lease exists. `ended`: its end was known before it was asked."""
        if ended:
            self._broken(ENDED, f"{what} gives it {ttl_s} s")

    def _gone(self, what: str) -> None:
        # A clock that leaps has no rate: a real one does not.
        if self._loop.true_time() < self._sure_s and self._leaps == self._loop.leaps:
            self._broken(HELD, f"{what} was answered that it is gone")
        self._ended, self._sure_s = True, 0.0

    def _broken(self, invariant: str, what: str) -> None:
        left_s = max(0.0, self._sure_s - self._loop.true_time())
        self._trouble.broken(
            invariant,
            f"the lease {self._lease:016x} of {self._ttl_s} s, of which its holder is sure {left_s:.3f} s: {what}",
        )
        self._sure_s = 0.0


def _body_of(response: Response) -> bytes:
    """The body; of a stream what it has by now."""
    if not isinstance(response, Stream):
        return response.body
    data = b""
    while piece := response.source.read():
        data += piece
    response.source.close()
    return data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
