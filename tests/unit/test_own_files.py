"""What the library gives to state machines that are small, or keep their own state on disk."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from syncline import BytesSnapshot, read_file, replace_file


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    assert read_file(path) is None
    for content in (b"one" * 100_000, b"", b"two"):
        replace_file(path, content)
        assert read_file(path) == content
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("call", ["os.fdatasync", "os.pwrite", "os.replace"])
def test_what_fails_leaves_the_old_file_and_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = str(tmp_path / "state")
    replace_file(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        with pytest.raises(OSError, match="No space"):
            replace_file(path, b"new")
    assert read_file(path) == b"old"
    replace_file(path, b"new")
    assert read_file(path) == b"new"


def test_a_snapshot_of_bytes_keeps_what_it_was_given_until_it_is_released() -> None:
    snapshot = BytesSnapshot(b"state")
    for _ in range(2):
        sink = io.BytesIO()
        snapshot.persist(sink)
        assert sink.getvalue() == b"state"
    snapshot.release()
    sink = io.BytesIO()
    snapshot.persist(sink)
    assert sink.getvalue() == b""
