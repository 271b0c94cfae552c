"""The small formats stay as they are: entries, the small files of a data directory, histories. See docs/formats.md.

The golden files were written on 2026-11-29. A version that adds a field must still read them, and must write the same
bytes for values that do not use it.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
from pathlib import Path

import msgspec
import pytest

from syncline.consensus.membership import decode_change, encode_change
from syncline.consensus.types import (
    ChangeType,
    EntryType,
    LogEntry,
    MembershipChange,
    MembershipState,
    SingleChange,
    Transition,
)
from syncline.node.entry_stamps import EntryStamps
from syncline.node.envelope import (
    ChangeContext,
    ClusterLevels,
    Hold,
    Kind,
    LevelChange,
    MemberRecord,
    Proposal,
    StampedProposal,
    decode_context,
    decode_level,
    decode_member,
    decode_proposal,
    decode_restore,
    decode_session_change,
    decode_session_command,
    encode,
)
from syncline.node.first_peers import FirstPeers
from syncline.node.joining import chosen_id
from syncline.node.member_registry import MemberRegistry
from syncline.node.restore_entries import RestoreEntry, RestoreStep
from syncline.node.state_digest import DigestEntry, decode_digest_entry
from syncline.platform.disk import OsDisk
from syncline.sessions.entries import OnceKey, SessionChange, SessionCommand
from syncline.sessions.snapshot import read_section, write_section
from syncline.sessions.table import CommandState, SessionTable
from syncline.storage import new_cluster
from syncline.storage.peer_starts import encode_starts, read_starts
from syncline.storage.replace import Replacement, begin, read_note
from syncline.testing import (
    CallCompare,
    DeleteCall,
    NotApplied,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Refused,
    Seen,
    TxnCall,
    Written,
    read_history,
    write_history,
)

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
PAGE = ROOT / "docs" / "formats.md"

ID, OTHER = 0x5F4632AA0C1BE7D3, 2
MEMBER = MemberRecord(ID, "b", "10.0.0.2:7100", "http://10.0.0.2:8080", True, 77, 3 << 32 | 5, 2, 4)
CONTEXT = ChangeContext(OTHER, 41, (MEMBER, MemberRecord(3, "c", "10.0.0.3:7100")), 9, True)

ENDED = SessionChange(0, (5, 6), 3, 900)
ONCE = SessionCommand(OnceKey(5, 8, 2), b"12345678", b"data")

RESTORE_BEGINS = RestoreEntry(RestoreStep.BEGIN, 77, 4096, bytes(range(32)))

ENTRIES: dict[str, object] = {
    "command": Proposal(Kind.COMMAND, ID, 7 << 40 | 12, b"data"),
    "command with extensions": Proposal(Kind.COMMAND, OTHER, 1, b"data", b"more"),
    "barrier": Proposal(Kind.BARRIER, OTHER, 2, b""),
    "announcement": Proposal(Kind.ANNOUNCE, ID, 3, encode(MEMBER)),
    "level": Proposal(Kind.LEVEL, OTHER, 4, encode(LevelChange(2, 3, Hold.SET, "0.1.0"))),
    "digests": Proposal(Kind.DIGEST, OTHER, 5, encode(DigestEntry(4096, 1 << 32 | 1, ((ID, bytes(range(16))),)))),
    "session change": Proposal(Kind.SESSION, ID, 6, encode(ENDED)),
    "session command": Proposal(Kind.SESSION_COMMAND, ID, 7, encode(ONCE)),
    "restore begins": Proposal(Kind.RESTORE, OTHER, 8, encode(RESTORE_BEGINS)),
    "restore piece": Proposal(Kind.RESTORE, OTHER, 9, encode(RestoreEntry(RestoreStep.PIECE, 77, 4, b"data"))),
    "change": MembershipChange(
        changes=(SingleChange(ChangeType.ADD_LEARNER_NODE, ID), SingleChange(ChangeType.REMOVE_NODE, 3)),
        context=encode(CONTEXT),
        transition=Transition.JOINT_IMPLICIT,
    ),
}

HISTORY = [
    Operation(
        client="c1", request=PutCall(b"k", b"v", 0), call_s=0.5, return_s=0.75, result=Written(1, False), node="a"
    ),
    Operation(client="c1", request=DeleteCall(b"k", 1), call_s=1.0, return_s=1.5, result=Refused(2, 3)),
    Operation(client="c2", request=ReadCall(b"k", True, 2.0), call_s=2.0, return_s=2.5, result=Seen(b"v", 1, 3)),
    Operation(
        client="c2",
        request=TxnCall(
            (CallCompare(b"k", b"v", False), CallCompare(b"k", 0)), (PutCall(b"\xff", b""),), (ReadCall(b"k"),)
        ),
        call_s=3.0,
        return_s=3.5,
        result=Ran(False, 3, (Seen(), Written(3, True))),
    ),
    Operation(client="c3", request=PutCall(b"k", b"w"), call_s=4.0, return_s=4.5, result=NotApplied("no_leader")),
    Operation(client="c3", request=PutCall(b"k", b"x"), call_s=5.0),
]


def written(value: object) -> bytes:
    return encode_change(value) if isinstance(value, MembershipChange) else encode(value)


def with_stamp(plain: Proposal, time_s: float, seed: int) -> StampedProposal:
    return StampedProposal(plain.kind, plain.origin, plain.number, plain.data, plain.extensions, time_s, seed)


@pytest.mark.parametrize("name", ENTRIES)
def test_golden_entry_is_read_and_written_alike(name: str) -> None:
    golden = bytes.fromhex(json.loads((FIXTURES / "entries-v1.json").read_text())[name])
    value = ENTRIES[name]
    assert written(value) == golden
    if isinstance(value, MembershipChange):
        assert decode_change(LogEntry(1, 1, EntryType.CONF_CHANGE_V2, golden)) == value
        assert decode_context(value.context) == CONTEXT
        return
    read = decode_proposal(golden)
    assert isinstance(value, Proposal)
    assert read == with_stamp(value, 0.0, 0)
    match read.kind:
        case Kind.ANNOUNCE:
            assert decode_member(read.data) == MEMBER
        case Kind.LEVEL:
            assert decode_level(read.data) == LevelChange(2, 3, Hold.SET, "0.1.0")
        case Kind.SESSION:
            assert decode_session_change(read.data) == ENDED
        case Kind.SESSION_COMMAND:
            assert decode_session_command(read.data) == ONCE
        case Kind.RESTORE:
            assert decode_restore(read.data).restore_id == 77
            assert name != "restore begins" or decode_restore(read.data) == RESTORE_BEGINS
        case Kind.DIGEST:
            assert decode_digest_entry(read.data) == DigestEntry(4096, 1 << 32 | 1, ((ID, bytes(range(16))),))


STAMP = (1_800_000_000.25, ID)
STAMPED = sorted(ENTRIES.keys() - {"change", "digests"})
"""Entries that the leader stamps: those that a node has proposed."""


def test_golden_stamped_entries_are_read_and_written_alike() -> None:
    """From feature level 2 on. The fields of level 1 stand where they stood."""
    golden = json.loads((FIXTURES / "entries-stamped-v1.json").read_text())
    assert set(golden) == {*STAMPED, "registry"}
    for name in STAMPED:
        value = ENTRIES[name]
        assert isinstance(value, Proposal)
        stamped = with_stamp(value, *STAMP)
        data = bytes.fromhex(golden[name])
        assert encode(stamped) == data
        assert EntryStamps(ID, lambda: 2, lambda: STAMP[0]).stamped([encode(value)]) == [data]
        assert decode_proposal(data) == stamped


def test_golden_registry_with_a_time_is_read_and_written_alike() -> None:
    golden = bytes.fromhex(json.loads((FIXTURES / "entries-stamped-v1.json").read_text())["registry"])
    book = MemberRegistry()
    book.changed(9, MembershipState(voters=(ID,), learners=(3,)), CONTEXT.members)
    book.changed(10, MembershipState(voters=(ID,)), ())
    book.levels, book.time_s = ClusterLevels(2, 1, False, "0.1.0"), STAMP[0]
    assert book.dump() == golden
    again = MemberRegistry()
    again.load(golden)
    assert (again.time_s, again.levels, again.members) == (book.time_s, book.levels, book.members)


def test_golden_registry_of_a_snapshot_is_read_and_written_alike() -> None:
    golden = bytes.fromhex(json.loads((FIXTURES / "entries-v1.json").read_text())["registry"])
    book = MemberRegistry()
    book.changed(9, MembershipState(voters=(ID,), learners=(3,)), CONTEXT.members)
    book.changed(10, MembershipState(voters=(ID,)), ())
    assert book.dump() == golden
    again = MemberRegistry()
    again.load(golden)
    assert (again.members, again.membership_index, list(again.removed)) == (book.members, 10, [3])


def test_golden_entries_have_no_other_field_than_the_code_knows() -> None:
    golden = json.loads((FIXTURES / "entries-v1.json").read_text())
    assert set(golden) == {*ENTRIES, "registry"}
    kinds = {
        msgspec.msgpack.decode(bytes.fromhex(golden[name]))[0] for name, value in ENTRIES.items() if name != "change"
    }
    assert kinds == set(map(int, Kind)), "each kind of entry has a golden one"


def sessions() -> SessionTable:
    """A table with each kind of record."""
    table = SessionTable()
    for number, session in enumerate((5, 6), 10):
        table.change(SessionChange(opened=session), number, 1)
    commands = (
        (OnceKey(5, 3, 2), CommandState.ANSWERED, b"answer"),
        (OnceKey(5, 4, 3), CommandState.REFUSED, msgspec.msgpack.encode(["no", "refused", {"at": 4}])),
        (OnceKey(6, 1), CommandState.NOT_KEPT, b""),
        (OnceKey(text=b"text"), CommandState.ANSWERED, b""),
    )
    for index, (key, state, answer) in enumerate(commands, 20):
        assert table.begin(SessionCommand(key, b"12345678", b"data"), index) is None
        table.finish(key, state, answer)
    return table


def test_golden_table_of_sessions_is_read_and_written_alike() -> None:
    golden = (FIXTURES / "sessions-v1.bin").read_bytes()
    parts: list[bytes] = []
    write_section(sessions().view(), parts.append)
    assert b"".join(parts) == golden
    read = read_section(io.BytesIO(golden))
    assert read.digest() == sessions().digest()
    assert (len(read), read.texts) == (2, 1)


def test_golden_small_files_are_read_and_written_alike(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(FIXTURES / "small-files-v1", directory)
    disk, path = OsDisk(), str(directory)
    starts = {77: 3 << 32 | 5, ID: 1 << 32 | 9}
    assert read_starts(disk, path) == starts
    assert encode_starts(starts) == (directory / "peers").read_bytes()
    assert chosen_id(disk, path) == ID
    known = FirstPeers(MemberRegistry(), None, disk, path).known  # type: ignore[arg-type]  # it writes nothing here
    assert known == {1: "10.0.0.1:7100", ID: "[::1]:7100"}
    note = Replacement(
        "00000000000000c1", f"{ID:016x}", f"{OTHER:016x}", "b", "10.0.0.2:7100", "http://10.0.0.2:8080", True,
        ("http://10.0.0.1:8080",), "set-aside-1",
    )  # fmt: skip
    assert read_note(disk, path) == note
    golden = (directory / "replacement").read_bytes()
    begin(disk, path, note)
    assert (directory / "replacement").read_bytes() == golden


def test_golden_recovery_note_is_read_and_written_alike(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(FIXTURES / "small-files-v1", directory)
    (directory / "recovering").mkdir()
    disk, path = OsDisk(), str(directory)
    note = new_cluster.NewCluster(
        "00000000000000c1", f"{ID:016x}", "00000000000000c2", f"{OTHER:016x}", "b", "set-aside-1", 4096
    )
    assert new_cluster.read_note(disk, path) == note
    golden = (directory / "recovery").read_bytes()
    new_cluster.begin(disk, path, note)
    assert (directory / "recovery").read_bytes() == golden


def test_golden_history_is_read_and_written_alike() -> None:
    golden = (FIXTURES / "history-v1.jsonl").read_bytes()
    assert read_history(io.BytesIO(golden)) == HISTORY
    file = io.BytesIO()
    write_history(file, HISTORY, {"seed": 7})
    assert file.getvalue() == golden


def rows() -> dict[str, list[str]]:
    """The table of all formats, by the name of the format."""
    section = PAGE.read_text().partition("## All formats\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in cells[2:]}


def test_table_of_formats_lists_the_formats() -> None:
    assert len(rows()) >= 10
    assert all(len(row) == 4 for row in rows().values()), "version, read, where the code says it, golden files"


@pytest.mark.parametrize("name", rows())
def test_format_of_the_table_has_its_golden_files(name: str) -> None:
    golden = re.findall(r"`(tests/[\w./-]+)`", rows()[name][3])
    assert golden, "no format without a golden file"
    for path in golden:
        found = ROOT / path
        assert found.is_file() or any(found.iterdir()), path


@pytest.mark.parametrize("name", rows())
def test_format_of_the_table_has_the_version_of_the_code(name: str) -> None:
    version, oldest, places, _ = rows()[name]
    for value, place in zip((version, oldest), re.findall(r"`([\w.]+)\.([A-Z_]+)`", places), strict=False):
        module, constant = place
        assert str(getattr(importlib.import_module(f"syncline.{module}"), constant)) == value, place
