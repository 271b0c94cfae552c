"""What the peer port of a node counts, as its statistics show it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from syncline import Config, Raft
from syncline.consensus.types import Message, MessageType
from syncline.node.events import Event, LeaderChanged
from syncline.node.term_guard import MAX_TERM_JUMP
from syncline.transport.limits import TransportLimits
from syncline.transport.wire import Batch
from tests.helpers.node_cluster import Listing, until
from tests.helpers.ports import free_block
from tests.helpers.transport import RawEnd


async def single(path: Path) -> Raft[object]:
    address = f"127.0.0.1:{free_block(1)}"
    raft = await Raft.open(Config(name="a", data_dir=str(path), listen=address, peers={"a": address}), Listing())
    await until(raft, lambda: raft.is_leader)
    return raft


async def test_stats_count_displaced_connections_and_terms_out_of_range(tmp_path: Path) -> None:
    raft = await single(tmp_path)
    before = raft.stats()
    assert (before.connections_displaced, before.terms_refused) == (0, 0)
    held = [await RawEnd.dial(raft.advertised) for _ in range(TransportLimits().unproven_per_host + 2)]
    await until(raft, lambda: raft.stats().connections_displaced == 2)
    end = await RawEnd.enter(raft.advertised, sender=99, to=raft.node_id, cluster_id=raft.cluster_id)
    term = raft.stats().term
    end.write(Batch([Message(MessageType.HEARTBEAT, to=raft.node_id, sender=99, term=term + MAX_TERM_JUMP + 1)]))
    await until(raft, lambda: raft.stats().terms_refused == 1)
    assert raft.stats().term == term
    for one in (*held, end):
        await one.close()
    await raft.close()


async def test_events_of_a_wrong_type_are_a_type_error_with_a_sentence(tmp_path: Path) -> None:
    raft = await single(tmp_path)
    for kind in (5, "leader", [LeaderChanged], int):
        with pytest.raises(TypeError, match="kinds must be classes of events"):
            raft.events(cast("type[Event]", kind))
    assert raft.events(LeaderChanged) is not None
    await raft.close()
