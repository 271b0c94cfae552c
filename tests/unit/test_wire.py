"""The wire format: what goes in comes out, and what is not ours is refused without harm."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.types import (
    EntryType,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMeta,
)
from syncline.errors import ConfigError, FrameError, HandshakeRefused
from syncline.transport.handshake import (
    MAX_REASON_CHARS,
    Hello,
    Purpose,
    Refusal,
    Welcome,
    check_hello,
    check_welcome,
    decode_answer,
    decode_hello,
    shortened,
)
from syncline.transport.messages import (
    ASK_BYTES,
    AcceptedProposal,
    Ask,
    AskReply,
    DigestReport,
    Forward,
    ForwardedProposal,
    ForwardReply,
    Notice,
    NoticeKind,
    PeerAddress,
    RefusedProposal,
)
from syncline.transport.wire import (
    CHECKSUM_SEED,
    HEADER,
    MAX_BATCH_MESSAGES,
    MAX_BATCH_PROPOSALS,
    MAX_BATCH_REPORTS,
    Batch,
    FrameDecoder,
    check_batch,
    decode_payload,
    encode_frame,
    is_sendable,
    message_size_bytes,
)

MEGABYTE = 1 << 20
unhurried = settings(deadline=None)  # a busy machine is no error
LIMIT = MEGABYTE

numbers = st.integers(0, 2**63 - 1)
entries = st.builds(LogEntry, numbers, numbers, st.sampled_from(EntryType), st.binary(max_size=200))
peer_types = st.sampled_from([kind for kind in MessageType if is_sendable(Message(kind))])
messages = st.builds(
    Message,
    type=peer_types,
    to=numbers,
    sender=numbers,
    term=numbers,
    log_term=numbers,
    index=numbers,
    entries=st.lists(entries, max_size=5),
    commit=numbers,
    reject=st.booleans(),
    reject_hint=numbers,
    context=st.binary(max_size=50),
    session=numbers,
    responses=st.just([]),
)
forwards = st.builds(
    Forward, st.lists(st.builds(ForwardedProposal, numbers, st.integers(0, 1), st.binary()), max_size=3)
)
replies = st.builds(
    ForwardReply,
    st.lists(st.builds(AcceptedProposal, numbers, numbers, numbers), max_size=3),
    st.lists(st.builds(RefusedProposal, numbers, st.text(max_size=20), st.text(max_size=20)), max_size=3),
    numbers,
)
batches = st.builds(
    Batch,
    st.lists(messages, max_size=5),
    st.lists(forwards, max_size=3),
    st.lists(replies, max_size=3),
    numbers,
    numbers,
)
decoder = msgspec.msgpack.Decoder(Batch)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places (taken modulo its length)."""
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(borders)]


def frame_of(payload: bytes) -> bytes:
    return HEADER.pack(len(payload), zlib.crc32(payload, CHECKSUM_SEED)) + payload


class TestFrames:
    @unhurried
    @given(st.lists(batches, max_size=4), st.lists(st.integers(0, 10_000), max_size=8))
    def test_a_stream_cut_anywhere_gives_the_same_batches(self, sent: list[Batch], cuts: list[int]) -> None:
        stream = b"".join(bytes(encode_frame(batch, LIMIT)) for batch in sent)
        frames = FrameDecoder(LIMIT)
        received = [
            decode_payload(decoder, payload) for piece in pieces(stream, cuts) for payload in frames.feed(piece)
        ]
        assert received == sent
        assert frames.buffered_bytes == 0

    @unhurried
    @given(batches, st.data())
    def test_no_damage_of_one_byte_goes_unnoticed(self, batch: Batch, data: st.DataObject) -> None:
        frame = bytearray(encode_frame(batch, LIMIT))
        place = data.draw(st.integers(0, len(frame) - 1))
        frame[place] ^= data.draw(st.integers(1, 255))
        frames = FrameDecoder(LIMIT)
        try:
            payloads = frames.feed(bytes(frame))
        except FrameError:
            return
        assert payloads == []  # the length grew: the rest is waited for, and then fails its checksum
        assert place < 4

    @unhurried
    @given(st.binary(max_size=3000), st.lists(st.integers(0, 10_000), max_size=5))
    def test_random_bytes_are_refused_or_waited_for_within_the_limit(self, noise: bytes, cuts: list[int]) -> None:
        frames = FrameDecoder(1000)
        try:
            for piece in pieces(noise, cuts):
                assert frames.feed(piece) == []
                assert frames.buffered_bytes <= 1000 + HEADER.size
        except FrameError:
            return

    @unhurried
    @given(st.binary(max_size=300))
    def test_random_payload_under_a_good_checksum_is_a_frame_error_at_most(self, payload: bytes) -> None:
        for frame in FrameDecoder(LIMIT).feed(frame_of(payload or b"\x00")):
            try:
                batch = decode_payload(decoder, frame)
                check_batch(batch, 1, 2, {1, 3}.__contains__)
            except FrameError:
                continue
            assert isinstance(batch, Batch)

    @settings(max_examples=200, deadline=None)
    @given(batches, st.data())
    def test_a_mutated_payload_under_a_good_checksum_is_a_frame_error_at_most(
        self, batch: Batch, data: st.DataObject
    ) -> None:
        payload = bytearray(encode_frame(batch, LIMIT)[HEADER.size :])
        for _ in range(data.draw(st.integers(1, 4))):
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        (frame,) = FrameDecoder(LIMIT).feed(frame_of(bytes(payload)))
        try:
            check_batch(decode_payload(decoder, frame), 1, 2, {1, 3}.__contains__)
        except FrameError:
            return

    def test_a_length_above_the_limit_is_refused_at_once(self) -> None:
        with pytest.raises(FrameError, match="announces 1001 bytes; it may have 1 to 1000"):
            FrameDecoder(1000).feed(struct.pack("!II", 1001, 0))

    def test_an_empty_frame_is_refused_so_zeros_are_no_frames(self) -> None:
        with pytest.raises(FrameError, match="announces 0 bytes"):
            FrameDecoder(1000).feed(bytes(64))

    def test_memory_follows_what_came_not_what_was_announced(self) -> None:
        frames = FrameDecoder(512 * MEGABYTE)
        tracemalloc.start()
        try:
            frames.feed(struct.pack("!II", 500 * MEGABYTE, 0))
            frames.feed(bytes(1000))
            assert tracemalloc.get_traced_memory()[1] < MEGABYTE
        finally:
            tracemalloc.stop()

    def test_a_large_frame_that_comes_in_parts_is_not_copied(self) -> None:
        """To copy one of 63 MiB held up the event loop for 34 ms more."""
        frame = encode_frame(bytes(MEGABYTE), 2 * MEGABYTE)
        frames = FrameDecoder(2 * MEGABYTE)
        assert frames.feed(frame[:1000]) == []
        buffer = frames._buffer
        assert frames.feed(frame[1000:-1000]) == []
        [payload] = frames.feed(frame[-1000:])
        assert payload.obj is buffer
        assert payload.readonly
        assert payload == frame[HEADER.size :]
        assert frames.feed(frame) == [payload], "the next one has a buffer of its own"

    @pytest.mark.parametrize(
        "payload",
        [
            b"\x91\xdd\x7f\xff\xff\xff",  # a list that announces two thousand million messages
            b"\x91\xc6\xff\xff\xff\xff",  # four gigabytes of bytes
            b"\x91" * 100_000,  # nesting
            b"\x91\x91\x9f\x03" + b"\x00" * 5 + b"\xdd\xff\xff\xff\xff",  # a message that announces entries
        ],
    )
    def test_announcements_inside_a_payload_reserve_nothing(self, payload: bytes) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(FrameError):
                decode_payload(decoder, memoryview(payload))
            assert tracemalloc.get_traced_memory()[1] < MEGABYTE
        finally:
            tracemalloc.stop()

    def test_a_batch_of_too_many_tiny_messages_is_refused(self) -> None:
        payload = msgspec.msgpack.encode([[[3]] * (MAX_BATCH_MESSAGES + 1)])
        with pytest.raises(FrameError, match="length"):
            decode_payload(decoder, memoryview(payload))

    def test_a_message_above_the_limit_is_not_encoded(self) -> None:
        big = Batch([Message(MessageType.APP, entries=[LogEntry(1, 1, EntryType.NORMAL, bytes(2000))])])
        with pytest.raises(FrameError, match="above the limit of 1000 bytes"):
            encode_frame(big, 1000)

    @unhurried
    @given(st.one_of(messages, forwards, replies))
    def test_the_estimate_of_a_size_is_not_far_below_the_truth(self, message: Message | Forward | ForwardReply) -> None:
        truth = len(msgspec.msgpack.encode(message))
        assert truth <= 2.5 * message_size_bytes(message)

    def test_batch_skips_later_fields_and_defaults_missing_ones(self) -> None:
        later = msgspec.msgpack.encode([[], [], [], 7, 0, [], [], 0, [], [], "a field of a later version"])
        assert decode_payload(decoder, memoryview(later)).ping == 7
        assert decode_payload(decoder, memoryview(msgspec.msgpack.encode([[]]))) == Batch()


class TestCheckBatch:
    def test_messages_between_the_two_nodes_pass(self) -> None:
        batch = Batch([Message(MessageType.HEARTBEAT, to=2, sender=1)])
        check_batch(batch, 1, 2, {1, 3}.__contains__)
        with pytest.raises(FrameError, match="on the link from 0000000000000003"):
            check_batch(batch, 3, 2, {1, 3}.__contains__)

    @pytest.mark.parametrize("kind", [kind for kind in MessageType if not is_sendable(Message(kind))])
    def test_messages_of_the_core_to_itself_are_refused(self, kind: MessageType) -> None:
        with pytest.raises(FrameError, match=kind.name):
            check_batch(Batch([Message(kind, to=2, sender=1)]), 1, 2, {1, 3}.__contains__)

    @pytest.mark.parametrize(
        "report",
        [
            DigestReport(0, 1, bytes(16)),
            DigestReport(-8, 1, bytes(16)),
            DigestReport(2**63, 1, bytes(16)),
            DigestReport(8, 0, bytes(16)),
            DigestReport(8, 1, bytes(15)),
            DigestReport(8, 1, bytes(17)),
        ],
    )
    def test_digest_report_with_impossible_fields_is_refused(self, report: DigestReport) -> None:
        check_batch(Batch(reports=[DigestReport(8, 1, bytes(16))]), 1, 2, {1, 3}.__contains__)
        with pytest.raises(FrameError, match="digest"):
            check_batch(Batch(reports=[report]), 1, 2, {1, 3}.__contains__)

    def test_digest_reports_above_the_limit_are_refused(self) -> None:
        def payload(count: int) -> memoryview:
            return memoryview(msgspec.msgpack.encode(Batch(reports=[DigestReport(8, 1, bytes(16))] * count)))

        assert len(decode_payload(decoder, payload(MAX_BATCH_REPORTS)).items()) == MAX_BATCH_REPORTS
        with pytest.raises(FrameError):
            decode_payload(decoder, payload(MAX_BATCH_REPORTS + 1))

    def test_the_local_types_are_exactly_these(self) -> None:
        local = {kind for kind in MessageType if not is_sendable(Message(kind))}
        assert local == {
            MessageType.HUP,
            MessageType.PROP,
            MessageType.BEAT,
            MessageType.PROP,
            MessageType.SNAP,
            MessageType.UNREACHABLE,
            MessageType.SNAP_STATUS,
            MessageType.CHECK_QUORUM,
            MessageType.STORAGE_APPEND,
            MessageType.STORAGE_APPEND_RESP,
            MessageType.STORAGE_APPLY,
            MessageType.STORAGE_APPLY_RESP,
            MessageType.FORGET_LEADER,
        }

    @pytest.mark.parametrize(
        "message",
        [
            Message(MessageType.APP_RESP, to=2, sender=3),  # speaks for another node
            Message(MessageType.APP_RESP, to=3, sender=1),  # is for another node
            Message(MessageType.APP, to=2, sender=1, responses=[Message(MessageType.APP_RESP)]),
            Message(MessageType.APP, to=2, sender=1, snapshot=Snapshot()),
        ],
    )
    def test_what_a_peer_can_not_say_is_refused(self, message: Message) -> None:
        with pytest.raises(FrameError):
            check_batch(Batch([message]), 1, 2, {1, 3}.__contains__)

    def test_messages_in_a_message_are_refused_before_they_are_decoded(self) -> None:
        """64 MiB of them took 5 GiB and four seconds before the check."""
        inner = [Message(MessageType.APP_RESP)] * 100_000
        payload = memoryview(encode_frame(Batch([Message(MessageType.APP, responses=inner)]), 64 << 20))[HEADER.size :]
        decoder = msgspec.msgpack.Decoder(Batch)
        tracemalloc.start()
        try:
            with pytest.raises(FrameError, match="length <= 0"):
                decode_payload(decoder, payload)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("kind", [MessageType.READ_INDEX, MessageType.TRANSFER_LEADER])
    def test_what_a_follower_passes_on_keeps_its_first_sender(self, kind: MessageType) -> None:
        check_batch(Batch([Message(kind, to=2, sender=3)]), 1, 2, {1, 3}.__contains__)
        with pytest.raises(FrameError, match="from 0000000000000004"):  # no member
            check_batch(Batch([Message(kind, to=2, sender=4)]), 1, 2, {1, 3}.__contains__)


HELLO = Hello(2, 2, 77, 1, 2, Purpose.MESSAGES, 5)


class TestHandshake:
    def test_greetings_survive_the_wire(self) -> None:
        payload = memoryview(encode_frame(HELLO, 4096))[HEADER.size :]
        assert decode_hello(payload) == HELLO
        payload = memoryview(encode_frame(Welcome(2, 77, 2, 9), 4096))[HEADER.size :]
        assert decode_answer(payload) == Welcome(2, 77, 2, 9)

    def test_greeting_of_the_right_node_takes_the_newest_common_version(self) -> None:
        assert check_hello(HELLO, cluster_id=77, node_id=2) == 2
        assert check_hello(msgspec.structs.replace(HELLO, newest_version=9), cluster_id=77, node_id=2) == 2

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"cluster_id": 78}, "another cluster"),
            ({"to": 3}, "wrong node"),
            ({"sender": 2}, "two nodes have the id"),
            ({"oldest_version": 3, "newest_version": 4}, "no common protocol version"),
        ],
    )
    def test_anything_else_is_refused_with_what_differs(self, changes: dict[str, int], reason: str) -> None:
        with pytest.raises(HandshakeRefused, match=reason):
            check_hello(msgspec.structs.replace(HELLO, **changes), cluster_id=77, node_id=2)

    @pytest.mark.parametrize("answer", [Welcome(2, 77, 3), Welcome(2, 78, 2), Welcome(1, 77, 2)])
    def test_dialler_checks_the_certificate_of_the_acceptor(self, answer: Welcome) -> None:
        with pytest.raises(HandshakeRefused):
            check_welcome(answer, cluster_id=77, peer=2)

    def test_a_refusal_reaches_the_other_end_in_bounded_printable_words(self) -> None:
        refusal = shortened(Refusal("no\x1b[31m" + "x" * 10_000))
        payload = memoryview(encode_frame(refusal, 4096))[HEADER.size :]
        with pytest.raises(HandshakeRefused, match=r"refused by the peer: no�\[31mxxx") as caught:
            decode_answer(payload)
        assert len(str(caught.value)) < MAX_REASON_CHARS + 100


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in ("sender", "to") for value in (0, -1, 2**63, 2**64 - 1)),
        *((name, value) for name in ("incarnation", "directory", "known", "level") for value in (-1, 2**63)),
        ("history", (3, -1)),
        ("cluster_level", 2**63),
        ("name", "x" * 129),
        ("name", "a\nERROR forged line"),
    ],
)
def test_hello_with_an_impossible_value_is_refused(field: str, value: object) -> None:
    """A negative directory id made the file of the peers' starts unreadable: all that it knew was forgotten.

    The name of a refused dialler comes into the log.
    """
    fields = list(msgspec.structs.astuple(HELLO))
    fields[HELLO.__struct_fields__.index(field)] = value
    payload = memoryview(encode_frame([1, *fields], 4096))[HEADER.size :]
    with pytest.raises(FrameError):
        decode_hello(payload)


@pytest.mark.parametrize(("place", "value"), [(2, -1), (2, 2**64 - 1), (3, -1), (4, 2**63)])
def test_welcome_with_an_impossible_number_is_refused(place: int, value: int) -> None:
    fields = [2, 77, 2, 9, 5]
    fields[place] = value
    with pytest.raises(FrameError):
        decode_answer(memoryview(encode_frame([2, *fields], 4096))[HEADER.size :])


class TestPeerAddress:
    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [("10.0.0.1:7100", "10.0.0.1", 7100), ("db.example:1", "db.example", 1), ("[::1]:7100", "::1", 7100)],
    )
    def test_host_and_port_are_read_and_written(self, text: str, host: str, port: int) -> None:
        assert PeerAddress.parse(text) == PeerAddress(host, port)
        assert str(PeerAddress.parse(text)) == text

    @pytest.mark.parametrize(
        "text",
        [
            *("", "host", ":7100", "host:", "host:x", "host:70000", "::1:7100", "a b:1", "h:²"),
            *("host:0000009999999", "host:" + "0" * 5000, "a\0b:1"),
        ],
    )
    def test_anything_else_is_an_error_that_names_the_setting(self, text: str) -> None:
        with pytest.raises(ConfigError, match="advertise"):
            PeerAddress.parse(text, setting="advertise")


def test_a_snapshot_message_survives_the_wire() -> None:
    membership = MembershipState((1, 2), (3,), (1,), (), True)
    message = Message(MessageType.SNAP, to=2, sender=1, snapshot=Snapshot(SnapshotMeta(9, 3, membership)))
    decoded = msgspec.msgpack.Decoder(Message).decode(msgspec.msgpack.encode(message))
    assert decoded.snapshot == message.snapshot


def test_batch_of_too_many_proposals_is_refused() -> None:
    """The leader examined 2 million tiny ones in 16 s, all of one frame: too late for its heartbeats."""
    half = Forward([ForwardedProposal(1, 0, b"")] * (MAX_BATCH_PROPOSALS // 2))
    check_batch(Batch([], [half, half]), 1, 2, {1}.__contains__)
    with pytest.raises(FrameError, match="more than 131072 proposals"):
        check_batch(Batch([], [half, half, Forward([ForwardedProposal(1, 0, b"")])]), 1, 2, {1}.__contains__)


def test_text_that_is_no_utf8_is_a_frame_error() -> None:
    """A path may hold such text, and an error may hold a path."""
    with pytest.raises(FrameError, match="can't be sent"):
        encode_frame(Refusal("\udcff"), 4096)


def test_batch_of_another_raft_group_is_refused() -> None:
    check_batch(Batch(), 1, 2, {1, 3}.__contains__)
    with pytest.raises(FrameError, match="Raft group 7"):
        check_batch(Batch(group=7), 1, 2, {1, 3}.__contains__)


def test_batch_without_a_group_is_of_the_only_one() -> None:
    """The field came last: a sender that leaves it out is understood."""
    payload = msgspec.msgpack.encode([[], [], [], 5, 0])
    assert msgspec.msgpack.decode(payload, type=Batch) == Batch(ping=5, group=0)


def test_hello_for_another_raft_group_is_refused() -> None:
    hello = Hello(2, 2, 9, 1, 2, Purpose.MESSAGES, group=7)
    with pytest.raises(HandshakeRefused, match="Raft group 7"):
        check_hello(hello, cluster_id=9, node_id=2)


@pytest.mark.parametrize("kind", [MessageType.READ_INDEX, MessageType.TRANSFER_LEADER])
def test_forwarded_request_of_an_unknown_node_is_refused(kind: MessageType) -> None:
    """Its sender is the node that asked first: the leader would answer it, or hand over to it."""
    for sender in (99, -1, 2**64 - 1):
        with pytest.raises(FrameError):
            check_batch(Batch([Message(kind, to=2, sender=sender)]), 1, 2, {1, 3}.__contains__)


def test_deeply_nested_payload_is_a_frame_error() -> None:
    for depth in (1_000, 200_000):
        with pytest.raises(FrameError):
            decode_payload(msgspec.msgpack.Decoder(Batch), memoryview(b"\x91" * depth + b"\xc0"))
        with pytest.raises(FrameError):
            decode_payload(msgspec.msgpack.Decoder(), memoryview(b"\x91" * 200_000 + b"\xc0"))


@pytest.mark.parametrize("number", [-1, 2**63])
def test_answer_to_proposals_with_impossible_numbers_is_refused(number: int) -> None:
    for reply in (
        ForwardReply([AcceptedProposal(number, 1, 1)]),
        ForwardReply([AcceptedProposal(1, number, 1)]),
        ForwardReply([AcceptedProposal(1, 1, number)]),
        ForwardReply([], [RefusedProposal(number, "x", "y")]),
        ForwardReply([], [], number),
    ):
        with pytest.raises(FrameError, match="impossible numbers"):
            check_batch(Batch([], [], [reply]), 1, 2, {1}.__contains__)


def test_notices_travel_in_a_batch() -> None:
    """Runtimes tell each other what is settled, and which node has lost entries."""
    notice = Notice(NoticeKind.SETTLED, 3, 7)
    frame = encode_frame(Batch(notices=[notice]), 1000)
    [payload] = FrameDecoder(1000).feed(frame)
    batch = decode_payload(decoder, payload)
    assert batch.items() == [notice]
    assert len(frame) <= message_size_bytes(notice)


def test_notice_of_a_start_has_bounded_numbers() -> None:
    """What is kept of it fits in eight bytes, and there is not more than a directory keeps."""
    sound = Notice(NoticeKind.START, directory=7, starts=tuple(range(32, 0, -1)))
    payload = memoryview(msgspec.msgpack.encode(Batch(notices=[sound])))
    assert decode_payload(decoder, payload).notices == [sound]
    assert len(payload) <= message_size_bytes(sound)
    for fields in (
        {"directory": -1},
        {"directory": 2**63},
        {"starts": (-1,)},
        {"starts": (2**63,)},
        {"starts": (1,) * 33},
    ):
        forged = msgspec.structs.replace(sound, **fields)
        payload = memoryview(msgspec.msgpack.encode(Batch(notices=[forged])))
        with pytest.raises(FrameError):
            decode_payload(decoder, payload)


def test_batch_of_a_version_without_notices_has_none() -> None:
    older = memoryview(msgspec.msgpack.encode([[], [], [], 7, 0]))
    assert decode_payload(decoder, older).notices == []


@pytest.mark.parametrize("number", [-1, 2**63])
def test_call_to_the_leader_with_an_impossible_number_is_refused(number: int) -> None:
    for batch in (Batch(asks=[Ask(number, b"")]), Batch(answers=[AskReply(number)])):
        with pytest.raises(FrameError, match="impossible number"):
            check_batch(batch, 2, 1, lambda _: True)


@pytest.mark.parametrize(
    "message",
    [
        Ask(1, bytes(ASK_BYTES + 1)),
        AskReply(1, bytes(ASK_BYTES + 1)),
        AskReply(1, code="c" * 129),
        AskReply(1, message="m" * 4097),
        AskReply(1, reason="r" * 129),
    ],
)
def test_call_to_the_leader_above_a_limit_is_a_frame_error(message: Ask | AskReply) -> None:
    batch = Batch(asks=[message]) if isinstance(message, Ask) else Batch(answers=[message])
    with pytest.raises(FrameError):
        decode_payload(decoder, memoryview(msgspec.msgpack.encode(batch)))


def test_calls_to_the_leader_travel_in_a_batch() -> None:
    answers = [AskReply(8, b"answer"), AskReply(9, b"", "rejected", "no", "x", True)]
    batch = Batch(asks=[Ask(7, b"data")], answers=answers)
    decoded = decode_payload(decoder, memoryview(msgspec.msgpack.encode(batch)))
    assert decoded == batch
    assert decoded.items() == [*batch.asks, *batch.answers]
    check_batch(decoded, 2, 1, lambda _: True)
