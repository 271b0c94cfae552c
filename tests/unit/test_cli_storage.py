"""`wal` and `snapshot` on a node's directory: what is there is shown, damage is named, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir
from syncline.storage.wal.writer import Wal
from tests.helpers.command import Ran, syncline

GOLDEN = Path(__file__).parent.parent / "fixtures" / "data-v1"
FIRST, LAST = "0000000000000003.wal", "0000000000000004.wal"
NEWEST, OLDEST = "000000000000003c-0000000000000005.snap", "0000000000000028-0000000000000004.snap"

COMMANDS = [
    ("wal", "dump"),
    ("wal", "dump", "--entries"),
    ("wal", "verify"),
    ("snapshot", "list"),
    ("snapshot", "inspect"),
    ("snapshot", "verify"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A node's directory, without the lock file that a first start would make."""
    shutil.copytree(GOLDEN, tmp_path / "data")
    return tmp_path / "data"


def on(data: Path, *command: str) -> Ran:
    return syncline(*command, "--data-dir", str(data))


def patched(path: Path, offset: int, change: bytes | None = None) -> None:
    """One bit flipped, or some bytes replaced."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(change or b"x")] = change or bytes([content[offset] ^ 4])
    path.write_bytes(content)


# Sound.


def test_dump_shows_every_write(data: Path) -> None:
    ran = on(data, "wal", "dump")
    assert ran.status == 0
    lines = ran.text.splitlines()
    assert lines[0] == f"{data}/wal/{FIRST}: segment 3, 4096 bytes, begins after entry 60 of term 5"
    assert lines[1].split("  ")[-1] == "snapshot at 60 of term 5; term 5, vote -, commit 60"
    assert lines[2].endswith("512 B  entries 61-63 of term 5; term 5, vote 0000000000000003, commit 60")
    assert lines[4].endswith("segment 4 follows")
    assert lines[5].endswith("end: zeros to the end of the file")
    assert [line.startswith("  ") for line in lines] == [False, *[True] * 5, False, *[True] * 4]


def test_dump_of_some_entries(data: Path) -> None:
    ran = on(data, "wal", "dump", "--entries", "--from", "75", "--to", "80")
    held = [line.split()[:4] for line in ran.text.splitlines() if line.startswith("    ") and " B  entry" in line]
    assert held[0] == ["74", "term", "6", "normal"], "a write is shown as a whole"
    assert {int(words[0]) for words in held} == set(range(74, 90))
    assert "entries 61" not in ran.text
    assert len(max(ran.text.splitlines(), key=len)) < 500, "long data is cut"


def test_dump_as_json(data: Path) -> None:
    ran = on(data, "wal", "dump", "--entries", "--json")
    parts = [json.loads(line) for line in ran.text.splitlines()]
    assert [part["kind"] for part in parts] == [
        "segment", "frame", "frame", "frame", "frame", "end", "segment", "frame", "frame", "frame", "end",
    ]  # fmt: skip
    assert parts[1]["snapshot"]["membership"]["voters"][0] == "0000000000000001"
    assert parts[2]["hard_state"] == {"term": 5, "vote": "0000000000000003", "commit": 60}
    assert parts[2]["entries"][0] | {"data_base64": ""} == {"index": 61, "term": 5, "type": "normal", "data_base64": ""}
    assert parts[4] == {"kind": "frame", "offset": 2272, "size_bytes": 64, "next_segment": 4}
    assert parts[-1]["damage"] is None


def test_a_sound_log(data: Path) -> None:
    ran = on(data, "wal", "verify")
    assert ran.status == 0
    assert ran.text.splitlines() == [
        f"{data}/wal: sound",
        "  entries 61 to 83 (last term 7), 7808 bytes in 2 segments",
        "  term 7, vote 0000000000000002, commit 77",
        "  restarted after the snapshot at 60 of term 5",
    ]
    found = on(data, "wal", "verify", "--json").json()
    assert (found["sound"], found["first_index"], found["last_index"], found["damage"]) == (True, 61, 83, None)


def test_sound_snapshots(data: Path) -> None:
    listed = on(data, "snapshot", "list").text.splitlines()
    assert [line.split()[:4] for line in listed[1:]] == [["60", "5", "920", "3"], ["40", "4", "920", "3"]]
    shown = on(data, "snapshot", "inspect").text
    assert f"{data}/snapshots/{NEWEST}" in shown
    assert "index 60, term 5, cluster 0123456789abcdef" in shown
    assert "voter 1a2b3c4d5e6f7081" in shown
    assert OLDEST in on(data, "snapshot", "inspect", "40").text
    assert on(data, "snapshot", "verify").text.count(": sound") == 2
    assert on(data, "snapshot", "verify", "40").text.count(": sound") == 1
    found = on(data, "snapshot", "inspect", "--json").json()
    assert (found["index"], found["term"], found["damage"], len(str(found["sha256"]))) == (60, 5, None, 64)


def test_an_index_that_is_not_there(data: Path) -> None:
    for command in ("inspect", "verify"):
        ran = on(data, "snapshot", command, "41")
        assert ran.status == 3
        assert "no snapshot at index 41" in ran.error()


# Damaged.


def test_a_torn_last_write_is_no_damage(data: Path) -> None:
    patched(data / "wal" / LAST, 2240 + 512, bytes(960))
    ran = on(data, "wal", "verify")
    assert ran.status == 0
    assert "they will be cut when the node starts" in ran.text
    assert on(data, "wal", "dump").status == 0


def test_a_damaged_log(data: Path) -> None:
    patched(data / "wal" / FIRST, 700)
    ran = on(data, "wal", "verify")
    assert (ran.status, ran.out) == (7, b"")
    said = ran.error()
    assert f"{data}/wal/{FIRST} at offset 672" in said
    assert "Entries 64 to 73 can't be read" in said
    assert f"syncline repair --data-dir {data} --endpoints URL,…" in said
    as_json = on(data, "wal", "verify", "--json")
    assert (as_json.status, as_json.json()["sound"]) == (7, False)
    assert json.loads(as_json.err)["error"]["code"] == "corruption_error"
    shown = on(data, "wal", "dump")
    assert shown.status == 7
    assert "DAMAGED" in shown.text
    assert f"{LAST}: segment 4" in shown.text, "what follows is shown all the same"
    assert "offset 672" in shown.error()


def test_damaged_snapshots(data: Path) -> None:
    patched(data / "snapshots" / NEWEST, 600)
    assert on(data, "snapshot", "list").status == 0, "the data were not read"
    ran = on(data, "snapshot", "verify")
    assert ran.status == 1
    assert f"{NEWEST}: DAMAGED" in ran.text
    assert f"{OLDEST}: sound" in ran.text
    assert "SHA-256" in ran.error()
    assert on(data, "snapshot", "verify", "40").status == 0
    patched(data / "snapshots" / OLDEST, 40)
    listed = on(data, "snapshot", "list")
    assert f"{OLDEST} (damaged)" in listed.text
    assert "header is damaged" in listed.text
    (data / "snapshots" / NEWEST).unlink()
    assert on(data, "snapshot", "inspect").status == 1


def test_a_damaged_or_missing_identity(data: Path) -> None:
    patched(data / "identity", 30)
    ran = on(data, "wal", "verify")
    assert ran.status == 7
    assert f"{data}/identity is damaged" in ran.error()
    assert on(data, "wal", "dump").status == 0, "the log can be looked at all the same"
    (data / "identity").unlink()
    assert f"{data}/identity is missing" in on(data, "wal", "verify").error()


def test_another_node_s_log_and_another_cluster_s_snapshot(data: Path) -> None:
    identity = data / "identity"
    content = json.loads(identity.read_bytes())
    content |= {"node_id": "0" * 15 + "9", "cluster_id": "0" * 15 + "8", "checksum": ""}
    content["checksum"] = f"{zlib.crc32(json.dumps(content, separators=(',', ':')).encode()):08x}"
    identity.write_text(json.dumps(content, indent=2) + "\n")
    assert "it is another node's" in on(data, "wal", "verify").error()
    assert "belongs to cluster 0123456789abcdef" in on(data, "snapshot", "verify").error()


@pytest.mark.parametrize("command", COMMANDS)
def test_another_format_version_is_refused_with_the_version_that_reads_it(data: Path, command: tuple[str, ...]) -> None:
    segment = bytearray((data / "wal" / FIRST).read_bytes())
    segment[8:10] = struct.pack("<H", 9)
    segment[60:64] = struct.pack("<I", zlib.crc32(segment[:60]))
    (data / "wal" / FIRST).write_bytes(segment)
    for name in (OLDEST, NEWEST):
        path = data / "snapshots" / name
        content = bytearray(path.read_bytes())
        content[8:10] = struct.pack("<H", 9)
        start = struct.unpack_from("<I", content, 16)[0]
        content[28:32] = struct.pack("<I", zlib.crc32(content[32:start], zlib.crc32(content[:28])))
        path.write_bytes(content)
    ran = on(data, *command)
    assert "Start the node with the version that wrote it" in ran.text + ran.err
    assert "of format 9" in ran.text + ran.err
    assert ran.status == (0 if command[-1] == "list" else 7 if command[0] == "wal" else 1)


# What can't be looked at.


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_data_directory(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, words in (("file", "Not a directory"), ("absent", "No such file"), ("empty", "no node's data directory")):
        ran = on(tmp_path / name, *command)
        assert ran.status == 2
        assert words in ran.error()
        assert json.loads(on(tmp_path / name, *command, "--json").error())["error"]
    ran = syncline(*command)
    assert ran.status == 2
    assert "--data-dir" in ran.error()


def test_a_directory_without_a_log_or_snapshots(data: Path) -> None:
    shutil.rmtree(data / "wal")
    shutil.rmtree(data / "snapshots")
    assert on(data, "wal", "dump").status == 1
    assert on(data, "wal", "verify").status == 7
    assert on(data, "snapshot", "list").text == "no snapshots\n"
    assert on(data, "snapshot", "verify").text == "no snapshots\n"
    assert on(data, "snapshot", "inspect").status == 3
    (data / "wal").mkdir()
    assert "holds no log" in on(data, "wal", "verify").error()


# Nothing is touched.


def everything(path: Path) -> dict[str, tuple[bytes, int, int]]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_mode) for file in files}


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Not even the owner may write there (root may: then the comparison has to do)."""
    places = [path, *path.rglob("*")]
    for place in places:
        os.chmod(place, 0o500 if place.is_dir() else 0o400)
    try:
        yield
    finally:
        for place in places:
            os.chmod(place, 0o700)


@pytest.mark.parametrize("damaged", [False, True])
def test_nothing_is_written(data: Path, damaged: bool) -> None:
    if damaged:
        patched(data / "wal" / LAST, 2240 + 512, bytes(960))
        patched(data / "snapshots" / NEWEST, 600)
    (data / "wal" / "0000000000000005.wal.tmp").write_bytes(b"half-made")
    with read_only(data):
        before = everything(data)
        for command in COMMANDS:
            on(data, *command)
        assert everything(data) == before


def test_a_node_may_be_running(data: Path) -> None:
    directory = DataDir.open(OsDisk(), str(data))
    assert directory.identity is not None
    wal = Wal.open(OsDisk(), directory.wal_path, segment_bytes=4096, log_id=directory.identity.node_id)
    try:
        for command in COMMANDS:
            assert on(data, *command).status == 0
    finally:
        wal.close()
        directory.release()


# `snapshot` as it always was: `test_cli_cluster.py`.


def test_options_in_the_wrong_place_are_not_ignored(data: Path) -> None:
    ran = syncline("snapshot", "--json", "list", "--data-dir", str(data))
    assert ran.status == 2
    assert "come after it" in ran.error()
