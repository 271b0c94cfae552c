"""The asynchronous client: the server's operations as methods.

One client serves any number of tasks at once. It keeps connections open; close it, or use `async with`.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import msgspec

from syncline.client.arguments import (
    checked_consistency,
    checked_limit,
    checked_revision,
    checked_text,
    checked_timeout_s,
    duration_text,
    to_bytes,
)
from syncline.client.caller import Caller, ClientRequest
from syncline.client.connection import ClientResponse
from syncline.client.endpoints import Endpoint, EndpointSet, parse_endpoints
from syncline.client.results import DeleteResult, KeyInfo, KeyPage, KeyValue, PutResult, TxnResult
from syncline.client.schemas import Added, LeaderInfo, Members, NodeStatus, SnapshotResult, UpgradeResult
from syncline.client.txn import Compare, Operation, txn_body
from syncline.client.wire import decode, error_from, key_page, key_target, revision_of, txn_result
from syncline.errors import ConfigError, OperationError, Outcome
from syncline.platform.network import TcpNetwork
from syncline.platform.world import World
from syncline.version import __version__

__all__ = ["DEFAULT_TIMEOUT_S", "AsyncClient"]

DEFAULT_TIMEOUT_S: Final = 5.0
MEMBERSHIP_TIMEOUT_S: Final = 30.0
"""For changes of the cluster: they wait for a commit, and a transfer for an election."""

MEMBERSHIP_LONGEST_S: Final = 600.0
"""The longest time that the server takes for a change of the cluster. A longer deadline takes several attempts."""

PAGE_LIMIT: Final = 1000
"""Keys per page of a scan. The server ends pages earlier if values are large."""

Key = bytes | str


class AsyncClient:
    """A client of one cluster.

    `endpoints` are URLs of any of its nodes (a list, or one comma-separated text); more than one lets the client go on
    when a node is away. `timeout` (seconds) bounds one operation, retries included, unless a call gives its own.
    `retry_refused=False` fails at once where every endpoint refuses the connection (or is no Syncline server), instead
    of waiting for one to come back. `on_retry` is told why, each time before another attempt is made. `tls` is for
    https endpoints; without it the system's certificate authorities are trusted. `world` replaces what is outside the
    client, for tests.

    Keys are bytes; a `str` is taken as its UTF-8. Methods raise `errors.OperationError` (look at `outcome`): the class
    that the library itself would raise, `Unreachable`, or `RequestFailed`.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry_refused: bool = True,
        tls: ssl.SSLContext | None = None,
        world: World | None = None,
        on_retry: Callable[[OperationError], None] | None = None,
    ) -> None:
        self.endpoints: list[str] = parse_endpoints(endpoints)
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise TypeError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
        network = TcpNetwork() if world is None else world.network
        self._set = EndpointSet([Endpoint(url, network=network, tls=tls) for url in self.endpoints])
        self._timeout_s = checked_timeout_s(timeout)
        self._caller = Caller(
            self._set,
            rng=random.Random() if world is None else world.rng,
            user_agent=f"syncline/{__version__}",
            retry_refused=retry_refused,
            on_retry=on_retry,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections.

            await kv.close()

        Operations under way fail with `Unreachable`.
        """
        await self._set.close()

    # Keys

    async def get(
        self,
        key: Key,
        *,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Read a key; None if there is no such key.

            found = await kv.get("greeting")
            print(found.value if found is not None else "no such key")

        `consistency`: `linearizable` (the server's default: sees every write acknowledged before), `leader`, or
        `stale` (that node's own state; `max_stale_s` limits its age).

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        name = to_bytes(key, "key")
        request = ClientRequest(
            method="GET", target=key_target(name), parameters=_reading(consistency, max_stale_s), idempotent=True
        )
        with _read():
            response = await self._call(request, timeout, absent_ok=True)
            if response is None:
                return None
            return KeyValue(
                key=name,
                value=response.body,
                mod_revision=revision_of(response, "etag"),
                revision=revision_of(response, "syncline-revision"),
            )

    async def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write a key, with at most one condition.

            written = await kv.put("greeting", "hello")
            await kv.put("greeting", "good day", if_revision=written.revision)

        `idempotent=True`: it is harmless to write this twice (no other client writes this key meanwhile), so that the
        client may try again if an attempt's outcome is unknown.

        Raises:
            Rejected: the condition does not hold: code `precondition_failed`, and the current revision in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        if (if_revision is not None) + bool(if_absent) + bool(if_present) > 1:
            raise ConfigError("give one of if_revision, if_absent and if_present, not several")
        if if_revision is not None:
            checked_revision(if_revision, "if_revision", 0)
        headers: tuple[tuple[str, str], ...] = ()
        if if_absent or if_revision == 0:
            headers = (("If-None-Match", "*"),)
        elif if_present or if_revision is not None:
            headers = (("If-Match", "*" if if_revision is None else f'"{if_revision}"'),)
        body = to_bytes(value, "value")
        target = key_target(to_bytes(key, "key"))
        request = ClientRequest(method="PUT", target=target, headers=headers, body=body, idempotent=idempotent)
        return decode(await self._answer(request, timeout), PutResult)

    async def delete(
        self, key: Key, *, if_revision: int | None = None, idempotent: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Delete a key; it is no error if there is none. `idempotent` as in `put`.

            print((await kv.delete("greeting")).deleted)

        `if_revision` (1 or more): delete only if the key was last written at this revision.

        Raises:
            Rejected: the condition does not hold: code `precondition_failed`, and the current revision in `details`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        if if_revision is not None:
            checked_revision(if_revision, "if_revision", 1)
        headers = () if if_revision is None else (("If-Match", f'"{if_revision}"'),)
        target = key_target(to_bytes(key, "key"))
        request = ClientRequest(method="DELETE", target=target, headers=headers, idempotent=idempotent)
        return decode(await self._answer(request, timeout), DeleteResult)

    async def list(
        self,
        prefix: Key = b"",
        *,
        after: str | None = None,
        limit: int = PAGE_LIMIT,
        values: bool = False,
        reverse: bool = False,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyPage:
        """Read one page of keys in their order (as bytes), all of one revision. `after` is a page's `next`.

            page = await kv.list("users/", limit=100)
            print([item.key for item in page.items])

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        parameters: dict[str, str | bytes | None] = {
            "prefix": to_bytes(prefix, "prefix") or None,
            "after": None if after is None else checked_text(after, "after"),
            "limit": str(checked_limit(limit, "limit")),
            "values": "base64" if values else None,
            "reverse": "true" if reverse else None,
            **_reading(consistency, max_stale_s),
        }
        request = ClientRequest(method="GET", target="/keys", parameters=parameters, idempotent=True)
        with _read():
            return key_page(await self._answer(request, timeout))

    async def scan(
        self,
        prefix: Key = b"",
        *,
        values: bool = False,
        reverse: bool = False,
        page: int = PAGE_LIMIT,
        consistency: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyInfo]:
        """Read all keys below a prefix, page by page. Each page is a read of its own, with its own deadline.

            async for item in kv.scan("users/", values=True):
                print(item.key, item.value)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        after = None
        while True:
            part = await self.list(
                prefix,
                after=after,
                limit=page,
                values=values,
                reverse=reverse,
                consistency=consistency,
                timeout=timeout,
            )
            for item in part.items:
                yield item
            after = part.next
            if after is None:
                return

    async def count(self, prefix: Key = b"", *, consistency: str | None = None, timeout: float | None = None) -> int:
        """Count the keys below a prefix.

            print(await kv.count("users/"))

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        parameters = {"prefix": to_bytes(prefix, "prefix") or None, "count": "true", **_reading(consistency, None)}
        request = ClientRequest(method="GET", target="/keys", parameters=parameters, idempotent=True)
        with _read():
            return key_page(await self._answer(request, timeout)).count

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        then: Sequence[Operation] = (),
        else_: Sequence[Operation] = (),
        *,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> TxnResult:
        """Run `then` if all compares hold, else `else_`, atomically, as one revision.

            absent = Compare(b"lock", target="version", number=0)
            result = await kv.txn([absent], then=[PutOp(b"lock", b"mine")], else_=[GetOp(b"lock")])
            print(result.succeeded)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(
            method="POST", target="/txn", headers=_JSON, body=txn_body(compare, then, else_), idempotent=idempotent
        )
        return txn_result(await self._answer(request, timeout))

    # The cluster

    async def status(self, *, timeout: float | None = None) -> NodeStatus:
        """The state of the node that answers, in its own view; needs no leader.

            print((await kv.status()).role)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(method="GET", target="/raft/status", idempotent=True, timed=False)
        with _read():
            return decode(await self._answer(request, timeout), NodeStatus)

    async def members(self, *, timeout: float | None = None) -> Members:
        """The membership, as the node that answers knows it.

            print([member.name for member in (await kv.members()).members])

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(method="GET", target="/raft/members", idempotent=True, timed=False)
        with _read():
            return decode(await self._answer(request, timeout), Members)

    async def add_member(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        learner: bool = False,
        node_id: str | None = None,
        timeout: float | None = None,
    ) -> Added:
        """Add a node (`address`: where its peers reach it) and wait until that is committed.

            await kv.add_member("d", "127.0.0.1:7104", learner=True)

        A voter starts as a learner and is promoted once it has caught up. The same call again changes nothing.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `MembershipError`, `QuorumAtRisk`, or another one.
        """
        fields: dict[str, object] = {
            "ID": checked_text(name, "name"),
            "Address": checked_text(address, "address"),
            "Http": checked_text(http, "http"),
            "Learner": learner,
        }
        if node_id is not None:
            fields["NodeID"] = checked_text(node_id, "node_id")
        return decode(await self._change("/raft/add", fields, timeout, idempotent=True), Added)

    async def remove_member(self, member: str, *, force: bool = False, timeout: float | None = None) -> Members:
        """Remove a member, named by its name or its id, and wait until that is durable on a quorum.

            await kv.remove_member("d")

        `force`: also if no quorum of the voters would be alive afterwards.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `MembershipError`, `QuorumAtRisk`, or another one.
        """
        return decode(await self._change("/raft/remove", _who(member, force=force), timeout), Members)

    async def promote_member(self, member: str, *, force: bool = False, timeout: float | None = None) -> Members:
        """Make a learner a voter, now. The arguments are those of `remove_member`.

            await kv.promote_member("c")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `MembershipError`, `QuorumAtRisk`, or another one.
        """
        return decode(await self._change("/raft/promote", _who(member, force=force), timeout), Members)

    async def demote_member(self, member: str, *, force: bool = False, timeout: float | None = None) -> Members:
        """Make a voter a learner: it goes on following, and does not vote. A leader transfers its leadership first.

            await kv.demote_member("c")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `MembershipError`, `QuorumAtRisk`, or another one.
        """
        return decode(await self._change("/raft/demote", _who(member, force=force), timeout), Members)

    async def update_member(self, member: str, *, address: str, timeout: float | None = None) -> Members:
        """Change the address at which the peers dial a member (its name or its id), and wait until that is committed.

            await kv.update_member("d", address="127.0.0.1:7204")

        For a member that can't announce it itself: one that runs announces its own address, which wins.

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `MembershipError`, `QuorumAtRisk`, or another one.
        """
        fields: dict[str, object] = {"ID": checked_text(member, "member"), "Address": checked_text(address, "address")}
        return decode(await self._change("/raft/update", fields, timeout), Members)

    async def transfer_leadership(self, to: str | None = None, *, timeout: float | None = None) -> LeaderInfo:
        """Transfer the leadership to a voter (None: the most up-to-date one) and wait until it leads.

            print((await kv.transfer_leadership("b")).name)

        Raises:
            TransferFailed: the voter does not lead at the deadline.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
        """
        fields: dict[str, object] = {} if to is None else {"To": checked_text(to, "to")}
        return decode(await self._change("/raft/transfer", fields, timeout), _Transferred).leader

    async def snapshot(self, *, timeout: float | None = None) -> SnapshotResult:
        """Have the node that answers write a snapshot of its state and drop the log before it.

            print((await kv.snapshot()).index)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
        """
        return decode(await self._change("/raft/snapshot", {}, timeout), SnapshotResult)

    async def upgrade_status(self, *, timeout: float | None = None) -> UpgradeResult:
        """The levels of the cluster, and what each member can do, as the node that answers knows them.

            print((await kv.upgrade_status()).level)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(method="GET", target="/raft/upgrade", idempotent=True, timed=False)
        with _read():
            return decode(await self._answer(request, timeout), UpgradeResult)

    async def hold_upgrade(self, *, timeout: float | None = None) -> UpgradeResult:
        """Keep the cluster's levels where they are, until `finalize_upgrade`.

            await kv.hold_upgrade()

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        answer = await self._change("/raft/upgrade", {"Action": "hold"}, timeout, idempotent=True)
        return decode(answer, UpgradeResult)

    async def finalize_upgrade(self, *, timeout: float | None = None) -> UpgradeResult:
        """Raise the cluster's levels to what all members can do. There is no way back to an older version after it.

            await kv.finalize_upgrade()

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        answer = await self._change("/raft/upgrade", {"Action": "finalize"}, timeout, idempotent=True)
        return decode(answer, UpgradeResult)

    # Inside

    async def _change(
        self, target: str, fields: dict[str, object], timeout_s: float | None, *, idempotent: bool = False
    ) -> ClientResponse:
        request = ClientRequest(
            method="POST",
            target=target,
            headers=_JSON,
            body=msgspec.json.encode(fields),
            idempotent=idempotent,
            longest_s=MEMBERSHIP_LONGEST_S,
        )
        return await self._answer(request, MEMBERSHIP_TIMEOUT_S if timeout_s is None else timeout_s)

    async def _answer(self, request: ClientRequest, timeout_s: float | None) -> ClientResponse:
        response = await self._call(request, timeout_s, absent_ok=False)
        assert response is not None
        return response

    async def _call(self, request: ClientRequest, timeout_s: float | None, *, absent_ok: bool) -> ClientResponse | None:
        limit_s = self._timeout_s if timeout_s is None else checked_timeout_s(timeout_s)
        response = await self._caller.call(request, limit_s)
        if response.status < 300:
            return response
        error = error_from(response)
        if absent_ok and error.code == "not_found":
            return None
        raise error


class _Transferred(msgspec.Struct):
    leader: LeaderInfo


_JSON: Final = (("Content-Type", "application/json"),)


@contextmanager
def _read() -> Iterator[None]:
    """Errors of a read: whatever a gateway says of the outcome, a read has taken no effect."""
    try:
        yield
    except OperationError as error:
        error.outcome = Outcome.NOT_APPLIED
        raise


def _reading(consistency: str | None, max_stale_s: float | None) -> dict[str, str | bytes | None]:
    limit = None if max_stale_s is None else duration_text(checked_timeout_s(max_stale_s, "max_stale_s"))
    return {"consistency": None if consistency is None else checked_consistency(consistency), "max_stale": limit}


def _who(member: str, *, force: bool) -> dict[str, object]:
    name = checked_text(member, "member")
    return {"ID": name, "Force": True} if force else {"ID": name}
