"""Settings, each declared once: files with lines, the environment, flags, help."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncline import Config, add_config_flags, load_config
from syncline.errors import ConfigError
from syncline.node.config import SETTINGS as NODE
from syncline.node.settings.declare import Setting, flag_of
from syncline.node.settings.load import COMBINED, HIDDEN, NO_EFFECT, SAME_AS, SETTINGS
from syncline.node.settings.sources import gather
from syncline.node.settings.toml_file import LARGEST_FILE_BYTES, lines_of
from syncline.server import ServerConfig
from syncline.server import load_config as load_server_config
from syncline.server.config import SERVER_SETTINGS
from tests.helpers.doc_examples import PYTHON

DOCS = Path(__file__).resolve().parents[2] / "docs"

FILE = """\
# a node
name = "a"
data_dir = "d"

allowed_hosts = [
    "kv.example",
]
heartbeat_s = 0.5
election_s = 0.6

[initial_cluster]
a = "127.0.0.1:7100"
"""


def refused(path: Path, text: str, **more: dict[str, str]) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment=more.get("environment", {}), flags=more.get("flags"))
    return str(caught.value)


# -- declarations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [*NODE.values(), *SERVER_SETTINGS.values()], ids=lambda one: one.name)
def test_setting_has_a_text_a_default_and_limits(declared: Setting) -> None:
    assert len(declared.text) > 10
    assert declared.text.endswith(".")
    assert declared.required == (declared.name in ("name", "data_dir", "listen"))
    number = declared.kind in (int, float) and declared.name not in ("cluster_id", "node_id")
    assert bool(declared.accepted) == (number or bool(declared.choices))
    assert (declared.unit != "") == declared.name.endswith(("_s", "_bytes"))


@pytest.mark.parametrize("name", [name for name, one in NODE.items() if one.accepted and not one.choices])
def test_setting_of_a_node_that_is_a_number_has_a_trade_off(name: str) -> None:
    assert NODE[name].trade_off


@pytest.mark.parametrize(("struct", "known"), [(Config, NODE), (ServerConfig, SERVER_SETTINGS)])
def test_setting_is_shown_by_help(struct: type[msgspec.Struct], known: dict[str, Setting]) -> None:
    text = inspect.getdoc(struct) or ""
    for declared in known.values():
        (entry,) = re.findall(rf"(?m)^{declared.name}: .*(?:\n    .*)+", text)
        assert declared.required or f"= {declared.default!r}" in entry.splitlines()[0]
        told = " ".join(entry.split())
        assert all(part in told for part in (declared.text, declared.unit, declared.accepted, declared.trade_off))


def test_setting_that_node_and_server_have_is_declared_once() -> None:
    both = [name for name in NODE if name in SERVER_SETTINGS]
    assert len(both) > 12
    for name in both:
        assert (NODE[name].text, NODE[name].accepted, NODE[name].default) == (
            SERVER_SETTINGS[name].text,
            SERVER_SETTINGS[name].accepted,
            SERVER_SETTINGS[name].default,
        )
    for name in COMBINED:
        assert SETTINGS[name].text == SERVER_SETTINGS[name].text


@pytest.mark.parametrize("name", [name for name, one in NODE.items() if one.kind in (int, float)])
def test_setting_outside_its_limits_is_refused(name: str) -> None:
    declared = NODE[name]
    good = {"name": "a", "data_dir": "d", "listen": "127.0.0.1:1"}
    for limit, beyond in ((declared.least, -1), (declared.most, 1)):
        if limit is not None:
            with pytest.raises(ConfigError, match=rf"^{name} is .*: it must be {declared.accepted}") as caught:
                Config(**good, **{name: declared.kind(limit) + beyond})  # type: ignore[arg-type]
            assert caught.value.settings == (name,)


# -- files ------------------------------------------------------------------------------------------------------------


def test_toml_lines_are_those_at_which_settings_begin() -> None:
    text = (
        'a = 1\r\n# b = 2\n\n"c" = """\nd = 4\n"""\ne.x = 1\ne.y = 2\nf = [\n  1,\n  2]  # [g]\n'
        "h = { a = 1 }\n[[i]]\na = 1\n[[i]]\nb = 1\n[j.k]\na = 1\n[j]\nl = 2\n"
    )
    assert lines_of(text) == {"a": 1, "c": 4, "e": 7, "f": 9, "h": 12, "i": 13, "j": 17}


def test_toml_lines_behind_a_long_list_are_found_in_time() -> None:
    """Each line of a list was read again with all lines before it: ten thousand lines took three minutes."""
    long = "a = [\n" + "1,\n" * 5_000 + "]\n"
    before_s = time.process_time()
    assert lines_of(long + "b = 2\n") == {"a": 1, "b": 5_003}
    nested = "a = [\n" + "[1],\n" * 5_000 + "]\n"
    assert "a" not in lines_of(nested + "b = 2\n")  # given up: a setting without a line
    assert time.process_time() - before_s < 5


def test_settings_file_of_nested_lists_is_refused(tmp_path: Path) -> None:
    assert "nests lists too deep" in refused(tmp_path / "deep.toml", "name = " + "[" * 20_000)


@pytest.mark.parametrize("flags", [5, "name=a", [("name", "a")]])
def test_load_config_flags_of_another_type_are_refused(flags: object) -> None:
    with pytest.raises(TypeError, match=r"^flags must be a mapping or the result of a parser, not "):
        load_config(environment={}, flags=flags)  # type: ignore[arg-type]


def test_settings_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    assert "has more than 1048576 bytes" in refused(tmp_path / "large.toml", "#" * (LARGEST_FILE_BYTES + 1))


def test_settings_that_contradict_each_other_are_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    said = refused(path, FILE)
    assert said.startswith(f"{path}, lines 8 and 9: election_s is 0.6: it must be at least twice heartbeat_s (0.5)")
    said = refused(path, FILE, flags={"heartbeat_s": "0.4"})
    assert said.startswith(f"{path}, line 9 and --heartbeat-s: election_s is 0.6")
    said = refused(path, FILE, environment={"SYNCLINE_NAME": "b"}, flags={"election_s": "9"})
    assert said.startswith(f"{path}, line 11 and environment variable SYNCLINE_NAME: peers names a but not")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}, lines 8 and 9: election_s is 0\.6"):
        load_server_config(file=str(path), environment={})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name = ", ": Invalid value (at end of document)"),
        ('name = "a"', ": data_dir is not set: give it there, or by SYNCLINE_DATA_DIR"),
        ('\nnmae = "a"', ", line 2: nmae: there is no such setting; did you mean name?"),
        ("\n\nzzz = 1", ", line 3: zzz: there is no such setting; there are: name, data_dir, listen"),
        ('name = "a"\ndata_dir = "d"\nelection_s = "x"', ", line 3: election_s = 'x': expected `float`"),
        ('name = "a"\ndata_dir = "d"\nelection_s = 9999', ", line 3: election_s = 9999: expected `float` <= 3600.0"),
        ('name = "a"\ndata_dir = 7', ", line 2: data_dir = 7: expected `str`, got `int`"),
        ('name = "a"\ndata_dir = "d"\nlog_sync = "aio"', ", line 3: log_sync = 'aio': accepted are auto, kernel, th"),
        ('name = "a"\ndata_dir = "d"\npeer_listen = "x:1"\nlisten = "y:1"', ", line 4: listen: peer_listen and listen"),
        ('name = "a"\ndata_dir = "d"\npeer_listen = "x"', ", line 3: listen 'x'"),
        ('name = "a b"\ndata_dir = "d"', ", line 1: name 'a b': 1 to 128"),
        ('name = "a"\ndata_dir = "d"\njoin = ["http://h"]', ", line 3: join: a node of the library has no servers"),
        ('name = "a"\ndata_dir = "d"\npeer_tls_key = "k"', ", line 3: peer_tls_cert, peer_tls_key and peer_tls_ca go"),
        ('name = "a"\ndata_dir = "d"\npeer_secret = 7', ", line 3: peer_secret: expected text"),
        ('name = "a"\ndata_dir = "d"\nsecret = "s"', ", line 3: secret: it has no text form; use peer_secret_file"),
        ('name = "a"\ndata_dir = "d"\npeer_secret = "xyz"', ", line 3: peer_secret: line 1 is neither hexadecimal"),
        ('name = "a"\ndata_dir = "d"\npeer_secret_file = "/none"', ", line 3: the secret file /none can't be read"),
        ('name = "a"\ndata_dir = "d"\n[peers]\n"a b" = "h:1"', ", line 3: a name in peers 'a b'"),
        ('name = "a"\ndata_dir = "d"\nmax_inflight_bytes = 9', ", line 3: max_inflight_bytes is less than"),
    ],
)
def test_setting_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "cluster.toml"
    said = refused(path, text)
    assert f"{path}{error}" in said or f"{path} is not TOML{error}" in said
    assert "xyz" not in said


def test_settings_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_config(tmp_path / "none.toml", environment={})


# -- sources ----------------------------------------------------------------------------------------------------------


def test_settings_flags_beat_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(FILE.replace("0.6", "3"))
    environment = {"SYNCLINE_DATA_DIR": "env", "SYNCLINE_ELECTION_S": "4", "SYNCLINE_LISTEN": "127.0.0.1:1"}
    flags = {"election_s": "5", "peer_listen": "127.0.0.1:2", "cluster": None}
    config = load_config(path, environment=environment, flags=flags)
    assert (config.name, config.data_dir, config.election_s) == ("a", "env", 5.0)
    assert (config.listen, config.cluster) == ("127.0.0.1:2", "syncline")
    assert config.peers == {"a": "127.0.0.1:7100"}
    config = load_config(path, environment={"SYNCLINE_PEERS": "a=h:1, b=h:2", "SYNCLINE_INSECURE_PEERS": "true"})
    assert (config.peers, config.insecure_peers) == ({"a": "h:1", "b": "h:2"}, True)


def test_settings_protection_is_read_from_its_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("5f" * 32)
    secret.chmod(0o600)
    path = tmp_path / "cluster.toml"
    path.write_text(f'data_dir = "d"\npeer_secret_file = "{secret}"\ntls_dir = "certs"\ninsecure = true\n')
    config = load_config(path, environment={"SYNCLINE_NAME": "b", "SYNCLINE_PEER_LISTEN": "127.0.0.1:7777"})
    assert (config.name, config.data_dir, config.listen) == ("b", "d", "127.0.0.1:7777")
    assert config.secrets == (b"\x5f" * 32,)
    assert config.peer_tls is not None
    assert config.peer_tls.certificate.endswith("certs/b.pem")
    assert config.insecure_peers
    config = load_config(path, environment={"SYNCLINE_NAME": "b", "SYNCLINE_PEER_SECRET": "6f" * 32})
    assert config.secrets == (b"\x6f" * 32,), "the environment overrides the file"
    twice = {"peer_secret": "6f" * 32, "peer_secret_file": str(secret), "name": "b"}
    with pytest.raises(ConfigError, match=r"^--peer-secret and --peer-secret-file: give the cluster secret once"):
        load_config(path, environment={}, flags=twice)


def test_settings_of_a_server_are_taken_or_have_no_effect(tmp_path: Path) -> None:
    known = {*NODE, *SAME_AS, *COMBINED, *NO_EFFECT, "join"}
    assert set(ServerConfig.__struct_fields__) - known == set()
    assert (NO_EFFECT | COMBINED | SAME_AS.keys()) - set(ServerConfig.__struct_fields__) == set()
    assert set(SAME_AS.values()) <= set(NODE)


def test_settings_leave_other_environment_variables_alone() -> None:
    """Those of the command, of its children, and of Kubernetes for a service of that name."""
    others = ("ENDPOINTS", "CACERT", "CERT", "KEY_FILE", "TOKEN", "TOKEN_FILE", "USER", "PASSWORD_FILE", "LOCK", "ONCE")
    more = ("LEADER", "WATCH_KEY", "WATCH_TYPE", "PORT", "SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_8080_TCP_ADDR")
    environment = {f"SYNCLINE_{name}": "x" for name in (*others, *more)}
    assert load_config(environment=environment, flags={"name": "a", "data_dir": "d"}).listen == "127.0.0.1:7100"
    with pytest.raises(ConfigError, match="SYNCLINE_HEARTBEATS: there is no such setting; did you mean heartbeat_s"):
        load_config(environment={"SYNCLINE_HEARTBEATS": "1"}, flags={"name": "a", "data_dir": "d"})


def test_settings_without_a_source_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("SYNCLINE_")]:
        monkeypatch.delenv(variable)
    with pytest.raises(ConfigError, match=r"^name is not set: give it by --name, in a file, or by SYNCLINE_NAME$"):
        load_config()
    monkeypatch.setenv("SYNCLINE_NAME", "a")
    assert load_config(flags={"data_dir": "d"}).name == "a"
    assert gather(["name"]) == {}


def test_settings_flags_of_a_program_make_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", default="4")
    add_config_flags(parser)
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\ndata_dir = "d"\n')
    flags = parser.parse_args(["--config", str(path), "--heartbeat-s", "0.2", "--insecure-peers", "--peers", "a=h:1"])
    config = load_config(environment={}, flags=flags)
    assert (config.name, config.heartbeat_s, config.insecure_peers, config.peers) == ("a", 0.2, True, {"a": "h:1"})
    with pytest.raises(ConfigError, match=r"^--heartbeat-s = 'soon': expected `float`"):
        load_config(environment={}, flags=parser.parse_args(["--config", str(path), "--heartbeat-s", "soon"]))
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name in SETTINGS.keys() - HIDDEN:
        assert f"{flag_of(name)} " in told
    assert "Accepted: from 0.002 to 3600. [default: 1.0 s]" in told
    assert "--secret " not in told


# -- documentation ----------------------------------------------------------------------------------------------------


def test_docs_of_configuration_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "configuration.md").read_text()
    secret = tmp_path / "peer-secret"
    secret.write_text("5f" * 32)
    secret.chmod(0o600)
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "cluster.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCLINE_NAME", "b")
    names: dict[str, Any] = {"help": lambda _: None}
    for code in PYTHON.findall(text):
        exec(compile(code, "docs/configuration.md", "exec"), names)
    config = names["from_a_file"]()
    assert (config.name, sorted(config.peers), config.secrets) == ("b", ["a", "b", "c"], (b"_" * 32,))
    assert names["config_of_my_program"](["--config", "cluster.toml", "--election-s", "3"]).election_s == 3.0


def test_docs_of_configuration_errors_are_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```$", (DOCS / "configuration.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    path = Path("cluster.toml")
    base = 'name = "a"\ndata_dir = "d"\n\n'
    said = [
        refused(path, base + 'election_s = "soon"\n'),
        refused(path, base + "\n\n\nelectoin_s = 2.0\n"),
        refused(path, base + "heartbeat_s = 0.5\n\n\n\n\nelection_s = 0.6\n"),
        refused(path, base + "\n\n\n\n\nelection_s = 0.6\n", flags={"heartbeat_s": "0.4"}),
        refused(path, base, environment={"SYNCLINE_HEARTBEATS": "1"}),
    ]
    assert shown.splitlines() == said


def rows(known: dict[str, Setting]) -> str:
    """The table of settings, as `docs/configuration.md` has it."""
    lines = ["| setting | default | accepted | what it does |", "| --- | --- | --- | --- |"]
    for name, one in known.items():
        default = "required" if one.required else one.shown_default.replace("|", "\\|")
        accepted = f"{one.accepted} {one.unit}".strip() or one.type_text.replace("|", "\\|")
        told = one.text + (f" *{one.trade_off}*" if one.trade_off else "")
        lines.append(f"| `{name}` | {default} | {accepted} | {told} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("heading", "known"), [("A node", NODE), ("A server", SERVER_SETTINGS)])
def test_docs_of_configuration_have_all_settings(heading: str, known: dict[str, Setting]) -> None:
    text = (DOCS / "configuration.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    shown = {name: one for name, one in known.items() if known is NODE or name not in NODE}
    assert section[section.index("| setting") :].rstrip() == rows(shown).rstrip()
