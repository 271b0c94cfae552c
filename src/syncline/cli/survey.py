"""Ask every member of a cluster for its state, also members that the user did not name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from syncline.cli.announced import for_member, trusting, withheld
from syncline.cli.common import Context, make_client
from syncline.client import AsyncClient, MemberInfo, NodeStatus
from syncline.client.endpoints import parse_endpoint, parse_endpoints
from syncline.errors import ConfigError, OperationError, Rejected, RequestFailed, Unreachable

__all__ = ["MemberRow", "Survey", "survey_cluster", "survey_known", "survey_of"]

ASKED_AT_ONCE: Final = 64
"""Members of one cluster that are asked: far more than a cluster has."""


class MemberRow(msgspec.Struct, frozen=True):
    """One member as `status` shows it.

    Fields that only the member itself knows are None if it is unreachable; `error` has the reason. `member` is false
    for
    a node that answers but is not (or no longer) in the membership.
    """

    name: str | None
    id: str | None
    role: str | None
    http: str | None
    peer: str | None
    term: int | None
    commit: int | None
    applied: int | None
    lag: int | None
    pid: int | None
    data_dir: str | None
    reachable: bool
    member: bool
    voter: bool | None
    leader: str | None = None
    last_index: int | None = None
    first_index: int | None = None
    snapshot_index: int | None = None
    revision: int | None = None
    uptime_s: float | None = None
    version: str | None = None
    error: str | None = None
    active: bool | None = None
    """Whether the leader hears from the member; None if the leader does not answer."""
    promote: bool = False
    """A learner that becomes a voter once it has caught up."""
    fault: str = ""
    """Why the member is not healthy although it answers, as the leader reports it. Its `lag` is not known then."""
    digest_index: int | None = None
    digest_agreement: str | None = None
    """Result of the newest comparison of the members' states: `none`, `agreed`, `no_majority`."""
    digest_age_s: float | None = None
    digest: str | None = None
    """Digest of the whole state: nodes at one `revision` have the same."""
    url: str | None = None
    """Where it has answered: of use if the address that it announces can't be reached from here."""


class Survey(msgspec.Struct, frozen=True):
    """A cluster at a glance. `leader` is the name of the leader that the nodes of the newest term know."""

    cluster_id: str
    cluster: str
    leader: str | None
    members: list[MemberRow]
    no_leader: str = ""
    """Why there is no leader, as a node of the newest term reports it."""

    @property
    def size(self) -> int:
        """Number of members. `members` may have rows of other nodes and addresses as well."""
        return sum(row.member for row in self.members)


STATUS_TIMEOUT_S: Final = 2.0
"""Time limit of each node's answer. Status never waits for a quorum, so a node that does not answer is away."""

Answer = NodeStatus | OperationError
MakeClient = Callable[[str], AsyncClient]


async def survey_of(context: Context) -> Survey:
    """Survey the cluster of the user's options. Raises as `survey_cluster` does."""
    return await _survey(context, parse_endpoints(context.endpoints), all_named=context.endpoints_given)


async def survey_known(context: Context, endpoints: str, known: Sequence[str]) -> Survey:
    """Survey the cluster of these endpoints. A data directory knows others: these see the credential as well."""
    return await _survey(trusting(context, endpoints, known), parse_endpoints(endpoints), all_named=False)


async def _survey(context: Context, urls: Sequence[str], *, all_named: bool) -> Survey:
    return await survey_cluster(
        urls,
        lambda url: make_client(for_member(context, url), timeout_s=STATUS_TIMEOUT_S),
        all_named=all_named,
        explain=lambda url, error: withheld(context, url, error),
    )


async def survey_cluster(
    urls: Sequence[str],
    make: MakeClient,
    *,
    all_named: bool,
    explain: Callable[[str, OperationError], OperationError] = lambda _, error: error,
) -> Survey:
    """Ask the named endpoints, then the members that they know.

    `all_named`: the user named the endpoints, so each that does not answer is shown, whether it is a member or not.
    `explain` may replace the error of an address by one that says more.
    Raises:
        Unreachable: none of them answers.
        Rejected, RequestFailed: those that answer refuse it, such as without a credential.
        ConfigError: they belong to different clusters.
    """
    answers = await _ask(urls, make, explain)
    statuses = [answer for answer in answers.values() if isinstance(answer, NodeStatus)]
    if not statuses:
        raise _no_status(answers)
    _check_one_cluster(answers)
    known = max(statuses, key=lambda status: status.membership_index).members
    asked = {answer.id for answer in statuses}
    others = [member.http for member in known if member.http and member.id not in asked]
    unasked = [url for url in map(parse_endpoint, others) if url not in answers]
    answers |= await _ask(unasked[:ASKED_AT_ONCE], make, explain)
    return _put_together(answers, known, urls if all_named else ())


async def _ask(
    urls: Sequence[str], make: MakeClient, explain: Callable[[str, OperationError], OperationError]
) -> dict[str, Answer]:
    async def one(url: str) -> Answer:
        try:
            async with make(url) as client:
                return await client.status()
        except OperationError as error:
            return explain(url, error)

    return dict(zip(urls, await asyncio.gather(*map(one, urls)), strict=True))


def _put_together(answers: dict[str, Answer], known: Sequence[MemberInfo], named: Sequence[str]) -> Survey:
    statuses = {answer.id: answer for answer in answers.values() if isinstance(answer, NodeStatus)}
    lags, heard, faults = _leaders_view(statuses)
    rows = []
    for member in known:
        status = statuses.pop(member.id, None)
        row = _unreachable(member, answers) if status is None else _row(status, lags.get(member.id), member=member)
        row = msgspec.structs.replace(row, active=heard.get(member.id), promote=member.promote)
        if fault := faults.get(member.id):
            row = msgspec.structs.replace(row, fault=fault, lag=None)
        rows.append(row)
    rows.extend(_row(status, lags.get(status.id), member=None) for status in statuses.values())
    places = {answer.id: url for url, answer in answers.items() if isinstance(answer, NodeStatus)}
    rows = [msgspec.structs.replace(row, url=places.get(row.id)) if row.id and row.reachable else row for row in rows]
    shown = {parse_endpoint(row.http) for row in rows if row.http}
    reached = {url for url, answer in answers.items() if isinstance(answer, NodeStatus)}
    rows.extend(_stranger(url, answers[url]) for url in named if url not in shown and url not in reached)
    rows.sort(key=lambda row: (row.name is None, row.name or "", row.id or ""))
    newest = max((answer for answer in answers.values() if isinstance(answer, NodeStatus)), key=lambda s: s.term)
    leader = _leader_name(rows) or (newest.leader.name if newest.leader else None)
    why = newest.no_leader if leader is None else ""
    return Survey(cluster_id=newest.cluster_id, cluster=newest.cluster, leader=leader, members=rows, no_leader=why)


def _leader_name(rows: Sequence[MemberRow]) -> str | None:
    leading = [row for row in rows if row.role == "leader"]
    return max(leading, key=lambda row: row.term or 0).name if leading else None


def _leaders_view(statuses: dict[str, NodeStatus]) -> tuple[dict[str, int], dict[str, bool], dict[str, str]]:
    """Add the leader's view of each member: its lag, whether it is heard, and its problems, if the leader answers."""
    leaders = [status for status in statuses.values() if status.role == "leader"]
    if not leaders:
        return {}, {}, {}
    members = max(leaders, key=lambda status: status.term).members
    lags = {member.id: member.lag for member in members if member.lag is not None}
    heard = {member.id: member.active for member in members if member.active is not None}
    return lags, heard, {member.id: member.fault for member in members if member.fault}


def _row(status: NodeStatus, lag: int | None, *, member: MemberInfo | None) -> MemberRow:
    return MemberRow(
        name=status.name,
        id=status.id,
        role=status.role,
        http=status.http or (member.http if member else None),
        peer=status.peer or (member.peer if member else None),
        term=status.term,
        commit=status.commit,
        applied=status.applied,
        lag=status.lag if lag is None else lag,
        pid=status.pid,
        data_dir=status.data_dir,
        reachable=True,
        member=member is not None,
        voter=member.role == "voter" if member else None,
        leader=status.leader.name if status.leader else None,
        last_index=status.last_index,
        first_index=status.first_index,
        snapshot_index=status.snapshot_index,
        revision=status.revision,
        uptime_s=status.uptime_s,
        version=status.version,
        digest_index=status.digest_index,
        digest_agreement=status.digest_agreement,
        digest_age_s=status.digest_age_s,
        digest=status.digest,
    )


def _unreachable(member: MemberInfo, answers: dict[str, Answer]) -> MemberRow:
    if not member.http:
        reason = "it announces no HTTP address"
    else:
        answer = answers.get(parse_endpoint(member.http))
        if isinstance(answer, NodeStatus):
            reason = f"another node, {answer.name}, answers at {member.http}"
        else:
            reason = "it was not asked" if answer is None else str(answer)
    return _silent_row(member.name, member.id, member.http or None, member.peer or None, member.role == "voter", reason)


def _stranger(url: str, answer: Answer) -> MemberRow:
    reason = f"{answer}. No member announces this address: is it an old endpoint?"
    return _silent_row(None, None, url, None, None, reason)


def _silent_row(
    name: str | None, node_id: str | None, http: str | None, peer: str | None, voter: bool | None, reason: str
) -> MemberRow:
    return MemberRow(
        name=name,
        id=node_id,
        role=None,
        http=http,
        peer=peer,
        term=None,
        commit=None,
        applied=None,
        lag=None,
        pid=None,
        data_dir=None,
        reachable=False,
        member=voter is not None,
        voter=voter,
        error=reason,
    )


def _check_one_cluster(answers: dict[str, Answer]) -> None:
    clusters: dict[str, str] = {}
    for url, answer in answers.items():
        if isinstance(answer, NodeStatus):
            clusters.setdefault(answer.cluster_id, url)
    if len(clusters) > 1:
        named = ", ".join(f"{url} to {cluster_id}" for cluster_id, url in clusters.items())
        raise ConfigError(f"the endpoints belong to different clusters: {named}")


def _no_status(answers: dict[str, Answer]) -> OperationError:
    errors = [answer for answer in answers.values() if isinstance(answer, OperationError)]
    for error in errors:
        if isinstance(error, Rejected | RequestFailed):
            return error  # a server answered: "no server answers" would send the user to the wrong place
    told = "; ".join(dict.fromkeys(str(error) for error in errors))
    return Unreachable(f"no server answers: {told}")
