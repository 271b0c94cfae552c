"""The bytes between nodes are what `docs/formats.md` says, and stay it.

The golden bytes are one connection of protocol version 2. A second reader, written from the document alone, takes them
apart with nothing of the program in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import zlib
from pathlib import Path

import msgspec
import pytest

from syncline.consensus.types import Message, MessageType
from syncline.transport.authentication import AcceptorProof, DiallerProof, PeerAuthentication, Proof
from syncline.transport.frame_mac import FrameMac
from syncline.transport.handshake import Hello, Purpose, Welcome, decode_answer, decode_hello
from syncline.transport.messages import Ask, AskReply, Refusal
from syncline.transport.wire import Batch, FrameDecoder, encode_frame

GOLDEN = {
    name: bytes.fromhex(text)
    for name, text in json.loads(
        (Path(__file__).parent.parent / "fixtures" / "peer-protocol-v2.json").read_text()
    ).items()
}
SECRET = bytes(range(32))
CLUSTER = 0xC1
PATH = "127.0.0.1 40000 > 127.0.0.1 7100"
MAGIC = bytes.fromhex("93 53 79 6E 63 4C 6E 0A")
HELLO = Hello(2, 2, CLUSTER, 0x11, 0x22, Purpose.MESSAGES, 5, "127.0.0.1:7101", 0x33, 0x44, 0, "a", (4, 3), 1, 2)
WELCOME = Welcome(2, CLUSTER, 0x22, 6, 0x44, 0, "b", (), 1, 0)
HEARTBEAT = Message(MessageType.HEARTBEAT, 0x22, 0x11, 7, entries=[], commit=9, responses=[])
BATCH = Batch([HEARTBEAT], ping=1)
CALLS = Batch(asks=[Ask(7, b"ask")], answers=[AskReply(8, b"", "rejected", "no", "mine", True)])


def ends() -> tuple[DiallerProof, AcceptorProof]:
    dialler = DiallerProof(
        PeerAuthentication((SECRET,), entropy=lambda count: b"\xaa" * count),
        node_id=0x11,
        peer=0x22,
        cluster_id=CLUSTER,
        purpose=Purpose.MESSAGES,
        path=PATH,
    )
    acceptor = AcceptorProof(
        PeerAuthentication((SECRET,), entropy=lambda count: b"\xbb" * count), node_id=0x22, cluster_id=CLUSTER
    )
    return dialler, acceptor


def test_handshake_frames_are_the_golden_bytes() -> None:
    dialler, acceptor = ends()
    assert MAGIC + encode_frame(dialler.opening, 4096) == GOLDEN["opening"]
    challenge = acceptor.challenge(memoryview(plain(GOLDEN["opening"][8:])))
    assert MAGIC + encode_frame(challenge, 4096) == GOLDEN["challenge"]
    proof = dialler.answer(memoryview(plain(GOLDEN["challenge"][8:])))
    assert encode_frame(proof, 4096) == GOLDEN["dialler proof"]
    answer, keys = acceptor.prove(memoryview(plain(GOLDEN["dialler proof"])))
    assert encode_frame(answer, 4096) == GOLDEN["acceptor proof"]
    assert dialler.check(memoryview(plain(GOLDEN["acceptor proof"]))) == keys


def test_golden_introductions_and_batches_are_read() -> None:
    """Later versions may add fields at the end; what version 2 sent stays readable."""
    _, acceptor = ends()
    acceptor.challenge(memoryview(plain(GOLDEN["opening"][8:])))
    keys = acceptor.prove(memoryview(plain(GOLDEN["dialler proof"])))[1]
    dialled, accepted = FrameDecoder(4096), FrameDecoder(4096)
    dialled.expect_mac(FrameMac(keys.dialler))
    accepted.expect_mac(FrameMac(keys.acceptor))
    hello, batch = dialled.feed(GOLDEN["hello"] + GOLDEN["batch"])
    assert decode_hello(hello) == HELLO
    assert msgspec.msgpack.decode(batch, type=Batch) == BATCH
    welcome, pong = accepted.feed(GOLDEN["welcome"] + GOLDEN["pong"])
    assert decode_answer(welcome) == WELCOME
    assert msgspec.msgpack.decode(pong, type=Batch) == Batch(pong=1)
    assert msgspec.msgpack.decode(FrameDecoder(4096).feed(GOLDEN["batch without a secret"])[0], type=Batch) == BATCH
    assert msgspec.msgpack.decode(plain(GOLDEN["calls to the leader"]), type=Batch) == CALLS
    refusal = msgspec.msgpack.decode(plain(GOLDEN["refusal"][8:]), type=Refusal)
    assert refusal == Refusal("no", "removed", 3, (1, 2))


# -- the second reader: from the document alone -----------------------------------------------------------------------


def plain(frame: bytes) -> bytes:
    """The payload of a frame with a checksum."""
    size, checksum = struct.unpack_from(">II", frame)
    payload = frame[8:]
    assert len(payload) == size
    assert zlib.crc32(payload, 0x53594E43) == checksum
    return payload


def guarded(frame: bytes, key: bytes, number: int) -> bytes:
    """The payload of a frame with a MAC."""
    payload = frame[20:]
    assert frame[:4] == len(payload).to_bytes(4, "big")
    signed = number.to_bytes(8, "big") + frame[:4] + payload
    assert frame[4:20] == hmac.new(key, signed, hashlib.sha256).digest()[:16]
    return payload


def signed_parts(first: bytes) -> bytes:
    parts = [first, plain(GOLDEN["opening"][8:]), plain(GOLDEN["challenge"][8:]), b"193"]
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.new(SECRET, message, hashlib.sha256).digest()


def test_document_gives_the_proofs() -> None:
    assert GOLDEN["opening"][:8] == GOLDEN["challenge"][:8] == MAGIC
    opening = msgspec.msgpack.decode(plain(GOLDEN["opening"][8:]))
    assert opening == [4, 2, 2, 0x11, 0x22, 0, b"\xaa" * 32, PATH]
    assert msgspec.msgpack.decode(plain(GOLDEN["challenge"][8:])) == [5, 2, b"\xbb" * 32, False]
    for name in ("dialler", "acceptor"):
        proof = signed_parts(b"syncline peer " + name.encode())
        assert msgspec.msgpack.decode(plain(GOLDEN[f"{name} proof"])) == [6, proof]


@pytest.mark.parametrize(
    ("end", "names"), [("dialler", ("hello", "batch")), ("acceptor", ("welcome", "pong"))], ids=["dialler", "acceptor"]
)
def test_document_gives_the_codes_of_frames(end: str, names: tuple[str, ...]) -> None:
    key = signed_parts(b"syncline peer key of the " + end.encode())
    for number, name in enumerate(names):
        guarded(GOLDEN[name], key, number)


def test_document_gives_the_introductions() -> None:
    hello = msgspec.msgpack.decode(GOLDEN["hello"][20:])
    assert hello == [1, 2, 2, CLUSTER, 0x11, 0x22, 0, 5, "127.0.0.1:7101", 0x33, 0x44, 0, "a", [4, 3], 1, 2]
    assert msgspec.msgpack.decode(GOLDEN["welcome"][20:]) == [2, 2, CLUSTER, 0x22, 6, 0x44, 0, "b", [], 1, 0]
    assert msgspec.msgpack.decode(plain(GOLDEN["refusal"][8:])) == [3, "no", "removed", 3, [1, 2]]


def test_document_gives_the_calls_to_the_leader() -> None:
    batch = msgspec.msgpack.decode(plain(GOLDEN["calls to the leader"]))
    assert batch == [[], [], [], 0, 0, [], [], 0, [[7, b"ask"]], [[8, b"", "rejected", "no", "mine", True]]]


def test_proof_in_golden_bytes_is_of_32_bytes() -> None:
    assert len(msgspec.msgpack.decode(plain(GOLDEN["dialler proof"]), type=Proof).proof) == 32
