"""Calls about the cluster: its members, its leader, its levels, and snapshots."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.client.arguments import checked_flag, checked_text
from syncline.client.caller import ClientRequest
from syncline.client.calls import JSON_BODY, ServerCalls, as_read
from syncline.client.connection import ClientResponse
from syncline.client.schemas import Added, LeaderInfo, Members, NodeStatus, SnapshotResult, UpgradeResult
from syncline.client.wire import decode

__all__ = ["ClusterCalls"]

MEMBERSHIP_TIMEOUT_S: Final = 30.0
"""For changes of the cluster: they wait for a commit, and a transfer for an election."""

MEMBERSHIP_LONGEST_S: Final = 600.0
"""The longest time that the server takes for a change of the cluster. A longer deadline takes several attempts."""


class ClusterCalls(ServerCalls):
    """Look at the cluster, and change it."""

    async def status(self, *, timeout: float | None = None) -> NodeStatus:
        """The state of the node that answers, in its own view; needs no leader.

            print((await kv.status()).role)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        request = ClientRequest(method="GET", target="/raft/status", idempotent=True, timed=False)
        with as_read():
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
        with as_read():
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
            "Learner": checked_flag(learner, "learner"),
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
        with as_read():
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

    async def _change(
        self, target: str, fields: dict[str, object], timeout_s: float | None, *, idempotent: bool = False
    ) -> ClientResponse:
        request = ClientRequest(
            method="POST",
            target=target,
            headers=JSON_BODY,
            body=msgspec.json.encode(fields),
            idempotent=idempotent,
            longest_s=MEMBERSHIP_LONGEST_S,
        )
        return await self._answer(request, MEMBERSHIP_TIMEOUT_S if timeout_s is None else timeout_s)


class _Transferred(msgspec.Struct):
    leader: LeaderInfo


def _who(member: str, *, force: bool) -> dict[str, object]:
    name = checked_text(member, "member")
    return {"ID": name, "Force": True} if checked_flag(force, "force") else {"ID": name}
