"""When refusals by other members count."""

from __future__ import annotations

import pytest

from syncline.node.refusals import refused_by_quorum
from syncline.transport.messages import PeerStats, Refusal, RefusalCode


def stats(code: str | None) -> PeerStats:
    return PeerStats(
        connected=False,
        connected_since_s=None,
        last_contact_s=None,
        address="127.0.0.1:1",
        sent_bytes=0,
        received_bytes=0,
        sent_messages=0,
        received_messages=0,
        dropped_messages=0,
        reconnects=0,
        rtt_s=None,
        last_error=None,
        last_refusal=None if code is None else Refusal("no", code),
    )


@pytest.mark.parametrize(
    ("voters", "refusing", "expected"),
    [
        ((1, 2, 3), (), False),
        ((1, 2, 3), (2,), False),
        ((1, 2, 3), (2, 3), True),
        ((1, 2, 3, 4, 5), (2, 3), False),
        ((1, 2, 3, 4, 5), (2, 3, 4), True),
        ((1, 2), (2,), True),
        ((1, 2), (3,), False),
        ((2, 3, 4), (2, 3), True),
        ((2, 3), (2,), False),
        ((2,), (2,), True),
        ((1,), (2,), False),
        ((), (2,), False),
    ],
)
def test_refusals_count_for_a_quorum_of_voters(
    voters: tuple[int, ...], refusing: tuple[int, ...], expected: bool
) -> None:
    """Node 1 asks. Refusals by nodes that are no voters never count."""
    known = {peer: stats(RefusalCode.REMOVED if peer in refusing else None) for peer in (2, 3, 4, 5)}
    assert refused_by_quorum(known, voters, RefusalCode.REMOVED, me=1) is expected


def test_refusals_with_another_code_do_not_count() -> None:
    """Each code means something else, and an unknown one means nothing."""
    known = {2: stats(RefusalCode.OLDER_START), 3: stats("a later code")}
    assert not refused_by_quorum(known, (1, 2, 3), RefusalCode.OLDER_START, me=1)
    assert not refused_by_quorum(known, (1, 2), RefusalCode.REMOVED, me=1)
    assert refused_by_quorum(known, (1, 2), RefusalCode.OLDER_START, me=1)
