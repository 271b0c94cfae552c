"""Mutual TLS between nodes: who has no certificate of the cluster, or another node's, stays outside."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from syncline.errors import ConfigError, HandshakeRefused
from syncline.platform.network import TcpNetwork
from syncline.transport.messages import PeerMessage
from syncline.transport.peers import Transport
from syncline.transport.tls import PeerTls, check_certificate_names
from tests.helpers.transport import CLUSTER, PROMPT, FakeHandler, RawEnd, TurnTransport, Watch, heartbeat

FILES = Path(__file__).parent / "tls"


def settings(name: str, authority: str = "cluster-ca") -> PeerTls:
    return PeerTls(
        certificate=str(FILES / f"{name}.pem"),
        key=str(FILES / f"{name}.key"),
        authority=str(FILES / f"{authority}.pem"),
    )


async def start(watch: Watch, node_id: int, tls: PeerTls | None) -> tuple[Transport, FakeHandler]:
    handler = FakeHandler(watch)
    transport = TurnTransport(
        TcpNetwork(),
        handler,
        node_id=node_id,
        cluster_id=CLUSTER,
        bind="127.0.0.1:0",
        rng=random.Random(node_id),
        tls=tls,
        limits=PROMPT,
    )
    await transport.start()
    return transport, handler


async def outcome(first_tls: PeerTls | None, second_tls: PeerTls | None) -> tuple[str | None, list[PeerMessage], str]:
    """Let node 1 dial node 2: its error, what node 2 got, and the warnings of both."""
    with Watch() as watch:
        first, first_handler = await start(watch, 1, first_tls)
        second, second_handler = await start(watch, 2, second_tls)
        first.set_peer(2, second.address)
        await watch.until(lambda: bool(first_handler.events) or first.stats()[2].last_error is not None)
        if first.send(2, heartbeat(1, 2)):
            await second_handler.received(1)
        error = first.stats()[2].last_error
        await first.close()
        await second.close()
        return error, second_handler.messages, "\n".join(watch.lines)


async def test_two_nodes_of_the_cluster_talk() -> None:
    error, messages, _ = await outcome(settings("node1"), settings("node2"))
    assert error is None
    assert len(messages) == 1


async def test_a_certificate_of_another_node_is_refused_by_the_acceptor() -> None:
    error, messages, lines = await outcome(settings("node2"), settings("node2"))
    assert "its certificate names 0000000000000002.peers.example, not node 0000000000000001" in (error or "")
    assert "refused by the peer" in (error or "")
    assert "refused the node at" in lines
    assert messages == []


async def test_a_certificate_of_another_node_is_refused_by_the_dialler() -> None:
    error, messages, _ = await outcome(settings("node1"), settings("node1"))
    assert "its certificate names 0000000000000001, not node 0000000000000002" in (error or "")
    assert messages == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (settings("node1"), settings("forged2", "other-ca")),
        (settings("node1", "other-ca"), settings("node2")),
        (settings("node1"), settings("forged2")),
    ],
)
async def test_another_authority_is_refused(first: PeerTls, second: PeerTls) -> None:
    error, messages, _ = await outcome(first, second)
    assert error is not None
    assert messages == []


async def test_tls_on_one_side_only_is_said_so() -> None:
    error, messages, lines = await outcome(settings("node1"), None)
    assert error is not None
    assert messages == []
    assert "a TLS handshake, but peer TLS is off here" in lines
    error, messages, _ = await outcome(None, settings("node2"))
    assert error is not None
    assert messages == []


async def test_a_stranger_that_says_nothing_to_a_tls_port_leaves_nothing_behind() -> None:
    with Watch() as watch:
        first, _ = await start(watch, 1, settings("node1"))
        end = await RawEnd.dial(first.address)
        end.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await end.closed_by_other_end()
        await first.close()
        assert len(asyncio.all_tasks()) <= 2


async def test_files_that_can_not_be_used_are_named() -> None:
    with Watch() as watch:
        with pytest.raises(ConfigError, match=r"certificate '.*absent.pem'"):
            await start(watch, 1, settings("absent"))
        with pytest.raises(ConfigError, match=r"authority '.*absent.pem'"):
            await start(watch, 1, settings("node1", "absent"))


@pytest.mark.parametrize(
    "certificate", [None, {}, {"subjectAltName": ()}, {"subjectAltName": (("IP Address", "::1"),)}]
)
def test_certificate_without_names_is_refused(certificate: dict[str, object] | None) -> None:
    with pytest.raises(HandshakeRefused, match="no name at all"):
        check_certificate_names(certificate, 1)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["a"], "a"),
        (["A.db.example"], "a"),
        (["other", "a.b.peers"], "a.b"),
        (["0000000000000001"], "a"),
        (["0000000000000001.peers.example"], ""),
    ],
)
def test_certificate_names_a_node_by_name_or_id(names: list[str], known: str) -> None:
    certificate: dict[str, object] = {"subjectAltName": tuple(("DNS", name) for name in names)}
    check_certificate_names(certificate, 1, known)


@pytest.mark.parametrize(
    ("names", "known"), [(["ab"], "a"), (["b.a"], "a"), (["a"], "a.b"), (["a"], ""), (["0000000000000002"], "a")]
)
def test_certificate_of_another_name_is_refused(names: list[str], known: str) -> None:
    certificate: dict[str, object] = {"subjectAltName": tuple(("DNS", name) for name in names)}
    with pytest.raises(HandshakeRefused, match="0000000000000001"):
        check_certificate_names(certificate, 1, known)
