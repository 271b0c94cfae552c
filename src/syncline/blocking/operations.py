"""Commands, reads and sessions of a blocking node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from syncline.blocking.futures import BlockingFuture
from syncline.blocking.session import BlockingSession
from syncline.client.blocking.portal import HeldObject
from syncline.node.asking import AskHandler
from syncline.node.futures import ApplyFuture
from syncline.node.member_registry import Member
from syncline.node.raft import Raft
from syncline.sessions.entries import OnceKey

__all__ = ["BlockingOperations"]

R = TypeVar("R")
"""What the state machine answers to a command."""
Answer = TypeVar("Answer")


class BlockingOperations(HeldObject[Raft[R]], Generic[R]):
    """Commands and linearizable reads. Base of `BlockingRaft`."""

    def _look(self, use: Callable[[Raft[R]], Answer]) -> Answer:
        """Call what is not async on the thread of the node, which alone may change what it looks at."""

        async def looked(raft: Raft[R]) -> Answer:
            return use(raft)

        return self._call(looked)

    def _wait(self, make: Callable[[], Awaitable[Answer]]) -> Answer:
        """Await on the thread of the node what `make` returns. For the calls of a typed machine."""
        self._here()
        return self._portal.call(make)

    @property
    def leader(self) -> Member | None:
        """The leader, as far as this node knows; None after the node has stopped."""
        return self._look(lambda raft: raft.leader)

    def apply(
        self,
        data: bytes,
        *,
        timeout: float = 5.0,
        extensions: bytes = b"",
        term: int | None = None,
        frees_space: bool = False,
    ) -> R:
        """Replicate a command and apply it to the state machine. Returns the state machine's answer.

            answer = raft.apply(b"a command")

        Its arguments and errors are those of `syncline.Raft.apply`, and of the future there.
        """
        return self._call(
            lambda raft: raft.apply(data, timeout=timeout, extensions=extensions, term=term, frees_space=frees_space)
        )

    def apply_many(self, commands: Sequence[bytes], *, timeout: float = 5.0) -> list[BlockingFuture[R]]:
        """Replicate several commands in this order, in one batch. They are not atomic together.

            answers = [future.result() for future in raft.apply_many([b"one", b"two"])]

        It does not wait for the answers. Its arguments and errors are those of `syncline.Raft.apply_many`.
        """
        futures = self._look(lambda raft: raft.apply_many(commands, timeout=timeout))
        return [BlockingFuture(self._portal, future) for future in futures]

    def barrier(self, *, timeout: float = 5.0) -> None:
        """Replicate an entry without a command. When it is done, all that was committed before it is applied here.

            raft.barrier()

        Its arguments and errors are those of `syncline.Raft.barrier`.
        """

        async def made(raft: Raft[R]) -> None:
            await raft.barrier(timeout=timeout)

        self._call(made)

    def read_index(self, *, timeout: float = 5.0) -> None:
        """Confirm the local state (ReadIndex). When it is done, a read of the local state machine is linearizable.

            raft.read_index()

        Its arguments and errors are those of `syncline.Raft.read_index`. The state machine is applied on another
        thread: `read` looks at it between two commands.
        """

        async def confirmed(raft: Raft[R]) -> None:
            await raft.read_index(timeout=timeout)

        self._call(confirmed)

    def read(self, look: Callable[[], Answer], *, timeout: float = 5.0, stale: bool = False) -> Answer:
        """Call `look()` linearizably, and return its answer; on any node.

            count = raft.read(lambda: len(machine.items))

        Its arguments and errors are those of `syncline.Raft.read`. `look` must not call this node: it would wait for
        itself until the deadline.
        """
        return self._call(lambda raft: raft.read(look, timeout=timeout, stale=stale))

    def verify_leader(self, *, timeout: float = 5.0) -> int:
        """Confirm by a quorum that this node leads, and return its term.

            term = raft.verify_leader()

        Its arguments and errors are those of `syncline.Raft.verify_leader`.
        """
        return self._call(lambda raft: raft.verify_leader(timeout=timeout))

    def ask_leader(self, data: bytes, *, timeout: float = 5.0) -> bytes:
        """Call the leader's handler (`answer_asks`) with `data`, and return its answer; on any node.

            print(raft.ask_leader(b"something"))

        Its arguments and errors are those of `syncline.Raft.ask_leader`.
        """
        return self._call(lambda raft: raft.ask_leader(data, timeout=timeout))

    def answer_asks(self, handler: AskHandler | None) -> None:
        """Answer calls of `ask_leader` while this node leads: `handler(data)` returns bytes, or is a coroutine.

            raft.answer_asks(lambda data: b"the leader was asked " + data)

        It runs on the node's event loop: it must be short, and must not make blocking calls. Its arguments and errors
        are those of `syncline.Raft.answer_asks`.
        """
        self._look(lambda raft: raft.answer_asks(handler))

    # -- sessions -----------------------------------------------------------------------------------------------------

    def session(self, *, timeout: float = 5.0) -> BlockingSession[R]:
        """Open a session, for commands that take effect exactly once (docs/exactly-once.md).

            with raft.session() as session:  # ended at the end of the block
                answer = session.apply(b"a command")

        Its arguments and errors are those of `syncline.Raft.session`.
        """
        return BlockingSession(self._portal, self._call(lambda raft: raft.session(timeout=timeout)))

    def open_session(self, *, timeout: float = 5.0) -> int:
        """Open a session, and return its id: for a program that gives its callers' keys to `apply_once`.

            session_id = raft.open_session()

        Its arguments and errors are those of `syncline.Raft.open_session`.
        """
        return self._call(lambda raft: raft.open_session(timeout=timeout))

    def end_session(self, session_id: int, *, timeout: float = 5.0) -> bool:
        """End a session. Returns whether it was open; after an unknown outcome of an attempt it may say False.

            print(raft.end_session(0x5f46c9d1))

        Its arguments and errors are those of `syncline.Raft.end_session`.
        """
        return self._call(lambda raft: raft.end_session(session_id, timeout=timeout))

    def apply_once(
        self,
        data: bytes,
        key: OnceKey,
        *,
        timeout: float = 5.0,
        extensions: bytes = b"",
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> BlockingFuture[R]:
        """`apply` for a command that takes effect once for its key: for a program that is given its callers' keys.

            future = raft.apply_once(b"a command", OnceKey(raft.open_session(), sequence=1))
            print(future.result(), future.repeated)

        Its arguments and errors are those of `syncline.Raft.apply_once`.
        """
        future: ApplyFuture[R] = self._look(
            lambda raft: raft.apply_once(
                data, key, timeout=timeout, extensions=extensions, frees_space=frees_space, fingerprint=fingerprint
            )
        )
        return BlockingFuture(self._portal, future)
