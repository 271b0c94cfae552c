"""The handshake of a connection that this node has dialled, step by step."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from syncline.errors import HandshakeRefused
from syncline.transport.authentication import DiallerProof
from syncline.transport.connection import Connection
from syncline.transport.handshake import Hello, Welcome

__all__ = ["OutgoingHandshake"]


class _HandshakeStep(Enum):
    OPENED = auto()
    PROVING = auto()
    INTRODUCED = auto()


class OutgoingHandshake:
    """Opens, proves, introduces this node, and takes the peer's welcome.

    `hello` makes the introduction, and is called only after the peer has proved itself; `read_welcome` checks the
    answer.
    """

    def __init__(
        self, proof: DiallerProof, *, hello: Callable[[], Hello], read_welcome: Callable[[memoryview], Welcome]
    ) -> None:
        self._proof = proof
        self._hello = hello
        self._read_welcome = read_welcome
        self._step = _HandshakeStep.OPENED

    def start(self, connection: Connection) -> None:
        """Send the first frame."""
        connection.send(self._proof.opening)

    def take(self, connection: Connection, payload: memoryview) -> Welcome | None:
        """Take the peer's next frame; return its welcome when the handshake is over.

        Raises `FrameError`, `HandshakeRefused`, and `RefusedByPeer` for a refusal of a peer that has proved itself.
        """
        if self._step is _HandshakeStep.OPENED:
            proof = self._proof.answer(payload)
            if proof is not None:
                self._step = _HandshakeStep.PROVING
                connection.send(proof)
                return None
        elif self._step is _HandshakeStep.PROVING:
            keys = self._proof.check(payload)
            if not self._proof.spared:
                connection.protect(sending=keys.dialler, receiving=keys.acceptor)
        else:
            welcome = self._read_welcome(payload)
            if welcome.version != self._proof.version:
                raise HandshakeRefused(
                    f"the peer chose protocol version {self._proof.version}, and then {welcome.version}"
                )
            connection.established()
            return welcome
        self._step = _HandshakeStep.INTRODUCED
        connection.send(self._hello())
        return None
