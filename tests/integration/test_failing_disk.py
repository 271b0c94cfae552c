"""A node on a real disk that stops taking bytes: the kernel's own sync fails, and nothing is promised behind it.

No call is replaced. `tests/unit/test_real_syncs.py` forges errors of other kinds at the system call.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.errors import NodeFailed
from tests.helpers.small_filesystem import FailingDisk, failing_disk
from tests.unit.test_real_syncs import TIMEOUT_S, opened

COMMANDS = 200
LARGE = b"x" * 60_000
"""Much more in all than the disk still takes."""


@pytest.mark.parametrize("log_sync", ["kernel", "thread"])
async def test_sync_that_fails_on_a_real_disk_stops_the_node(tmp_path: Path, log_sync: str) -> None:
    """The file system says that there is space and takes the writes: only the sync can tell."""

    async def scenario(disk: FailingDisk) -> None:
        raft = await opened(disk.path, kernel=log_sync == "kernel")
        try:
            disk.fail()
            acknowledged = 0
            error: NodeFailed | None = None
            while error is None and acknowledged < COMMANDS:
                try:
                    await raft.apply(LARGE, timeout=TIMEOUT_S)  # one at a time: many at once are written by a thread
                    acknowledged += 1
                except NodeFailed as failure:
                    error = failure
            assert error is not None, f"{acknowledged} commands were acknowledged that are on no disk"
            assert "syncing failed" in str(error)
            assert "syncing failed" in str(await raft.failed())
            assert raft.role == "stopped"
        finally:
            await raft.close()

    with failing_disk(tmp_path / "below") as disk:
        await scenario(disk)
