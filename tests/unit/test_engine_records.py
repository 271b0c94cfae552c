"""Records and snapshots of log backends: their bytes, and what a node takes from them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from syncline import BytesSnapshot
from syncline.engines import records, taking
from syncline.engines.backend import LogRecord, LogReplaced
from syncline.engines.records import Chain, RecordBody, decode_record, encode_record
from syncline.engines.stored import dump_snapshot, load_snapshot, open_snapshot
from syncline.engines.taking import LogTaker, TakenState
from syncline.errors import NodeFailed, StorageError
from syncline.sessions.snapshot import write_section
from syncline.sessions.table import SessionTable
from tests.helpers.node_cluster import Listing

CHAIN = bytes(range(16))
BODY = RecordBody(7, CHAIN, (b"one", b"two"))
GOLDEN = Path(__file__).parents[1] / "fixtures" / "engines-v1.json"
"""A record and a snapshot as the first version has written them."""
STATE = TakenState(5, 9, (9, 8, 2), CHAIN, 4, 1.5, ((8, 2),))


def golden(name: str) -> bytes:
    return bytes.fromhex(msgspec.json.decode(GOLDEN.read_bytes(), type=dict[str, str])[name])


def sections() -> bytes:
    out = bytearray()
    write_section(SessionTable().view(), out.extend)
    return bytes(out)


def taken(taker: LogTaker, position: int, writer: int, sequence: int, *payloads: bytes) -> int | None:
    """How many entries come of a record that a node with the same log has written; None: it has no effect."""
    body = encode_record(RecordBody(taker.chain.position, taker.chain.value, payloads))
    entries = taker.take(LogRecord(position, writer, sequence, body))
    return None if entries is None else len(entries)


def test_record_format_is_frozen() -> None:
    data = golden("record")
    assert decode_record(data, "it") == BODY
    assert encode_record(BODY) == data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is damaged, or was written by another program"),
        (b"not ours at all", "is damaged"),
        (encode_record(BODY)[:-1], "is damaged"),
        (b"\x01" + encode_record(BODY)[1:-9] + bytes(9), "is damaged"),
        (b"\x02x" + records._checksum(b"\x02x"), "has format 2; this version of Syncline reads format 1: upgrade"),
        (b"\x01x" + records._checksum(b"\x01x"), "can't be read"),
    ],
)
def test_record_that_is_none_stops_the_node(data: bytes, text: str) -> None:
    with pytest.raises(NodeFailed, match="the record at 7") as raised:
        decode_record(data, "the record at 7")
    assert text in str(raised.value)


def test_snapshot_format_is_frozen() -> None:
    body = golden("snapshot")
    assert dump_snapshot(STATE, BytesSnapshot(sections() + msgspec.msgpack.encode([b"a"])), 1 << 20) == body
    machine = Listing()
    loaded = load_snapshot(machine, body, "it")
    assert loaded.state == STATE
    assert len(loaded.sessions) == 0
    assert machine.items == [b"a"]


def test_snapshot_that_is_damaged_or_too_large_is_refused() -> None:
    body = dump_snapshot(STATE, BytesSnapshot(sections()), 1 << 20)
    for wrong in (b"", body[:-1], body[:20] + b"x" + body[21:]):
        with pytest.raises(NodeFailed, match="the snapshot is damaged"):
            open_snapshot(wrong, "the snapshot")
    with pytest.raises(StorageError, match="limit of this engine"):
        dump_snapshot(STATE, BytesSnapshot(bytes(100)), 100)
    with pytest.raises(NodeFailed, match="failed on the snapshot"):
        load_snapshot(Listing(), body, "the snapshot")


def test_taker_ignores_repeated_and_late_records() -> None:
    taker = LogTaker(5, "log")
    assert taken(taker, 1, 8, 1) == 0
    assert taken(taker, 2, 8, 2, b"a", b"b") == 2
    assert taken(taker, 3, 8, 2, b"a", b"b") is None, "a repetition"
    assert taken(taker, 4, 8, 4, b"d") == 1, "3 was given up"
    assert taken(taker, 5, 8, 3, b"c") is None, "and arrives late"
    assert taken(taker, 6, 9, 2, b"x") is None, "a writer that is not known any more"
    assert taken(taker, 7, 8, 1) is None
    assert (taker.index, taker.mark.position) == (3, 7)


def test_taker_goes_on_from_a_snapshot() -> None:
    taker = LogTaker(5, "log")
    taken(taker, 1, 8, 1)
    taken(taker, 2, 8, 2, b"a")
    again = LogTaker.of(taker.state(1.0), "log")
    body = encode_record(RecordBody(2, taker.chain.value, (b"b",)))
    for one in (taker, again):
        assert one.take(LogRecord(3, 8, 2, body)) is None
        entries = one.take(LogRecord(4, 8, 3, body))
        assert entries is not None
        assert [entry.index for entry in entries] == [2]
    assert again.state(1.0) == taker.state(1.0)


def test_taker_stops_at_a_writer_with_another_log() -> None:
    """By the hash of the writer's newest record, or because this node does not have that record."""
    taker, other = LogTaker(5, "log"), LogTaker(5, "log")
    for one, data in ((taker, b"a"), (other, b"b")):
        taken(one, 1, 8, 1)
        taken(one, 2, 8, 2, data)
    claimed = encode_record(RecordBody(2, other.chain.value, ()))
    with pytest.raises(LogReplaced, match="read other records up to 2"):
        taker.take(LogRecord(3, 9, 1, claimed))
    unknown = encode_record(RecordBody(3, other.chain.value, ()))
    with pytest.raises(LogReplaced, match="read other records up to 3"):
        taker.take(LogRecord(4, 9, 1, unknown))
    with pytest.raises(LogReplaced, match="comes behind position 2"):
        taker.take(LogRecord(2, 9, 1, claimed))


def test_chain_keeps_the_newest_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT_LINKS", 3)
    chain = Chain.of_log(5)
    values = {}
    for position in (2, 5, 9):
        chain.add(position, b"%d" % position)
        values[position] = chain.value
    assert not chain.contradicts(0, bytes(16)), "older than what is kept"
    assert not chain.contradicts(5, values[5])
    assert chain.contradicts(5, values[9])
    assert chain.contradicts(7, values[5]), "there is no record at 7"
    assert (chain.behind(1), chain.behind(2), chain.behind(3)) == (5, 2, 0)


def test_taker_forgets_the_writer_that_was_used_least_recently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "KEPT_WRITERS", 2)
    taker = LogTaker(5, "log")
    for position, writer in enumerate((1, 2, 3), 1):
        taken(taker, position, writer, 1)
    assert [taker.newest(writer) for writer in (1, 2, 3)] == [0, 1, 1]
    assert taken(taker, 4, 1, 2, b"x") is None, "it must begin again"
