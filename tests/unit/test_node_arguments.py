"""Arguments of calls: wrong types and values are named before anything is queued."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from syncline.consensus.types import ChangeType
from syncline.errors import ConfigError
from syncline.node.arguments import (
    check_changes,
    check_config,
    check_expected,
    check_timeout,
    checked_bytes,
    checked_commands,
    checked_flag,
    checked_kinds,
    checked_member,
)
from syncline.node.events import Event, LeaderChanged
from syncline.node.naming import check_http, check_id, check_name, dialled_address


def test_arguments_bytes_of_any_kind_are_copied_to_bytes() -> None:
    """The owner of a bytearray may change it while the command waits."""
    data = bytearray(b"abc")
    taken = checked_bytes(data)
    data[0] = 0
    assert (taken, type(taken)) == (b"abc", bytes)
    assert checked_bytes(memoryview(b"abc")[1:]) == b"bc"
    assert checked_commands((b"a", bytearray(b"b"))) == [b"a", b"b"]


@pytest.mark.parametrize("data", ["7", 7, None, [1], {"a": 1}, object()])
def test_arguments_data_that_are_no_bytes_are_a_type_error(data: object) -> None:
    with pytest.raises(TypeError, match="data must be bytes, not"):
        checked_bytes(data)


@pytest.mark.parametrize(
    ("commands", "named"), [(b"abc", "sequence"), ("abc", "sequence"), ([b"a", "b"], r"commands\[1\]")]
)
def test_arguments_commands_of_a_wrong_type_are_a_type_error(commands: object, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        checked_commands(commands)


@pytest.mark.parametrize("timeout", ["5", None, True, [1]])
def test_arguments_timeout_of_a_wrong_type_is_a_type_error(timeout: object) -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        check_timeout(timeout)


@pytest.mark.parametrize("timeout", [0, -1, 3601, math.nan, math.inf])
def test_arguments_timeout_out_of_range_is_a_config_error(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout is"):
        check_timeout(timeout)


@pytest.mark.parametrize("value", ["1", 1.0, True, None])
def test_arguments_id_of_a_wrong_type_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="node_id must be an int"):
        check_id(value, "node_id", none=True)


@pytest.mark.parametrize("value", [-3, 2**63, 2**64 - 1, 2**64 - 2])
def test_arguments_id_out_of_range_is_a_config_error(value: int) -> None:
    with pytest.raises(ConfigError, match=f"node_id is {value}"):
        check_id(value, "node_id", none=True)


def test_arguments_id_zero_is_accepted_only_as_none() -> None:
    assert check_id(0, "node_id", none=True) == 0
    assert check_id(2**63 - 1, "node_id") == 2**63 - 1
    with pytest.raises(ConfigError, match="node_id is 0"):
        check_id(0, "node_id")


@pytest.mark.parametrize("address", [5, None, b"h:1"])
def test_arguments_address_of_a_wrong_type_is_a_type_error(address: object) -> None:
    with pytest.raises(TypeError, match="address must be a str"):
        dialled_address(address)


@pytest.mark.parametrize(
    "address", ["", "h", "h:0", "h:70000", "0.0.0.0:1", "[::]:1", "[0:0::0]:1", "*:1", "0:1", "::1:5", "\ud800:1 "]
)
def test_arguments_address_that_none_can_dial_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        dialled_address(address)


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a\nb", "a=b", "a/b", "\ud800"])
def test_arguments_name_that_is_none_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        check_name(name)


@pytest.mark.parametrize("name", ["0123456789abcdef", "0123456789ABCDEF", "f" * 16, "0" * 16])
def test_arguments_name_like_an_id_is_a_config_error(name: str) -> None:
    """A call takes a member by name or id: with such a name it could mean another member."""
    with pytest.raises(ConfigError, match="looks like a node's id"):
        check_name(name)
    assert check_name(name[:15]) == name[:15]
    assert checked_member(name) == name, "as an id"


def test_arguments_name_http_and_flag_of_a_wrong_type_are_type_errors() -> None:
    for wrong in (lambda: check_name(5), lambda: check_http(5), lambda: checked_flag(1, "promote")):
        with pytest.raises(TypeError, match="must be a"):
            wrong()
    with pytest.raises(ConfigError, match="http"):
        check_http("http://h\n")


@pytest.mark.parametrize("changes", ["ab", 5, [5], [(ChangeType.ADD_NODE,)], [("ADD_NODE", 5)], [(0, 5)]])
def test_arguments_changes_of_a_wrong_type_are_a_type_error(changes: object) -> None:
    with pytest.raises(TypeError, match="changes"):
        check_changes(changes)


@pytest.mark.parametrize(
    "changes",
    [
        [(ChangeType.ADD_NODE, 0)],
        [(ChangeType.ADD_NODE, 2**64 - 1)],
        [(ChangeType.UPDATE_NODE, 5)],
        [(ChangeType.ADD_NODE, 5), (ChangeType.REMOVE_NODE, 5)],
    ],
)
def test_arguments_changes_that_make_no_sense_are_a_config_error(changes: object) -> None:
    with pytest.raises(ConfigError, match="changes"):
        check_changes(changes)


def test_arguments_config_of_a_wrong_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"config must be a syncline\.Config, not dict"):
        check_config({"name": "a"})


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("cluster.toml", "a file is read by syncline.load_config('cluster.toml')"),
        (Path("/etc/cluster.toml"), "a file is read by syncline.load_config('/etc/cluster.toml')"),
        ("raft:cluster.toml", "a URL of an engine is for syncline.open(url, machine)"),
        ("postgresql://me:secret@host/db", "a URL of an engine is for syncline.open(url, machine)"),
    ],
)
def test_arguments_config_as_a_text_names_the_function_for_it(given: object, hint: str) -> None:
    """`Jobs.open` takes a path and a URL; `Raft.open` takes neither."""
    with pytest.raises(TypeError) as raised:
        check_config(given)
    assert str(raised.value).endswith(f": {hint}")
    assert "secret" not in str(raised.value)


def test_arguments_expected_index_is_none_or_an_index() -> None:
    assert check_expected(None) is None
    assert check_expected(5) == 5
    with pytest.raises(TypeError, match="expected_index"):
        check_expected("5")


@pytest.mark.parametrize("kind", [5, "leader", [LeaderChanged], None, int, LeaderChanged(None)])
def test_arguments_kinds_of_a_wrong_type_are_a_type_error(kind: object) -> None:
    with pytest.raises(TypeError, match=r"kinds must be classes of events, as in events\(syncline.LeaderChanged\)"):
        checked_kinds((LeaderChanged, kind))


def test_arguments_kinds_are_classes_of_events() -> None:
    assert checked_kinds(()) == []
    assert checked_kinds((LeaderChanged, Event)) == [LeaderChanged, Event]
