"""Implementation of `Backend` over a `Raft` node with a `KvMachine`."""

from __future__ import annotations

from collections.abc import Callable

from syncline.client.schemas import Added, LeaderInfo, MemberAbility, MemberInfo, Members, NodeView, UpgradeResult
from syncline.errors import NoSpace
from syncline.kv.auth.flag import AuthFlag
from syncline.kv.machine import KvMachine
from syncline.kv.observers import on_loop
from syncline.kv.serving.kv_node import KvNode
from syncline.node.levels import UpgradeStatus
from syncline.node.member_registry import Member, Membership, format_id
from syncline.node.raft import Raft
from syncline.node.stats import MemberProgress, Stats
from syncline.platform.entropy import Entropy, system_entropy
from syncline.server.shortages import Shortages

__all__ = ["NodeBackend"]


class NodeBackend(KvNode):
    """`Backend` over one running node. Make it when the node is open; `close` it before the node is closed."""

    def __init__(self, raft: Raft[object], machine: KvMachine, *, entropy: Entropy = system_entropy) -> None:
        super().__init__(raft, machine, entropy=entropy)
        self._shortages = Shortages(raft, machine)

    @property
    def state_alarm(self) -> str:
        return self._raft.state_alarm

    @property
    def disk_stall(self) -> str:
        return self._shortages.disk_stall

    @property
    def shortages(self) -> dict[str, str]:
        return self._shortages.found()

    def note_refusal(self, error: BaseException) -> None:
        if isinstance(error, NoSpace):
            self._shortages.refused()

    @property
    def auth_flag(self) -> AuthFlag:
        return self._machine.auth_flag

    def observe_auth(self, callback: Callable[[], None]) -> None:
        self._machine.observe_auth(on_loop(callback))

    # --- views

    @property
    def cluster_id(self) -> int:
        """The id of the cluster."""
        return int(self._raft.cluster_id)

    @property
    def node_id(self) -> int:
        """The id of this node."""
        return int(self._raft.node_id)

    @property
    def term(self) -> int:
        """The present term of this node."""
        return self._raft.term

    def leader(self) -> LeaderInfo | None:
        leader = self._raft.leader
        if leader is None:
            return None
        return LeaderInfo(id=format_id(leader.id), name=leader.name, http=self._http(leader))

    def _http(self, member: Member) -> str:
        """A member's address for clients; this node knows its own before it is announced."""
        return self._raft.config.http if member.id == self._raft.node_id else member.http

    def members(self) -> Members:
        membership = self._raft.membership()
        return Members(
            membership_index=membership.index,
            joint=membership.joint,
            leader=self.leader(),
            members=self._views(membership, self._raft.stats()),
        )

    def view(self) -> NodeView:
        raft, membership, stats = self._raft, self._raft.membership(), self._raft.stats()
        last_contact_s = raft.last_contact_s
        return NodeView(
            cluster_id=format_id(raft.cluster_id),
            cluster=raft.config.cluster,
            id=format_id(raft.node_id),
            name=raft.config.name,
            role=stats.role,
            term=stats.term,
            leader=self.leader(),
            commit=stats.commit,
            applied=stats.applied,
            last_index=stats.last_index,
            first_index=stats.first_index,
            snapshot_index=stats.snapshot_index,
            membership_index=membership.index,
            lag=stats.lag,
            data_dir=raft.config.data_dir,
            http=raft.config.http,
            peer=raft.advertised,
            last_contact_s=None if last_contact_s is None else round(last_contact_s, 3),
            members=self._views(membership, stats),
            no_leader=raft.no_leader,
            digest_index=stats.digest_index,
            digest_agreement=stats.digest_agreement,
            digest_age_s=None if stats.digest_age_s is None else round(stats.digest_age_s, 3),
            level=raft.level,
            machine_version=raft.machine_version,
        )

    def _views(self, membership: Membership, stats: Stats) -> tuple[MemberInfo, ...]:
        return tuple(self._view(member, stats.progress.get(member.id)) for member in membership.members.values())

    def _view(self, member: Member, progress: MemberProgress | None) -> MemberInfo:
        return MemberInfo(
            id=format_id(member.id),
            name=member.name,
            role=member.role,
            peer=member.address,
            http=self._http(member),
            match=progress.match if progress is not None else None,
            lag=progress.lag if progress is not None else None,
            active=progress.active if progress is not None else None,
            promote=member.promote,
            fault=progress.fault if progress is not None else "",
            level=member.level,
            machine_version=member.machine_version,
        )

    # --- the membership

    async def add_member(
        self, name: str, address: str, *, http: str, node_id: int | None, learner: bool, timeout_s: float
    ) -> Added:
        raft = self._raft
        known = raft.membership().by_name(name)
        # Always as a learner first: a voter that has no log yet would count for the quorum and could not help it.
        added = await raft.add_learner(
            name, address, http=http, node_id=node_id, promote=not learner, timeout=timeout_s
        )
        membership, stats = raft.membership(), raft.stats()
        return Added(
            added=known is None or known.id != added.id,
            cluster_id=format_id(raft.cluster_id),
            cluster=raft.config.cluster,
            membership_index=membership.index,
            member=self._view(membership.members.get(added.id, added), stats.progress.get(added.id)),
            members=self._views(membership, stats),
        )

    async def remove_member(self, node_id: int, timeout_s: float, *, force: bool) -> None:
        await self._raft.remove(node_id, force=force, timeout=timeout_s)

    async def promote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None:
        await self._raft.promote(node_id, force=force, timeout=timeout_s)

    async def demote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None:
        await self._raft.demote(node_id, force=force, timeout=timeout_s)

    async def update_member(self, node_id: int, address: str, timeout_s: float) -> None:
        await self._raft.update_member(node_id, address=address, timeout=timeout_s)

    async def transfer_leadership(self, to: int | None, timeout_s: float) -> None:
        await self._raft.transfer_leadership(to, timeout=timeout_s)

    def upgrade(self) -> UpgradeResult:
        return _upgrade_view(self._raft.upgrade_status())

    async def hold_upgrade(self, timeout_s: float) -> UpgradeResult:
        return _upgrade_view(await self._raft.hold_upgrade(timeout=timeout_s))

    async def finalize_upgrade(self, timeout_s: float) -> UpgradeResult:
        return _upgrade_view(await self._raft.finalize_upgrade(timeout=timeout_s))

    async def snapshot(self, timeout_s: float) -> int:
        return (await self._raft.snapshot(timeout=timeout_s)).index


def _upgrade_view(status: UpgradeStatus) -> UpgradeResult:
    return UpgradeResult(
        level=status.level,
        machine_version=status.machine_version,
        possible_level=status.possible_level,
        possible_machine_version=status.possible_machine_version,
        held=status.held,
        hold_level=status.hold_level,
        members=tuple(
            MemberAbility(
                id=format_id(member.id),
                name=member.name,
                level=member.level,
                machine_version=member.machine_version,
            )
            for member in status.members
        ),
    )
