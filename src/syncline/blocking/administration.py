"""Administration of a cluster through a blocking node: members, leadership, levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from syncline.blocking.operations import BlockingOperations
from syncline.consensus.types import ChangeType
from syncline.node.levels import UpgradeStatus
from syncline.node.member_registry import Member, Membership

__all__ = ["BlockingAdministration"]

R = TypeVar("R")
"""What the state machine answers to a command."""


class BlockingAdministration(BlockingOperations[R], Generic[R]):
    """Changes of the membership, of the leadership and of the levels. Base of `BlockingRaft`."""

    def add_learner(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: int | None = None,
        promote: bool = True,
        expected_index: int | None = None,
        timeout: float = 30.0,
    ) -> Member:
        """Add a member that learns before it votes. With `promote` it becomes a voter once it has caught up.

            added = raft.add_learner("d", "127.0.0.1:7104")

        Its arguments and errors are those of `syncline.Raft.add_learner`.
        """
        return self._call(
            lambda raft: raft.add_learner(
                name,
                address,
                http=http,
                node_id=node_id,
                promote=promote,
                expected_index=expected_index,
                timeout=timeout,
            )
        )

    def add_voter(
        self,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: int | None = None,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Member:
        """Add a member that votes at once. `add_learner` is the safer way: this one counts before it has the log.

            added = raft.add_voter("e", "127.0.0.1:7105", force=True)

        Its arguments and errors are those of `syncline.Raft.add_voter`.
        """
        return self._call(
            lambda raft: raft.add_voter(
                name, address, http=http, node_id=node_id, expected_index=expected_index, force=force, timeout=timeout
            )
        )

    def promote(
        self,
        member: str | int,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Make a learner a voter now. `member` is its name or its id.

            raft.promote("c")

        Its arguments and errors are those of `syncline.Raft.promote`.
        """
        return self._call(
            lambda raft: raft.promote(member, expected_index=expected_index, force=force, timeout=timeout)
        )

    def demote(
        self,
        member: str | int,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Make a voter a learner, which stays one. `member` is its name or its id.

            raft.demote("c")

        Its arguments and errors are those of `syncline.Raft.demote`.
        """
        return self._call(lambda raft: raft.demote(member, expected_index=expected_index, force=force, timeout=timeout))

    def remove(
        self,
        member: str | int,
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Remove a member. A leader that is removed transfers its leadership first.

            membership = raft.remove("d")

        Its arguments and errors are those of `syncline.Raft.remove`.
        """
        return self._call(lambda raft: raft.remove(member, expected_index=expected_index, force=force, timeout=timeout))

    def replace_member(
        self,
        dead: str | int,
        name: str,
        address: str,
        *,
        http: str = "",
        node_id: int | None = None,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Member:
        """Replace a member that is dead by a new node, in one change. Returns the new member.

            new = raft.replace_member("c", "g", "127.0.0.1:7107")

        Its arguments and errors are those of `syncline.Raft.replace_member`.
        """
        return self._call(
            lambda raft: raft.replace_member(
                dead, name, address, http=http, node_id=node_id, expected_index=expected_index, force=force,
                timeout=timeout,
            )
        )  # fmt: skip

    def update_member(
        self,
        member: str | int,
        *,
        address: str,
        expected_index: int | None = None,
        timeout: float = 30.0,
    ) -> Member:
        """Change the address at which a member is dialled, for one that can't announce it itself.

            raft.update_member("d", address="127.0.0.1:7204")

        Its arguments and errors are those of `syncline.Raft.update_member`.
        """
        return self._call(
            lambda raft: raft.update_member(member, address=address, expected_index=expected_index, timeout=timeout)
        )

    def hint(self, node_id: int, address: str) -> None:
        """Have a node dialled at "host:port" too, if it does not answer where the cluster expects it.

            raft.hint(member.id, "127.0.0.1:7204")

        Its arguments and errors are those of `syncline.Raft.hint`.
        """
        self._look(lambda raft: raft.hint(node_id, address))

    def change_membership(
        self,
        changes: Sequence[tuple[ChangeType, str | int]],
        *,
        expected_index: int | None = None,
        force: bool = False,
        timeout: float = 30.0,
    ) -> Membership:
        """Change several known members at once, through a joint membership if more than one voter changes.

            raft.change_membership([(ChangeType.ADD_LEARNER_NODE, "b"), (ChangeType.ADD_NODE, "c")])

        Its arguments and errors are those of `syncline.Raft.change_membership`.
        """
        return self._call(
            lambda raft: raft.change_membership(changes, expected_index=expected_index, force=force, timeout=timeout)
        )

    # -- leadership ---------------------------------------------------------------------------------------------------

    def transfer_leadership(self, to: str | int | None = None, *, timeout: float = 10.0) -> Member:
        """Transfer the leadership to a voter, and return the new leader once it leads.

            leader = raft.transfer_leadership("b")

        Its arguments and errors are those of `syncline.Raft.transfer_leadership`.
        """
        return self._call(lambda raft: raft.transfer_leadership(to, timeout=timeout))

    # -- levels -------------------------------------------------------------------------------------------------------

    @property
    def level(self) -> int:
        """The cluster's feature level, as applied here."""
        return self._look(lambda raft: raft.level)

    @property
    def machine_version(self) -> int:
        """The cluster's machine version, as applied here. A command of a later version must not be proposed yet."""
        return self._look(lambda raft: raft.machine_version)

    def reach_level(self, level: int, *, timeout: float = 5.0) -> bool:
        """Wait until the cluster's feature level is at least this, and return whether it is.

            if raft.reach_level(2):
                raft.apply(b"a command that needs the time")

        Its arguments and errors are those of `syncline.Raft.reach_level`.
        """
        return self._call(lambda raft: raft.reach_level(level, timeout=timeout))

    def reach_machine_version(self, version: int, *, timeout: float = 5.0) -> bool:
        """Wait until the cluster's machine version is at least this, and return whether it is.

            if raft.reach_machine_version(2):
                raft.apply(command_of_version_2)

        Its arguments and errors are those of `syncline.Raft.reach_machine_version`.
        """
        return self._call(lambda raft: raft.reach_machine_version(version, timeout=timeout))

    def upgrade_status(self) -> UpgradeStatus:
        """The cluster's levels, and what each member can do.

            print(raft.upgrade_status().possible_level)

        Its arguments and errors are those of `syncline.Raft.upgrade_status`.
        """
        return self._look(lambda raft: raft.upgrade_status())

    def hold_upgrade(self, *, timeout: float = 30.0) -> UpgradeStatus:
        """Keep both levels where they are, whichever node leads, until `finalize_upgrade`.

            raft.hold_upgrade()

        Its arguments and errors are those of `syncline.Raft.hold_upgrade`.
        """
        return self._call(lambda raft: raft.hold_upgrade(timeout=timeout))

    def finalize_upgrade(self, *, timeout: float = 30.0) -> UpgradeStatus:
        """End `hold_upgrade`, and raise both levels to what all members can do, whatever `Config.hold_level` says.

            status = raft.finalize_upgrade()

        Its arguments and errors are those of `syncline.Raft.finalize_upgrade`.
        """
        return self._call(lambda raft: raft.finalize_upgrade(timeout=timeout))
