"""Commands that ask each member show the credential to no address that only the cluster has told of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from syncline.cli.announced import for_member
from syncline.cli.asking import ask
from syncline.cli.common import Context, make_client
from syncline.cli.credentials import Credential
from syncline.errors import OperationError, Unreachable
from tests.helpers.command import Ran, environment, syncline
from tests.helpers.http_server import HttpDouble, HttpRequest, KeyDouble, Reply, error_reply, in_thread, json_reply
from tests.unit.test_cli_cluster import member, status

TOKEN = "syncline_" + "Zm9vYmFy_-0123456789" * 2 + "abc"
COMMANDS = {
    "status": ("status",),
    "health": ("health",),
    "top": ("top", "--once"),
    "doctor": ("doctor", "--skip-disk-speed"),
    "debug": ("debug", "--output", "bundle.tar.gz"),
}


def guarded(node: KeyDouble) -> Reply:
    """Let a node ask for a credential, where the commands look."""

    def answer(request: HttpRequest) -> Reply:
        if "authorization" not in request.headers:
            return error_reply(401, "unauthenticated", message="this cluster needs a credential")
        return json_reply(node.status) if request.path == "/raft/status" else Reply(200, b"")

    for path in ("/raft/status", "/metrics", "/version"):
        node.answers[path] = answer
    return Reply()


@contextmanager
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HttpDouble, HttpDouble]]:
    """Nodes a, which the user names, and b: it announces another name of this machine."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    nodes = {"a": KeyDouble(), "b": KeyDouble()}
    with in_thread(*nodes.values()) as (first, second), environment({"SYNCLINE_TOKEN_FILE": str(tmp_path / "token")}):
        announced = second.url.replace("127.0.0.1", "localhost")
        members = [member("a", first.url), member("b", announced)]
        nodes["a"].status = status("a", first.url, "leader", members)
        nodes["b"].status = status("b", announced, "follower", members)
        for node in nodes.values():
            guarded(node)
        yield first, second


def shown(double: HttpDouble) -> set[str]:
    return {request.headers.get("authorization", "") for request in double.requests}


@pytest.mark.parametrize("command", COMMANDS)
def test_credential_is_not_sent_to_an_address_that_is_only_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with cluster(tmp_path, monkeypatch) as (first, second):
        syncline(*COMMANDS[command], endpoints=first.url)
        assert f"Bearer {TOKEN}" in shown(first)
        assert shown(second) == {""}, "it is asked, without a credential"


@pytest.mark.parametrize("command", COMMANDS)
def test_credential_is_sent_to_all_members_with_trust_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with cluster(tmp_path, monkeypatch) as (first, second):
        syncline(*COMMANDS[command], "--trust-members", endpoints=first.url)
        assert shown(second) == {f"Bearer {TOKEN}"}


def test_status_says_why_a_member_was_not_shown_the_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(tmp_path, monkeypatch) as (first, _):
        rows = _rows(syncline("status", "--json", endpoints=first.url))
        assert rows["a"]["reachable"] is True
        assert rows["b"]["reachable"] is False
        error = str(rows["b"]["error"])
        assert "the credential was not sent to it" in error
        for way in ("--endpoints", "--cacert", "--trust-members"):
            assert way in error


def test_member_that_is_named_is_shown_the_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(tmp_path, monkeypatch) as (first, second):
        named = f"{first.url},{second.url.replace('127.0.0.1', 'localhost')}"
        rows = _rows(syncline("status", "--json", endpoints=named))
        assert [rows[name]["reachable"] for name in "ab"] == [True, True]


def _rows(ran: Ran) -> dict[str, dict[str, object]]:
    members = ran.json()["members"]
    assert isinstance(members, list)
    return {row["name"]: row for row in members}


@pytest.mark.parametrize(
    ("endpoints", "url", "authority", "sent"),
    [
        ("http://a:8080", "http://a:8080", False, True),
        ("a:8080", "http://a:8080", False, True),
        ("http://a:8080", "http://A:8081", False, True),
        ("http://a:8080,http://b:8080", "http://b:8080", False, True),
        ("http://a:8080", "http://b:8080", False, False),
        ("http://a:8080", "http://b:8080", True, False),
        ("http://a:8080", "https://b:8080", False, False),
        ("https://a:8080", "https://b:8080", False, False),
        ("https://a:8080", "https://b:8080", True, True),
        ("https://a:8080", "http://a:8080", True, False),
        ("http://a:8080", "https://a:8443", False, True),
        ("http://a:8080", "http://a.example:8080", False, False),
        ("http://a:8080/base", "http://a:8080", False, True),
        ("https://a:8080", "HTTP://a:8080", True, False),
        ("http://[::1]:8080", "http://[0::1]:8080", False, False),
    ],
)
def test_credential_is_sent_to_named_hosts_and_known_certificates(
    endpoints: str, url: str, authority: bool, sent: bool
) -> None:
    """https without `--cacert` trusts all public authorities: anybody can have a certificate of one."""
    context = Context(
        endpoints=endpoints,
        endpoints_given=True,
        timeout_s=None,
        as_json=False,
        ca_file="ca.pem" if authority else None,
        credential=Credential(token=TOKEN),
    )
    own = for_member(context, url)
    assert own.endpoints == url
    assert (own.credential.token == TOKEN) is sent


async def test_credential_is_never_sent_in_the_clear_to_an_address_of_https() -> None:
    """`HTTPS://` was trusted for its scheme, and asked without TLS."""
    seen: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    context = Context(
        endpoints=f"https://127.0.0.1:{port}",
        endpoints_given=True,
        timeout_s=None,
        as_json=False,
        ca_file=None,
        credential=Credential(token=TOKEN),
    )
    async with server:
        for scheme in ("HTTPS", "Https"):
            url = f"{scheme}://127.0.0.1:{port}"
            with pytest.raises(Unreachable):
                await ask(context, url, "/version")
            async with make_client(msgspec.structs.replace(context, endpoints=url)) as client:
                with pytest.raises(OperationError):
                    await client.status(timeout=0.2)
    assert len(seen) >= 2
    assert {data[:1] for data in seen} == {b"\x16"}, "a TLS handshake each time"


async def test_announced_address_that_is_no_url_is_told_as_unreachable() -> None:
    context = Context(endpoints="a:8080", endpoints_given=True, timeout_s=None, as_json=False, ca_file=None)
    with pytest.raises(Unreachable, match="the scheme must be http or https"):
        await ask(context, "file://a", "/version")
