"""How much a state machine on the event loop applies in one turn of the loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO, Final

import pytest

from syncline.node.config import Config
from syncline.node.fsm import BytesSnapshot, Entry
from syncline.node.raft import Raft
from syncline.node.runtime import APPLIED_PER_TURN, APPLIES_PER_TURN
from syncline.node.startup import APPLY_BATCH_BYTES
from tests.helpers.ports import free_block

DEADLINE_S = 60.0


class Turns:
    """A state machine on the loop that counts what it applies in each turn of the driver."""

    apply_on_loop: Final = True

    def __init__(self) -> None:
        self.entries = [0]
        self.bytes = [0]

    def turn_begins(self) -> None:
        if self.entries[-1]:
            self.entries.append(0)
            self.bytes.append(0)

    def apply(self, entry: Entry) -> None:
        self.entries[-1] += 1
        self.bytes[-1] += len(entry.data)

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: BinaryIO) -> None:
        source.read()


async def applied(path: Path, commands: list[bytes]) -> Turns:
    """What a machine has counted that applied these commands, all committed at one time."""
    address = f"127.0.0.1:{free_block(1)}"
    machine = Turns()
    config = Config(name="a", data_dir=str(path / "a"), listen=address, peers={"a": address})
    async with await Raft.open(config, machine) as raft:
        driver = raft._driver
        run_turn = driver._run

        def counted(*, ask: bool = False) -> None:
            if not driver._in_turn:
                machine.turn_begins()
            run_turn(ask=ask)

        driver._run = counted  # type: ignore[method-assign]
        await asyncio.gather(*raft.apply_many(commands, timeout=DEADLINE_S))
    assert sum(machine.entries) == len(commands)
    return machine


@pytest.mark.parametrize("size", [100, 1000, 16 << 10, 200 << 10])
async def test_applier_on_loop_takes_a_bounded_share_per_turn(tmp_path: Path, size: int) -> None:
    """A long log behind a snapshot must not hold the loop at a start."""
    number = 3 * APPLIES_PER_TURN * APPLY_BATCH_BYTES // size
    machine = await applied(tmp_path, [bytes(size)] * number)
    assert max(machine.bytes) <= APPLIES_PER_TURN * APPLY_BATCH_BYTES
    assert max(machine.entries) < APPLIED_PER_TURN + APPLY_BATCH_BYTES // size
    assert len(machine.entries) >= 3


async def test_applier_on_loop_takes_32_large_values_in_one_turn(tmp_path: Path) -> None:
    """What 64 clients write at one time: in small parts it takes a tenth more of the processor."""
    machine = await applied(tmp_path, [bytes(16 << 10)] * 32)
    assert max(machine.entries) == 32
