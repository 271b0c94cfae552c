"""The snapshot stream: what is damaged in any way is found, and the state is then as it was."""

from __future__ import annotations

import io
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import CorruptionError, FormatVersionError
from syncline.kv import snapshots
from syncline.kv.commands import Delete, Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.records import KeyRecord
from syncline.kv.snapshots import read_snapshot
from syncline.kv.store import KeyStore
from syncline.node.fsm import Entry
from tests.helpers.kv_commands import Sink, contents, entries, persisted


def filled(count: int, value_bytes: int = 20) -> KvMachine:
    machine = KvMachine()
    machine.apply_batch(entries(Put(b"key/%06d" % number, bytes(value_bytes)) for number in range(count)))
    return machine


def lived(count: int) -> KvMachine:
    """Overwritten, deleted and new keys, some of them compacted; leases."""
    machine = filled(count)
    commands = [Put(b"key/%06d" % (number % 7), b"again %d" % number) for number in range(count)]
    machine.apply_batch(entries([*commands, Delete(b"key/000001"), Delete(b"key/000020"), Put(b"key/000001", b"")]))
    machine.store.leases.grant(5, 60_000)
    machine.store.leases.grant(9, 60_000, own=True)
    machine.store.put(b"leased", b"", 9, machine.store.revision + 1)
    machine.store.compact(machine.store.revision - count)
    return machine


STREAM = persisted(lived(30))


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time, as a raw one may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 3))


def frames(stream: bytes) -> list[bytes]:
    """The preamble and each frame of a stream."""
    at = len(snapshots.MAGIC) + 4
    parts = [stream[:at]]
    while at < len(stream):
        end = at + 9 + int.from_bytes(stream[at + 1 : at + 5], "little")
        parts.append(stream[at:end])
        at = end
    return parts


def test_an_empty_store_goes_through() -> None:
    store = read_snapshot(io.BytesIO(persisted(KvMachine())))
    assert (len(store), store.revision) == (0, 0)


def test_a_stream_that_trickles_is_read_whole() -> None:
    assert contents(read_snapshot(Trickle(STREAM))) == contents(lived(30).store)  # type: ignore[arg-type]


def test_the_state_survives_a_stream_cut_at_any_byte() -> None:
    machine = filled(3)
    before = persisted(machine)
    for length in range(len(STREAM)):
        with pytest.raises(CorruptionError, match="too early"):
            machine.restore(io.BytesIO(STREAM[:length]))
    assert persisted(machine) == before


def test_a_flipped_bit_anywhere_is_found() -> None:
    machine = filled(3)
    before = persisted(machine)
    bits = random.Random(6)
    for at in range(len(STREAM)):
        damaged = bytearray(STREAM)
        damaged[at] ^= 1 << bits.randrange(8)
        with pytest.raises((CorruptionError, FormatVersionError)):
            machine.restore(io.BytesIO(bytes(damaged)))
    assert persisted(machine) == before


def test_bytes_after_the_end_are_found() -> None:
    with pytest.raises(CorruptionError, match="after the end"):
        read_snapshot(io.BytesIO(STREAM + b"\0"))


def test_a_frame_lost_repeated_or_out_of_its_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "FRAME_TARGET_BYTES", 200)
    parts = frames(persisted(lived(30)))
    assert len(parts) > 6
    assert read_snapshot(io.BytesIO(b"".join(parts)))
    for at in range(1, len(parts)):
        swapped = [*parts]
        swapped[at - 1], swapped[at] = swapped[at], swapped[at - 1]
        for wrong in ([*parts[:at], *parts[at + 1 :]], [*parts[:at], parts[at], *parts[at:]], swapped):
            with pytest.raises(CorruptionError):
                read_snapshot(io.BytesIO(b"".join(wrong)))


def test_frames_of_another_snapshot_are_found_by_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "FRAME_TARGET_BYTES", 200)
    other = KvMachine()
    other.apply_batch(entries(Put(b"key/%06d" % number, b"\1" * 20) for number in range(30)))
    mixed = frames(persisted(filled(30)))
    mixed[3] = frames(persisted(other))[3]
    with pytest.raises(CorruptionError, match="digest"):
        read_snapshot(io.BytesIO(b"".join(mixed)))


def test_record_corrupted_in_memory_is_found_in_the_snapshot() -> None:
    machine = filled(3)
    key = b"key/000001"
    (bucket,) = (bucket for bucket in machine.store._buckets if key in bucket)
    bucket[key] = KeyRecord(key, b"rot", 2, 2, 1, 0, bucket[key].checksum)
    with pytest.raises(CorruptionError, match="checksum of key"):
        read_snapshot(io.BytesIO(persisted(machine)))


@pytest.mark.parametrize("stream", [b"", b"PK\x03\x04", b"syncline-kv\r" + bytes(40)])
def test_a_foreign_file_is_called_so(stream: bytes) -> None:
    with pytest.raises(CorruptionError) as raised:
        read_snapshot(io.BytesIO(stream))
    assert raised.value.file == "snapshot"
    assert raised.value.offset is not None


def test_a_later_format_is_refused_by_its_version() -> None:
    later = STREAM[:12] + (snapshots.FORMAT_VERSION + 1).to_bytes(4, "little") + STREAM[16:]
    with pytest.raises(FormatVersionError, match="version 4"):
        read_snapshot(io.BytesIO(later))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_do_anything_but_say_what_they_are(rest: bytes) -> None:
    with pytest.raises(CorruptionError):
        read_snapshot(io.BytesIO(STREAM[:16] + rest))


def test_a_length_that_lies_takes_no_memory() -> None:
    lying = STREAM[:16] + b"\1" + (2**32 - 1).to_bytes(4, "little") + bytes(40)
    with pytest.raises(CorruptionError, match="none is larger"):
        read_snapshot(io.BytesIO(lying))


def test_it_is_written_in_pieces_of_bounded_size() -> None:
    sink = Sink()
    filled(2_000, value_bytes=1_000).snapshot().persist(sink)
    assert len(sink.data) > 2_000_000
    assert sink.largest_write < 2 * snapshots.FRAME_TARGET_BYTES
    assert len(read_snapshot(io.BytesIO(sink.data))) == 2_000


def test_values_larger_than_a_frame_go_through() -> None:
    machine = filled(3, value_bytes=3 * snapshots.FRAME_TARGET_BYTES)
    assert contents(read_snapshot(io.BytesIO(persisted(machine)))) == contents(machine.store)


def test_failing_sink_raises_and_the_view_can_be_released() -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    machine = filled(3)
    snapshot = machine.snapshot()
    with pytest.raises(OSError, match="No space"):
        snapshot.persist(Full())
    snapshot.release()
    machine.store.check()


class SlowSink(Sink):
    """Waits, before each write, until the other thread has changed something."""

    def __init__(self) -> None:
        super().__init__()
        self.asks, self.changed = threading.Semaphore(0), threading.Semaphore(0)

    def write(self, data: bytes) -> None:
        self.asks.release()
        assert self.changed.acquire(timeout=30)
        super().write(data)


def test_persisting_on_another_thread_beside_writes_shows_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "FRAME_TARGET_BYTES", 4_000)
    machine = filled(3_000)
    expected = persisted(machine)
    snapshot, sink = machine.snapshot(), SlowSink()
    thread = threading.Thread(target=snapshot.persist, args=(sink,))
    thread.start()
    writes = len(frames(expected))
    assert writes > 50
    for turn in range(writes):  # the preamble, and each frame
        assert sink.asks.acquire(timeout=30)
        later = [Put(b"key/%06d" % ((turn * 100 + at) * 31 % 4_000), b"later") for at in range(100)]
        machine.apply_batch(entries([*later, Delete(b"key/%06d" % (turn * 7))]))
        sink.changed.release()
    thread.join(30)
    assert not thread.is_alive()
    assert sink.data == expected
    assert persisted(machine) != expected
    machine.store.check()


def test_a_reader_of_the_replaced_store_is_not_disturbed() -> None:
    machine = filled(10)
    old: KeyStore = machine.store
    before = contents(old)
    machine.restore(io.BytesIO(STREAM))
    assert machine.store is not old
    assert contents(old) == before
    old.check()


@pytest.mark.parametrize("revision", [2**62 + 1, 2**63 - 1, 2**64 - 2])
def test_restore_from_a_revision_without_room_above_is_refused(revision: int) -> None:
    """The next revisions would not fit in a log entry: every node would stop at the first write."""
    forged, machine = KvMachine(), KvMachine()
    forged.store.renumber(revision)
    file = io.BytesIO()
    forged.snapshot().persist(file)
    machine.apply(Entry(1, 1, encode_command(Put(b"a", b"1"))))
    with pytest.raises(CorruptionError, match="which no cluster reaches"):
        machine.renumber(10**9, io.BytesIO(file.getvalue()))
    assert machine.store.get(b"a") is not None
