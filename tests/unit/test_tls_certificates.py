"""A node's own certificates: what is wrong with the files, what they say, their replacement, and their end."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from syncline.consensus.types import NodeId
from syncline.errors import ConfigError
from syncline.platform.certificates import look_at_certificate
from syncline.platform.live_certificate import LiveCertificate
from syncline.server.app import KvServer
from syncline.server.config import ServerConfig, load_config
from syncline.server.exposure import check_exposure
from syncline.server.http.tls import client_certificate
from syncline.transport.tls import PeerTls, peer_certificate
from tests.helpers.certificates import certificates
from tests.helpers.command import syncline
from tests.unit.test_server_app import settings

NODE = NodeId(1)
SETTINGS = ("cert", "key")
DAY_S = 86_400.0


def copied(tmp_path: Path, name: str = "a") -> Path:
    """A directory with the files of a node, which a test may change."""
    directory = tmp_path / "certs"
    directory.mkdir()
    for file, source in (("ca.pem", "ca.pem"), ("a.pem", f"{name}.pem"), ("a.key", f"{name}.key")):
        shutil.copy(certificates() / source, directory / file)
    return directory


def of_peers(directory: Path) -> LiveCertificate:
    files = PeerTls(
        certificate=str(directory / "a.pem"), key=str(directory / "a.key"), authority=str(directory / "ca.pem")
    )
    return peer_certificate(files, NODE, "a")


def damage(directory: Path, case: str) -> None:
    certificate, key, authority = directory / "a.pem", directory / "a.key", directory / "ca.pem"
    if case == "missing certificate":
        certificate.unlink()
    elif case == "empty key":
        key.write_bytes(b"")
    elif case == "certificate is a directory":
        certificate.unlink()
        certificate.mkdir()
    elif case == "certificate is no PEM":
        certificate.write_bytes(os.urandom(500))
    elif case == "certificate is cut off":
        certificate.write_bytes(certificate.read_bytes()[:300])
    elif case == "key is cut off":
        key.write_bytes(key.read_bytes()[:-40])
    elif case == "key is a certificate":
        key.write_bytes(certificate.read_bytes())
    elif case == "key of another certificate":
        shutil.copy(certificates() / "b.key", key)
    elif case == "chain in the wrong order":
        certificate.write_bytes(authority.read_bytes() + certificate.read_bytes())
    elif case == "encrypted key":
        command = ["openssl", "pkey", "-aes256", "-passout", "pass:geheim", "-in", str(key), "-out", f"{key}.2"]
        subprocess.run(command, check=True, capture_output=True)
        os.replace(f"{key}.2", key)
    elif case == "missing authority":
        authority.unlink()
    elif case == "authority is that of a node":
        authority.write_bytes(certificate.read_bytes())
    elif case == "authority without PEM":
        authority.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif case == "first authority without its end":
        end = b"-----END CERTIFICATE-----\n"
        authority.write_bytes(authority.read_bytes().replace(end, b"") + authority.read_bytes())
    elif case == "second authority is indented":
        authority.write_bytes(authority.read_bytes() + b"  " + authority.read_bytes())
    elif case == "issuer in the chain is indented":
        certificate.write_bytes(certificate.read_bytes() + b"  " + authority.read_bytes())
    elif case == "another authority":
        shutil.copy(certificates() / "foreign" / "ca.pem", authority)
    elif case == "too large":
        authority.write_bytes(b"x" * (2 << 20))


FILES = {
    "missing certificate": r"certificate '.*a\.pem' can't be used: no such file or directory",
    "empty key": r"key '.*a\.key' can't be used: the file is empty",
    "certificate is a directory": r"certificate '.*a\.pem' can't be used: is a directory",
    "certificate is no PEM": r"certificate '.*a\.pem' holds no PEM certificate",
    "certificate is cut off": r"certificate '.*a\.pem' can't be used: it is cut off",
    "key is cut off": r"key '.*a\.key' can't be used: it is cut off",
    "key is a certificate": r"key '.*a\.key' holds no PEM private key",
    "key of another certificate": r"key '.*a\.key' is not the key of the first certificate in",
    "chain in the wrong order": r"in a chain the node's own certificate comes first",
    "encrypted key": r"key '.*a\.key' is encrypted, .*write it without one \(openssl pkey -in",
    "missing authority": r"authority '.*ca\.pem' can't be used: no such file",
    "authority is that of a node": r"authority '.*ca\.pem' can't be used: it holds no authority's certificate",
    "authority without PEM": r"authority '.*ca\.pem' can't be used: it holds no PEM certificate, or a damaged one",
    "first authority without its end": r"authority '.*ca\.pem' can't be used: line \d+ is out of place",
    "second authority is indented": r"authority '.*ca\.pem' can't be used: line \d+ is out of place",
    "issuer in the chain is indented": r"certificate '.*a\.pem' can't be used: line \d+ is out of place",
    "another authority": r"is not from the authority in '.*ca\.pem'",
    "too large": r"authority '.*ca\.pem' can't be used: it has more than",
}


@pytest.mark.parametrize("case", FILES)
def test_tls_files_that_can_not_be_used_are_told(tmp_path: Path, case: str) -> None:
    directory = copied(tmp_path)
    secret = (directory / "a.key").read_text().splitlines()[1]
    damage(directory, case)
    with pytest.raises(ConfigError, match=FILES[case]) as caught:
        of_peers(directory)
    assert "peer TLS" in str(caught.value)
    assert secret not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_tls_authority_that_is_commented_out_is_passed_over(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    authority = directory / "ca.pem"
    lines = (certificates() / "foreign" / "ca.pem").read_text().splitlines()
    authority.write_text("".join(f"#{line}\n" for line in lines) + authority.read_text())
    of_peers(directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_tls_key_that_is_unreadable_is_told(tmp_path: Path) -> None:
    directory = copied(tmp_path)
    (directory / "a.key").chmod(0)
    with pytest.raises(ConfigError, match=r"key '.*a\.key' can't be used: permission denied"):
        of_peers(directory)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("b", "names b, localhost, and not this node: it needs the subjectAltName DNS:a"),
        ("serveronly", "is not for clientAuth: a node dials its peers"),
        ("clientonly", "is not for serverAuth"),
    ],
)
def test_peer_certificate_that_others_would_refuse_is_refused_at_start(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        of_peers(copied(tmp_path, name))


def test_client_certificate_without_server_usage_is_refused_at_start(tmp_path: Path) -> None:
    files = {"http_tls_cert": str(certificates() / "app.pem"), "http_tls_key": str(certificates() / "app.key")}

    async def opened() -> None:
        await KvServer.open(settings(tmp_path, **files))  # type: ignore[arg-type]

    import asyncio

    with pytest.raises(ConfigError, match="is not for a server: its extendedKeyUsage lacks serverAuth"):
        asyncio.run(opened())


def test_certificate_facts_are_those_of_the_file() -> None:
    directory = certificates()
    facts = look_at_certificate(str(directory / "a.pem"), str(directory / "a.key"), settings=SETTINGS)
    assert facts.dns == ("a", "db.example", "localhost")
    assert facts.addresses == ("127.0.0.1", "0:0:0:0:0:0:0:1")
    assert (facts.for_servers, facts.for_clients) == (True, True)
    assert round((facts.not_after_s - facts.not_before_s) / DAY_S) == 90
    covered = {host: facts.covers(host) for host in ("DB.example", "::1", "127.0.0.1", "[::1]", "10.0.0.1", "c")}
    assert covered == {
        "DB.example": True, "::1": True, "127.0.0.1": True, "[::1]": True, "10.0.0.1": False, "c": False,
    }  # fmt: skip
    expired = look_at_certificate(str(directory / "expired.pem"), str(directory / "expired.key"), settings=SETTINGS)
    assert expired.not_after_s < expired.not_before_s + 400 * DAY_S


class TestReplacement:
    def test_new_files_are_taken_when_they_have_settled(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        directory = copied(tmp_path)
        live = of_peers(directory)
        before, days = live.server.current, live.days_left
        live.look()
        live.look()
        assert live.reloads == 0
        for file in ("serveronly.pem", "serveronly.key"):  # in two steps, and a look in between
            shutil.copy(certificates() / file, directory / f"a{Path(file).suffix}")
            live.look()
        assert live.reloads == 0
        assert live.server.current is before
        live.look()
        assert live.reloads == 0, "it is not for clientAuth"
        assert live.server.current is before
        assert live.days_left == pytest.approx(days, abs=0.01)
        live.look()
        bad = [line for line in caplog.messages if "are not used, the old ones stay in use" in line]
        assert len(bad) == 1
        assert "is not for clientAuth" in bad[0]
        for suffix in ("pem", "key"):
            shutil.copy(certificates() / f"others.{suffix}", directory / f"a.{suffix}")
        live.look()
        live.look()
        assert live.reloads == 0, "it names another node"
        for suffix in ("pem", "key"):
            shutil.copy(certificates() / f"name.{suffix}", directory / f"a.{suffix}")
        live.look()
        live.look()
        assert live.reloads == 1
        assert live.server.current is not before
        assert live.days_left > days or live.days_left > 30
        assert "the certificate for peers was replaced by" in caplog.messages[-1]

    def test_new_authorities_are_told_as_such(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Both authorities in one file is the first step of their change: the log shows that this node has it."""
        caplog.set_level(logging.INFO)
        directory = copied(tmp_path)
        live = of_peers(directory)
        with (directory / "ca.pem").open("ab") as file:
            file.write((certificates() / "foreign" / "ca.pem").read_bytes())
        live.look()
        live.look()
        assert live.reloads == 1
        told = f"the authorities for peers were replaced by {directory / 'ca.pem'}; new connections use them"
        assert caplog.messages[-1] == told

    def test_new_files_that_have_expired_are_not_taken(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        directory = copied(tmp_path)
        live = of_peers(directory)
        for suffix in ("pem", "key"):
            shutil.copy(certificates() / f"expired.{suffix}", directory / f"a.{suffix}")
        live.look()
        live.look()
        assert live.reloads == 0
        assert "has expired on 2021-01-01 00:00 UTC" in caplog.messages[-1]

    def test_files_that_vanish_change_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        directory = copied(tmp_path)
        live = of_peers(directory)
        shutil.rmtree(directory)
        for _ in range(5):
            live.look()
        assert live.reloads == 0
        assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("left_days", "told"),
    [
        (31.0, []),
        (29.0, ["ends in 29 days", "ends in 28 days"]),
        (0.5, ["ends in 0 days", "has expired on"]),
        (-1.0, ["has expired on", "has expired on"]),
    ],
)
def test_certificate_near_its_end_is_warned_of_daily(
    left_days: float, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Over two days, looked at every hour."""
    directory = certificates()
    names = (str(directory / "b.pem"), str(directory / "b.key"))
    real = client_certificate(*names)
    now_s = real.facts.not_after_s - left_days * DAY_S
    live = LiveCertificate("clients", names, real._load, wall_time_s=lambda: now_s)
    assert live.days_left == pytest.approx(left_days)
    end_s = now_s + 2 * DAY_S - 1
    while now_s < end_s:
        live.look()
        now_s += 3600.0
    if left_days == 31.0:
        told = ["ends in 30 days"]
    assert [line for line, text in zip(caplog.messages, told, strict=True) if text not in line] == []


class TestExposure:
    @pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80"])
    async def test_clients_port_beyond_loopback_asks_for_tls(self, listen: str) -> None:
        base = {"name": "a", "data_dir": "d", "http_listen": listen}
        with pytest.raises(ConfigError, match=r"syncline certs.*--tls-dir.*--insecure-clients"):
            await check_exposure(load_config(environment={}, flags=base))
        for enough in ({"insecure_clients": "true"}, {"insecure": "true"}, {"tls_dir": "certs"}):
            await check_exposure(load_config(environment={}, flags={**base, **enough}))
        await check_exposure(load_config(environment={}, flags={**base, "http_listen": "localhost:0"}))

    async def test_name_that_can_not_be_resolved_is_told_as_the_reason(self) -> None:
        """The cluster may have started with it, and its resolver be away now."""
        flags = {"name": "a", "data_dir": "d", "http_listen": "no-such-host.invalid:80"}
        with pytest.raises(ConfigError, match=r"no-such-host\.invalid can't be resolved now, so it counts as another"):
            await check_exposure(load_config(environment={}, flags=flags))
        flags |= {"http_listen": "127.0.0.1:80", "peer_listen": "no-such-host.invalid:7100"}
        with pytest.raises(ConfigError, match=r"no-such-host\.invalid can't be resolved now.*--peer-secret-file"):
            await check_exposure(load_config(environment={}, flags=flags))
        with pytest.raises(ConfigError) as raised:
            await check_exposure(load_config(environment={}, flags={**flags, "peer_listen": "10.0.0.1:7100"}))
        assert "resolved" not in str(raised.value)

    async def test_insecure_peers_opens_the_peer_port_alone(self) -> None:
        flags = {"name": "a", "data_dir": "d", "http_listen": "0.0.0.0:8080", "insecure_peers": "true"}
        with pytest.raises(ConfigError, match="http_listen"):
            await check_exposure(load_config(environment={}, flags=flags))

    def test_tls_directory_stands_for_six_settings(self) -> None:
        config = ServerConfig(name="a", data_dir="d", tls_dir="certs", http_tls_cert="own.pem", http_tls_key="own.key")
        assert config.http_tls_cert == "own.pem"
        assert (config.peer_tls_cert, config.peer_tls_key) == ("certs/a.pem", "certs/a.key")
        assert config.peer_tls_ca == config.join_tls_ca == "certs/ca.pem"
        assert config.http_scheme == "https"

    def test_plain_advertised_url_beside_tls_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="clients are served over TLS: write https://"):
            ServerConfig(name="a", data_dir="d", tls_dir="certs", http_advertise="http://kv.example:8080")
        with pytest.raises(ConfigError, match="http_tls_ca needs"):
            ServerConfig(name="a", data_dir="d", http_tls_ca="ca.pem")


class TestCommand:
    def test_certs_makes_files_that_fit_together(self, tmp_path: Path) -> None:
        directory = tmp_path / "made"
        assert syncline("certs", "ca", "--dir", str(directory)).status == 0
        assert syncline("certs", "node", "a", "c", "--host", "db.example", "--dir", str(directory)).status == 0
        assert syncline("certs", "client", "app", "--dir", str(directory)).status == 0
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        keys = {name: mode for name, mode in modes.items() if name.endswith(".key")}
        assert keys == dict.fromkeys(("ca.key", "a.key", "c.key", "app.key"), 0o600)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        of_peers(directory)
        app = look_at_certificate(str(directory / "app.pem"), str(directory / "app.key"), settings=SETTINGS)
        assert (app.dns, app.for_servers, app.for_clients) == ((), False, True)

    def test_certs_overwrites_nothing(self, tmp_path: Path) -> None:
        directory = str(copied(tmp_path))
        shutil.copy(certificates() / "ca.key", tmp_path / "certs" / "ca.key")
        before = {path: path.read_bytes() for path in (tmp_path / "certs").iterdir()}
        for arguments in (("ca",), ("node", "a"), ("client", "a")):
            ran = syncline("certs", *arguments, "--dir", directory)
            assert ran.status == 2
            assert "exists, and is not overwritten" in ran.error()
        assert before == {path: path.read_bytes() for path in (tmp_path / "certs").iterdir()}
        assert syncline("certs", "node", "a", "--replace", "--dir", directory).status == 0
        assert (tmp_path / "certs" / "a.pem").read_bytes() != before[tmp_path / "certs" / "a.pem"]
        assert sorted(path.name for path in (tmp_path / "certs").iterdir()) == ["a.key", "a.pem", "ca.key", "ca.pem"]
        of_peers(tmp_path / "certs")

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("node", "a"), "there is no authority in"),
            (("node", "ca"), "choose another"),
            (("node", "localhost"), "choose another name"),
            (("node", "ü"), "name"),
            (("node", "a/b"), "name"),
            (("node", "a", "--host", "b:80"), "is not a host name or an address, without a port"),
            (("node", "a", "--host", "x\ny"), "is not a host name"),
            (("node", "a", "--days", "0"), "--days"),
        ],
    )
    def test_certs_refuses_what_can_not_be_made(self, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
        if "authority" not in told:
            assert syncline("certs", "ca", "--dir", str(tmp_path)).status == 0
        ran = syncline("certs", *arguments, "--dir", str(tmp_path))
        assert ran.status == 2
        assert told in ran.error()
        assert not (tmp_path / "a.pem").exists()

    def test_certs_with_the_key_of_an_earlier_authority_is_refused(self, tmp_path: Path) -> None:
        """After a change of the authority `ca.pem` is the new one, and its key is where it was made."""
        old, new = tmp_path / "certs", tmp_path / "new"
        for directory in (old, new):
            assert syncline("certs", "ca", "--dir", str(directory)).status == 0
        both = (old / "ca.pem").read_bytes() + (new / "ca.pem").read_bytes()
        (old / "ca.pem").write_bytes(both)
        assert syncline("certs", "node", "a", "--dir", str(old)).status == 0, "the old one still issues"
        shutil.copy(new / "ca.pem", old / "ca.pem")
        ran = syncline("certs", "node", "b", "--dir", str(old))
        assert ran.status == 2
        assert "is not the key of the first certificate in" in ran.error()
        assert "give --dir the directory in which this authority was made" in ran.error()
        assert not (old / "b.pem").exists()

    def test_certs_refuses_a_host_that_names_another_node(self, tmp_path: Path) -> None:
        assert syncline("certs", "ca", "--dir", str(tmp_path)).status == 0
        assert syncline("certs", "node", "db", "--dir", str(tmp_path)).status == 0
        ran = syncline("certs", "node", "a", "--host", "db.example", "--dir", str(tmp_path))
        assert "would name the node db as well" in ran.error()

    def test_certs_without_openssl_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        ran = syncline("certs", "ca", "--dir", str(tmp_path / "certs"))
        assert ran.status == 2
        assert "install the package openssl" in ran.error()
