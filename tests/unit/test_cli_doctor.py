"""`doctor`: what each check finds, in words with the next step; the exit status; and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from syncline.cli.doctor import disk, machine, network
from syncline.cli.doctor.certificates import check_certificates
from syncline.cli.doctor.finding import Finding, Verdict, summary_of, verdict_of
from syncline.errors import ConfigError
from syncline.platform.disk import OsDisk
from syncline.platform.resolver import Resolver
from syncline.server.config import ServerConfig
from tests.helpers.certificates import certificates
from tests.helpers.command import Ran, syncline
from tests.helpers.http_server import HttpRequest, Reply, error_reply, in_thread, json_reply, refused_url
from tests.helpers.running_server import running_server
from tests.unit.test_cli_cluster import member, status
from tests.unit.test_server_app import free_ports, settings

DAY_S = 86_400.0


def config(tmp_path: Path, **more: object) -> ServerConfig:
    values: dict[str, object] = {"heartbeat_s": 0.1, "election_s": 1.0, **more}
    return settings(tmp_path, "a", None, **values)


def found(ran: Ran, check: str) -> list[dict[str, str]]:
    checks = ran.json()["checks"]
    assert isinstance(checks, list)
    return [one for one in checks if one["check"] == check]


def told(findings: Sequence[Finding], verdict: str, *words: str) -> bool:
    return any(one.verdict == verdict and all(word in one.line for word in words) for one in findings)


@pytest.mark.parametrize(
    ("verdicts", "line"),
    [
        (("ok",), "1 check passed, 0 warnings, 0 failed"),
        (("ok", "warn", "ok"), "2 checks passed, 1 warning, 0 failed"),
        (("skip", "warn", "fail", "warn"), "0 checks passed, 2 warnings, 1 failed"),
    ],
)
def test_doctor_summary_counts_in_the_right_number(verdicts: tuple[Verdict, ...], line: str) -> None:
    assert summary_of(Finding("disk", verdict, "") for verdict in verdicts) == line


def test_doctor_next_to_a_running_node_finds_nothing_wrong(tmp_path: Path) -> None:
    place = settings(tmp_path, http_listen=f"127.0.0.1:{free_ports(1)[0]}")
    file = tmp_path / "node.toml"
    lines = {name: getattr(place, name) for name in ("name", "data_dir", "http_listen", "peer_listen")}
    file.write_text("".join(f'{name} = "{value}"\n' for name, value in lines.items()) + "reserve_bytes = 1048576\n")
    with running_server(place) as server:
        ran = syncline("doctor", "--json", "--config", str(file), "--endpoints", server.http_url)
        text = syncline("doctor", "--skip-disk-speed", "--config", str(file), "--endpoints", server.http_url)
    checks = {one["check"] for name in ("version", "settings", "cluster") for one in found(ran, name)}
    assert checks == {"version", "settings", "cluster"}
    assert [one["verdict"] for one in found(ran, "port")] == ["ok", "ok"]
    assert all("held by the running node a" in one["text"] for one in found(ran, "port"))
    assert [one["verdict"] for one in found(ran, "data-dir")] == ["ok"]
    assert [one["verdict"] for one in found(ran, "clock")] == ["ok"]
    assert [one["verdict"] for one in found(ran, "versions")] == ["ok"]
    assert "a leads, 1 member" in found(ran, "cluster")[0]["text"]
    [speed] = found(ran, "disk-speed")
    assert "a sync takes" in speed["text"]
    assert found(ran, "descriptors")
    assert found(ran, "memory")
    assert found(ran, "timers")
    rows = text.text.splitlines()
    assert rows[-1].endswith("failed")
    assert not [row for row in rows if "disk-speed" in row]
    assert all(row.split()[0] in {"ok", "warn", "fail", "skip"} for row in rows[:-1])
    assert [name for name in os.listdir(place.data_dir) if "doctor" in name] == [], "the measured file is removed"


def test_doctor_status_is_1_if_a_check_failed(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = tmp_path / "node.toml"
        file.write_text(f'name = "a"\ndata_dir = "{tmp_path}/a"\nhttp_listen = "127.0.0.1:{port}"\n')
        ran = syncline("doctor", "--skip-disk-speed", "--config", str(file), "--endpoints", refused_url())
    assert ran.status == 1
    assert ran.err == ""
    assert (
        f"fail  port          http_listen 127.0.0.1:{port} is in use by another program. Stop that program" in ran.text
    )
    assert "fail  cluster" in ran.text


@pytest.mark.parametrize(
    ("code", "status", "verdicts", "words"),
    [
        ("starting", 503, ["ok", "ok"], "a node that is starting answers here"),
        ("unauthenticated", 401, ["warn", "warn"], "Is it this node?"),
        ("", 401, ["fail", "fail"], "in use by another program"),
    ],
)
def test_doctor_calls_a_node_no_other_program(
    tmp_path: Path, code: str, status: int, verdicts: list[str], words: str
) -> None:
    """In a rolling upgrade a node that starts is in no survey: nobody may be told to stop it."""

    async def handler(_: HttpRequest) -> Reply:
        return error_reply(status, code, message=f"it is {code}") if code else json_reply({"error": "no"}, status)

    file = tmp_path / "node.toml"
    with in_thread(handler) as [double], socket.create_server(("127.0.0.1", 0)) as peer:
        lines = [
            f'http_listen = "{double.url.partition("//")[2]}"',
            f'peer_listen = "127.0.0.1:{peer.getsockname()[1]}"',
        ]
        file.write_text("\n".join(['name = "a"', f'data_dir = "{tmp_path}/a"', *lines]))
        ran = syncline("doctor", "--json", "--skip-disk-speed", "--config", str(file), "--endpoints", double.url)
    ports = found(ran, "port")
    assert [one["verdict"] for one in ports] == verdicts
    assert all(words in f"{one['text']}. {one['advice']}" for one in ports)
    assert [one["verdict"] for one in found(ran, "cluster")] == ["warn" if code == "starting" else "fail"]


def test_doctor_reports_settings_that_can_not_be_used(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('name = "a"\ndata_dir = "d"\nelection_s = 0.0001\n')
    ran = syncline("doctor", "--json", "--skip-disk-speed", "--config", str(file))
    assert ran.status == 1
    [finding] = found(ran, "settings")
    assert finding["verdict"] == "fail"
    assert "election_s" in finding["text"]
    missing = syncline("doctor", "--json", "--skip-disk-speed", "--config", str(tmp_path / "none.toml"))
    assert missing.status == 1
    assert "none.toml" in found(missing, "settings")[0]["text"]


def answering(answer: dict[str, object], date: str) -> object:
    async def handler(request: HttpRequest) -> Reply:
        if request.path == "/version":
            return json_reply({"version": "0.1.0"}, Date=date)
        return json_reply(answer)

    return handler


@pytest.mark.parametrize(
    ("date", "words"),
    [
        ("Tue, 01 Jan 2030 00:00:00 GMT", "ahead of this one"),
        ("Sat, 01 Jan 2000 00:00:00 GMT", "behind this one"),
        ("yesterday", "no readable Date"),
    ],
)
def test_doctor_compares_clocks_and_versions(date: str, words: str) -> None:
    answer: dict[str, object] = {}
    with in_thread(answering(answer, date)) as [double]:  # type: ignore[arg-type]
        answer |= status("a", double.url, "leader", [member("a", double.url)]) | {"version": "0.0.9"}
        ran = syncline("doctor", "--json", "--skip-disk-speed", "--endpoints", double.url)
    assert words in found(ran, "clock")[0]["text"]
    [versions] = found(ran, "versions")
    assert versions["verdict"] == "warn"
    assert "0.0.9" in versions["text"]


def test_doctor_data_dir_findings_name_path_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = config(tmp_path)
    assert told(list(disk.check_data_dir(place)), "ok", "can be made in", str(tmp_path))
    os.makedirs(place.data_dir)
    os.chmod(place.data_dir, 0o777)
    assert told(list(disk.check_data_dir(place)), "warn", "other users may change files", "chmod go-w")
    os.chmod(place.data_dir, 0o755)
    assert told(list(disk.check_data_dir(place)), "ok", "can write it")
    Path(place.data_dir, "identity").touch()
    assert told(list(disk.check_data_dir(place)), "warn", "every user of the machine may read", "chmod o-rwx")
    os.chmod(place.data_dir, 0o700)
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("identity"))
    assert told(list(disk.check_data_dir(place)), "fail", "such as identity", "chown")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert told(list(disk.check_data_dir(place)), "fail", "can't be read and written", "chown")
    away = config(tmp_path, data_dir=str(tmp_path / "x" / "y"))
    assert told(list(disk.check_data_dir(away)), "fail", "can't make it in")
    monkeypatch.undo()
    file = tmp_path / "file"
    file.touch()
    assert told(list(disk.check_data_dir(config(tmp_path, data_dir=str(file)))), "fail", "is no directory")
    reserved = config(tmp_path, reserve_bytes=64 << 20)
    for free_mib, verdict, words in ((10, "fail", "kept in reserve"), (100, "warn", "log and snapshots may take")):
        monkeypatch.setattr(OsDisk, "free_bytes", lambda *_, free_mib=free_mib: free_mib << 20)
        assert told(list(disk.check_data_dir(reserved)), verdict, f"{free_mib} MiB are free", words)


@pytest.mark.parametrize(
    ("kind", "verdict", "words"),
    [
        ("tmpfs", "fail", "in memory"),
        ("nfs4", "warn", "network"),
        ("overlay", "warn", "container"),
        ("xfs", "ok", "xfs"),
    ],
)
def test_doctor_judges_the_kind_of_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, verdict: str, words: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nbroken\nx {tmp_path}/with\\040space {kind} rw 0 0\n")
    place = tmp_path / "with space"
    place.mkdir()
    assert disk.file_system(str(place / "data"), str(mounts)) == kind
    assert disk.file_system(str(tmp_path), str(mounts)) == "ext4"
    assert disk.file_system(str(tmp_path), str(tmp_path / "none")) == ""
    monkeypatch.setattr(disk, "file_system", lambda _: kind)
    assert told(list(disk.check_data_dir(config(place))), verdict, words)


@pytest.mark.parametrize(
    ("median_s", "high_s", "verdict", "words"),
    [
        (0.000_005, 0.000_01, "warn", "faster than any device"),
        (0.0004, 0.002, "ok", "good"),
        (0.004, 0.03, "ok", "usable"),
        (0.03, 0.2, "warn", "slow"),
        (0.03, 0.7, "fail", "would lose its place"),
    ],
)
def test_doctor_gives_a_verdict_on_the_speed_of_syncs(median_s: float, high_s: float, verdict: str, words: str) -> None:
    assert told([disk.sync_verdict([median_s] * 97 + [high_s] * 3, 1.0)], verdict, words)


def test_doctor_measures_no_disk_that_it_can_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(directory: str) -> list[float]:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), directory)

    monkeypatch.setattr(disk, "measure_syncs", refused)
    finding = disk.check_syncs(config(tmp_path))
    assert (finding.verdict, "Read-only file system" in finding.text) == ("skip", True)


def test_doctor_descriptors_and_memory_are_compared_with_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    place = config(tmp_path, max_connections=10_000, max_store_bytes=64 << 20)
    for hard, verdict in ((resource.RLIM_INFINITY, "ok"), (20_000, "ok"), (1024, "warn"), (200, "fail")):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (hard, hard))
        assert machine.check_descriptors(place).verdict == verdict
    for limit, verdict in ((0, "skip"), (1 << 30, "ok"), (128 << 20, "warn"), (32 << 20, "fail")):
        monkeypatch.setattr(machine, "memory_bytes", lambda limit=limit: limit)
        assert machine.check_memory(place).verdict == verdict


def test_doctor_secrets_must_be_for_their_owner(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("00" * 32)
    place = config(tmp_path, peer_secret_file=str(secret))
    secret.chmod(0o644)
    assert told(list(machine.check_secret(place)), "fail", "can be read by other users", "chmod 600")
    with pytest.raises(ConfigError):
        place.peer_secrets()
    key = config(tmp_path, http_tls_key=str(secret), http_tls_cert=str(secret))
    assert told(list(machine.check_secret(key)), "warn", "http_tls_key", "chmod 600")
    token = config(tmp_path, join_token_file=str(secret))
    assert told(list(machine.check_secret(token)), "fail", "join_token_file", "chmod 600")
    secret.chmod(0o600)
    assert told(list(machine.check_secret(place)), "ok", "its owner alone")
    secret.unlink()
    assert told(list(machine.check_secret(place)), "fail", "No such file")


def test_doctor_certificates_are_judged_by_their_dates(tmp_path: Path) -> None:
    """A node with an expired certificate starts, and all others refuse it."""
    place = config(tmp_path, tls_dir=str(certificates()), http_tls_ca=str(certificates() / "ca.pem"))
    now_s = time.time()
    assert [one.verdict for one in check_certificates(place, now_s)] == ["ok", "ok"]
    soon = list(check_certificates(place, now_s + 70 * DAY_S))
    assert told(soon, "warn", "http_tls_cert", "ends in 20 days")
    assert told(soon, "warn", "peer_tls_cert", "ends in 20 days")
    late = list(check_certificates(place, now_s + 91 * DAY_S))
    assert told(late, "fail", "peer_tls_cert", "has expired on", "others refuse it")
    assert told(list(check_certificates(place, now_s - 2 * DAY_S)), "fail", "compare the clocks")
    assert list(check_certificates(config(tmp_path))) == []


def test_doctor_certificates_of_another_authority_fail(tmp_path: Path) -> None:
    foreign = str(certificates() / "foreign" / "ca.pem")
    place = config(tmp_path, tls_dir=str(certificates()), peer_tls_ca=foreign, http_tls_ca=foreign)
    first, second = check_certificates(place)
    assert first.verdict == "ok", "clients may have an authority of their own"
    assert second.verdict == "fail"
    assert "is not from the authority in" in second.line
    missing = config(tmp_path, http_tls_cert=str(tmp_path / "no.pem"), http_tls_key=str(tmp_path / "no.key"))
    assert told(list(check_certificates(missing)), "fail", "http_tls_cert")


async def test_doctor_timers_are_judged_by_the_timers_of_the_node(tmp_path: Path) -> None:
    patient = config(tmp_path, heartbeat_s=50.0, election_s=100.0)
    assert (await machine.check_timers(patient)).verdict == "ok"
    strict = cast("ServerConfig", SimpleNamespace(heartbeat_s=1e-12, election_s=1e-11))
    assert (await machine.check_timers(strict)).verdict == "fail"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EADDRINUSE, "in use by another program"),
        (errno.EACCES, "may not listen"),
        (errno.EADDRNOTAVAIL, "no address of this machine"),
        (errno.EPERM, "Operation not permitted"),
    ],
)
def test_doctor_ports_that_can_not_be_bound_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    monkeypatch.setattr(network, "_bind_error", lambda *_: OSError(code, os.strerror(code)))
    place = config(tmp_path, http_listen="127.0.0.1:8080", peer_listen="127.0.0.1:7100")
    findings = list(network.check_ports(place, {("http_listen", 8080): "b"} if code == errno.EADDRINUSE else {}))
    assert told(findings, "fail", words, "peer_listen")
    if code == errno.EADDRINUSE:
        assert told(findings, "ok", "held by the running node b")


async def test_doctor_looks_up_each_name_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"b.example": "10.0.0.2", "own.example": "127.0.1.1"}

    async def addresses(_: object, host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(2, 1, 6, "", (known[host], port))]

    monkeypatch.setattr(Resolver, "addresses", addresses)
    place = config(
        tmp_path,
        initial_cluster={"a": "own.example:7100", "b": "b.example:7100", "c": "c.example:7100", "d": "10.0.0.4:7100"},
        peer_listen="10.0.0.1:7100",
    )
    findings = [finding async for finding in network.check_names(place)]
    assert told(findings, "ok", "b.example is 10.0.0.2")
    assert told(findings, "warn", "own.example is 127.0.1.1, a loopback address", "/etc/hosts")
    assert told(findings, "fail", "c.example (initial_cluster: c)", "not known", "Correct the name")
    assert len(findings) == 3


async def test_doctor_dials_each_other_member(tmp_path: Path) -> None:
    async def served(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gone = free_ports(1)[0]
    members = {"a": "127.0.0.1:7100", "b": f"127.0.0.1:{port}", "c": f"127.0.0.1:{gone}"}
    place = config(tmp_path, initial_cluster=members, heartbeat_s=50.0, election_s=100.0)
    async with server:
        findings = [finding async for finding in network.check_peers(place)]
    assert told(findings, "ok", "b at", "a round trip takes")
    assert told(findings, "warn", "c at", "Is the node up")
    assert len(findings) == 2


def test_doctor_verdict_is_the_worst() -> None:
    def one(verdict: str) -> Finding:
        return msgspec.convert({"check": "x", "verdict": verdict, "text": ""}, Finding)

    assert verdict_of([one("ok"), one("skip")]) == "ok"
    assert verdict_of([one("ok"), one("warn")]) == "warn"
    assert verdict_of([one("warn"), one("fail")]) == "fail"
