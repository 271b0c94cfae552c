"""Who can be replaced: decided by who answers, and refused with the numbers and the next step."""

from __future__ import annotations

import msgspec
import pytest

from syncline.cli.exits import Failure
from syncline.cli.repair.plan import NotYet, RepairTarget, make_plan, plan_when_settled
from syncline.cli.survey import MemberRow, Survey

CLUSTER = "00000000000000c1"
BROKEN = RepairTarget(node_id="0000000000000001", cluster_id=CLUSTER, name="n1", address="", http="")


def row(number: int, role: str = "voter", *, up: bool = True, member: bool = True) -> MemberRow:
    empty: dict[str, object] = dict.fromkeys(MemberRow.__struct_fields__) | {"promote": False, "fault": ""}
    known = {
        "name": f"n{number}",
        "id": f"{number:016x}",
        "role": role if up else None,
        "http": f"http://n{number}",
        "peer": f"n{number}:7100",
        "reachable": up,
        "member": member,
        "voter": role == "voter",
        "error": None if up else "connection refused",
    }
    return msgspec.convert(empty | known, MemberRow)


def survey(*rows: MemberRow, leader: str | None = "n2") -> Survey:
    return Survey(cluster_id=CLUSTER, cluster="test", leader=leader, members=list(rows))


def refusal(*rows: MemberRow, target: RepairTarget = BROKEN, leader: str | None = "n2") -> Failure:
    with pytest.raises(Failure) as caught:
        make_plan(survey(*rows, leader=leader), target)
    return caught.value


def test_two_of_three_can_replace_the_third() -> None:
    plan = make_plan(survey(row(1, up=False), row(2), row(3)), BROKEN)
    assert (plan.old_id, plan.name, plan.address, plan.http) == ("0000000000000001", "n1", "n1:7100", "http://n1")
    assert (plan.voter, plan.leader, plan.answering, plan.needed, plan.voters) == (True, "n2", 2, 2, 3)
    assert (plan.cluster_id, plan.endpoints) == (CLUSTER, ("http://n2", "http://n3"))


def test_plan_takes_the_address_that_the_user_gives() -> None:
    """The node comes back elsewhere: what the cluster and the directory say of its address is old."""
    target = msgspec.structs.replace(BROKEN, address="old:7100", new_address="new:7100")
    assert make_plan(survey(row(1, up=False), row(2), row(3)), target).address == "new:7100"
    assert make_plan(survey(row(2), row(3)), target).address == "new:7100"
    taken = msgspec.structs.replace(BROKEN, new_address="n3:7100")
    assert "has the name or the address" in refusal(row(1, up=False), row(2), row(3), target=taken).message


@pytest.mark.parametrize(
    ("size", "up", "enough"),
    [(2, 1, False), (3, 2, True), (3, 1, False), (4, 3, True), (4, 2, False), (5, 3, True), (5, 2, False)],
)
def test_a_majority_with_the_broken_one_counted_decides(size: int, up: int, enough: bool) -> None:
    rows = [row(number, up=1 < number <= up + 1) for number in range(1, size + 1)]
    if enough:
        assert make_plan(survey(*rows), BROKEN).needed == size // 2 + 1
    else:
        assert refusal(*rows).code == "no_quorum"


def test_learners_do_not_decide() -> None:
    failure = refusal(row(1, up=False), row(2), row(3, "learner"), row(4, "learner"))
    assert failure.message.startswith("n2 can't decide without it: a change needs 2 of the 2 voters")
    assert "docs/repair.md" in failure.message
    assert failure.status == 1


def test_a_learner_stays_one_and_needs_only_the_voters() -> None:
    plan = make_plan(survey(row(1, "learner", up=False), row(2)), BROKEN)
    assert (plan.voter, plan.needed, plan.voters) == (False, 1, 1)
    catching_up = msgspec.structs.replace(row(1, "learner", up=False), promote=True)
    assert make_plan(survey(catching_up, row(2)), BROKEN).voter, "it was on its way to become a voter"


def test_repair_of_the_only_voter_is_refused() -> None:
    failure = refusal(row(1, up=False), row(2, "learner"))
    assert "n1 is the only voter of its cluster" in failure.message
    assert failure.status == 1


def test_member_that_does_not_answer_is_named_with_the_reason() -> None:
    failure = refusal(row(1, up=False), row(2), row(3, up=False))
    assert failure.message == (
        "1 of the 2 other voters answers, and a change needs 2 of 3: n3 does not (connection refused). Start what is "
        "stopped and try again. Nothing was changed."
    )
    assert failure.status == 4


def test_a_node_that_runs_is_not_replaced() -> None:
    assert "n1 (0000000000000001) runs: it answers at http://n1" in refusal(row(1), row(2), row(3)).message
    silent = msgspec.structs.replace(row(1, up=False), active=True)
    failure = refusal(silent, row(2), row(3))
    assert isinstance(failure, NotYet), "the leader may only not have noticed yet"
    assert "the leader still hears of n1" in failure.message


@pytest.mark.parametrize("leader", [None, "n1"])
async def test_without_another_leader_it_is_asked_again(leader: str | None) -> None:
    looks = [survey(row(1, up=False), row(2), row(3), leader=leader)] * 2 + [survey(row(1, up=False), row(2), row(3))]

    async def ask() -> Survey:
        return looks.pop(0) if len(looks) > 1 else looks[0]

    assert (await plan_when_settled(ask, BROKEN, timeout_s=10)).leader == "n2"
    looks[0] = survey(row(1, up=False), row(2), row(3), leader=None)
    with pytest.raises(NotYet, match="no leader"):
        await plan_when_settled(ask, BROKEN, timeout_s=0.5)


async def test_a_refusal_that_will_not_change_is_told_at_once() -> None:
    async def ask() -> Survey:
        assert not asked
        asked.append(1)
        return survey(row(1, up=False), row(2))

    asked: list[int] = []
    with pytest.raises(Failure, match="can't decide"):
        await plan_when_settled(ask, BROKEN, timeout_s=10)


def test_another_cluster_is_not_touched() -> None:
    target = msgspec.structs.replace(BROKEN, cluster_id="00000000000000c2")
    assert "give the endpoints of its own cluster" in refusal(row(1, up=False), row(2), row(3), target=target).message


def test_whom_the_directory_does_not_name_the_user_names() -> None:
    named = RepairTarget(node_id="", cluster_id="", name="n1", address="", http="")
    assert make_plan(survey(row(1, up=False), row(2), row(3)), named).old_id == "0000000000000001"
    stranger = msgspec.structs.replace(named, name="n9")
    failure = refusal(row(1, up=False), row(2), row(3), target=stranger)
    assert (failure.code, "serve --join" in failure.message) == ("unknown_member", True)


def test_an_id_alone_is_enough() -> None:
    anonymous = RepairTarget(node_id="0000000000000001", cluster_id="", name="", address="", http="")
    assert make_plan(survey(row(1, up=False), row(2), row(3)), anonymous).name == "n1"
    gone = msgspec.structs.replace(anonymous, node_id="0000000000000009")
    assert "give --name" in refusal(row(2), row(3), target=gone).message


def test_repair_of_a_removed_member_only_adds() -> None:
    assert "give --address" in refusal(row(2), row(3)).message
    known = msgspec.structs.replace(BROKEN, address="n1:7100", http="http://n1")
    plan = make_plan(survey(row(2), row(3)), known)
    assert (plan.old_id, plan.address, plan.http, plan.voter) == ("", "n1:7100", "http://n1", True)
    assert (plan.needed, plan.voters) == (2, 2)


def test_repair_refuses_an_address_that_another_member_took() -> None:
    known = msgspec.structs.replace(BROKEN, address="n3:7100")
    failure = refusal(row(2), row(3), target=known)
    assert "member n3 (0000000000000003) at n3:7100 has the name or the address of n1" in failure.message


def test_repair_replaces_the_member_of_that_name() -> None:
    """The directory is that of an earlier node of this name: its disk came back from a backup, say."""
    older = msgspec.structs.replace(BROKEN, node_id="0000000000000009")
    assert make_plan(survey(row(1, up=False), row(2), row(3)), older).old_id == "0000000000000001"
    assert "runs" in refusal(row(1), row(2), row(3), target=older).message
