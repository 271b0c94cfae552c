"""The blocking faces of registered instances and of the view of a service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.portal import HeldObject, Portal
from syncline.client.coordination.registry import LiveServices, Registration, RegistrationState, ServiceInstance

__all__ = ["BlockingRegistration", "BlockingServices"]


class BlockingRegistration(HeldObject[Registration]):
    """An instance of a service that is registered while its block runs, as `Registration`. `Client.register` makes it.

        with kv.register("api", "10.0.0.1:80") as registration:
            print(registration.id)

    It is renewed by the client's own thread. It is not registered by a forked child.
    """

    def __init__(self, portal: Portal, registration: Registration) -> None:
        super().__init__(portal, registration, "the registration")
        self._block = portal.scope(lambda: registration, "the registration")

    def __enter__(self) -> Self:
        self._here()
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.end(error)

    @property
    def state(self) -> RegistrationState:
        """How it is now."""
        return self._here().state

    @property
    def id(self) -> str:
        """The id of the instance, 16 hexadecimal digits. Raises `UsageError` if it is not registered at the moment."""
        return self._here().id

    def states(self) -> PortalIterator[RegistrationState]:
        """How it is now, and each change of that.

            for state in registration.states():
                print(state.registered)

        Its arguments and errors are those of `Registration.states`.
        """
        registration = self._here()
        return self._portal.iterate(registration.states, ahead=1)

    def update(
        self, *, address: str | None = None, meta: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> None:
        """Change the address or the metadata; the id stays.

            registration.update(meta={"zone": "b"})

        Its arguments and errors are those of `Registration.update`.
        """
        return self._call(lambda registration: registration.update(address=address, meta=meta, timeout=timeout))


class BlockingServices(HeldObject[LiveServices], Mapping[str, ServiceInstance]):
    """The instances of a service, by their ids, kept by a watch, as `LiveServices`. `Client.services` makes it.

        with kv.services("api") as api:
            for instance in api.instances:
                print(instance.address)

    Any thread may read it, without a request.
    """

    def __init__(self, portal: Portal, services: LiveServices) -> None:
        super().__init__(portal, services, "the view of the service")
        self._block = portal.scope(lambda: services, "the view of the service")

    def __enter__(self) -> Self:
        self._here()
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.end(error)

    @property
    def instances(self) -> tuple[ServiceInstance, ...]:
        """All instances as they are now, the oldest first."""
        return self._here().instances

    def __getitem__(self, key: str) -> ServiceInstance:
        return self._here()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._here())

    def __len__(self) -> int:
        return len(self._here())

    def changed(self, *, timeout: float | None = None) -> tuple[ServiceInstance, ...]:
        """Wait until something has changed since the last call. All instances then.

            print(api.changed(timeout=5.0))

        Its arguments and errors are those of `LiveServices.changed`.
        """
        return self._call(lambda services: services.changed(timeout=timeout))

    def wait(self, count: int = 1, *, timeout: float | None = None) -> tuple[ServiceInstance, ...]:
        """Wait until there are at least `count` instances.

            print(api.wait(2, timeout=5.0))

        Its arguments and errors are those of `LiveServices.wait`.
        """
        return self._call(lambda services: services.wait(count, timeout=timeout))
