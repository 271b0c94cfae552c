"""The server's settings: three sources, one set of names, and errors that say where and what."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from syncline.errors import ConfigError
from syncline.node.naming import is_id
from syncline.server.addresses import check_address, check_name, check_url, join_address, split_address
from syncline.server.config import ServerConfig, load_config
from syncline.server.logs import JsonFormatter, TextFormatter, set_up_logging

BASE = {"name": "a", "data_dir": "d"}


def test_flags_beat_the_environment_and_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        'name = "file"\ndata_dir = "file"\ncluster = "file"\nelection_s = 3\n[initial_cluster]\nflag = "h:1"\n'
    )
    config = load_config(
        file=str(file),
        environment={
            "SYNCLINE_DATA_DIR": "env",
            "SYNCLINE_NAME": "env",
            "SYNCLINE_ELECTION_S": "2.5",
            "SYNCLINE_PEER_SECRET_FILE": "x",
            "PATH": "x",
        },
        flags={"name": "flag", "http_listen": None},
    )
    assert (config.name, config.data_dir, config.cluster, config.election_s) == ("flag", "env", "file", 2.5)
    assert config.initial_cluster == {"flag": "h:1"}
    assert config.http_listen == "127.0.0.1:8080"


def test_text_forms() -> None:
    config = load_config(
        environment={
            "SYNCLINE_INITIAL_CLUSTER": "a=10.0.0.1:7100, b=[::1]:7100",
            "SYNCLINE_JOIN_AS_LEARNER": "true",
            "SYNCLINE_MAX_VALUE_BYTES": "2048",
            "SYNCLINE_INSECURE_PEERS": "true",
        },
        flags=BASE,
    )
    assert config.initial_cluster == {"a": "10.0.0.1:7100", "b": "[::1]:7100"}
    assert config.join_as_learner is True
    assert config.max_value_bytes == 2048
    joined = load_config(environment={}, flags={**BASE, "join": "http://a:1, http://b:2,"})
    assert joined.join == ("http://a:1", "http://b:2")


def test_lists_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('name = "a"\ndata_dir = "d"\njoin = ["http://b:1"]\n')
    assert load_config(file=str(file), environment={}).join == ("http://b:1",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"name": "a"}, "data_dir is not set: give --data-dir, SYNCLINE_DATA_DIR"),
        ({"nam": "a"}, "--nam: there is no such setting; did you mean name?"),
        ({"zzz": "a"}, "there are: name, data_dir"),
        ({**BASE, "name": "a b"}, "name: 'a b' is not a node's name"),
        ({**BASE, "name": "0123456789abcdef"}, "looks like a node's id"),
        ({**BASE, "data_dir": ""}, "data_dir is empty"),
        ({**BASE, "cluster": ""}, "cluster is empty"),
        ({**BASE, "http_listen": "8080"}, "http_listen: '8080' is not an address such as"),
        ({**BASE, "peer_listen": "h:0"}, "peer_listen: 'h:0' is not an address"),
        ({**BASE, "peer_advertise": "0.0.0.0:7100"}, "means every interface"),
        ({**BASE, "http_advertise": "h:8080"}, "http_advertise: 'h:8080' is not a URL"),
        ({**BASE, "log_level": "loud"}, "--log-level = 'loud': accepted are debug, info, warning, error"),
        ({**BASE, "max_key_bytes": "0"}, "--max-key-bytes = '0': expected `int` >= 1"),
        ({**BASE, "max_value_bytes": "17000000"}, "expected `int` <= 16777216"),
        ({**BASE, "election_s": "soon"}, "--election-s = 'soon': expected `float`"),
        ({**BASE, "election_s": 0.15}, "at least twice heartbeat_s"),
        ({**BASE, "initial_cluster": "a=h:1,b=h:1"}, "'a' and 'b' the same address, h:1"),
        ({**BASE, "initial_cluster": "a=0.0.0.0:1"}, "means every interface"),
        ({**BASE, "peer_listen": "0.0.0.0:7100", "join": "http://h:1"}, "Give peer_advertise"),
        ({**BASE, "initial_cluster": "b=h:1"}, "names b but not this node, 'a'"),
        ({**BASE, "initial_cluster": "a"}, "expected name=host:port,name=host:port"),
        ({**BASE, "initial_cluster": "a=h:1,a=h:2"}, "each name once"),
        ({**BASE, "initial_cluster": "a=h"}, "initial_cluster: a: 'h' is not an address"),
        ({**BASE, "initial_cluster": "a=h:1", "join": "http://b:1"}, "not both"),
        ({**BASE, "join": "b:1"}, "join: 'b:1' is not a URL"),
        ({**BASE, "http_tls_cert": "x"}, "go together"),
        ({**BASE, "peer_tls_cert": "x"}, "go together"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_accepted(flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environment={}, flags=flags)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("election_timeout = 1\n", "election_timeout: there is no such setting; did you mean election_s"),
        ('name = "a"\ndata_dir = "d"\n[http]\nlisten = "x"\n', "http: there is no such setting"),
        ("name = 5\n", "name = 5: expected `str`, got `int`"),
        ('name = "a"\nmax_key_bytes = "5x"\n', "max_key_bytes = '5x': expected `int`"),
        ("name = \n", "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_the_setting(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file=str(file), environment={})
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_config(file=str(tmp_path / "no.toml"), environment={})


def test_misspelt_variables_are_refused_and_foreign_ones_left_alone() -> None:
    foreign = {"SYNCLINE_PORT": "tcp://1.2.3.4:80", "SYNCLINE_SERVICE_HOST": "1.2.3.4", "SYNCLINE_ENDPOINTS": "x"}
    assert load_config(environment=foreign, flags=BASE).name == "a"
    with pytest.raises(ConfigError, match="SYNCLINE_DATADIR: there is no such setting; did you mean data_dir"):
        load_config(environment={"SYNCLINE_DATADIR": "x"}, flags=BASE)


def test_limits_follow_the_sizes() -> None:
    config = ServerConfig(name="a", data_dir="d", max_key_bytes=4096, max_value_bytes=8 << 20)
    limits = config.http_limits()
    assert limits.max_url_bytes >= 3 * 4096 + 1024
    assert limits.max_body_bytes >= 8 << 20
    assert limits.max_held_bytes >= limits.max_body_bytes
    assert config.http_url("::1", 80) == "http://[::1]:80"
    assert ServerConfig(name="a", data_dir="d", http_advertise="https://x/").http_url("h", 1) == "https://x"


@pytest.mark.parametrize("address", ["h:1", "10.0.0.1:65535", "[::1]:7100", "a-b.c_d.example:1", "[fe80::1%eth0]:1"])
def test_addresses(address: str) -> None:
    assert join_address(*split_address(address)) == address
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":1",
        "h",
        "h:",
        "h:0",
        "h:65536",
        "h:-1",
        "h: 1",
        "::1:7100",
        "[::1]",
        "[h]:1",
        "a b:1",
        "h:1/x",
        "-h:1",
        "h:\u0661",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError):
        split_address(address)


def test_names_urls_and_ids() -> None:
    assert check_name("node-1.example_a") == "node-1.example_a"
    for bad in ("", "-a", "a-", "a/b", "é", "x" * 65):
        with pytest.raises(ConfigError):
            check_name(bad)
    assert check_url("http://h:80/") == "http://h:80"
    assert check_url("https://[::1]") == "https://[::1]"
    for bad in ("h:80", "http://", "http://h:80/path", "http://u@h:80", "http://h:x", "http://0.0.0.0:1"):
        with pytest.raises(ConfigError):
            check_url(bad)
    assert is_id("00ff00ff00ff00FF")
    assert not is_id("ff")


# --- log lines


def record(message: str, *, error: bool = False, **extra: object) -> logging.LogRecord:
    info = None
    if error:
        try:
            raise ValueError("why")
        except ValueError:
            info = sys.exc_info()
    made = logging.LogRecord("syncline.server", logging.WARNING, "f.py", 1, message, (), info)
    made.__dict__.update(extra)
    return made


def test_json_lines_carry_everything() -> None:
    line = json.loads(JsonFormatter(node="a").format(record("two\nlines", error=True, peer="b", size_bytes=5, odd={1})))
    assert (line["level"], line["logger"], line["message"], line["node"]) == (
        "warning",
        "syncline.server",
        "two\nlines",
        "a",
    )
    assert (line["peer"], line["size_bytes"]) == ("b", 5)
    assert line["time"].endswith("+00:00")
    assert "ValueError: why" in line["error"]


def test_text_lines_are_one_line() -> None:
    line = TextFormatter(node="a").format(record("two\nlines", peer="b c", n=1))
    assert line.endswith("WARNING a server: two\\nlines peer='b c' n=1")
    assert TextFormatter().format(record("x", error=True)).endswith("ValueError: why")


def test_logging_goes_to_the_stream() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    level = root.level
    handler = set_up_logging(level="warning", style="json", node="a", stream=stream)
    try:
        logging.getLogger("syncline.test").info("hidden")
        logging.getLogger("syncline.test").warning("shown", extra={"n": 1})
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert json.loads(stream.getvalue())["n"] == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"initial_cluster": ["a=h:1"]}, "initial_cluster"),
        ({"join": "http://a:1"}, "join"),
        ({"allowed_hosts": "a"}, "allowed_hosts"),
        ({"election_s": "5"}, "election_s"),
        ({"http_listen": 5}, "http_listen"),
        ({"max_key_bytes": "5"}, "max_key_bytes"),
        ({"insecure": "yes"}, "insecure"),
        ({"name": None}, "name"),
    ],
)
def test_server_config_field_of_a_wrong_type_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(TypeError, match=f"^{named} = .*got"):
        ServerConfig(**{**BASE, **changes})


@pytest.mark.parametrize("changes", [{"drain_s": float("nan")}, {"join_timeout_s": float("inf")}, {"heartbeat_s": 0}])
def test_server_config_number_that_is_no_time_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        ServerConfig(**{**BASE, **changes})


def test_server_config_secret_of_a_wrong_type_is_not_shown() -> None:
    secret: Any = b"hunter2"
    with pytest.raises(TypeError) as caught:
        ServerConfig(name="a", data_dir="d", peer_secret=secret)
    assert "hunter2" not in str(caught.value)


def test_server_config_takes_paths_and_lists(tmp_path: Path) -> None:
    path: Any = tmp_path
    urls: Any = ["http://b:1"]
    config = ServerConfig(name="a", data_dir=path, join=urls)
    assert (config.data_dir, config.join) == (str(tmp_path), ("http://b:1",))
