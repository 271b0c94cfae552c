"""What serving the key-value machine needs of a node: for the routes of a server, and for `KeyStore`.

The calls of the hot path return futures or take callbacks, and never block. Errors are those of `syncline.errors`.
Everything is called on the event loop. `KvNode` is a running node in this form; tests have doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.store import KeyStore
from syncline.node.futures import ReadFuture, Then
from syncline.node.session_calls import ThenOnce
from syncline.sessions.entries import OnceKey

__all__ = ["MemberNode", "ReadingNode", "ServingNode"]


class ReadingNode(Protocol):
    """The part that reads."""

    @property
    def store(self) -> KeyStore:
        """The state as applied here. It may be replaced as a whole: ask each time."""
        ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def state_age_s(self) -> float | None:
        """How old the store may be, in seconds; None if that is not known."""
        ...

    @property
    def catching_up(self) -> bool:
        """Whether the store may still be older than what this node showed before it was restarted."""
        ...

    def leader(self) -> object | None:
        """The leader, as far as this node knows."""
        ...

    def observe(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the event loop after each change of the store's revision, and after the store was replaced
        (then a moment later: a snapshot is restored on another thread)."""
        ...

    def read_index(self, timeout_s: float) -> ReadFuture:
        """When the future is done, reading the store at once is linearizable.

        It ends after `timeout_s` at the latest. Calls of one moment and one deadline share it, and need not be made:
        see `ReadFuture.joined_before_s`.
        """
        ...


class ServingNode(ReadingNode, Protocol):
    """All that calls on keys and leases need."""

    @property
    def failure(self) -> BaseException | None:
        """Why the node stopped itself; None while it runs."""
        ...

    def propose(self, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        """Propose a command of `kv.commands`. `then` is called once, at once or later, with the state machine's
        answer on this node, or with None and the error.
        """
        ...

    def propose_once(
        self,
        command: bytes,
        key: OnceKey,
        timeout_s: float,
        then: ThenOnce,
        *,
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        """`propose` for a command that takes effect once for its key. `then` also gets whether it was applied before.

        `fingerprint` tells the request from others; empty: the command does.
        """
        ...

    @property
    def session_idle_s(self) -> float:
        """For how long a session may be idle before the leader ends it."""
        ...

    async def open_session(self, timeout_s: float) -> int: ...

    async def end_session(self, session_id: int, timeout_s: float) -> bool: ...

    @property
    def lease_calls(self) -> LeaseCaller:
        """Keep-alives and times of leases: the leader is asked without the log."""
        ...

    def new_lease(self) -> int:
        """Draw the id of a new lease at random."""
        ...

    @property
    def election_s(self) -> float:
        """The election timeout, in seconds."""
        ...


class MemberNode(ServingNode, Protocol):
    """What a program needs that runs within a member, and is trusted as the member is."""

    def member_command(self, command: bytes) -> bytes:
        """An encoded command as one of this member: it needs no credential. Raises `TooLarge`."""
        ...
