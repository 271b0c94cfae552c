"""`debug`: the bundle has what a report needs, and none of the secrets that are planted around it."""

from __future__ import annotations

import base64
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.cli.debug import sources
from syncline.cli.debug.redaction import REMOVED, Redactor, is_secret_name
from syncline.client import Client
from tests.helpers.command import environment, syncline
from tests.helpers.http_server import refused_url
from tests.helpers.running_server import running_server
from tests.unit.test_server_app import free_ports, settings

SECRET = "5f4632aa0c1be7d3" * 4
SECRET_BASE64 = base64.b64encode(bytes.fromhex(SECRET)).decode()
OTHER_SECRET = base64.b64encode(b"another cluster secret of 32 byte").decode()
TOKEN = "syncline_" + "Zm9vYmFy_-0123456789" * 2 + "abc"
PASSWORD = "correct horse"
VALUE = "the value of the key"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPlantedKeyMaterial\n-----END EC PRIVATE KEY-----"

LOG = f"""\
2026-11-29T20:00:00.000+00:00 INFO    a node: reaches b (5f4632aa0c1be7d3)
2026-11-29T20:00:01.000+00:00 INFO    a x: Authorization: Bearer {TOKEN}
2026-11-29T20:00:02.000+00:00 INFO    a x: a proxy sent Authorization: Basic dXNlcjpodW50ZXIy
2026-11-29T20:00:03.000+00:00 INFO    a x: secret in another spelling {SECRET_BASE64}, {SECRET.upper()}
2026-11-29T20:00:04.000+00:00 INFO    a x: {{"password": "hunter2-in-json", "user": "root"}}
2026-11-29T20:00:05.000+00:00 INFO    a x: join https://admin:hunter3@10.0.0.1:8080
{PEM}
2026-11-29T20:00:06.000+00:00 INFO    a x: the last line
"""
PLANTED = (
    *(SECRET, SECRET.upper(), SECRET_BASE64, OTHER_SECRET, TOKEN, PASSWORD, VALUE, "MHcCAQEEIPlanted"),
    *("dXNlcjpodW50ZXIy", "hunter2-in-json", "hunter3"),
)


def contents(path: Path) -> dict[str, str]:
    """The members of a bundle, without its folder."""
    with tarfile.open(path) as tar:
        found = {}
        for about in tar.getmembers():
            assert about.isfile()
            assert (about.uid, about.gid, about.mode & 0o077) == (0, 0, 0)
            member = tar.extractfile(about)
            assert member is not None
            folder, _, name = about.name.partition("/")
            assert folder == "bundle"
            found[name] = member.read().decode()
    return found


def test_debug_bundle_has_what_a_report_needs_and_no_secret(tmp_path: Path) -> None:
    place = settings(tmp_path, http_listen=f"127.0.0.1:{free_ports(1)[0]}", peer_secret=SECRET)
    secret = tmp_path / "peer-secret"
    secret.write_text(f"# the new one\n{OTHER_SECRET}\n{SECRET}\n")
    secret.chmod(0o600)
    config, log, bundle = tmp_path / "node.toml", tmp_path / "node.log", tmp_path / "bundle.tar.gz"
    config.write_text(
        f'name = "a"\ndata_dir = "{place.data_dir}"\npeer_secret = "{SECRET}"\nhttp_tls_ca = ""\n'
        f'join_token_file = "{tmp_path}/token"\npeer_listen = "{place.peer_listen}"\n'
    )
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "password").chmod(0o600)
    log.write_text(LOG)
    planted = {
        "SYNCLINE_USER": "root",
        "SYNCLINE_PASSWORD_FILE": str(tmp_path / "password"),
        "SYNCLINE_PEER_SECRET": OTHER_SECRET,
        "SYNCLINE_LOG_LEVEL": "debug",
    }
    with running_server(place) as server, environment(planted):
        with Client(server.http_url) as kv:
            kv.put("a-key", VALUE)
        arguments = ("--config", str(config), "--log-file", str(log), "--data-dir", place.data_dir)
        ran = syncline("debug", "--json", *arguments, "--output", str(bundle), endpoints=server.http_url)
    assert (ran.status, ran.err) == (0, "")
    assert os.stat(bundle).st_mode & 0o777 == 0o600
    found = contents(bundle)
    told = ran.json()
    assert told["file"] == str(bundle)
    assert told["contents"] == [*found]
    for name, text in found.items():
        for word in PLANTED:
            assert word not in text, (name, word)
    with tarfile.open(bundle) as tar:
        assert not [word for word in PLANTED if any(word in member.name for member in tar)]
    assert json.loads(found["nodes/a/status.json"])["role"] == "leader"
    assert "syncline_server_is_leader 1" in found["nodes/a/metrics.txt"]
    assert "[+]linearizable_read ok" in found["nodes/a/readyz.txt"]
    assert json.loads(found["versions.json"])["packages"]["msgspec"]
    assert json.loads(found["environment.json"])["SYNCLINE_LOG_LEVEL"] == "debug"
    assert json.loads(found["environment.json"])["SYNCLINE_PEER_SECRET"] == REMOVED
    kept = next(json.loads(text) for name, text in found.items() if name.startswith("settings/"))
    assert (kept["name"], kept["peer_secret"], kept["join_token_file"]) == ("a", REMOVED, f"{tmp_path}/token")
    lines = next(text for name, text in found.items() if name.startswith("logs/"))
    assert "reaches b (5f4632aa0c1be7d3)" in lines, "ids are no secrets"
    assert '"user": "root"' in lines
    assert lines.endswith("the last line\n")
    listed = next(text for name, text in found.items() if name.startswith("data/"))
    assert "identity" in listed
    assert "wal" in listed
    assert "data-dir" in found["doctor.txt"]
    assert "Contents:" in found["MANIFEST.txt"]


def test_debug_without_a_cluster_says_what_is_missing(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    missing = str(tmp_path / "none")
    arguments = ("--config", missing, "--log-file", missing, "--data-dir", missing, "--output", str(bundle))
    ran = syncline("debug", *arguments, endpoints=refused_url())
    assert ran.status == 0
    manifest = contents(bundle)["MANIFEST.txt"]
    for words in ("the cluster: ", f"{missing}: the configuration file", f"{missing}: No such file or directory"):
        assert words in manifest
        assert f"not in it: {words}" in ran.text


@pytest.mark.parametrize("broken", [False, True])
def test_debug_of_a_directory_that_can_not_be_read_says_what_is_missing(tmp_path: Path, broken: bool) -> None:
    """A file in its place, or a plan of `up` that is damaged, left the user without any bundle."""
    place, bundle = tmp_path / "place", tmp_path / "bundle.tar.gz"
    if broken:
        place.mkdir()
        (place / "up.json").write_text("{")
    else:
        place.write_text("")
    ran = syncline("debug", "--data-dir", str(place), "--output", str(bundle), endpoints=refused_url())
    assert ran.status == 0, ran
    found = contents(bundle)
    if broken:
        assert "up.json" in next(text for name, text in found.items() if name.startswith("data/"))
    else:
        assert f"{place}: Not a directory" in found["MANIFEST.txt"]


def test_debug_never_overwrites_and_leaves_no_part(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    bundle.write_text("mine")
    ran = syncline("debug", "--output", str(bundle), endpoints=refused_url())
    assert (ran.status, ran.error()) == (1, f"syncline: {bundle} exists: name another file with --output")
    assert bundle.read_text() == "mine"
    away = syncline("debug", "--output", str(tmp_path / "no" / "bundle.tar.gz"), endpoints=refused_url())
    assert away.status == 1
    assert "can't be written: No such file or directory" in away.error()
    assert os.listdir(tmp_path) == ["bundle.tar.gz"]


def test_debug_of_an_up_directory_takes_all_its_nodes(tmp_path: Path) -> None:
    from syncline.cli.up.plan import make_plan

    directory = str(tmp_path / "up")
    os.makedirs(directory)
    plan = make_plan(directory, nodes=3, port=None)
    Path(plan.plan_path).write_text(json.dumps({"port": plan.port, "founders": 3, "nodes": 3}))
    found = sources.sources_of((), (), (directory,))
    assert found.data_dirs == [node.data_dir for node in plan.nodes]
    assert found.configs == [node.config_path for node in plan.nodes]
    assert found.logs == [plan.own_log_path, *(node.log_path for node in plan.nodes)]
    assert found.secrets == [plan.secret_path]


def test_debug_log_tail_is_limited_and_begins_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TAIL_BYTES", 1000)
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(1000)))
    text = sources.log_tail(str(log), Redactor())
    assert len(text) <= 2000
    assert text.startswith("line ")
    assert text.endswith("line 999 \\xff\n")


def test_debug_listing_of_a_large_directory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_LISTED", 3)
    for number in range(10):
        (tmp_path / f"{number}\n").touch()
    rows = sources.listing(str(tmp_path)).splitlines()
    assert len(rows) == 5
    assert rows[-1].startswith("… and more")


@given(
    st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=8, max_size=40), st.text(), st.text()
)
def test_redactor_removes_a_known_secret_wherever_it_stands(secret: str, before: str, after: str) -> None:
    if secret in REMOVED or secret.startswith("#"):
        return
    assert secret not in Redactor([secret]).text(f"{before}{secret}{after}").replace(REMOVED, "\0")


@pytest.mark.parametrize(
    ("name", "secret"),
    [("peer_secret", True), ("peer_secret_file", False), ("join_token_file", False), ("SYNCLINE_PASSWORD", True),
     ("tls_dir", False), ("name", False), ("private_key", True)],
)  # fmt: skip
def test_secret_settings_are_told_by_their_names(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_redactor_keeps_json_readable() -> None:
    text = Redactor().text('{"token": "abc", "peer_secret":"x y", "n": 1}')
    assert json.loads(text) == {"token": REMOVED, "peer_secret": REMOVED, "n": 1}
