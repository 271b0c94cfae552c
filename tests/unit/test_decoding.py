"""Deeply nested bytes, wherever foreign bytes are decoded: unreadable, and no RecursionError passes through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from syncline.cli.up.plan import PLAN_NAME, _read_kept
from syncline.client.connection import ClientResponse
from syncline.client.wire import decode, error_from
from syncline.consensus.membership import decode_change
from syncline.consensus.types import EntryType, LogEntry
from syncline.decoding import UNDECODABLE, json_fault
from syncline.errors import CorruptionError, FrameError, Rejected, RequestFailed, StorageError
from syncline.kv.commands import decode_command
from syncline.kv.versions import is_later
from syncline.node.envelope import Unreadable, decode_context, decode_member, decode_proposal
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import REPLACEMENT_NAME, decode_identity
from syncline.storage.replace import read_note
from syncline.storage.snapshots.file import decode_manifest
from syncline.storage.wal.frame import BodyError, EntriesRecord, decode_entries
from syncline.transport.handshake import Hello, Purpose, decode_hello
from syncline.transport.wire import Batch, decode_payload

NESTED = b"\x91" * 100_000
"""MessagePack: an array in an array in an array."""

JSON = b'{"format_version":1,"new":' + b"[" * 100_000
HELLO = msgspec.msgpack.encode(Hello(1, 1, 77, 1, 2, Purpose.MESSAGES))


def longer(sound: bytes) -> bytes:
    """The array of a struct, with one more field, of a later version: it is skipped, however deep it is."""
    if sound[0] == 0xDC:  # an array of 16 fields and more
        return sound[:2] + bytes([sound[2] + 1]) + sound[3:] + NESTED
    assert sound[0] & 0xF0 == 0x90
    return bytes([sound[0] + 1]) + sound[1:] + NESTED


def response(body: bytes) -> ClientResponse:
    return ClientResponse(status=500, headers={}, body=body)


ENTRIES = EntriesRecord(1, 1, 1, 1, b"\x91" + NESTED, 0, 1 + len(NESTED))
CHANGE = longer(b"\x93\x00\x90\xc4\x00")
EMPTY = msgspec.msgpack.encode(Batch())
BATCH = msgspec.msgpack.Decoder(Batch)

PLACES: list[tuple[str, Callable[[], object], type[Exception]]] = [
    ("frame", lambda: decode_payload(BATCH, memoryview(NESTED)), FrameError),
    (
        "field of a frame",
        lambda: decode_payload(BATCH, memoryview(longer(EMPTY))),
        FrameError,
    ),
    ("greeting", lambda: decode_hello(memoryview(longer(HELLO))), FrameError),
    ("proposal", lambda: decode_proposal(NESTED), Unreadable),
    ("announcement", lambda: decode_member(NESTED), Unreadable),
    ("context", lambda: decode_context(NESTED), Unreadable),
    (
        "change",
        lambda: decode_change(LogEntry(1, 1, EntryType.CONF_CHANGE_V2, CHANGE)),
        ValueError,
    ),
    ("command", lambda: decode_command(NESTED), Rejected),
    ("manifest", lambda: decode_manifest(b"\x81\xa1x" + NESTED), ValueError),
    ("log record", lambda: decode_entries(ENTRIES), BodyError),
    ("identity", lambda: decode_identity("identity", JSON), CorruptionError),
    ("answer of a server", lambda: decode(response(JSON), Hello), RequestFailed),
]


@pytest.mark.parametrize(("place", "read", "error"), PLACES, ids=[place for place, _, _ in PLACES])
def test_decoding_deeply_nested_bytes_is_refused(
    place: str, read: Callable[[], object], error: type[Exception]
) -> None:
    """`RecursionError` is no error of msgspec: it passed through every handler and stopped the node."""
    with pytest.raises(error) as raised:
        read()
    assert not isinstance(raised.value, RecursionError), place


def test_decoding_a_nested_refusal_of_a_server_gives_its_status() -> None:
    assert "500" in str(error_from(response(JSON)))


def test_decoding_a_nested_command_names_no_later_version() -> None:
    assert not is_later(NESTED)


def test_decoding_nested_notes_on_disk_is_corruption(tmp_path: Path) -> None:
    (tmp_path / REPLACEMENT_NAME).write_bytes(JSON[:4000])
    with pytest.raises(CorruptionError):
        read_note(OsDisk(), str(tmp_path))
    (tmp_path / PLAN_NAME).write_bytes(JSON)
    with pytest.raises(StorageError):
        _read_kept(str(tmp_path))


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b'"\\ud800"', "a surrogate without its other half"),
        (b'{"a":"\\ud800x"}', "a surrogate without its other half"),
        (b'{"a":"\\ud800 and a longer rest"}', "surrogate"),
        (b'{"a":"\\udc00"}', "surrogate"),
        (b'{"a":"\\ud800', "Input data was truncated"),
        (b'{"a":"x"', "Input data was truncated"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_json_fault_tells_a_lone_surrogate_from_a_truncated_document(document: bytes, text: str) -> None:
    with pytest.raises(UNDECODABLE) as raised:
        msgspec.json.decode(document)
    assert text in json_fault(raised.value, document)
