"""The words about shared data, blocking: services, mappings, queues, counters, sessions. `Client` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from syncline.client.blocking.mapping import BlockingMapping
from syncline.client.blocking.portal import PortalObject
from syncline.client.blocking.queue import BlockingQueue
from syncline.client.blocking.registry import BlockingRegistration, BlockingServices
from syncline.client.blocking.shared import BlockingCounter, BlockingSessions
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.counter import SharedCounter
from syncline.client.coordination.mapping import DEFAULT_MAX_BYTES, DEFAULT_MAX_KEYS
from syncline.client.coordination.queue import DEFAULT_MAX_DELIVERIES, Queue
from syncline.client.coordination.registry import ServiceInstance
from syncline.client.coordination.sessions import Sessions

__all__ = ["BlockingDataWords"]

NO_CALLS: Final = cast("KeyValueCalls", None)
"""For an object that only checks its arguments, in the caller's thread and before the client's begins."""


class BlockingDataWords(PortalObject[AsyncClient]):
    """Registered services, live mappings, queues, counters, sessions."""

    def register(
        self,
        service: Key,
        address: str,
        *,
        ttl: float = 10.0,
        meta: Mapping[str, str] | None = None,
    ) -> BlockingRegistration:
        """Register an instance of a service for the time of a block (docs/services.md).

            with kv.register("api", "10.0.0.1:80", meta={"zone": "a"}) as registration:
                print(registration.id)

        Its arguments and errors are those of `AsyncClient.register`.
        """
        made = self._plain(lambda kv: kv.register(service, address, ttl=ttl, meta=meta))
        return BlockingRegistration(self._portal, made)

    def discover(
        self, service: Key, *, consistency: str | None = None, timeout: float | None = None
    ) -> tuple[ServiceInstance, ...]:
        """Find the registered instances of a service, the oldest first: up to 10,000.

            for instance in kv.discover("api"):
                print(instance.address, instance.meta)

        Its arguments and errors are those of `AsyncClient.discover`.
        """
        return self._call(lambda kv: kv.discover(service, consistency=consistency, timeout=timeout))

    def services(self, service: Key) -> BlockingServices:
        """Follow the instances of a service for the time of a block: a mapping by their ids, kept by a watch.

            with kv.services("api") as api:
                print([instance.address for instance in api.instances])

        Its arguments and errors are those of `AsyncClient.services`.
        """
        return BlockingServices(self._portal, self._plain(lambda kv: kv.services(service)))

    def mapping(
        self,
        prefix: Key,
        *,
        max_keys: int = DEFAULT_MAX_KEYS,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> BlockingMapping:
        """Follow the keys below a prefix for the time of a block: a mapping, kept by a watch (docs/shared-state.md).

            with kv.mapping("config/") as config:
                config.set("mode", "blue")
                print(config["mode"], config.get("size"))

        Its arguments and errors are those of `AsyncClient.mapping`.
        """
        made = self._plain(lambda kv: kv.mapping(prefix, max_keys=max_keys, max_bytes=max_bytes))
        return BlockingMapping(self._portal, made)

    def queue(self, name: Key, *, max_deliveries: int = DEFAULT_MAX_DELIVERIES) -> BlockingQueue:
        """A queue of work that many workers share (docs/queues.md).

            mail = kv.queue("mail")
            mail.put("to: ada")
            with mail.claim(ttl=30, wait=10) as item:
                print(item.value)

        Its arguments and errors are those of `AsyncClient.queue`.
        """
        Queue(NO_CALLS, name, max_deliveries=max_deliveries)
        return BlockingQueue(self._portal, lambda: self._object().queue(name, max_deliveries=max_deliveries))

    def counter(self, name: Key) -> BlockingCounter:
        """A whole number that many clients add to (docs/shared-state.md).

            visits = kv.counter("visits")
            print(visits.add())

        Its arguments and errors are those of `AsyncClient.counter`.
        """
        key = SharedCounter(NO_CALLS, name).key
        return BlockingCounter(self._portal, lambda: self._object().counter(name), key)

    def sessions(self, *, ttl: float = 3600.0) -> BlockingSessions:
        """State of users' sessions, which ends `ttl` seconds after its last use (docs/shared-state.md).

            sessions = kv.sessions(ttl=3600)
            session = sessions.create({"user": "ada"})
            print(sessions.get(session))

        Its arguments and errors are those of `AsyncClient.sessions`.
        """
        ttl_s = Sessions(NO_CALLS, ttl=ttl).ttl_s
        return BlockingSessions(self._portal, lambda: self._object().sessions(ttl=ttl_s), ttl_s)
