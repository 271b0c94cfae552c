"""Passwords: made into verifiers and checked beside the event loop, a bounded number at a time.

One scrypt takes some tens of milliseconds and 32 MiB. One runs at a time, so clients that guess can't take a node's
processor or memory; what is above the queue is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.kv.auth.records import PasswordVerifier
from syncline.platform.entropy import Entropy
from syncline.platform.worker import Worker, Workers
from syncline.server.api.errors import RequestError
from syncline.server.http.networks import network_of

__all__ = ["MAX_PASSWORD_BYTES", "PasswordCost", "Passwords"]

MAX_PASSWORD_BYTES: Final = 1024
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
MAX_QUEUED: Final = 16
"""Passwords that wait: about a second of work."""
MAX_QUEUED_OF_ONE: Final = 4
"""Of one address, or network of IPv6: one host can't hold all places."""

Job = Callable[[], PasswordVerifier | bool]


class PasswordCost(msgspec.Struct, frozen=True):
    """Parameters of scrypt for new verifiers (OWASP's figure for 32 MiB)."""

    n: int = 2**15
    r: int = 8
    p: int = 3


class _Queued(msgspec.Struct, eq=False):
    job: Job
    address: str
    done: asyncio.Future[PasswordVerifier | bool]


class Passwords:
    """Makes and checks verifiers on a thread of its own, which starts with the first password."""

    def __init__(self, workers: Workers, entropy: Entropy, cost: PasswordCost | None = None) -> None:
        self._workers = workers
        self._entropy = entropy
        self._cost = cost or PasswordCost()
        self._worker: Worker[_Queued] | None = None
        self._queue: deque[_Queued] = deque()
        self._running: _Queued | None = None
        self._by_address: dict[str, int] = {}
        # Unknown users take as long as wrong passwords.
        self._nobody = PasswordVerifier(self._cost.n, self._cost.r, self._cost.p, bytes(SALT_BYTES), bytes(HASH_BYTES))
        self.checks: int = 0
        """How many passwords were checked by scrypt."""

    async def make(self, password: bytes) -> PasswordVerifier:
        """The verifier of a new password. Raises `RequestError` (503) if too many wait."""
        cost, salt = self._cost, self._entropy(SALT_BYTES)

        def job() -> PasswordVerifier:
            hashed = _scrypt(password, PasswordVerifier(cost.n, cost.r, cost.p, salt, b""))
            return PasswordVerifier(cost.n, cost.r, cost.p, salt, hashed)

        made = await self._run(job, "")
        assert isinstance(made, PasswordVerifier)
        return made

    def check(self, password: bytes, verifier: PasswordVerifier | None, address: str) -> asyncio.Future[bool]:
        """Whether it is the password; None as `verifier` takes as long, and it is not. Raises `RequestError` (503)."""
        known, self.checks = verifier or self._nobody, self.checks + 1

        def job() -> bool:
            right = hmac.compare_digest(_scrypt(password, known), known.hash)
            # HMAC, inside scrypt, fills up a key with zeros: a password and the same one with a zero are one to it.
            return right and verifier is not None and b"\0" not in password

        checked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def tell(done: asyncio.Future[PasswordVerifier | bool]) -> None:
            if not checked.done():
                checked.set_result(not done.cancelled() and done.exception() is None and done.result() is True)

        self._run(job, address).add_done_callback(tell)
        return checked

    async def close(self) -> None:
        """End the thread. What waits is not answered."""
        for one in self._queue:
            one.done.cancel()
        self._queue.clear()
        if self._worker is not None:
            await self._worker.close()

    def _run(self, job: Job, address: str) -> asyncio.Future[PasswordVerifier | bool]:
        address = network_of(address)
        if len(self._queue) >= MAX_QUEUED or self._by_address.get(address, 0) >= MAX_QUEUED_OF_ONE:
            raise RequestError(
                "too many passwords are being checked: try again, or use a token", status=503, code="overloaded"
            )
        done: asyncio.Future[PasswordVerifier | bool] = asyncio.get_running_loop().create_future()
        self._by_address[address] = self._by_address.get(address, 0) + 1
        self._queue.append(_Queued(job, address, done))
        self._start_next()
        return done

    def _start_next(self) -> None:
        if self._running is None and self._queue:
            if self._worker is None:
                self._worker = self._workers.start("syncline-passwords", _process, self._deliver, self._failed)
            self._running = self._queue.popleft()
            self._worker.put(self._running)

    def _deliver(self, result: PasswordVerifier | bool | Exception) -> None:
        running, self._running = self._running, None
        assert running is not None
        left = self._by_address.pop(running.address) - 1
        if left:
            self._by_address[running.address] = left
        if not running.done.done():
            if isinstance(result, Exception):
                running.done.set_exception(result)
            else:
                running.done.set_result(result)
        self._start_next()

    def _failed(self, error: BaseException) -> None:
        raise AssertionError("jobs return their errors") from error


def _process(items: list[_Queued]) -> PasswordVerifier | bool | Exception:
    (one,) = items
    try:
        return one.job()
    except Exception as error:  # noqa: BLE001 - becomes the answer of this one password
        return error


def _scrypt(password: bytes, like: PasswordVerifier) -> bytes:
    memory = 2 * 128 * like.r * (like.n + like.p)
    return hashlib.scrypt(password, salt=like.salt, n=like.n, r=like.r, p=like.p, maxmem=memory, dklen=HASH_BYTES)
