"""A joiner that moves before it has any log dials the peers that it has met, and its greeting tells its new address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syncline import Config, Raft
from syncline.node.first_peers import MAX_FIRST_PEERS
from syncline.node.starts.incarnations import RANDOM_BITS
from syncline.storage.datadir import FIRST_PEERS_NAME
from syncline.transport.handshake import Hello, Purpose, Welcome
from tests.helpers.node_cluster import Listing, until
from tests.helpers.ports import free_block
from tests.helpers.transport import CLUSTER, RawEnd, raw_listener

JOINER = 4


def config(path: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="d", data_dir=str(path), listen=address, cluster_id=CLUSTER, node_id=JOINER)


def hello(member: int, address: str) -> Hello:
    """The greeting of a member that dials the joiner."""
    return Hello(
        oldest_version=2,
        newest_version=2,
        cluster_id=CLUSTER,
        sender=member,
        to=JOINER,
        purpose=Purpose.MESSAGES,
        incarnation=1 << RANDOM_BITS | member,
        directory=member + 1000,
        address=address,
    )


async def greet(raft: Raft[object], member: int, address: str) -> None:
    end = await RawEnd.dial(raft.advertised)
    assert isinstance(await end.introduce(hello(member, address)), Welcome)
    await end.close()


def kept(path: Path) -> dict[str, str]:
    file = path / FIRST_PEERS_NAME
    return json.loads(file.read_bytes()) if file.exists() else {}


async def test_joiner_without_a_log_dials_its_first_peers_after_a_move(tmp_path: Path) -> None:
    """The member that has added it knows only its old address, so nothing else would bring them together."""
    async with raw_listener() as (address, arrivals):
        raft = await Raft.open(config(tmp_path), Listing())
        old = raft.advertised
        await greet(raft, 1, address)
        await until(raft, lambda: kept(tmp_path) == {f"{1:016x}": address})
        await raft.close()
        while not arrivals.empty():  # it has dialled back at once, at its first start
            await arrivals.get_nowait().close()
        moved = await Raft.open(config(tmp_path), Listing())
        greeting = await (await arrivals.get()).meet()
        assert greeting.sender == JOINER
        assert greeting.to == 1
        assert greeting.address == moved.advertised != old
        await moved.close()


async def test_first_peers_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    """Without a secret anyone may greet a node that knows no members."""
    raft = await Raft.open(config(tmp_path), Listing())
    for member in range(100, 100 + MAX_FIRST_PEERS + 5):
        await greet(raft, member, f"127.0.0.1:{member}")
    await greet(raft, 7, "no address")
    last = f"{100 + MAX_FIRST_PEERS + 4:016x}"
    await until(raft, lambda: last in kept(tmp_path))
    assert len(kept(tmp_path)) == MAX_FIRST_PEERS
    assert f"{100:016x}" not in kept(tmp_path)
    assert f"{7:016x}" not in kept(tmp_path)
    await raft.close()


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b'{"x": "127.0.0.1:1"}', b'{"1": "nowhere"}', b'{"1": 7}', b'{"-1": "h:1"}']
)
async def test_damaged_file_of_first_peers_counts_as_none(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    raft = await Raft.open(config(tmp_path), Listing())
    await raft.close()
    (tmp_path / FIRST_PEERS_NAME).write_bytes(content)
    again = await Raft.open(config(tmp_path), Listing())
    await again.close()
    assert "first-peers is damaged, and counts as none" in caplog.text
