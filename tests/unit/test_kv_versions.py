"""Commands of later versions of the key-value machine: not proposed too early, and never taken for bad ones."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from syncline.errors import NodeFailed, Rejected
from syncline.kv.auth.commands import TokenAdd
from syncline.kv.auth.records import login_text
from syncline.kv.commands import (
    Command,
    Compact,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    Put,
    Touch,
    Txn,
    authorised,
    encode_command,
)
from syncline.kv.machine import KvMachine
from syncline.kv.versions import FIELDS, LOGIN_VERSION, MACHINE_VERSION, SINCE, check_version, is_later
from syncline.node.fsm import Entry
from tests.helpers.auth_commands import AUTH_COMMANDS

encode = msgspec.msgpack.encode
UNKNOWN = 100
LATER = [
    [26, b"k"],
    [25, "ann", b"", 1, [26]],
    [14, True, 1],
    [100],
    [0, b"k", b"v", 0, None, 0, False, 1],
    [1, b"k", None, False, "a field of a later version"],
    [5, [], [[26, b"k"]], []],
    [5, [], [], [[0, b"k", b"v", 0, None, 0, False, 1]]],
    [5, [], [[5, [], [[27]], []]], []],
    [5, [], [], [], 1],
    [5, [[b"k", max(CompareTarget) + 1, 0, 1]], [], []],
    [5, [[b"k", 0, max(Comparison) + 1, 1]], [], []],
    [5, [[b"k", 0, 0, 1, None, 1]], [], []],
    [6, 1, 1000, "a field of a later version"],
    [7, 1, 1],
    [8, [1], 1, [0], 1],
    [9, [[1, 1]], 1, [1], 1],
    [10, b"k", 1, 0, False, 1],
    [11, b"k", 1, 1, 1],
    [12, 1, 0, 1],
    [13, [], 1],
    [13, [[26, b"k"]]],
    [13, [[0, b"k", b"v"], [5, [], [], [[3, b"k", 0, 1]]]]],
    [13, [[5, [[b"k", 0, 0, 1, None, 1]], [], []]]],
]
BAD = [
    [],
    [0],
    [0, "k", b"v"],
    [128, b"k"],
    [-1],
    ["14"],
    {"tag": 14},
    [6, 0, 1000],
    [6, 1, 0],
    [7, 2**63],
    [8, [0], 1],
    [8, 1, 1],
    [9, [[1]], 1],
    [9, [[1, 1, 1]], 1],
    [10, b"k", 2**63],
    [10, b""],
    [11, b"k", 1, 0],
    [12, -1],
    [13, 1],
    [13],
    [13, [[6, 1, 1000]]],
    [13, [[13, []]]],
    [3, b"k"],
    [4, b"", None],
    [5, 1, 2, 3],
    [5, [], [[0]], []],
    [5, [[b"k", -1, 0, 1]], [], []],
    [5, [[b"k", 0, 0]], [], []],
]


@pytest.mark.parametrize("command", LATER, ids=repr)
def test_machine_stops_at_a_command_of_a_later_version(command: list[object]) -> None:
    """Another answer than that of the newer nodes would be another state, unnoticed."""
    machine = KvMachine()
    data = encode(command)
    assert is_later(data)
    for call in (lambda: machine.apply(Entry(1, 1, data)), lambda: machine.apply_batch([Entry(1, 1, data)])):
        with pytest.raises(NodeFailed, match=r"log entry 1 holds a command of a later version .* newer version"):
            call()
    assert machine.store.revision == 0


@pytest.mark.parametrize("command", BAD, ids=repr)
def test_machine_rejects_a_bad_command_of_its_own_version(command: object) -> None:
    data = encode(command)
    assert not is_later(data)
    with pytest.raises(Rejected) as raised:
        KvMachine().apply(Entry(1, 1, data))
    assert raised.value.code == "bad_command"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x94\x05\x90\x91" * 100_000, b"\x92\x0e"])
def test_bytes_that_are_no_messagepack_are_no_later_command(data: bytes) -> None:
    assert not is_later(data)


def test_command_is_refused_until_the_cluster_has_its_version() -> None:
    delete = encode_command(Delete(b"k"))
    since = {**SINCE, 1: 2}
    with pytest.raises(Rejected, match="needs machine version 2, and the cluster is at version 1") as raised:
        check_version(delete, 1, since)
    assert raised.value.code == "needs_upgrade"
    check_version(delete, 2, since)
    check_version(encode_command(Put(b"k", b"v")), 1, since)


def test_each_command_of_this_version_has_its_since() -> None:
    """A new command without one could be proposed while older members don't know it: it is refused instead."""
    commands: tuple[Command, ...] = (
        Put(b"k", b"v"),
        Delete(b"k"),
        DeleteRange(b"a", b"b"),
        Txn(then=(Get(b"k"),)),
        LeaseGrant(1, 1000),
        LeaseRevoke(1),
        LeaseEnd((1,), 1),
        LeaseCheckpoint(((1, 1),), 1),
        Increment(b"k"),
        Touch(b"k", 1000, 1),
        Compact(1),
        OperationBatch((Get(b"k"),)),
        *AUTH_COMMANDS.values(),
    )
    assert {type(command) for command in commands} == set(get_args(Command))
    for command in commands:
        check_version(encode_command(command), MACHINE_VERSION)
    assert max(*SINCE.values(), LOGIN_VERSION) == MACHINE_VERSION
    assert UNKNOWN not in FIELDS
    with pytest.raises(Rejected):
        check_version(encode([UNKNOWN]), MACHINE_VERSION)


@pytest.mark.parametrize("of_user", [False, True])
def test_login_token_is_refused_until_all_members_end_it_with_its_password(of_user: bool) -> None:
    """An older member keeps it: it would apply a command that newer members refuse, and the states would differ."""

    def encoded(about: str) -> bytes:
        data = encode_command(TokenAdd(bytes(8), bytes(32), "ann", 1, 0, about))
        return authorised(data, "ann", b"", 3) if of_user else data

    with pytest.raises(Rejected, match="needs machine version 3, and the cluster is at version 2") as raised:
        check_version(encoded(login_text("etcd", 3)), 2)
    assert raised.value.code == "needs_upgrade"
    check_version(encoded(login_text("etcd", 3)), LOGIN_VERSION)
    check_version(encoded("login of nobody"), 2)
    check_version(encode_command(Put(b"k", login_text("etcd", 3).encode())), 2)
