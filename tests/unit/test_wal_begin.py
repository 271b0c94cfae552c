"""The two halves of a write: what is begun counts when its sync has returned, and only then."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from syncline.consensus.types import Compacted, HardState
from syncline.errors import StorageError
from syncline.storage.wal.writer import BEGIN_BYTES, WalWrite
from tests.helpers.storage import TroubledDisk, append, held, open_wal, row

NO_LIMIT = 2**62


def test_what_was_begun_counts_once_its_sync_has_returned(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    disk.trouble.log.clear()
    file = wal.begin([WalWrite(row(1, 2), HardState(1, 1, 0)), WalWrite(row(3, 3))])
    assert file is wal.file
    assert [operation for operation, _ in disk.trouble.log if operation == "sync"] == []
    assert wal.last_index == 0
    with pytest.raises(Compacted):
        wal.read_entries(1, 2, NO_LIMIT)
    for other in (lambda: wal.begin([]), lambda: wal.write([]), lambda: wal.compact(0)):
        with pytest.raises(AssertionError, match="not finished"):
            other()
    file.sync()
    result = wal.finish(None)
    assert (result.last_index, result.entries, wal.last_index) == (3, 3, 3)
    assert wal.read_entries(1, 4, NO_LIMIT) == row(1, 3)
    with pytest.raises(AssertionError, match="nothing was begun"):
        wal.finish(None)
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(1, 3)
    again.close()


def test_what_takes_more_than_one_write_is_not_begun(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}", segment_bytes=4 * BEGIN_BYTES)
    size = wal.size_bytes
    assert wal.begin([WalWrite(row(1, 2, size=BEGIN_BYTES // 2 + 1))]) is None, "it is large"
    assert wal.size_bytes == size
    append(wal, row(1, 3, size=BEGIN_BYTES))
    assert wal.begin([WalWrite(row(4, 4, size=BEGIN_BYTES))]) is None, "it needs another segment"
    assert len(list(tmp_path.glob("*.wal"))) == 1
    append(wal, row(4, 4, size=BEGIN_BYTES))
    assert len(list(tmp_path.glob("*.wal"))) == 2
    assert wal.begin([WalWrite(row(5, 5))]) is not None
    wal.finish(None)
    wal.close()


def test_a_sync_that_has_failed_is_the_end_of_the_log(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 1), HardState(1, 1, 0))
    wal.begin([WalWrite(row(2, 2))])
    with pytest.raises(StorageError, match="as told"):
        wal.finish(OSError(errno.EIO, "as told"))
    assert wal.last_index == 1
    for call in (lambda: wal.begin([WalWrite(row(2, 2))]), lambda: wal.write([WalWrite(row(2, 2))])):
        with pytest.raises(StorageError, match="as told"):
            call()
    wal.close()
