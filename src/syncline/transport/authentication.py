"""Proofs that both ends of a peer connection know the cluster secret. Pure: no sockets, no clock.

    dialler  → Opening(versions, sender, to, purpose, nonce)
    acceptor → Challenge(version, nonce)                        or Refusal, which says nothing about the cluster
    dialler  → Proof                                            \\ only with a secret
    acceptor → Proof                                            /
    dialler  → Hello …                                          the introduction: see `handshake`

A proof is HMAC-SHA-256 under the secret over: the role, the bytes of the Opening and of the Challenge, and the cluster
id; before each part stands its length. So it binds both nonces, the versions, both node ids, the purpose, and whatever
else the two frames say; no frame of another connection fits, none of the other role, and none between other nodes. The
keys of the frames' MACs are made in the same way, one for each direction.

The acceptor proves nothing to a dialler that has not proved itself, and nothing under an id that is not its own: an
attacker that passes the frames of one node on to another gets no proof out of it.
"""

from __future__ import annotations

import hmac
import ipaddress
import struct
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from syncline.consensus.types import NodeId
from syncline.errors import ConfigError, FrameError, HandshakeRefused
from syncline.platform.entropy import Entropy, system_entropy
from syncline.transport.handshake import (
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    PeerId,
    Purpose,
    common_version,
    printable,
)
from syncline.transport.messages import Refusal
from syncline.transport.wire import decode_payload

__all__ = [
    "MAX_SECRETS",
    "MIN_SECRET_BYTES",
    "NONCE_BYTES",
    "AcceptorProof",
    "Challenge",
    "DiallerProof",
    "FrameKeys",
    "Opening",
    "PeerAuth",
    "PeerAuthentication",
    "Proof",
    "check_secrets",
    "path_on_loopback",
]

MIN_SECRET_BYTES: Final = 32
"""The size of the proofs' hash: a shorter secret would be the weakest part."""

MAX_SECRETS: Final = 8
"""A rotation needs two. The acceptor compares a dialler's proof with each one."""

MAX_SECRET_BYTES: Final = 1024

NONCE_BYTES: Final = 32
"""So many random bytes are practically never drawn twice."""

MAX_PATH_CHARS: Final = 128

PeerAuth = Literal["require", "accept"]
"""`accept`: peers without a proof are let in too, for the one rolling restart that brings the secret in."""

Nonce: TypeAlias = Annotated[bytes, Meta(max_length=NONCE_BYTES)]


class Opening(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """The dialler's first frame: nothing in it is secret."""

    oldest_version: int
    newest_version: int
    sender: PeerId
    to: PeerId
    purpose: Purpose
    nonce: Nonce = b""
    """Empty: the dialler has no secret."""
    path: Annotated[str, Meta(max_length=MAX_PATH_CHARS)] = ""
    """Both ends of the connection as the dialler sees them, if both are on the loopback interface."""


class EarlyHello(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The first fields of the first frame of protocol version 1, which had no opening: whose it is, for the refusal."""

    oldest_version: int
    newest_version: int
    cluster_id: int
    sender: PeerId


class Challenge(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """The acceptor's first frame."""

    version: int
    nonce: Nonce = b""
    """Empty: no proof is asked for, and none is given."""
    spared: bool = False
    """After the proofs the frames carry checksums instead of MACs: the connection does not leave the machine."""


class Proof(msgspec.Struct, array_like=True, tag=6, frozen=True):
    """One end knows the secret."""

    proof: Annotated[bytes, Meta(max_length=64)]


class FrameKeys(NamedTuple):
    """The keys of the frames' MACs, one for each direction."""

    dialler: bytes
    acceptor: bytes


class PeerAuthentication:
    """The secrets of one node, and its policy for peers without a proof. Shows no secret in its `repr`.

    The first secret is used for connections that this node dials; all are accepted. Without one nothing is proved.
    `spare_loopback` leaves the MAC out on connections that stay on this machine (see `path_on_loopback`).
    """

    def __init__(
        self,
        secrets: tuple[bytes, ...] = (),
        *,
        policy: PeerAuth = "require",
        spare_loopback: bool = True,
        entropy: Entropy = system_entropy,
    ) -> None:
        check_secrets(secrets)
        self._secrets = secrets
        self._entropy = entropy
        self.policy: PeerAuth = policy
        self.spare_loopback = spare_loopback

    def __repr__(self) -> str:
        return f"<PeerAuthentication with {len(self._secrets)} secrets, {self.policy}>"

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return self._secrets

    def nonce(self) -> bytes:
        """Draw a nonce; empty without a secret."""
        return self._entropy(NONCE_BYTES) if self._secrets else b""


def check_secrets(secrets: tuple[bytes, ...]) -> None:
    """Raise `ConfigError` if a secret is too short or there are too many. The text never holds a secret."""
    if len(secrets) > MAX_SECRETS:
        raise ConfigError(f"{len(secrets)} cluster secrets: at most {MAX_SECRETS} can be accepted at a time")
    for place, secret in enumerate(secrets, 1):
        if not isinstance(secret, bytes):
            raise ConfigError(f"cluster secret {place} is {type(secret).__name__}: give bytes")
        if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
            raise ConfigError(
                f"cluster secret {place} has {len(secret)} bytes: it must have {MIN_SECRET_BYTES} to"
                f" {MAX_SECRET_BYTES} random ones; `syncline secret new` makes one"
            )


def path_on_loopback(dialler: object, acceptor: object) -> str:
    """The two socket addresses as one text, if both are on the loopback interface; else an empty text.

    The dialler sends its text, and the acceptor compares it with its own. Behind a tunnel or a proxy each end may see
    a loopback address, but not the other end's port: the texts differ, and the frames keep their MAC.
    """
    ends: list[str] = []
    for end in (dialler, acceptor):
        if not isinstance(end, tuple) or len(end) < 2:
            return ""
        try:
            host = ipaddress.ip_address(str(end[0]))
        except ValueError:
            return ""
        if not host.is_loopback:
            return ""
        ends.append(f"{host} {end[1]}")
    return " > ".join(ends)[:MAX_PATH_CHARS]


_encoder = msgspec.msgpack.Encoder(enc_hook=int)  # a public `NodeId` is written as the integer that it is
_opening_decoder: msgspec.msgpack.Decoder[Opening | EarlyHello] = msgspec.msgpack.Decoder(Opening | EarlyHello)
_challenge_decoder: msgspec.msgpack.Decoder[Challenge | Refusal] = msgspec.msgpack.Decoder(Challenge | Refusal)
_proof_decoder = msgspec.msgpack.Decoder(Proof)
_answer_decoder: msgspec.msgpack.Decoder[Proof | Refusal] = msgspec.msgpack.Decoder(Proof | Refusal)

_LENGTH: Final = struct.Struct("!I")


def _sign(secret: bytes, role: bytes, opening: bytes, challenge: bytes, cluster_id: int) -> bytes:
    parts = (b"syncline peer " + role, opening, challenge, b"%d" % cluster_id)
    return hmac.digest(secret, b"".join(_LENGTH.pack(len(part)) + part for part in parts), "sha256")


def _keys(secret: bytes, opening: bytes, challenge: bytes, cluster_id: int) -> FrameKeys:
    return FrameKeys(
        _sign(secret, b"key of the dialler", opening, challenge, cluster_id),
        _sign(secret, b"key of the acceptor", opening, challenge, cluster_id),
    )


class DiallerProof:
    """The dialler's half: `opening`, then `answer`, then `check` if there was a proof."""

    def __init__(
        self,
        authentication: PeerAuthentication,
        *,
        node_id: NodeId,
        peer: NodeId,
        cluster_id: int,
        purpose: Purpose,
        path: str = "",
    ) -> None:
        self._authentication = authentication
        self._cluster_id = cluster_id
        self._peer = peer
        self.opening: Opening = Opening(
            OLDEST_VERSION,
            PROTOCOL_VERSION,
            node_id,
            peer,
            purpose,
            authentication.nonce(),
            path if authentication.secrets and authentication.spare_loopback else "",
        )
        self.version: int = 0
        """The version that the acceptor chose, after `answer`."""
        self.spared: bool = False
        self._opening = _encoder.encode(self.opening)
        self._challenge = b""

    def answer(self, payload: memoryview) -> Proof | None:
        """Take the acceptor's first frame; return the proof to send, None if none is needed.

        Raises `FrameError`, or `HandshakeRefused`.
        """
        challenge = decode_payload(_challenge_decoder, payload)
        if isinstance(challenge, Refusal):
            raise _refused(challenge)
        if not OLDEST_VERSION <= challenge.version <= PROTOCOL_VERSION:
            raise HandshakeRefused(f"the peer chose protocol version {challenge.version}, which was not offered")
        self.version = challenge.version
        secrets = self._authentication.secrets
        if not secrets:
            if challenge.nonce:
                raise HandshakeRefused(
                    f"node {self._peer:016x} asks for a proof, and this node has no cluster secret: give it the one of"
                    " its cluster"
                )
            return None
        if not challenge.nonce:
            if self._authentication.policy == "accept":
                return None
            raise HandshakeRefused(
                f"node {self._peer:016x} has no cluster secret: give it the one of its cluster, or let this node take"
                " both kinds for one rolling restart (--peer-auth accept)"
            )
        if len(challenge.nonce) != NONCE_BYTES or (challenge.spared and not self.opening.path):
            raise FrameError(f"the challenge of node {self._peer:016x} is malformed")
        self.spared = challenge.spared
        self._challenge = bytes(payload)
        return Proof(_sign(secrets[0], b"dialler", self._opening, self._challenge, self._cluster_id))

    def check(self, payload: memoryview) -> FrameKeys:
        """Check the acceptor's proof; return the keys of the connection. Raises `FrameError`, `HandshakeRefused`."""
        proof = decode_payload(_answer_decoder, payload)
        if isinstance(proof, Refusal):
            raise _refused(proof)
        secret = self._authentication.secrets[0]
        expected = _sign(secret, b"acceptor", self._opening, self._challenge, self._cluster_id)
        if not hmac.compare_digest(proof.proof, expected):
            raise HandshakeRefused(f"the proof of node {self._peer:016x} is wrong: it has another cluster secret")
        return _keys(secret, self._opening, self._challenge, self._cluster_id)


class AcceptorProof:
    """The acceptor's half: `challenge`, then `prove` if `awaits_proof`."""

    def __init__(self, authentication: PeerAuthentication, *, node_id: NodeId, cluster_id: int) -> None:
        self._authentication = authentication
        self._node_id = node_id
        self._cluster_id = cluster_id
        self.opening: Opening | None = None
        self.version: int = 0
        self.awaits_proof: bool = False
        self.spared: bool = False
        self._opening = b""
        self._challenge = b""

    def challenge(self, payload: memoryview, path: str = "") -> Challenge:
        """Take the dialler's first frame; return the answer. `path` is the connection as the acceptor sees it.

        Raises `FrameError`, or `HandshakeRefused` with a reason for both ends' logs.
        """
        opening = decode_payload(_opening_decoder, payload)
        self.version = common_version(opening.oldest_version, opening.newest_version, opening.sender, self._node_id)
        if isinstance(opening, EarlyHello):
            raise FrameError(f"node {opening.sender:016x} sends no opening")
        if len(opening.nonce) not in (0, NONCE_BYTES):
            raise FrameError(f"a nonce of {len(opening.nonce)} bytes: it must have {NONCE_BYTES}")
        self.opening = opening
        self._opening = bytes(payload)
        authentication = self._authentication
        if not authentication.secrets:
            return Challenge(self.version)
        if not opening.nonce:
            if authentication.policy == "accept":
                return Challenge(self.version)
            raise HandshakeRefused(
                f"node {opening.sender:016x} gives no proof of the cluster secret: give it the secret"
                " (--peer-secret-file, or Config(secret=…))"
            )
        self.awaits_proof = True
        self.spared = bool(path) and authentication.spare_loopback and opening.path == path
        challenge = Challenge(self.version, authentication.nonce(), self.spared)
        self._challenge = _encoder.encode(challenge)
        return challenge

    def prove(self, payload: memoryview) -> tuple[Proof, FrameKeys]:
        """Check the dialler's proof; return the acceptor's and the keys. Raises `FrameError`, `HandshakeRefused`."""
        assert self.opening is not None, "a proof is checked after its challenge"
        assert self.awaits_proof, "a proof is checked once"
        self.awaits_proof = False
        received = decode_payload(_proof_decoder, payload).proof
        known: bytes | None = None
        for secret in self._authentication.secrets:  # all are tried: constant time
            expected = _sign(secret, b"dialler", self._opening, self._challenge, self._cluster_id)
            if hmac.compare_digest(received, expected):
                known = secret
        if known is None:
            raise HandshakeRefused(
                f"the proof of node {self.opening.sender:016x} is wrong: it has another cluster secret, or belongs to"
                " another cluster"
            )
        if self.opening.to != self._node_id or self.opening.sender == self._node_id:
            raise HandshakeRefused(
                f"wrong node: node {self.opening.sender:016x} dialled node {self.opening.to:016x}, but this is node"
                f" {self._node_id:016x}; check the address it has for that peer, and that no two nodes advertise the"
                " same one"
            )
        proof = Proof(_sign(known, b"acceptor", self._opening, self._challenge, self._cluster_id))
        return proof, _keys(known, self._opening, self._challenge, self._cluster_id)


def _refused(refusal: Refusal) -> HandshakeRefused:
    """The error for a refusal from an end without a proof: its text is shown, its code is not acted on."""
    return HandshakeRefused(f"refused by the peer: {printable(refusal.reason)}")
