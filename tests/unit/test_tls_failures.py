"""Failed TLS handshakes: what both ends log, on the peer port and on the clients' port, with real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from syncline.client import AsyncClient
from syncline.client.tls import trusting_context
from syncline.errors import OperationError, Outcome
from syncline.platform.network import TcpNetwork
from syncline.server.app import KvServer
from syncline.transport.handshake import NodeFacts
from syncline.transport.peers import Transport
from syncline.transport.policy import PeerPolicy
from syncline.transport.tls import PeerTls
from tests.helpers.certificates import certificates
from tests.helpers.node_cluster import until
from tests.helpers.transport import CLUSTER, PROMPT, FakeHandler, Run, TurnTransport, Watch
from tests.unit.test_server_app import settings

NAMES = {1: "a", 2: "b"}

TRUSTS_NOT = "its certificate is not trusted: none of the authorities for peers (peer_tls_ca) has issued it"
NOT_TRUSTED = "it does not trust this certificate: another authority has issued it (TLS alert: unknown ca)"
SAME = "give all nodes the same peer TLS settings"

PEERS = {
    # the faulty node is a, which dials and is dialled; what it logs, and what the sound node b logs
    "expired": ("expired", "it says that this certificate has expired", "its certificate has expired"),
    "early": ("early", "it takes this certificate for a bad one: not valid yet", "its certificate is not valid yet"),
    "foreign": ("foreign/a", NOT_TRUSTED, TRUSTS_NOT),
    "no clientAuth": (
        "serveronly",
        "it says that this certificate is not for this use (clientAuth, serverAuth)",
        "its certificate is not for this use: nodes need serverAuth and clientAuth",
    ),
    "no serverAuth": (
        "clientonly",
        "it says that this certificate is not for this use (clientAuth, serverAuth)",
        "its certificate is not for this use: nodes need serverAuth and clientAuth",
    ),
    "another name": (
        "others",
        "its certificate names other, localhost, not node a (0000000000000001)",
        "its certificate names other, localhost, not node a (0000000000000001)",
    ),
    "no TLS": (None, f"peer TLS is off here; {SAME}", f"a Syncline node without peer TLS; {SAME}"),
}


def files(name: str) -> PeerTls:
    directory = certificates()
    return PeerTls(
        certificate=str(directory / f"{name}.pem"),
        key=str(directory / f"{name}.key"),
        authority=str(directory / "ca.pem"),
    )


def failures(*transports: Transport) -> int:
    """Connections that ended by a fault, at both ends."""
    return sum(each.counters.refused + each.counters.strangers for each in transports)


async def start(watch: Watch, node_id: int, tls: PeerTls | None) -> Transport:
    transport = TurnTransport(
        TcpNetwork(),
        FakeHandler(watch),
        node_id=node_id,
        cluster_id=CLUSTER,
        bind="127.0.0.1:0",
        rng=random.Random(node_id),
        tls=tls,
        limits=PROMPT,
        policy=PeerPolicy(known_name=lambda peer: NAMES.get(peer, "")),
        facts=NodeFacts(incarnation=node_id),  # without a name its own certificate is not checked at the start
    )
    await transport.start()
    return transport


@pytest.mark.parametrize("case", PEERS)
@pytest.mark.parametrize("dialler", ["faulty", "sound"])
def test_peer_with_a_bad_certificate_is_named_by_both_ends(run: Run, case: str, dialler: str) -> None:
    """Each end's own log says what is wrong, whichever of them has dialled."""
    bad, on_faulty, on_sound = PEERS[case]
    clientless, serverless = case == "no clientAuth", case == "no serverAuth"
    if (clientless and dialler == "sound") or (serverless and dialler == "faulty"):
        return  # the certificate is good for this end
    if case == "another name" and dialler == "sound":
        return  # the name is checked after TLS, and the dialler speaks first; the faulty node's own dials tell it

    async def scenario() -> None:
        with Watch() as watch, Watch() as other:
            sound = await start(watch, 2, files("b"))
            faulty = await start(other, 1, files(bad) if bad else None)
            first, second = (faulty, sound) if dialler == "faulty" else (sound, faulty)
            first.set_peer(2 if first is faulty else 1, second.address)
            wanted = [on_faulty, on_sound]
            await watch.until(lambda: all(any(text in line for line in watch.lines) for text in wanted))
            for _ in range(4):  # dialled again and again: the same line is not logged again
                after = failures(sound, faulty)
                await watch.until(lambda after=after: failures(sound, faulty) > after)  # type: ignore[misc]
            assert len(watch.lines) <= 6, watch.lines
            await sound.close()
            await faulty.close()

    run(scenario())


CLIENT_CASES = dict[str, tuple[str, bool, Callable[[], ssl.SSLContext | None], str, str]]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def trusting(client: str = "", authority: str = "ca") -> ssl.SSLContext:
    directory = certificates()
    certificate, key = (str(directory / f"{client}.pem"), str(directory / f"{client}.key")) if client else (None, None)
    return trusting_context(str(directory / f"{authority}.pem"), certificate, key, settings=("ca", "cert", "key"))


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, certificate: str, *, asks: bool = False) -> AsyncIterator[KvServer]:
    directory = certificates()
    more: dict[str, Any] = {"http_tls_ca": str(directory / "ca.pem")} if asks else {}
    if certificate:
        more["http_tls_cert"] = str(directory / f"{certificate}.pem")
        more["http_tls_key"] = str(directory / f"{certificate}.key")
    async with KvServer.open(settings(tmp_path, **more)) as server:
        yield server


CLIENTS: CLIENT_CASES = {
    # certificate of the server, whether it asks for one, context of the client; what the client says, what is logged
    "untrusted authority": (
        "a", False, lambda: trusting(authority="foreign/ca"),
        "none of the authorities that this client trusts has issued it .*--cacert FILE",
        "it does not trust this certificate",
    ),
    "expired server": (
        "expired", False, trusting, "its certificate has expired", "it says that this certificate has expired",
    ),
    "server not valid yet": ("early", False, trusting, "is not valid yet", "it takes this certificate for a bad one"),
    "another name": (
        "name", False, trusting, "its certificate has another name: .*127.0.0.1.*--host 127.0.0.1",
        "it takes this certificate for a bad one",
    ),
    "no client certificate": (
        "a", True, trusting, "it asks for a certificate, and none was shown.*--cert FILE",
        "it shows no certificate, and one is needed",
    ),
    "foreign client": (
        "a", True, lambda: trusting("foreign/app"), "does not trust this certificate",
        r"its certificate is not trusted: none of the authorities for clients (http_tls_ca) has issued it",
    ),
    "expired client": (
        "a", True, lambda: trusting("expired"), "says that this certificate has expired", "its certificate has expired",
    ),
    "client without clientAuth": (
        "a", True, lambda: trusting("serveronly"), "not for this use", "its certificate is not for this use",
    ),
    "TLS to plain": (
        "", False, trusting, "does not speak TLS on this port: use http://",
        "it speaks TLS on a port for plain HTTP: its URL must begin with http://",
    ),
    "plain to TLS": (
        "a", False, lambda: None, "this port speaks TLS: use https://",
        "it speaks no TLS on a port for https: its URL must begin with https://",
    ),
}  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("case", CLIENTS)
def test_client_with_bad_tls_is_named_by_both_ends(
    tmp_path: Path, case: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client fails at once, and knows that nothing was done. The server logs one line at level info."""
    caplog.set_level(logging.INFO)
    certificate, asks, context, told, logged = CLIENTS[case]

    async def scenario() -> None:
        async with serving(tmp_path, certificate, asks=asks) as server:
            scheme = "http" if case == "plain to TLS" else "https"
            url = f"{scheme}://{server.http_url.partition('://')[2]}"
            async with AsyncClient(url, tls=context(), timeout=20) as client:
                for _ in range(4):  # it fails at once: four deadlines are more than the limit of the scenario
                    with pytest.raises(OperationError, match=told) as caught:
                        await client.put("k", b"v")
                    assert caught.value.outcome is Outcome.NOT_APPLIED
            await until(server.raft, lambda: any(logged in line for line in caplog.messages))
        lines = [record for record in caplog.records if logged in record.getMessage()]
        assert len(lines) == 1, "the same fault is logged once in a while"
        assert lines[0].levelno == logging.INFO
        assert "127.0.0.1:" in lines[0].getMessage()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(scenario(), 30))


def test_client_with_a_certificate_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path, "a", asks=True) as server,
            AsyncClient(server.http_url, tls=trusting("app")) as client,
        ):
            await client.put("k", b"v")
            found = await client.get("k")
            assert found is not None
            assert found.value == b"v"

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_join_over_https_with_an_untrusted_authority_ends_at_once(tmp_path: Path) -> None:
    """It used to try for `join_timeout_s` without a word."""

    async def scenario() -> None:
        async with serving(tmp_path, "a") as server:
            joining = settings(
                tmp_path, "d", join=(server.http_url,), join_tls_ca=str(certificates() / "foreign" / "ca.pem")
            )
            with pytest.raises(OperationError, match=r"none of the authorities that this client trusts.*--join-tls-ca"):
                await KvServer.open(joining)

    asyncio.run(asyncio.wait_for(scenario(), 30))  # and not join_timeout_s, which is 60


def replaced(directory: Path, name: str) -> None:
    """Put other files in place of those of the node a."""
    for suffix in ("pem", "key"):
        shutil.copy(certificates() / f"{name}.{suffix}", directory / f"a.{suffix}")


def test_client_gets_the_new_certificate_without_a_restart(tmp_path: Path) -> None:
    """A kept connection goes on; a new one gets the new certificate."""

    async def scenario() -> None:
        directory = tmp_path / "certs"
        directory.mkdir()
        replaced(directory, "a")
        certificate = {"http_tls_cert": str(directory / "a.pem"), "http_tls_key": str(directory / "a.key")}
        more: dict[str, Any] = dict(certificate)
        async with (
            KvServer.open(settings(tmp_path, **more)) as server,
            AsyncClient(server.http_url, tls=trusting()) as kept,
            AsyncClient(server.http_url, tls=trusting(authority="foreign/ca")) as other,
        ):
            await kept.put("k", b"v")
            with pytest.raises(OperationError, match="not trusted"):
                await other.get("k")
            replaced(directory, "foreign/a")
            assert server._certificate is not None
            for _ in range(2):
                server._certificate.look()
            assert await other.get("k") is not None
            assert await kept.get("k") is not None

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize("dialler", ["renewed", "sound"])
def test_peer_uses_the_new_certificate_without_a_restart(run: Run, tmp_path: Path, dialler: str) -> None:
    """Both for what it dials and for what dials it."""

    async def scenario() -> None:
        replaced(tmp_path, "foreign/a")
        own = PeerTls(
            certificate=str(tmp_path / "a.pem"), key=str(tmp_path / "a.key"), authority=str(certificates() / "ca.pem")
        )
        with Watch() as watch:
            sound, renewed = await start(watch, 2, files("b")), await start(watch, 1, own)
            first, second, peer = (renewed, sound, 2) if dialler == "renewed" else (sound, renewed, 1)
            first.set_peer(peer, second.address)
            await watch.until(lambda: failures(sound) > 0 or first.stats()[peer].last_error is not None)
            replaced(tmp_path, "a")
            assert renewed._certificate is not None
            for _ in range(2):
                renewed._certificate.look()
            await watch.until(lambda: first.stats()[peer].connected)
            await sound.close()
            await renewed.close()

    run(scenario())
