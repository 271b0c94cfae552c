"""Registered instances of services: register one, find all, follow them live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Final, Self

import msgspec

from syncline.client.arguments import checked_count, checked_text, checked_timeout_s
from syncline.client.calls import Key
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import lease_in_key, needed_ttl_s, shown, word_key
from syncline.client.coordination.replica import Replica
from syncline.errors import ConfigError, LeaseLost, LimitReached, OperationError, UsageError
from syncline.platform.waiting import result_of

__all__ = ["LiveServices", "Registration", "RegistrationState", "ServiceInstance", "find_instances"]

MAX_INSTANCES: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
PAGE: Final = 1000
ADDRESS_LETTERS: Final = 4096

AGAIN_S: Final = 0.5
"""Pause before the next attempt to register again, after one that failed. Each has the client's deadline, and the
client's own pauses with jitter."""


class ServiceInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One registered instance. `id`: 16 hexadecimal digits, the id of its lease; a new one if it had to register again.

    `revision`: when it was registered or last updated.
    """

    id: str
    address: str
    meta: dict[str, str]
    created: int
    revision: int


class RegistrationState(msgspec.Struct, frozen=True):
    """Whether an instance is registered, by which id, and how often its registration was lost so far.

    `reason`: why it was lost; empty while it is registered.
    """

    registered: bool
    id: str
    losses: int
    reason: str = ""


class _Entry(msgspec.Struct, omit_defaults=True):
    """The value of an instance's key."""

    address: str
    meta: dict[str, str] = {}


class Registration:
    """An instance of a service that is registered while its block runs. `kv.register` makes it.

        async with kv.register("api", "10.0.0.1:80", meta={"zone": "a"}) as registration:
            print(registration.id)

    It is renewed by itself, three times within `ttl` seconds. If its lease was lost (the process was paused, or the
    cluster could not be reached), it registers again with a new id: a pause does not end a service. `states` tells of
    both. A process that dies is listed for `ttl` seconds longer, and as long as an election takes.
    """

    def __init__(
        self, kv: KeyValueCalls, service: Key, address: str, *, ttl: float, meta: Mapping[str, str] | None
    ) -> None:
        self._kv = kv
        self._prefix = service_prefix(service)
        self._entry = _Entry(checked_address(address), checked_meta(meta))
        self._ttl_s = needed_ttl_s(ttl, "a registration")
        self._state = RegistrationState(registered=False, id="", losses=0)
        self._task: asyncio.Task[None] | None = None
        self._changed: asyncio.Future[None] | None = None
        self._began: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._updating = asyncio.Lock()

    @property
    def state(self) -> RegistrationState:
        """How it is now."""
        return self._state

    @property
    def id(self) -> str:
        """The id of the instance, 16 hexadecimal digits. Raises `UsageError` if it is not registered at the moment."""
        if not self._state.registered:
            raise UsageError("the instance is not registered: begin it by `async with`, or by `with` in blocking code")
        return self._state.id

    async def states(self) -> AsyncIterator[RegistrationState]:
        """How it is now, and each change of that. A slow reader misses states in between, never the newest one.

            async for state in registration.states():
                print(state.registered, state.losses)
                break

        It ends with the block.

        Raises:
            OperationError: the cluster refuses to register it again, for good.
            UsageError: the block has not begun.
        """
        if self._task is None:
            raise UsageError(
                "the instance is not registered yet: begin it by `async with`, or by `with` in blocking code"
            )
        shown: RegistrationState | None = None
        while True:
            if self._state is not shown:
                shown = self._state
                yield shown
                continue
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if self._task.done():
                return
            if self._changed is None or self._changed.done():
                self._changed = asyncio.get_running_loop().create_future()
            await result_of(self._changed)

    async def update(
        self, *, address: str | None = None, meta: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> None:
        """Change the address or the metadata, in place: the id stays. While it is lost, the next one will have them.

            await registration.update(meta={"zone": "b"})

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
            UsageError: the block has not begun, or has ended.
        """
        entry = _Entry(
            self._entry.address if address is None else checked_address(address),
            self._entry.meta if meta is None else checked_meta(meta),
        )
        if self._task is None or self._task.done():
            raise UsageError("the instance is not registered: begin it by `async with`, or by `with` in blocking code")
        async with self._updating:
            self._entry = entry
            if self._state.registered:
                await self._write(self._state.id, timeout)

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise UsageError("a registration is for one block: call `kv.register` again")
        loop = asyncio.get_running_loop()
        self._began = began = loop.create_future()
        self._task = loop.create_task(self._run(), name="registration")
        self._task.add_done_callback(self._ended)
        try:
            await result_of(began)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task is over: those that wait for it must not wait any longer."""
        assert self._began is not None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = self._failure or error
            self._lost(str(error))
        if not self._began.done():
            self._began.set_exception(error or UsageError("the registration was ended before it began"))
            self._began.exception()  # the block may have been left
        self._show(self._state)

    async def _end(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        self._show(RegistrationState(registered=False, id="", losses=self._state.losses, reason="its block has ended"))

    async def _run(self) -> None:
        assert self._began is not None
        while True:
            try:
                await self._hold()
            except LeaseLost as error:
                self._lost(str(error))
                continue
            except OperationError as error:
                if not self._began.done():
                    self._began.set_exception(error)
                    return
                if error.code in _FOR_GOOD:
                    self._failure = error
                    self._lost(str(error))
                    return
                self._lost(str(error))
            await asyncio.sleep(AGAIN_S)

    async def _hold(self) -> None:
        """Register with a new lease, and keep it until it is lost. Raises the `OperationError` of that."""
        assert self._began is not None
        async with self._kv.lease(self._ttl_s) as lease:
            async with self._updating:
                await self._write(lease.id, None)
                self._show(RegistrationState(registered=True, id=lease.id, losses=self._state.losses))
            if not self._began.done():
                self._began.set_result(None)
            raise await lease.lost()

    async def _write(self, lease: str, timeout: float | None) -> None:
        # Written again if its outcome is unknown: no other client writes this key.
        value = msgspec.json.encode(self._entry)
        await self._kv.put(self._prefix + lease.encode("ascii"), value, lease=lease, idempotent=True, timeout=timeout)

    def _lost(self, reason: str) -> None:
        losses = self._state.losses + self._state.registered
        self._show(RegistrationState(registered=False, id=self._state.id, losses=losses, reason=reason))

    def _show(self, state: RegistrationState) -> None:
        self._state = state
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


_FOR_GOOD: Final = frozenset({"bad_request", "too_large", "forbidden", "unauthorized"})
"""Codes of refusals that another attempt would meet again."""


class LiveServices(Mapping[str, ServiceInstance]):
    """The instances of a service, by their ids, kept by a watch. `kv.services` makes it.

        async with kv.services("api") as api:
            for instance in api.values():
                print(instance.address)

    It has the promises of `LiveMapping`: always one revision, never back, and behind the cluster while no server can be
    reached. An instance that has died is listed until its lease ends.
    """

    def __init__(self, kv: KeyValueCalls, service: Key) -> None:
        self._prefix = service_prefix(service)
        self._replica = Replica(
            kv,
            self._prefix,
            what=f'the view of the service "{shown(self._prefix[9:-1])}"',
            max_keys=MAX_INSTANCES,
            max_bytes=MAX_BYTES,
            wanted=lambda key, lease: lease_in_key(key, self._prefix) == lease != 0,
        )
        self._follower = self._replica.follow()
        self._known: tuple[object, dict[str, ServiceInstance]] = (None, {})

    async def __aenter__(self) -> Self:
        await self._replica.open()
        self._follower.take()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replica.close()

    @property
    def instances(self) -> tuple[ServiceInstance, ...]:
        """All instances as they are now, the oldest first.

        Raises:
            LimitReached: there are more than 10,000.
            UsageError: it is not open.
        """
        return tuple(self._by_id().values())

    def __getitem__(self, key: str) -> ServiceInstance:
        return self._by_id()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_id()))

    def __len__(self) -> int:
        return len(self._by_id())

    async def changed(self, *, timeout: float | None = None) -> tuple[ServiceInstance, ...]:
        """Wait until something has changed since the last call, or since the begin of the block. All instances then.

            print(await api.changed())

        Raises:
            DeadlineExceeded: nothing has changed within `timeout` seconds (None: without limit).
            LimitReached: there are more than 10,000 instances.
            OperationError: the servers refuse to be watched.
            UsageError: it is not open, or was closed meanwhile.
        """
        await self._replica.next(self._follower, None if timeout is None else checked_timeout_s(timeout))
        return self.instances

    async def wait(self, count: int = 1, *, timeout: float | None = None) -> tuple[ServiceInstance, ...]:
        """Wait until there are at least `count` instances, and return all.

            print(await api.wait(2))

        Raises:
            DeadlineExceeded: there are fewer after `timeout` seconds (None: without limit).
            LimitReached, OperationError, UsageError: as `changed`.
        """
        needed = checked_count(count, "count")
        limit_s = None if timeout is None else checked_timeout_s(timeout)
        await self._replica.until(lambda: len(self) >= needed, limit_s, f"fewer than {needed} instances")
        return self.instances

    def _by_id(self) -> dict[str, ServiceInstance]:
        items = self._replica.items
        of, known = self._known
        if of is not items:
            found = [
                _instance(key, item.value, item.create_revision, item.mod_revision, self._prefix)
                for key, item in items.items()
            ]
            known = {one.id: one for one in sorted(filter(None, found), key=lambda one: one.created)}
            self._known = items, known
        return known


async def find_instances(
    kv: KeyValueCalls, service: Key, *, consistency: str | None, timeout: float | None
) -> tuple[ServiceInstance, ...]:
    """The instances of a service, the oldest first. Raises `OperationError`."""
    prefix = service_prefix(service)
    found: list[ServiceInstance] = []
    after = None
    while True:
        page = await kv.list(prefix, after=after, limit=PAGE, values=True, consistency=consistency, timeout=timeout)
        for info in page.items:
            if lease_in_key(info.key, prefix) == info.lease != 0:
                one = _instance(info.key, info.value or b"", info.create_revision, info.mod_revision, prefix)
                if one is not None:
                    found.append(one)
        if len(found) > MAX_INSTANCES:
            raise LimitReached(f"the service {service!r} has more than {MAX_INSTANCES} instances")
        after = page.next
        if after is None:
            return tuple(sorted(found, key=lambda one: one.created))


def _instance(key: bytes, value: bytes, created: int, revision: int, prefix: bytes) -> ServiceInstance | None:
    """The instance of a key; None if its value is no entry: another program wrote it."""
    try:
        entry = msgspec.json.decode(value, type=_Entry)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    name = key[len(prefix) :].decode("ascii")
    return ServiceInstance(id=name, address=entry.address, meta=entry.meta, created=created, revision=revision)


def service_prefix(service: object) -> bytes:
    """The prefix of a service's keys. Raises `TypeError` or `ConfigError`."""
    return word_key(b"services", service, "a service") + b"/"


def checked_address(address: object) -> str:
    """Return an address. Raises `TypeError`, or `ConfigError` if it is empty or too long."""
    text = checked_text(address, "address")
    if not 0 < len(text) <= ADDRESS_LETTERS:
        raise ConfigError(f"address has {len(text)} characters: accepted are 1 to {ADDRESS_LETTERS}")
    return text


def checked_meta(meta: object) -> dict[str, str]:
    """Return metadata. Raises `TypeError` for anything but texts by texts."""
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a mapping of str to str, not {type(meta).__name__}")
    return {checked_text(name, "a name of meta"): checked_text(text, f"meta[{name!r}]") for name, text in meta.items()}
