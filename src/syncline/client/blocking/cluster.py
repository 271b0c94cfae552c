"""Blocking calls about the cluster: its members, its leader, its levels, and snapshots."""

from __future__ import annotations

from syncline.client.blocking.portal import PortalObject
from syncline.client.client import AsyncClient
from syncline.client.schemas import Added, LeaderInfo, Members, NodeStatus, SnapshotResult, UpgradeResult

__all__ = ["BlockingClusterCalls"]


class BlockingClusterCalls(PortalObject[AsyncClient]):
    """Look at the cluster, and change it."""

    def status(self, *, timeout: float | None = None) -> NodeStatus:
        """The state of the node that answers, in its own view; needs no leader.

            print(kv.status().role)

        Its arguments and errors are those of `AsyncClient.status`.
        """
        return self._call(lambda kv: kv.status(timeout=timeout))

    def members(self, *, timeout: float | None = None) -> Members:
        """The membership, as the node that answers knows it.

            print([member.name for member in kv.members().members])

        Its arguments and errors are those of `AsyncClient.members`.
        """
        return self._call(lambda kv: kv.members(timeout=timeout))

    def add_member(
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

            kv.add_member("d", "127.0.0.1:7104", learner=True)

        Its arguments and errors are those of `AsyncClient.add_member`.
        """
        return self._call(
            lambda kv: kv.add_member(name, address, http=http, learner=learner, node_id=node_id, timeout=timeout)
        )

    def remove_member(self, member: str, *, force: bool = False, timeout: float | None = None) -> Members:
        """Remove a member, named by its name or its id, and wait until that is durable on a quorum.

            kv.remove_member("d")

        Its arguments and errors are those of `AsyncClient.remove_member`.
        """
        return self._call(lambda kv: kv.remove_member(member, force=force, timeout=timeout))

    def promote_member(self, member: str, *, force: bool = False, timeout: float | None = None) -> Members:
        """Make a learner a voter, now. The arguments are those of `remove_member`.

            kv.promote_member("c")

        Its arguments and errors are those of `AsyncClient.promote_member`.
        """
        return self._call(lambda kv: kv.promote_member(member, force=force, timeout=timeout))

    def demote_member(self, member: str, *, force: bool = False, timeout: float | None = None) -> Members:
        """Make a voter a learner: it goes on following, and does not vote. A leader transfers its leadership first.

            kv.demote_member("c")

        Its arguments and errors are those of `AsyncClient.demote_member`.
        """
        return self._call(lambda kv: kv.demote_member(member, force=force, timeout=timeout))

    def update_member(self, member: str, *, address: str, timeout: float | None = None) -> Members:
        """Change the address at which the peers dial a member (its name or its id), and wait until that is committed.

            kv.update_member("d", address="127.0.0.1:7204")

        Its arguments and errors are those of `AsyncClient.update_member`.
        """
        return self._call(lambda kv: kv.update_member(member, address=address, timeout=timeout))

    def transfer_leadership(self, to: str | None = None, *, timeout: float | None = None) -> LeaderInfo:
        """Transfer the leadership to a voter (None: the most up-to-date one) and wait until it leads.

            print(kv.transfer_leadership("b").name)

        Its arguments and errors are those of `AsyncClient.transfer_leadership`.
        """
        return self._call(lambda kv: kv.transfer_leadership(to, timeout=timeout))

    def snapshot(self, *, timeout: float | None = None) -> SnapshotResult:
        """Have the node that answers write a snapshot of its state and drop the log before it.

            print(kv.snapshot().index)

        Its arguments and errors are those of `AsyncClient.snapshot`.
        """
        return self._call(lambda kv: kv.snapshot(timeout=timeout))

    def upgrade_status(self, *, timeout: float | None = None) -> UpgradeResult:
        """The levels of the cluster, and what each member can do, as the node that answers knows them.

            print(kv.upgrade_status().level)

        Its arguments and errors are those of `AsyncClient.upgrade_status`.
        """
        return self._call(lambda kv: kv.upgrade_status(timeout=timeout))

    def hold_upgrade(self, *, timeout: float | None = None) -> UpgradeResult:
        """Keep the cluster's levels where they are, until `finalize_upgrade`.

            kv.hold_upgrade()

        Its arguments and errors are those of `AsyncClient.hold_upgrade`.
        """
        return self._call(lambda kv: kv.hold_upgrade(timeout=timeout))

    def finalize_upgrade(self, *, timeout: float | None = None) -> UpgradeResult:
        """Raise the cluster's levels to what all members can do. There is no way back to an older version after it.

            kv.finalize_upgrade()

        Its arguments and errors are those of `AsyncClient.finalize_upgrade`.
        """
        return self._call(lambda kv: kv.finalize_upgrade(timeout=timeout))
