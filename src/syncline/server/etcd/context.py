"""What the services of etcd's interface have in common: the node, headers, reads and proposals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeAlias

from syncline.errors import PermissionDenied
from syncline.kv.auth.checks import denied
from syncline.kv.auth.records import ClusterOperation
from syncline.kv.commands import Command, Delete, OperationBatch, Put, encode_command
from syncline.kv.serving.reads import ConfirmedReads
from syncline.server.api.backend import Backend
from syncline.server.auth.gate import AccessGate
from syncline.server.etcd.errors import INVALID_ARGUMENT, EtcdError, etcd_error
from syncline.server.etcd.face import EtcdCaller, Finished
from syncline.server.etcd.messages import Message

__all__ = ["EtcdNode", "Proposed", "ServiceContext"]

Proposed: TypeAlias = Callable[[object, BaseException | None], None]
"""Takes the state machine's answer to a command, or the error; called once."""

FIRST_KEY: Final = b"\0etcd/first-revision"
"""Written and deleted once, in an empty store (`ServiceContext.begin`)."""


class EtcdNode(Backend, Protocol):
    """The node, as etcd's interface needs it."""

    @property
    def cluster_id(self) -> int: ...

    @property
    def node_id(self) -> int: ...

    @property
    def term(self) -> int:
        """The node's present term. It never falls."""
        ...

    def member_command(self, command: bytes) -> bytes:
        """An encoded command as one of this member: it needs no credential."""
        ...


class ServiceContext:
    """One node for the services. `max_request_bytes`: a larger command is refused, as etcd refuses it."""

    def __init__(self, node: EtcdNode, gate: AccessGate, *, max_request_bytes: int) -> None:
        self.node = node
        self.gate = gate
        self.max_request_bytes = max_request_bytes
        self.reads: ConfirmedReads[Finished] = ConfirmedReads(node, faulted=_faulted)
        self._begun = False

    def header(self, revision: int | None = None) -> Message:
        """The header of an answer; None: the store's present revision, 0: none."""
        node = self.node
        if revision is None:
            revision = node.store.revision
        return {
            "cluster_id": node.cluster_id,
            "member_id": node.node_id,
            "revision": revision,
            "raft_term": node.term,
        }

    # --- the first revision

    @property
    def begun(self) -> bool:
        """Whether the store has a revision above 0, as each store of etcd has."""
        if not self._begun:
            self._begun = self.node.store.revision > 0
        return self._begun

    async def begin(self, timeout_s: float) -> None:
        """Give an empty store its first revisions.

        A store of etcd begins at revision 1, and its clients take 0 for "no revision": a watch from 0 begins now, and
        a header without a revision is an error to many. So one key is written and deleted, which leaves nothing behind.
        Nodes that do so at the same time do no harm.
        """
        await self.node.read_index(timeout_s)
        if self.begun:
            return
        command = encode_command(OperationBatch((Put(FIRST_KEY, b""), Delete(FIRST_KEY))))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(result: object, error: BaseException | None) -> None:
            del result
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(None)

        self.node.propose(self.node.member_command(command), timeout_s, then)
        await done

    # --- proposals

    def propose(self, command: Command, caller: EtcdCaller, then: Proposed, *, frees_space: bool = False) -> None:
        """Propose a command of the caller, and give `then` the answer.

        Raises:
            EtcdError: it is too large, or the caller may not do it.
            SynclineError: no node could carry it out.
        """
        data = encode_command(command)
        if len(data) > self.max_request_bytes:
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: request is too large")
        principal = caller.principal
        if principal is None:
            self._propose(data, caller.timeout_s, then, frees_space)
            return
        try:
            authorised = principal.authorised(data)
        except PermissionDenied as refusal:
            # The permission may be newer than this node's state: look again after a confirmed read.
            again = partial(self._again, data, caller, then, frees_space)
            self._confirm(caller.timeout_s, refusal, again, then)
            return
        self._propose(authorised, caller.timeout_s, then, frees_space)

    def _propose(self, data: bytes, timeout_s: float, then: Proposed, frees_space: bool) -> None:
        def answered(result: object, error: BaseException | None) -> None:
            if error is not None:
                self.node.note_refusal(error)
            then(result, error)

        self.node.propose(data, timeout_s, answered, frees_space=frees_space)

    def _again(self, data: bytes, caller: EtcdCaller, then: Proposed, frees_space: bool) -> None:
        assert caller.principal is not None
        self._propose(caller.principal.authorised(data), caller.timeout_s, then, frees_space)

    def _confirm(self, timeout_s: float, refusal: BaseException, again: Callable[[], None], then: Proposed) -> None:
        def confirmed(future: asyncio.Future[object]) -> None:
            if future.exception() is not None:
                then(None, refusal)
                return
            try:
                again()
            except Exception as error:  # noqa: BLE001 - becomes the answer
                then(None, error)

        self.node.read_index(timeout_s).add_done_callback(confirmed)

    async def proposed(self, command: Command, caller: EtcdCaller, *, frees_space: bool = False) -> object:
        """`propose` for a coroutine: the state machine's answer. Raises what `propose` raises, and its refusals."""
        answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def then(result: object, error: BaseException | None) -> None:
            if answered.done():
                return
            if error is not None:
                answered.set_exception(error)
            else:
                answered.set_result(result)

        self.propose(command, caller, then, frees_space=frees_space)
        return await answered

    # --- permissions

    async def require(self, caller: EtcdCaller, operation: ClusterOperation | None = None) -> None:
        """Raise `PermissionDenied` unless the caller may do the operation; None: unless it is an administrator."""
        if caller.principal is not None:
            await self.node.read_index(caller.timeout_s)  # by users at least as new as the request
        self.check(caller, operation)

    def check(self, caller: EtcdCaller, operation: ClusterOperation | None = None) -> None:
        """`require` by the users that this node knows of, for a call that goes on."""
        permissions = self.gate.present(caller.principal).permissions
        if permissions is None:
            return
        if operation is None:
            if not permissions.is_admin:
                raise denied("do this: it takes the role 'root'")
        elif operation not in permissions.operations:
            raise denied(f"do this: no role of the user allows the operation {operation.name.lower()!r}")

    async def check_lease_writable(self, lease: int, caller: EtcdCaller) -> None:
        """Raise `PermissionDenied` or `Unauthenticated` if the caller may not write a key of the lease."""
        user = self.gate.present(caller.principal)
        try:
            user.check_lease_writable(lease)
        except PermissionDenied:  # the permission may be newer than this node's state
            await self.node.read_index(caller.timeout_s)
            user.check_lease_writable(lease)


def _faulted(finished: Finished, fault: Exception) -> None:
    finished(None, etcd_error(fault))
