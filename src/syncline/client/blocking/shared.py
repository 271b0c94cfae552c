"""The blocking faces of counters and users' sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import overload

from syncline.client.blocking.portal import Portal, PortalObject
from syncline.client.coordination.counter import SharedCounter
from syncline.client.coordination.sessions import BytesUpdate, DictUpdate, SessionData, Sessions, SessionUpdate

__all__ = ["BlockingCounter", "BlockingSessions"]


class BlockingCounter(PortalObject[SharedCounter]):
    """A whole number that many clients add to, as `SharedCounter`. `Client.counter` makes it.

        visits = kv.counter("visits")
        print(visits.add())

    Threads and forked children may share it.
    """

    def __init__(self, portal: Portal, make: Callable[[], SharedCounter], key: bytes) -> None:
        super().__init__(portal, make)
        self.key: bytes = key

    def add(self, by: int = 1, *, timeout: float | None = None) -> int:
        """Add `by`, which may be negative; return the sum.

            print(visits.add(5))

        Its arguments and errors are those of `SharedCounter.add`.
        """
        return self._call(lambda counter: counter.add(by, timeout=timeout))

    def value(self, *, timeout: float | None = None) -> int:
        """Read it, linearizably.

            print(visits.value())

        Its arguments and errors are those of `SharedCounter.value`.
        """
        return self._call(lambda counter: counter.value(timeout=timeout))

    def reset(self, to: int = 0, *, timeout: float | None = None) -> None:
        """Set it to a number.

            visits.reset()

        Its arguments and errors are those of `SharedCounter.reset`.
        """
        return self._call(lambda counter: counter.reset(to, timeout=timeout))


class BlockingSessions(PortalObject[Sessions]):
    """Sessions of users, shared by all workers, as `Sessions`. `Client.sessions` makes it.

        sessions = kv.sessions(ttl=3600)
        session = sessions.create({"user": "ada"})
        print(sessions.get(session))

    Threads and forked children may share it.
    """

    def __init__(self, portal: Portal, make: Callable[[], Sessions], ttl_s: float) -> None:
        super().__init__(portal, make)
        self.ttl_s: float = ttl_s

    def create(self, data: bytes | Mapping[str, object] = b"", *, timeout: float | None = None) -> str:
        """Begin a session with a new id, and return the id.

            session = sessions.create({"user": "ada"})

        Its arguments and errors are those of `Sessions.create`.
        """
        return self._call(lambda sessions: sessions.create(data, timeout=timeout))

    def get(self, session: str, *, timeout: float | None = None) -> SessionData | None:
        """Read a session: what it was set to; None if there is no such.

            print(sessions.get(session))

        Its arguments and errors are those of `Sessions.get`.
        """
        return self._call(lambda sessions: sessions.get(session, timeout=timeout))

    def set(
        self,
        session: str,
        data: bytes | Mapping[str, object],
        *,
        if_present: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Write a session, and give it its full time.

            sessions.set(session, {"user": "ada"})

        Its arguments and errors are those of `Sessions.set`.
        """
        return self._call(lambda sessions: sessions.set(session, data, if_present=if_present, timeout=timeout))

    @overload
    def update(self, session: str, change: DictUpdate, *, timeout: float | None = None) -> SessionData | None: ...

    @overload
    def update(self, session: str, change: BytesUpdate, *, timeout: float | None = None) -> SessionData | None: ...

    def update(self, session: str, change: SessionUpdate, *, timeout: float | None = None) -> SessionData | None:
        """Change a session by a function of its data.

            sessions.update(session, lambda data: {**data, "cart": 3})

        Its arguments and errors are those of `Sessions.update`. The function is called on the client's thread.
        """
        return self._call(lambda sessions: sessions.update(session, change, timeout=timeout))

    def touch(self, session: str, *, timeout: float | None = None) -> bool:
        """Give a session its full time again.

            sessions.touch(session)

        Its arguments and errors are those of `Sessions.touch`.
        """
        return self._call(lambda sessions: sessions.touch(session, timeout=timeout))

    def delete(self, session: str, *, timeout: float | None = None) -> bool:
        """End a session.

            sessions.delete(session)

        Its arguments and errors are those of `Sessions.delete`.
        """
        return self._call(lambda sessions: sessions.delete(session, timeout=timeout))
