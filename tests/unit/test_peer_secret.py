"""The cluster secret as a setting: where it comes from, when it is asked for, and that nothing shows it."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import msgspec
import pytest

from syncline.errors import ConfigError
from syncline.node import exposure
from syncline.node.config import Config
from syncline.node.secret_file import new_secret, parse_secrets, read_secret_file, write_secret_file
from syncline.node.term_guard import MAX_TERM_JUMP, TermGuard
from syncline.server.config import ServerConfig, load_config
from syncline.server.exposure import check_exposure
from syncline.transport.tls import PeerTls

ONE, TWO = bytes(range(32)), bytes(range(100, 140))
HUSH = b"hush-" * 8
BASE = {"name": "a", "data_dir": "d"}


async def check_server(config: ServerConfig) -> None:
    await check_exposure(config)


async def check_library(config: Config) -> None:
    await exposure.check_exposure(config)


def secret_file(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


class TestFile:
    @pytest.mark.parametrize(
        "text",
        [
            ONE.hex(),
            ONE.hex().upper() + "\n",
            base64.b64encode(ONE).decode(),
            f"# of the cluster in the cellar\n\n  {ONE.hex()}  \n",
        ],
    )
    def test_secret_in_each_form_is_read(self, tmp_path: Path, text: str) -> None:
        assert read_secret_file(secret_file(tmp_path / "s", text)) == (ONE,)

    def test_several_secrets_keep_their_order(self, tmp_path: Path) -> None:
        text = f"{TWO.hex()}\n{base64.b64encode(ONE).decode()}\n"
        assert read_secret_file(secret_file(tmp_path / "s", text)) == (TWO, ONE)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o611])
    def test_file_that_others_can_reach_is_refused_with_the_command(self, tmp_path: Path, mode: int) -> None:
        path = secret_file(tmp_path / "s", ONE.hex(), mode)
        with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
            read_secret_file(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "holds no secret"),
            ("# nothing\n", "holds no secret"),
            ("hush hush", "line 1 is neither hexadecimal digits nor base64"),
            (HUSH.decode(), "line 1 is neither"),
            (ONE.hex()[:-2], "secret 1 has 31 bytes"),
            (f"{ONE.hex()}\n{ONE.hex()[:20]}", "secret 2 has 10 bytes"),
            (f"{ONE.hex()}\n" * 9, "at most 8"),
            ("ü" * 40, "is not text"),
            ("00" * 10_000, "more than 16384 bytes"),
        ],
    )
    def test_file_without_a_good_secret_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            read_secret_file(secret_file(tmp_path / "s", text))
        assert "hush" not in str(caught.value)
        assert ONE.hex()[:16] not in str(caught.value)

    def test_missing_file_is_refused_with_the_command(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="syncline secret new --output"):
            read_secret_file(str(tmp_path / "none"))

    def test_new_file_is_private_and_never_overwritten(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        before = os.umask(0)
        try:
            write_secret_file(path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        held = read_secret_file(path)
        with pytest.raises(ConfigError, match="never overwritten"):
            write_secret_file(path)
        assert read_secret_file(path) == held

    def test_secret_that_is_not_ascii_is_refused_by_line(self) -> None:
        """The environment may hold any text. The decoder's own error is another one then."""
        with pytest.raises(ConfigError, match="line 1 is neither hexadecimal digits nor base64"):
            parse_secrets("ü" * 40, "SYNCLINE_PEER_SECRET")

    def test_new_secrets_differ(self) -> None:
        made = {new_secret() for _ in range(10)}
        assert len(made) == 10
        assert all(len(parse_secrets(text, "x")[0]) == 32 for text in made)


class TestServer:
    @pytest.mark.parametrize(
        "flags",
        [
            {"peer_listen": "0.0.0.0:7100"},
            {"peer_listen": "[::]:7100"},
            {"peer_listen": "10.0.0.1:7100"},
            {"peer_advertise": "db.invalid:7100"},
            {"initial_cluster": "a=127.0.0.1:7100,b=10.0.0.2:7100"},
            {"join": "http://10.0.0.1:8080", "peer_listen": "10.0.0.2:7100"},
        ],
    )
    async def test_port_beyond_loopback_asks_for_a_secret(self, flags: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match=r"syncline secret new.*--peer-secret-file.*--insecure-peers"):
            await check_server(load_config(environment={}, flags={**BASE, **flags}))
        tls = {"peer_tls_cert": "x", "peer_tls_key": "x", "peer_tls_ca": "x"}
        for enough in ({"peer_secret_file": "f"}, {"insecure_peers": "true"}, {"insecure": "true"}, tls):
            await check_server(load_config(environment={}, flags={**BASE, **flags, **enough}))
        await check_server(load_config(environment={"SYNCLINE_PEER_SECRET": ONE.hex()}, flags={**BASE, **flags}))

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost", "LocalHost"])
    async def test_loopback_asks_for_nothing(self, host: str) -> None:
        members = f"a={host}:7100,b={host}:7101"
        flags = {**BASE, "peer_listen": f"{host}:7100", "initial_cluster": members}
        await check_server(load_config(environment={}, flags=flags))
        with pytest.raises(ConfigError, match="syncline secret new"):
            await check_server(load_config(environment={}, flags={**flags, "peer_listen": "10.0.0.1:7100"}))

    def test_secret_comes_from_the_environment_or_a_file(self, tmp_path: Path) -> None:
        config = load_config(environment={"SYNCLINE_PEER_SECRET": f"{ONE.hex()}\n{TWO.hex()}"}, flags=BASE)
        assert config.peer_secrets() == (ONE, TWO)
        path = secret_file(tmp_path / "s", ONE.hex())
        assert load_config(environment={}, flags={**BASE, "peer_secret_file": path}).peer_secrets() == (ONE,)
        assert load_config(environment={}, flags=BASE).peer_secrets() == ()

    def test_secret_given_twice_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="once"):
            load_config(environment={"SYNCLINE_PEER_SECRET": ONE.hex()}, flags={**BASE, "peer_secret_file": "f"})

    def test_secret_is_in_no_repr_and_no_error(self, tmp_path: Path) -> None:
        config = load_config(environment={"SYNCLINE_PEER_SECRET": HUSH.decode()}, flags=BASE)
        assert "hush" not in repr(config)
        assert "hush" not in str(config.__rich_repr__())
        with pytest.raises(ConfigError) as caught:
            config.peer_secrets()
        assert "hush" not in str(caught.value)
        file = tmp_path / "a.toml"
        file.write_text('name = "a"\ndata_dir = "d"\npeer_secret = ["hush"]\n')
        with pytest.raises(ConfigError, match="peer_secret: expected text") as caught:
            load_config(file=str(file), environment={})
        assert "hush" not in str(caught.value)

    def test_peer_auth_takes_two_words(self) -> None:
        assert load_config(environment={}, flags={**BASE, "peer_auth": "accept"}).peer_auth == "accept"
        with pytest.raises(ConfigError, match="accepted are require, accept"):
            load_config(environment={}, flags={**BASE, "peer_auth": "maybe"})


class TestLibrary:
    @pytest.mark.parametrize("listen", ["0.0.0.0:7100", "[::]:7100", "10.0.0.1:7100", "db.invalid:7100"])
    async def test_port_beyond_loopback_asks_for_a_secret(self, listen: str) -> None:
        base = Config(name="a", data_dir="d", listen=listen, advertise="127.0.0.1:7100")
        with pytest.raises(ConfigError, match="insecure_peers=True"):
            await check_library(base)
        await check_library(msgspec.structs.replace(base, insecure_peers=True))
        await check_library(msgspec.structs.replace(base, secret=ONE))
        tls = PeerTls(certificate="x", key="x", authority="x")
        await check_library(msgspec.structs.replace(base, peer_tls=tls))

    async def test_loopback_asks_for_nothing(self) -> None:
        config = Config(name="a", data_dir="d", listen="127.0.0.1:7100")
        await check_library(config)
        with pytest.raises(ConfigError, match="insecure_peers=True"):
            await check_library(msgspec.structs.replace(config, listen="10.0.0.1:7100"))

    @pytest.mark.parametrize("secret", [b"short", "text" * 10, (ONE, b"short"), ("text" * 10,), 5])
    def test_bad_secret_is_refused_unseen(self, secret: object) -> None:
        with pytest.raises((ConfigError, TypeError)) as caught:
            Config(name="a", data_dir="d", listen="127.0.0.1:1", secret=secret)  # type: ignore[arg-type]
        assert "short" not in str(caught.value)
        assert "text" not in str(caught.value)

    def test_bad_policy_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="'require' or 'accept'"):
            Config(name="a", data_dir="d", listen="127.0.0.1:1", peer_auth="maybe")  # type: ignore[arg-type]

    @pytest.mark.parametrize("secret", [HUSH, (HUSH, ONE)])
    def test_repr_shows_no_secret(self, secret: bytes | tuple[bytes, ...]) -> None:
        config = Config(name="a", data_dir="d", listen="127.0.0.1:1", secret=secret)
        for shown in (repr(config), str(config), str(config.__rich_repr__())):
            assert "hush" not in shown
            assert "secret" in shown
        assert config.secrets[0] == HUSH


def test_term_guard_refuses_a_jump_and_counts_it(caplog: pytest.LogCaptureFixture) -> None:
    guard = TermGuard()
    assert guard.admits(2, 5 + MAX_TERM_JUMP, 5, 0.0)
    assert guard.admits(2, 0, 5, 0.0)
    for _ in range(3):
        assert not guard.admits(2, 2**63 - 1, 5, 0.0)
    assert guard.refused == 3
    assert len(caplog.records) == 1, "said once a minute"
