"""What the leader lets into its log: bytes that a faulty member sends are refused, and never raise anything else."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.consensus.types import ChangeType, MembershipChange, SingleChange, Transition
from syncline.errors import DiskFull, Dropped, MembershipError, OperationError, Rejected, TooLarge
from syncline.node.envelope import DATA, MEMBERSHIP, ChangeContext, Kind, MemberRecord, Proposal, encode
from syncline.node.examination import (
    LARGEST_PROPOSAL_BYTES,
    MAX_CHANGES,
    examine_change,
    examine_forward,
    examine_proposal,
    sound_own,
)
from syncline.node.futures import ApplyFuture
from syncline.node.rejections import DISK_FULL, error_of
from syncline.transport.messages import Forward, ForwardedProposal

SENDER, NUMBER = 7, 1000
GOOD = MemberRecord(SENDER, "a", "127.0.0.1:7100", "http://127.0.0.1:8080")
HUGE = "x" * 1_050_000
DEEP = b"\x91" * 100_000


def announcement(member: object, *, origin: int = SENDER, number: int = NUMBER) -> bytes:
    return encode(Proposal(Kind.ANNOUNCE, origin, number, encode(member)))


def command(data: bytes = b"x", *, kind: int = Kind.COMMAND, origin: int = SENDER, number: int = NUMBER) -> bytes:
    return encode(Proposal(kind, origin, number, data))


def changed(**changes: object) -> MemberRecord:
    return msgspec.structs.replace(GOOD, **changes)


def test_examination_sound_proposals_pass() -> None:
    for payload in (command(), command(b"", kind=Kind.BARRIER), announcement(GOOD)):
        assert examine_proposal(payload, SENDER, NUMBER).number == NUMBER


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "not a proposal"),
        (b"rubbish", "not a proposal"),
        (DEEP, "not a proposal"),
        (b"\x96\x00\x07\xcd\x03\xe8\xc4\x00\xc4\x00" + DEEP, "not a proposal"),
        (command(origin=8), "not its sender's own"),
        (command(number=NUMBER + 1), "not its sender's own"),
        (command(kind=3), "change of the levels can't be read"),
        (command(kind=Kind.DIGEST), f"kind {Kind.DIGEST}"),
        (command(kind=Kind.SESSION_COMMAND), "no command of a session"),
        (command(kind=Kind.SESSION), "no change of sessions"),
        (command(kind=max(Kind) + 1), f"kind {max(Kind) + 1}"),
        (command(kind=-1), "kind -1"),
        (command(kind=2**64 - 1), "kind 18446744073709551615"),
        (announcement(changed(id=8)), "announces another member"),
        (announcement(GOOD, origin=8), "not its sender's own"),
        (announcement("rubbish"), "can't be read"),
        (announcement(changed(name="")), "name"),
        (announcement(changed(name="x" * 129)), "name"),
        (announcement(changed(name="a\nb")), "name"),
        (announcement(changed(address="nowhere")), "address"),
        (announcement(changed(address="127.0.0.1:0")), "port 0"),
        (announcement(changed(address="0.0.0.0:7100")), "every interface"),
        (announcement(changed(address="[::]:7100")), "every interface"),
        (announcement(changed(address="h" * 600 + ":1")), "512 printable characters"),
        (announcement(changed(http="x" * 3000)), "2048 characters"),
        (announcement(changed(directory=-1)), "data directory"),
        (announcement(changed(name="x" * 20_000)), "an announcement of 20"),
    ],
)
def test_examination_poisoned_proposal_is_dropped(payload: bytes, words: str) -> None:
    with pytest.raises(Dropped, match=words):
        examine_proposal(payload, SENDER, NUMBER)


@pytest.mark.parametrize("number", [0, -1, 2**63, 2**64 - 1])
def test_examination_number_out_of_range_is_dropped(number: int) -> None:
    with pytest.raises(Dropped, match="not its sender's own"):
        examine_proposal(command(number=number), SENDER, number)


def test_examination_proposal_above_a_frame_is_too_large() -> None:
    """It could be sent to no follower, nor anything behind it: the cluster would commit nothing any more."""
    with pytest.raises(TooLarge, match="frame"):
        examine_proposal(bytes(LARGEST_PROPOSAL_BYTES + 1), SENDER, NUMBER)


def change(
    *singles: tuple[ChangeType, int],
    members: tuple[MemberRecord, ...] = (),
    origin: int = SENDER,
    number: int = NUMBER,
    expected: int = 0,
    transition: Transition = Transition.AUTO,
) -> bytes:
    context = encode(ChangeContext(origin, number, members, expected))
    return encode(MembershipChange(transition, tuple(SingleChange(*single) for single in singles), context))


ADD, LEARN, REMOVE = ChangeType.ADD_NODE, ChangeType.ADD_LEARNER_NODE, ChangeType.REMOVE_NODE


def test_examination_sound_changes_pass() -> None:
    for payload in (
        change((LEARN, SENDER), members=(GOOD,)),
        change((REMOVE, 9)),
        change((ChangeType.UPDATE_NODE, SENDER), members=(GOOD,)),
        change((ADD, SENDER), (REMOVE, 9), members=(GOOD,), transition=Transition.JOINT_IMPLICIT),
    ):
        assert examine_change(payload, SENDER, NUMBER)[1].origin == SENDER


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"rubbish", "can't be read"),
        (DEEP, "can't be read"),
        (encode(MembershipChange(changes=(SingleChange(REMOVE, 9),), context=b"rubbish")), "can't be read"),
        (encode(MembershipChange(changes=(SingleChange(REMOVE, 9),), context=DEEP)), "can't be read"),
        (encode(MembershipChange(changes=(SingleChange(REMOVE, 9),))), "not its sender's own"),
        (change((REMOVE, 9), origin=8), "not its sender's own"),
        (change((REMOVE, 9), number=NUMBER + 1), "not its sender's own"),
        (change((REMOVE, 9), expected=-1), "index of a membership"),
        (change((REMOVE, 9), expected=2**63), "index of a membership"),
        (change(), "0 members"),
        (change(*[(REMOVE, 9)] * (MAX_CHANGES + 1)), f"{MAX_CHANGES + 1} members"),
        (change((REMOVE, 9), (REMOVE, 9)), "one node twice"),
        (change((LEARN, SENDER), members=(changed(name=HUGE),)), "context of the change"),
        (bytes(2 << 20), "a change of 2097152 bytes"),
        (change((REMOVE, 9), transition=Transition.JOINT_EXPLICIT), "nothing would leave it"),
        (change((REMOVE, 0)), "not the id of a node"),
        (change((REMOVE, -3)), "not the id of a node"),
        (change((REMOVE, 2**63)), "not the id of a node"),
        (change((REMOVE, 2**64 - 1)), "not the id of a node"),
        (change((ChangeType.UPDATE_NODE, 9)), "does not describe"),
        (change((ChangeType.UPDATE_NODE, SENDER), (REMOVE, 9), members=(GOOD,)), "comes alone"),
        (change((LEARN, SENDER)), "does not describe"),
        (change((LEARN, 9), members=(GOOD,)), "does not describe"),
        (change((REMOVE, SENDER), members=(GOOD,)), "does not describe"),
        (change((LEARN, SENDER), members=(GOOD, GOOD)), "does not describe"),
        (change((LEARN, SENDER), members=(changed(address="127.0.0.1:0"),)), "port 0"),
        (change((LEARN, SENDER), members=(changed(name=""),)), "name"),
    ],
)
def test_examination_poisoned_change_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(MembershipError, match=words):
        examine_change(payload, SENDER, NUMBER)


def no_limit(size_bytes: int, *, frees_space: bool = False) -> None:
    assert size_bytes > 0


def test_examination_forward_refuses_each_by_itself() -> None:
    """One bad proposal takes nothing from those beside it, and the caller hears why."""

    def full(size_bytes: int, *, frees_space: bool = False) -> None:
        if size_bytes > 500:
            raise DiskFull("no room")

    def check(data: bytes) -> None:
        if data == b"no":
            raise Rejected("not this one", code="unwanted")

    items = [
        ForwardedProposal(1, DATA, command(number=1)),
        ForwardedProposal(2, DATA, command(b"no", number=2)),
        ForwardedProposal(3, DATA, command(b"x" * 1000, number=3)),
        ForwardedProposal(4, 9, b""),
        ForwardedProposal(-5, DATA, command(number=-5)),
        ForwardedProposal(6, DATA, announcement(GOOD, number=6)),
        ForwardedProposal(7, DATA, command(b"no", kind=Kind.BARRIER, number=7)),
        ForwardedProposal(8, MEMBERSHIP, b"is looked at when it is appended"),
    ]
    sound, refusals = examine_forward(SENDER, Forward(items), full, check, lambda _: None)
    assert [number for number, _, _ in sound] == [1, 6, 7, 8]
    assert [(item.number, item.code) for item in refusals] == [
        (2, "rejected"),
        (3, DISK_FULL),
        (4, "dropped"),
        (-5, "dropped"),
    ]
    errors = [error_of(item, None) for item in refusals]
    assert [type(error) for error in errors] == [Rejected, DiskFull, Dropped, Dropped]
    assert isinstance(errors[0], Rejected)
    assert (errors[0].code, str(errors[0])) == ("unwanted", "not this one")


def test_examination_refusal_with_any_text_can_be_sent() -> None:
    """A `check` that decodes a command leniently may raise what UTF-8 can't hold. That stopped the leader."""

    def check(data: bytes) -> None:
        text = data.decode(errors="surrogateescape")
        raise Rejected(f"no: {text}", code=text)

    items = [ForwardedProposal(1, DATA, command(b"\xff", number=1))]
    _, [refusal] = examine_forward(SENDER, Forward(items), no_limit, check, lambda _: None)
    msgspec.msgpack.encode(refusal)
    assert (refusal.message, refusal.reason) == ("no: \\udcff", "\\udcff")


@given(
    st.lists(
        st.builds(
            ForwardedProposal,
            st.integers(-(2**63), 2**64 - 1),
            st.integers(-(2**63), 2**64 - 1) | st.sampled_from([DATA, MEMBERSHIP]),
            st.binary(max_size=40)
            | st.builds(command, st.binary(max_size=9), kind=st.integers(-1, 4), number=st.integers(0, 3))
            | st.builds(announcement, st.binary(max_size=9) | st.just(GOOD)),
        ),
        max_size=5,
    )
)
def test_examination_forward_of_any_bytes_never_raises(items: list[ForwardedProposal]) -> None:
    sound, refusals = examine_forward(SENDER, Forward(items), no_limit, None, lambda _: None)
    assert len(sound) + len(refusals) == len(items)


@given(st.binary(max_size=60) | st.builds(lambda context: encode(MembershipChange(context=context)), st.binary()))
def test_examination_change_of_any_bytes_raises_only_refusals(payload: bytes) -> None:
    with pytest.raises(OperationError):
        examine_change(payload, SENDER, NUMBER)


async def test_examination_own_proposals_pass_and_poison_is_refused() -> None:
    """The leader examines its own proposals too: a bug of its own must not stop all nodes."""
    loop = asyncio.get_running_loop()
    queue = []
    for number, payload in enumerate((command(number=1), command(kind=9, number=2), announcement(GOOD, number=3)), 1):
        future: ApplyFuture[object] = ApplyFuture(loop=loop)
        future.number = number
        queue.append((future, DATA, payload))
    told: list[int] = []
    sound = sound_own(queue, SENDER, lambda number, _: told.append(number), lambda _: None)  # type: ignore[arg-type]
    assert [item[0].number for item in sound] == [1, 3]
    assert told == [2]
