"""The commands of docs/users.md, and those around them, against a server without a cluster."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.errors import PermissionDenied, Rejected, Unauthenticated
from tests.helpers.command import environment, syncline
from tests.helpers.site_server import SiteServer, site_in_thread

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCKS = [
    block
    for language, block in re.findall(
        r"^```(\w*)\n(.*?)^```$", (DOCS / "users.md").read_text(), re.MULTILINE | re.DOTALL
    )
    if not language
]
PASSWORD = "a good password"


@pytest.fixture
def server() -> Iterator[SiteServer]:
    with site_in_thread() as server:
        yield server


def words(line: str) -> list[str]:
    """The arguments of a line, without the comment and without what the shell does."""
    return shlex.split(line.partition("#")[0].partition(">")[0])[1:]


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.startswith("syncline ") and "serve" not in line]


def secret_file(path: Path, text: str) -> str:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


def test_guide_gives_a_cluster_users(server: SiteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begin, use, roles, *_ = BLOCKS
    for line in commands(begin):
        arguments = words(line)
        if arguments[:2] == ["user", "add"] and "--no-password" not in arguments:
            ran = syncline(*arguments, "--password-file", "-", stdin=f"{PASSWORD}\n".encode(), endpoints=server.url)
        else:
            ran = syncline(*arguments, endpoints=server.url)
        assert ran.status == 0, (line, ran.error())
        if "token" in arguments:
            secret_file(tmp_path / "app.token", ran.text.strip())
    root = {"SYNCLINE_PASSWORD_FILE": secret_file(tmp_path / "root", PASSWORD), "SYNCLINE_USER": "root"}
    with environment(root):
        assert syncline("put", "config/name", "x", endpoints=server.url).status == 0
    statuses = []
    for line in commands(use):
        with environment({"SYNCLINE_PASSWORD_FILE": root["SYNCLINE_PASSWORD_FILE"]}):
            statuses.append(syncline(*words(line), endpoints=server.url).status)
    assert statuses == [1, 0, 1, 0]
    with environment(root):
        for line in commands(roles):
            assert syncline(*words(line), endpoints=server.url).status == 0, line
        listed = syncline("role", "list", endpoints=server.url).text
        assert "read key config/name" in listed
        assert "write from a to m" in listed
        assert "operation status" in listed


def test_password_as_an_argument_is_refused_with_the_reason(server: SiteServer) -> None:
    for command in (("user", "add", "x"), ("user", "password", "x")):
        ran = syncline(*command, "--password", "hunter2", endpoints=server.url)
        assert ran.status == 2
        assert "can read the arguments" in ran.error()
        assert "hunter2" not in ran.error()


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [("a\nb", 0o600, "one line"), ("", 0o600, "one line"), ("x", 0o644, "chmod 600"), ("x" * 5000, 0o600, "more than")],
)
def test_token_file_that_can_not_be_used_is_told(
    server: SiteServer, tmp_path: Path, content: str, mode: int, reason: str
) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(mode)
    ran = syncline("get", "a", "--token-file", str(file), endpoints=server.url)
    assert ran.status == 2
    assert reason in ran.error()
    assert syncline("get", "a", "--token-file", str(tmp_path / "none"), endpoints=server.url).status == 2


async def test_client_shows_its_credential_and_gets_classes_of_errors() -> None:
    async with SiteServer() as server:
        async with AsyncClient(server.url) as kv:
            await kv.add_user("root", PASSWORD, admin=True)
            await kv.add_role("reader")
            await kv.allow("reader", "read", prefix=b"\xff")
            await kv.add_user("ann", roles=["reader"])
            token = (await kv.new_token("ann", ttl=60, about="test")).token
            await kv.enable_auth()
            with pytest.raises(Unauthenticated):
                await kv.get("a")
            with pytest.raises(Unauthenticated):
                async for _ in kv.watch("a"):
                    pass
        async with AsyncClient(server.url, token=token) as kv:
            assert await kv.get(b"\xff") is None
            with pytest.raises(PermissionDenied):
                await kv.put("a", b"v")
            assert token not in repr(vars(kv))
        async with AsyncClient(server.url, user="root", password=PASSWORD) as kv:
            assert (await kv.role("reader")).keys[0].start_base64 == b"\xff"
            assert [one.about for one in (await kv.user("ann")).tokens] == ["test"]
            with pytest.raises(Rejected) as raised:
                await kv.remove_user("root")
            assert raised.value.code == "last_administrator"
            await kv.disable_auth()


@pytest.mark.parametrize(
    "given",
    [
        {"user": "a"},
        {"password": "b"},
        {"user": "a", "password": "b", "token": "c"},
        {"token": ""},
        {"token": "a b"},
        {"token": "é"},
        {"user": "a:b", "password": "secret"},
        {"user": "", "password": "secret"},
        {"user": "a", "password": "\ud800"},
    ],
)
def test_client_refuses_credentials_that_can_not_be(given: dict[str, str]) -> None:
    with pytest.raises(ValueError) as raised:
        AsyncClient("http://127.0.0.1:1", **given)  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


def test_endpoint_with_a_credential_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="URLs are logged") as raised:
        AsyncClient("http://ann:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(raised.value)
