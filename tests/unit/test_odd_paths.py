"""Paths of other kinds than usual: each works, or is named as what it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from syncline.errors import StorageError
from syncline.node.config import Config
from syncline.node.fsm import BytesSnapshot, Entry
from syncline.node.raft import Raft
from syncline.platform.disk import OsDisk
from syncline.platform.texts import encode_json, printable
from syncline.server.api.errors import problem
from syncline.storage.datadir import DataDir
from tests.helpers.ports import free_block


class Silent:
    """A state machine without state."""

    def apply(self, _entry: Entry) -> None:
        return None

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: object) -> None:
        raise AssertionError("there is no snapshot")


def refusal(path: Path) -> str:
    with pytest.raises(StorageError) as caught:
        DataDir.open(OsDisk(), str(path))
    return str(caught.value)


def test_data_directory_that_is_a_dangling_link_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert f"it is a symbolic link to {tmp_path}/nowhere, which does not exist" in refusal(tmp_path / "link")


def test_data_directory_that_is_a_loop_of_links_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert "it is a symbolic link that leads to itself" in refusal(tmp_path / "one")


def test_data_directory_that_is_a_file_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "it is a file and not a directory" in refusal(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_lock_that_is_no_file_is_named(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "LOCK")
    assert f"{tmp_path}/LOCK: " in refusal(tmp_path)


def test_lock_that_is_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    """What it leads to may be anything, and would be overwritten with a number."""
    precious = tmp_path / "precious"
    precious.write_text("do not touch")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "LOCK").symlink_to(precious)
    directory = DataDir.open(OsDisk(), str(tmp_path / "data"))
    assert precious.read_text() == "do not touch"
    assert not (tmp_path / "data" / "LOCK").is_symlink()
    assert (tmp_path / "data" / "LOCK").read_text() == f"{os.getpid()}\n"
    directory.release()


def test_lock_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str, *_: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(OsDisk, "make_dirs", lambda *_: None)
    with pytest.raises(StorageError, match=f"{tmp_path}/LOCK: Permission denied"):
        DataDir.open(OsDisk(), str(tmp_path))


async def test_raft_with_a_relative_directory_keeps_it_when_the_program_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"127.0.0.1:{free_block(1)}"
    raft = await Raft.open(Config(name="a", data_dir="data", listen=address, peers={"a": address}), Silent())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await raft.apply(b"x", timeout=20)
    await raft.snapshot()
    await raft.close()
    assert raft.config.data_dir == f"{tmp_path}/data"
    assert os.listdir(tmp_path / "elsewhere") == []
    assert len(os.listdir(tmp_path / "data" / "snapshots")) == 1


def test_json_with_a_path_that_is_not_utf8_shows_it_escaped() -> None:
    path = os.fsdecode(b"/d\xff\xfe")
    assert printable(path) == "/d\\udcff\\udcfe"
    assert json.loads(encode_json({"a": [path, 1], "b": {path: None}})) == {
        "a": ["/d\\udcff\\udcfe", 1],
        "b": {"/d\\udcff\\udcfe": None},
    }
    assert b"/d\\\\udcff" in problem(503, "x", f"{path} is full").body
