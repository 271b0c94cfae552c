"""A site whose clients need credentials: an administrator, and a user `ann` whose permissions the test chooses."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from syncline.kv.auth.commands import (
    AuthCommand,
    AuthSwitch,
    KeyAccessChange,
    OperationAccessChange,
    RoleAdd,
    TokenAdd,
    UserAdd,
    UserRoleChange,
)
from syncline.kv.auth.records import READ, WRITE, ClusterOperation, PasswordVerifier
from syncline.kv.commands import Command, Put, encode_command
from syncline.kv.watch import WatchLimits
from syncline.node.fsm import Entry
from syncline.platform.worker import ThreadWorkers, Worker
from syncline.server.api.site import Site
from syncline.server.auth.passwords import PasswordCost, _scrypt
from syncline.server.auth.tokens import hash_of_token, id_of_token
from syncline.server.http.server import HttpServer
from tests.helpers.http_wire import Wire
from tests.helpers.kv_node import FakeBackend, KvWire

Item = TypeVar("Item")
Result = TypeVar("Result")

CHEAP: Final = PasswordCost(2, 1, 1)
PASSWORD: Final = "correct horse"
NOW_S: Final = 1_000_000.0
LONG_MS: Final = 10**14


def token_of(user: str) -> str:
    """The text of the test's token of a user."""
    return "syncline_" + (user * 43)[:43]


def bearer(user: str) -> str:
    return f"Authorization: Bearer {token_of(user)}"


def basic(user: str, password: str = PASSWORD) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def verifier(password: str = PASSWORD) -> PasswordVerifier:
    cost = PasswordVerifier(CHEAP.n, CHEAP.r, CHEAP.p, b"salt", b"")
    return PasswordVerifier(CHEAP.n, CHEAP.r, CHEAP.p, b"salt", _scrypt(password.encode(), cost))


def token_add(user: str, expires_ms: int = LONG_MS) -> TokenAdd:
    hashed = hash_of_token(token_of(user).encode())
    assert hashed is not None
    return TokenAdd(id_of_token(hashed), hashed, user, expires_ms, 0)


def apply(backend: FakeBackend, command: Command, user: str = "") -> None:
    """Apply a command as one of a member."""
    from syncline.kv.commands import authorised

    data = encode_command(command)
    if backend.machine.auth_flag.on:
        data = authorised(data, user, b"", backend.store.auth.revision)
    backend.index += 1
    backend.machine.apply(Entry(backend.index, 1, data))


def add_users(backend: FakeBackend) -> None:
    """`root`, `ann` and `bob`, each with a token; the role `some` of ann allows nothing; keys a, b and s/1."""
    for key in (b"a", b"b", b"s/1"):
        apply(backend, Put(key, b"value"))
    commands: tuple[AuthCommand, ...] = (
        UserAdd("root", verifier(), ("root",)),
        RoleAdd("some"),
        UserAdd("ann", verifier(), ("some",)),
        UserAdd("bob", verifier()),
        token_add("root"),
        token_add("ann"),
        token_add("bob"),
        AuthSwitch(True),
    )
    for command in commands:
        apply(backend, command)


def grant(
    backend: FakeBackend,
    *,
    reads: Iterable[tuple[bytes, bytes | None]] = (),
    writes: Iterable[tuple[bytes, bytes | None]] = (),
    operations: Iterable[ClusterOperation] = (),
) -> None:
    """Let ann do this."""
    access: dict[tuple[bytes, bytes | None], int] = {}
    for one in reads:
        access[one] = access.get(one, 0) | READ
    for one in writes:
        access[one] = access.get(one, 0) | WRITE
    for (start, end), bits in access.items():
        if end is None or end > start:
            apply(backend, KeyAccessChange("some", start, end, bits))
    for operation in operations:
        apply(backend, OperationAccessChange("some", operation, True))


def withdraw(backend: FakeBackend, user: str = "ann", role: str = "some") -> None:
    apply(backend, UserRoleChange(user, role, False))


class InlineWorker(Generic[Item, Result]):
    """Does the work in the next turn of the loop."""

    queued = 0

    def __init__(self, process: Callable[[list[Item]], Result], deliver: Callable[[Result], None]) -> None:
        self._process = process
        self._deliver = deliver

    def put(self, item: Item) -> None:
        asyncio.get_running_loop().call_soon(lambda: self._deliver(self._process([item])))

    async def close(self) -> None:
        pass


class InlineWorkers(ThreadWorkers):
    """Workers without threads, so that a test knows when they are done."""

    def start(
        self,
        name: str,
        process: Callable[[list[Item]], Result],
        deliver: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> Worker[Item]:
        del name, failed
        return InlineWorker(process, deliver)


class AuthWire(KvWire):
    """A connection to such a site. `wall_s` is its clock of the day, `now_s` the monotonic one."""

    def __init__(
        self,
        backend: FakeBackend | None = None,
        *,
        watch_limits: WatchLimits | None = None,
        max_user_requests: int = 0,
        max_user_write_bytes: int = 0,
    ) -> None:
        self.wall_s = NOW_S
        self.now_s = 0.0
        self.backend = FakeBackend() if backend is None else backend
        self.site = Site(
            self.backend,
            name="a",
            max_key_bytes=100,
            max_value_bytes=1000,
            metrics=lambda: b"up 1\n",
            clock=lambda: self.now_s,
            wall=lambda: self.wall_s,
            password_cost=CHEAP,
            workers=InlineWorkers(),
            watch_limits=watch_limits,
            max_user_requests=max_user_requests,
            max_user_write_bytes=max_user_write_bytes,
        )
        self._seen = 0
        Wire.__init__(self, server=HttpServer(self.site, wall_time_s=lambda: 0.0))
        self.server.serve(self.site, self.site.fast_get, self.site.fast_writes)
        self.site.watches.given = self.server.write_streams
        if backend is None:
            add_users(self.backend)
