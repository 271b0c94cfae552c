"""Accepted connections with TLS: what the owner and the other end see at each step, without sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl

import pytest

from syncline.platform.tls import NotTls, new_context
from syncline.platform.tls_accept import MAX_UNREAD_ANSWERS_BYTES, TURN_S, HandshakeTurns, TlsAccept, TlsAware
from syncline.server.http.tls import MAX_HANDSHAKES, MAX_HANDSHAKES_PER_HOST, TlsDoor
from tests.helpers.http_wire import PausedTransport
from tests.unit.test_server_app import TLS_FILES

TIMEOUT_S = 5.0
KEY_UPDATE_BYTES = 27
"""A record of TLS 1.3 that changes the key."""

LARGE = bytes(range(256)) * 200
"""More than two records."""


class Socket(PausedTransport):
    """The TCP transport under TLS: it keeps what is written."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__({"peername": (host, 4711)})
        self.written = bytearray()
        self.ended = ""
        self.aborted = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "nothing is written after the end"
        self.written += data

    def taken(self) -> bytes:
        taken = bytes(self.written)
        self.written.clear()
        return taken

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def is_closing(self) -> bool:
        return self.ended in {"closed", "aborted"}

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"
        self.aborted.set()

    def write_eof(self) -> None:
        self.ended = "half closed"


class Owner(TlsAware):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.received = bytearray()
        self.transport: asyncio.BaseTransport | None = None
        self.error: BaseException | None = None

    def tls_begins(self, transport: asyncio.Transport) -> None:
        self.notes.append("begins")

    def tls_failed(self, error: Exception | None) -> None:
        self.notes.append("failed")
        self.error = error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.notes.append("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> None:
        self.notes.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.notes.append("lost")
        self.error = exc


class Ends:
    """Both ends of one connection. `step` is how many bytes the server gets at once."""

    def __init__(
        self,
        *,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        step: int = 1 << 20,
        turns: HandshakeTurns | None = None,
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS_FILES / "node1.pem", TLS_FILES / "node1.key")
        context.options |= ssl.OP_NO_RENEGOTIATION
        trusting = ssl.create_default_context(cafile=str(TLS_FILES / "cluster-ca.pem"))
        trusting.check_hostname = False
        trusting.minimum_version = trusting.maximum_version = version
        self.socket, self.owner, self.step = Socket(), Owner(), step
        turns = turns or HandshakeTurns(clock=lambda: 0.0)
        tls = new_context(context, server_side=True)
        self.server = TlsAccept(self.owner, tls, TIMEOUT_S, turns, lambda first: b"no TLS")
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = trusting.wrap_bio(self.incoming, self.outgoing)
        self.server.connection_made(self.socket)

    def send(self) -> None:
        """Carry what the client has written to the server."""
        sent = self.outgoing.read()
        for start in range(0, len(sent), self.step):
            self.server.data_received(sent[start : start + self.step])

    def shake_hands(self) -> None:
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.send()
            self.incoming.write(self.socket.taken())

    def at_client(self) -> bytes:
        """What the client reads, and `END` behind it if TLS has ended."""
        self.incoming.write(self.socket.taken())
        read = b""
        try:
            while piece := self.client.read(1 << 16):
                read += piece
        except ssl.SSLWantReadError:
            return read
        return read + b"END"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("step", [1, 100, 1 << 20])
async def test_accepted_tls_carries_both_ways(version: ssl.TLSVersion, step: int) -> None:
    ends = Ends(version=version, step=step)
    ends.shake_hands()
    assert ends.owner.notes == ["begins", "made"]
    ends.client.write(LARGE)
    ends.send()
    assert bytes(ends.owner.received) == LARGE
    ends.server.writelines([LARGE, b"", memoryview(LARGE)])
    ends.server.write(b"")
    assert ends.at_client() == LARGE + LARGE
    assert ends.server.get_extra_info("sslcontext") is not None
    assert ends.server.get_extra_info("peername") == ("127.0.0.1", 4711)
    ends.server.close()
    assert ends.at_client() == b"END"
    assert ends.socket.ended == "closed"
    ends.server.write(b"late")
    ends.client.write(b"late")
    ends.send()
    assert bytes(ends.owner.received) == LARGE, "after the close nothing is given to the owner"
    ends.server.connection_lost(None)
    assert ends.owner.notes == ["begins", "made", "lost"]


def greet(ends: Ends) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        ends.client.do_handshake()
    ends.send()


async def test_accepted_tls_handshakes_of_many_clients_share_the_turns() -> None:
    """256 of one turn took 0.3 s, and with a key of RSA and 4,096 bits 2 s: a leader would have lost its term."""
    ticks = itertools.count()
    turns = HandshakeTurns(clock=lambda: next(ticks) * TURN_S / 2)  # one takes half a turn
    clients = [Ends(turns=turns) for _ in range(7)]
    for ends in clients:
        greet(ends)
    answered = []
    for _ in range(4):
        answered.append(sum(bool(ends.socket.written) for ends in clients))
        assert all(ends.socket.reading is bool(ends.socket.written) for ends in clients), "the others wait unread"
        await asyncio.sleep(0)
    assert answered == [2, 4, 6, 7]
    for ends in clients:
        ends.incoming.write(ends.socket.taken())
        ends.client.do_handshake()
        ends.client.write(b"request")
        ends.send()
    for _ in range(4):
        await asyncio.sleep(0)
    assert all(ends.owner.notes == ["begins", "made"] for ends in clients)
    assert all(ends.owner.received == b"request" for ends in clients)


async def test_accepted_tls_that_ends_while_it_waits_takes_no_turn() -> None:
    ticks = itertools.count()
    turns = HandshakeTurns(clock=lambda: next(ticks) * TURN_S)
    first, left, last = (Ends(turns=turns) for _ in range(3))
    for ends in (first, left, last):
        greet(ends)
    left.server.abort()
    left.server.connection_lost(None)
    await asyncio.sleep(0)
    assert (bool(left.socket.written), bool(last.socket.written)) == (False, True)
    assert left.owner.notes == ["begins", "failed"]


async def test_accepted_tls_gives_what_came_with_the_end_of_the_handshake() -> None:
    ends = Ends()
    for _ in range(2):
        try:
            ends.client.do_handshake()
        except ssl.SSLWantReadError:
            ends.send()
            ends.incoming.write(ends.socket.taken())
    ends.client.write(b"first")
    ends.send()
    assert ends.owner.notes == ["begins", "made"]
    assert bytes(ends.owner.received) == b"first"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_accepted_tls_that_the_client_ends_is_an_end_of_input(version: ssl.TLSVersion) -> None:
    ends = Ends(version=version)
    ends.shake_hands()
    ends.client.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        ends.client.unwrap()
    ended = ends.outgoing.read()
    ends.server.data_received(ended + b"behind the end")
    assert bytes(ends.owner.received) == b"last"
    assert ends.owner.notes == ["begins", "made", "eof"]
    assert ends.socket.ended == "closed"


class AskingForKeys:
    """OpenSSL, if each read has a change of the key alone that asks for the other direction's."""

    def __init__(self, outgoing: ssl.MemoryBIO) -> None:
        self._outgoing = outgoing

    def read(self, size: int) -> bytes:
        self._outgoing.write(bytes(KEY_UPDATE_BYTES))
        raise ssl.SSLWantReadError


@pytest.mark.parametrize("reads", [True, False])
async def test_accepted_tls_bounds_unread_answers_to_new_keys(reads: bool) -> None:
    ends = Ends()
    ends.shake_hands()
    ends.server._object = AskingForKeys(ends.server._outgoing)  # type: ignore[assignment]
    for _ in range(MAX_UNREAD_ANSWERS_BYTES // KEY_UPDATE_BYTES + 1):
        assert not ends.socket.ended
        ends.server.data_received(bytes(KEY_UPDATE_BYTES))
        if reads:
            ends.socket.taken()
    assert ends.socket.ended == ("" if reads else "aborted")
    ends.server.connection_lost(None)
    assert ("does not read the answers" in str(ends.owner.error)) is not reads


async def test_accepted_tls_ends_at_a_forged_record() -> None:
    ends = Ends()
    ends.shake_hands()
    ends.client.write(b"a")
    record = bytearray(ends.outgoing.read())
    record[-1] ^= 1
    ends.server.data_received(bytes(record))
    ends.server.connection_lost(None)
    assert ends.owner.received == b""
    assert ends.owner.notes == ["begins", "made", "lost"]
    assert isinstance(ends.owner.error, ssl.SSLError)


async def test_accepted_tls_that_is_half_closed_still_reads() -> None:
    ends = Ends()
    ends.shake_hands()
    ends.server.write(b"refused")
    ends.server.write_eof()
    assert ends.socket.ended == "half closed"
    assert ends.at_client() == b"refusedEND"
    ends.client.write(b"the rest of a request")
    ends.send()
    assert bytes(ends.owner.received) == b"the rest of a request"


async def test_accepted_connection_without_tls_is_answered_in_its_protocol() -> None:
    ends = Ends()
    ends.server.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert ends.socket.taken() == b"no TLS"
    ends.server.data_received(b"more")
    assert ends.socket.ended == "", "the answer could be lost if it closed at once"
    ends.server.connection_lost(None)
    assert ends.owner.notes == ["begins", "failed"]
    assert isinstance(ends.owner.error, NotTls)
    assert ends.owner.error.received == b"GET / HTTP/1.1\r\n\r\n"


async def test_accepted_connection_that_is_lost_in_the_handshake_has_failed() -> None:
    ends = Ends()
    with pytest.raises(ssl.SSLWantReadError):
        ends.client.do_handshake()
    ends.send()
    ends.server.connection_lost(None)
    assert ends.owner.notes == ["begins", "failed"]
    assert isinstance(ends.owner.error, ConnectionAbortedError)


async def test_accepted_connection_that_is_silent_ends_after_its_time() -> None:
    socket, owner = Socket(), Owner()
    silent = TlsAccept(
        owner, new_context(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True), 0.001, HandshakeTurns()
    )
    silent.connection_made(socket)
    await socket.aborted.wait()
    silent.connection_lost(None)
    assert owner.notes == ["begins", "failed"]
    assert "took longer than 0.001 s" in str(owner.error)


async def test_tls_door_flood_of_one_host_ends_handshakes_of_its_own() -> None:
    """Handshakes wait for their turn: a flood would have ended those of others before they had it."""
    door = TlsDoor(new_context(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True), asyncio.Protocol)

    def dial(host: str) -> Socket:
        socket = Socket(host)
        door.accept().connection_made(socket)
        return socket

    own = [dial("10.0.0.1") for _ in range(MAX_HANDSHAKES_PER_HOST)]
    other = dial("10.0.0.2")
    own += [dial("10.0.0.1") for _ in range(2 * MAX_HANDSHAKES)]
    assert [socket.ended for socket in own] == ["aborted"] * 2 * MAX_HANDSHAKES + [""] * MAX_HANDSHAKES_PER_HOST
    assert not other.is_closing()
    many = [dial(f"10.0.1.{number}") for number in range(MAX_HANDSHAKES - MAX_HANDSHAKES_PER_HOST - 1)]
    assert not any(socket.ended for socket in many)
    dial("10.0.0.3")
    assert other.is_closing(), "the oldest of all makes room"
