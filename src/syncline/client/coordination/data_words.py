"""The words about shared data, as methods: services, mappings, queues, counters, sessions. `AsyncClient` has them."""

from __future__ import annotations

from collections.abc import Mapping

from syncline.client.calls import Key
from syncline.client.coordination.calls import KeyValueCalls, TimedCalls
from syncline.client.coordination.counter import SharedCounter
from syncline.client.coordination.mapping import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS, LiveMapping
from syncline.client.coordination.queue import DEFAULT_MAX_DELIVERIES, Queue
from syncline.client.coordination.registry import LiveServices, Registration, ServiceInstance, find_instances
from syncline.client.coordination.sessions import Sessions

__all__ = ["DataWords"]


class DataWords:
    """Registered services, live mappings, queues, counters, sessions."""

    def register(
        self: KeyValueCalls,
        service: Key,
        address: str,
        *,
        ttl: float = 10.0,
        meta: Mapping[str, str] | None = None,
    ) -> Registration:
        """Register an instance of a service for the time of a block (docs/services.md).

            async with kv.register("api", "10.0.0.1:80", meta={"zone": "a"}) as registration:
                print(registration.id)

        It is renewed by itself, and registered again if it was lost. If the process dies, it is listed for up to `ttl`
        seconds. The begin of the block raises an `OperationError` if it can't be registered.

        Raises:
            ConfigError, TypeError: an argument can't be used.
        """
        return Registration(self, service, address, ttl=ttl, meta=meta)

    async def discover(
        self: KeyValueCalls, service: Key, *, consistency: str | None = None, timeout: float | None = None
    ) -> tuple[ServiceInstance, ...]:
        """Find the registered instances of a service, the oldest first: up to 10,000.

            for instance in await kv.discover("api"):
                print(instance.address, instance.meta)

        `consistency` as in `get`: by default it sees each registration that was acknowledged before.

        Raises:
            LimitReached: there are more than 10,000.
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await find_instances(self, service, consistency=consistency, timeout=timeout)

    def services(self: KeyValueCalls, service: Key) -> LiveServices:
        """Follow the instances of a service for the time of a block: a mapping by their ids, kept by a watch.

            async with kv.services("api") as api:
                print([instance.address for instance in api.instances])

        The begin of the block reads, and raises an `OperationError` if that fails.

        Raises:
            ConfigError, TypeError: an argument can't be used.
        """
        return LiveServices(self, service)

    def mapping(
        self: KeyValueCalls,
        prefix: Key,
        *,
        max_keys: int = DEFAULT_MAX_KEYS,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> LiveMapping:
        """Follow the keys below a prefix for the time of a block: a mapping, kept by a watch (docs/shared-state.md).

            async with kv.mapping("config/") as config:
                await config.set("mode", "blue")
                print(config["mode"], config.get("size"))

        The begin of the block reads, and raises an `OperationError` if that fails. `max_keys` and `max_bytes` bound its
        memory: above them each use of it fails with `LimitReached`.

        Raises:
            ConfigError, TypeError: an argument can't be used.
        """
        return LiveMapping(self, prefix, max_keys=max_keys, max_bytes=max_bytes)

    def queue(self: TimedCalls, name: Key, *, max_deliveries: int = DEFAULT_MAX_DELIVERIES) -> Queue:
        """A queue of work that many workers share (docs/queues.md).

            mail = kv.queue("mail")
            await mail.put("to: ada")
            async with mail.claim(ttl=30, wait=10) as item:
                print(item.value)

        An item that was claimed `max_deliveries` times and never done goes to its dead letters.

        Raises:
            ConfigError, TypeError: an argument can't be used.
        """
        return Queue(self, name, max_deliveries=max_deliveries, entropy=self._entropy)

    def counter(self: KeyValueCalls, name: Key) -> SharedCounter:
        """A whole number that many clients add to (docs/shared-state.md).

            visits = kv.counter("visits")
            print(await visits.add())

        Raises:
            ConfigError, TypeError: `name` can't be used.
        """
        return SharedCounter(self, name)

    def sessions(self: TimedCalls, *, ttl: float = 3600.0) -> Sessions:
        """State of users' sessions, which ends `ttl` seconds after its last use (docs/shared-state.md).

            sessions = kv.sessions(ttl=3600)
            session = await sessions.create({"user": "ada"})
            print(await sessions.get(session))

        Raises:
            ConfigError, TypeError: `ttl` can't be used.
        """
        return Sessions(self, ttl=ttl, entropy=self._entropy)
