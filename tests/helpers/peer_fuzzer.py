"""An attacker on the peer port that speaks the real handshake: as a stranger, and as a program that has the secret.

What it sends as a member is malformed, names foreign ids, or has absurd terms and numbers. Well-formed lies of a member
(a vote that it has not cast) are left out: no Raft cluster survives a member that lies (docs/security.md).
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec

from syncline.consensus.types import EntryType, LogEntry, Message, MessageType, Snapshot, SnapshotMeta
from syncline.transport.authentication import NONCE_BYTES, DiallerProof, Opening, PeerAuthentication, Proof
from syncline.transport.handshake import MAGIC, PROTOCOL_VERSION, Hello, Purpose, Welcome
from syncline.transport.messages import (
    AcceptedProposal,
    Ask,
    AskReply,
    Forward,
    ForwardedProposal,
    ForwardReply,
    Refusal,
    RefusedProposal,
)
from syncline.transport.snapshot_stream.protocol import Chunk, End, Offer
from syncline.transport.wire import Batch, encode_frame
from tests.helpers.transport import RawEnd, greeting_decoder

__all__ = ["Fuzzer", "Target"]

PATIENCE_S: Final = 3.0
"""For an answer: longer than the time limit for those that have not proved themselves."""

BOUNDARIES: Final = (0, 1, 2, 127, 128, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, -128, -(2**63))
ABSURD_TERMS: Final = (2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63))
PLAUSIBLE_TYPES: Final = (
    MessageType.VOTE,
    MessageType.PRE_VOTE,
    MessageType.VOTE_RESP,
    MessageType.PRE_VOTE_RESP,
    MessageType.HEARTBEAT,
    MessageType.TIMEOUT_NOW,
)
RISING: Final = 0.1
"""How often the term goes up: each time may cost an election, and writes must go on."""

FOREIGN_TYPES: Final = tuple(
    kind
    for kind in MessageType
    if kind.name.startswith("STORAGE") or kind.name in ("HUP", "BEAT", "SNAP", "UNREACHABLE", "FORGET_LEADER")
)


class Target(msgspec.Struct, frozen=True):
    """One node of the cluster, as the attacker knows it."""

    address: str
    node_id: int
    welcome: Welcome
    """What it told about itself to a program that has the secret."""


class Fuzzer:
    """Attacks the targets; `sent` counts the attacks by name. Everything is drawn from `rng`."""

    def __init__(self, rng: random.Random, targets: list[Target], cluster_id: int, secret: bytes) -> None:
        self.sent: dict[str, int] = {}
        self._rng = rng
        self._targets = targets
        self._cluster_id = cluster_id
        self._secret = secret
        self._term = 1
        """About the term of the cluster: it starts low, and this attacker raises it."""
        self._ends: dict[object, list[RawEnd]] = {}
        """Connections of the attack that each task makes."""
        self._strangers: list[Callable[[Target], Awaitable[None]]] = [
            self._rubbish,
            self._opening_of_any_kind,
            self._guessed_proof,
            self._replayed_proof,
            self._crowd,
        ]
        self._members: list[Callable[[Target], Awaitable[None]]] = [
            self._made_up_member,
            self._lying_greeting,
            self._bad_frames,
            self._bad_macs,
            self._bad_messages,
            self._plausible_messages,
            self._bad_forwards,
            self._bad_calls,
            self._bad_snapshots,
        ]

    async def strangers(self, end_s: float) -> None:
        """Attack without the secret until then, without a pause."""
        await self._attack(self._strangers, end_s, 0.0)

    async def members(self, end_s: float) -> None:
        """Attack with the secret until then. Each greeting under a member's id displaces the member's own link for a
        moment, so there are pauses."""
        await self._attack(self._members, end_s, 0.1)

    async def _attack(self, attacks: list[Callable[[Target], Awaitable[None]]], end_s: float, pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end_s:
            attack = self._rng.choice(attacks)
            # The node may close the connection, or leave it alone: both are right.
            with suppress(OSError, EOFError):
                async with asyncio.timeout(PATIENCE_S):
                    await attack(self._rng.choice(self._targets))
            for end in self._ends.pop(asyncio.current_task(), []):
                await end.close()
            name = attack.__name__.strip("_")
            self.sent[name] = self.sent.get(name, 0) + 1
            await asyncio.sleep(pause_s * self._rng.random())

    # -- strangers

    async def _rubbish(self, target: Target) -> None:
        noise = self._rng.choice([self._noise(2000), nested(self._rng.randrange(1, 60_000)), b"GET / HTTP/1.1\r\n\r\n"])
        start = self._rng.choice([b"", MAGIC, MAGIC + framed(noise[:4000]), MAGIC + b"\x7f\xff\xff\xff" + bytes(4)])
        await self._throw(target, start + noise)

    async def _opening_of_any_kind(self, target: Target) -> None:
        number = self._number
        fields: list[object] = [4, number(), number(), number(), number(), number(), self._noise(40), "x" * 200]
        if self._rng.random() < 0.5:
            fields[1:3] = [PROTOCOL_VERSION, PROTOCOL_VERSION]
            fields[5] = self._rng.randrange(3)
        payload = msgspec.msgpack.encode(fields[: self._rng.randrange(1, 9)])
        await self._throw(target, MAGIC + framed(payload[: self._rng.randrange(1, len(payload) + 1)]))

    async def _guessed_proof(self, target: Target) -> None:
        end, _ = await self._opened(target, self._opening(self._other(target).node_id, target.node_id))
        end.write(Proof(self._noise(64)))
        await end.closed_by_other_end()

    async def _replayed_proof(self, target: Target) -> None:
        """A member's own first frame and proof, or the acceptor's proof, on a connection with another challenge."""
        sender = self._other(target).node_id
        half = DiallerProof(
            PeerAuthentication((self._secret,)),
            node_id=sender,
            peer=target.node_id,
            cluster_id=self._cluster_id,
            purpose=Purpose.MESSAGES,
        )
        end, challenge = await self._opened(target, half.opening)
        mine = half.answer(challenge)
        end.write(mine)
        theirs = greeting_decoder.decode(await end.read_payload())
        end, _ = await self._opened(target, half.opening)
        end.write(self._rng.choice([mine, theirs]))
        answer = greeting_decoder.decode(await end.read_payload())
        assert isinstance(answer, Refusal), "a proof of another connection was taken"

    async def _crowd(self, target: Target) -> None:
        """Many connections that say nothing."""
        for _ in range(100):
            await self._dial(target)

    # -- with the secret

    async def _made_up_member(self, target: Target) -> None:
        """A greeting under an id that no member has."""
        end = await self._enter(target, self._rng.randrange(1, 2**63), address="127.0.0.1:9")
        end.write(Batch([Message(MessageType.HEARTBEAT, to=target.node_id, sender=5, term=2**63 - 1)]))
        await end.closed_by_other_end()

    async def _lying_greeting(self, target: Target) -> None:
        """A greeting under a member's id that says: your directory is another one."""
        await self._enter(target, self._member().node_id, known=self._rng.randrange(1, 2**62))

    async def _bad_frames(self, target: Target) -> None:
        """Frames with a good MAC whose content is not a batch."""
        end = await self._enter(target, self._member().node_id)
        payload = self._rng.choice(
            [
                self._noise(3000),
                nested(self._rng.randrange(1, 200_000)),
                b"\xdd\xff\xff\xff\xff",  # a list of 2^32 - 1 items
                b"\x95\xdd\x00\x01\x00\x01" + bytes(70_000),
                msgspec.msgpack.encode([[[kind] for kind in range(30)], [], [], 0, 0]),
                msgspec.msgpack.encode([[], [], [], self._number(), self._number()]),
            ]
        )
        mac = end.mac
        assert mac is not None
        end.writer.write(struct.pack("!I", len(payload)) + mac.next(payload) + payload)

    async def _bad_macs(self, target: Target) -> None:
        """A frame with a wrong MAC, one that is sent twice, one that is cut."""
        end = await self._enter(target, self._member().node_id)
        frame = encode_frame(Batch(ping=1), 1000, end.mac)
        how = self._rng.randrange(3)
        if how == 0:
            place = self._rng.randrange(len(frame))
            frame = frame[:place] + bytes([frame[place] ^ 1 << self._rng.randrange(8)]) + frame[place + 1 :]
        elif how == 1:
            frame *= 2
        else:
            frame = frame[: self._rng.randrange(1, len(frame))]
        end.writer.write(frame)

    async def _bad_messages(self, target: Target) -> None:
        sender = self._member().node_id
        end = await self._enter(target, sender)
        end.write(Batch([self._bad_message(sender, target.node_id)]))

    async def _plausible_messages(self, target: Target) -> None:
        """Of a term that may be the current one: requests and refusals, which promise nothing.

        What a member promises falsely (a vote, an acknowledgement, a commit index) can break every promise.
        """
        rng, sender = self._rng, self._member().node_id
        self._term += rng.random() < RISING
        kind = rng.choice(PLAUSIBLE_TYPES)
        end = await self._enter(target, sender)
        message = Message(
            kind,
            to=target.node_id,
            sender=sender,
            term=max(1, self._term - rng.randrange(3)),
            log_term=1 if kind in (MessageType.VOTE, MessageType.PRE_VOTE) else 0,
            index=rng.randrange(100),
            reject=kind in (MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP),
            session=rng.randrange(3),
        )
        end.write(Batch([message] * rng.choice([1, 1, 5])))

    async def _bad_forwards(self, target: Target) -> None:
        sender = self._member().node_id
        end = await self._enter(target, sender)
        number = self._number
        term = self._rng.choice([0, 1, 2, 3, -1, 2**63])
        forward = Forward([ForwardedProposal(number(), self._rng.choice([0, 2, 3, -1, 2**40]), self._noise(200))], term)
        unknown = self._rng.randrange(2**61, 2**62)
        reply = ForwardReply(
            [AcceptedProposal(self._rng.choice([unknown, -1, 2**63]), self._rng.choice([2**62, -1, 2**64 - 1]), 1)],
            [RefusedProposal(unknown, "x" * self._rng.randrange(100), "y" * self._rng.randrange(100))],
            self._rng.choice([0, -1, 2**64 - 1]),
            self._rng.choice([0, 1, 2, 3, -1, 2**63]),
        )
        end.write(Batch([], [forward], [reply]) if self._rng.random() < 0.5 else Batch([], [forward], []))

    async def _bad_calls(self, target: Target) -> None:
        """Calls to the leader, and answers to calls that the node has not made."""
        end = await self._enter(target, self._member().node_id)
        numbers = (0, 1, 2**62, 2**63 - 1, -1, 2**63)
        calls = [Ask(self._rng.choice(numbers), self._noise(3000)) for _ in range(self._rng.choice([1, 3, 2000]))]
        answer = AskReply(self._rng.choice(numbers), self._noise(300), self._rng.choice(["", "rejected", "x" * 200]))
        end.write(Batch(asks=calls, answers=[answer]) if self._rng.random() < 0.5 else Batch(answers=[answer]))

    async def _bad_snapshots(self, target: Target) -> None:
        sender = self._member().node_id
        end = await self._enter(target, sender, purpose=Purpose.SNAPSHOT)
        meta = SnapshotMeta(self._rng.choice(BOUNDARIES[:-3]), self._rng.choice([1, 2**62]))
        message = Message(
            MessageType.SNAP,
            to=target.node_id,
            sender=sender,
            term=self._rng.choice(ABSURD_TERMS),
            snapshot=Snapshot(meta),
        )
        end.write(Offer(message, self._noise(500), self._rng.choice([0, 1, 2**62, -1])))
        end.write(Chunk(self._rng.choice([0, -1, 2**62]), self._noise(1000)))
        end.write(End())
        await end.close()

    def _bad_message(self, sender: int, to: int) -> Message:
        """A message of any type: in another node's name, of an absurd term, or of a type that no peer may send."""
        rng, number = self._rng, self._number
        how = rng.randrange(3)
        kind = rng.choice(FOREIGN_TYPES) if how == 0 else rng.choice(list(MessageType))
        if kind in (MessageType.PROP, MessageType.READ_INDEX, MessageType.TRANSFER_LEADER) and how == 1:
            how = 2
        return Message(
            kind,
            to=to,
            sender=rng.choice([rng.randrange(2**62), -1, 2**64 - 1, 0]) if how == 2 else sender,
            term=rng.choice(ABSURD_TERMS) if how != 2 else number(),
            log_term=number(),
            index=number(),
            entries=[LogEntry(number(), number(), EntryType(rng.randrange(3)), self._noise(50))] * rng.randrange(3),
            commit=number(),
            vote=number(),
            reject=rng.random() < 0.5,
            reject_hint=number(),
            context=self._noise(30),
            session=number(),
            commit_term=number(),
        )

    # -- parts

    def _member(self) -> Target:
        """Whose name is taken: one node's alone, or no quorum would keep its links."""
        return self._targets[-1]

    def _other(self, target: Target) -> Target:
        return self._rng.choice([other for other in self._targets if other is not target])

    def _number(self) -> int:
        return self._rng.choice(BOUNDARIES) if self._rng.random() < 0.7 else self._rng.getrandbits(63)

    def _noise(self, most: int) -> bytes:
        return self._rng.randbytes(self._rng.randrange(most))

    def _noise_exact(self, size: int) -> bytes:
        return self._rng.randbytes(size)

    def _opening(self, sender: int, to: int) -> Opening:
        nonce = self._noise_exact(NONCE_BYTES)
        return Opening(PROTOCOL_VERSION, PROTOCOL_VERSION, sender, to, Purpose.MESSAGES, nonce)

    async def _dial(self, target: Target) -> RawEnd:
        end = await RawEnd.dial(target.address)
        self._ends.setdefault(asyncio.current_task(), []).append(end)
        return end

    async def _opened(self, target: Target, opening: Opening) -> tuple[RawEnd, memoryview]:
        """A connection on which the challenge has come."""
        end = await self._dial(target)
        end.writer.write(MAGIC + encode_frame(opening, 4096))
        await end.reader.readexactly(len(MAGIC))
        return end, await end.read_payload()

    async def _throw(self, target: Target, data: bytes) -> None:
        end = await self._dial(target)
        end.writer.write(data)
        await end.closed_by_other_end()

    async def _enter(
        self, target: Target, sender: int, *, known: int = 0, address: str = "", purpose: Purpose = Purpose.MESSAGES
    ) -> RawEnd:
        """Be let in as `sender`: as the very process that has that id, if it is a member's."""
        if sender == target.node_id:  # always the same other one: a quorum that lies in a greeting is believed
            sender = self._targets[0].node_id
        facts = next((one.welcome for one in self._targets if one.node_id == sender), None)
        hello = Hello(
            PROTOCOL_VERSION,
            PROTOCOL_VERSION,
            self._cluster_id,
            sender,
            target.node_id,
            purpose,
            facts.incarnation if facts is not None else 1,
            address,
            facts.directory if facts is not None else 7,
            known,
            0,
            facts.name if facts is not None else "stranger",
            facts.history if facts is not None else (),
            facts.level if facts is not None else 0,
            facts.machine_version if facts is not None else 0,
        )
        end = await self._dial(target)
        answer = await end.introduce(hello, self._secret)
        if not isinstance(answer, Welcome):
            await end.close()
            raise EOFError
        return end


def framed(payload: bytes) -> bytes:
    """A frame with a good checksum around any bytes."""
    return encode_frame(msgspec.Raw(payload or b"\xc0"), 1 << 20)


def nested(depth: int) -> bytes:
    """Lists in lists."""
    return b"\x91" * depth + b"\xc0"
