"""`/raft/…`: members by name or id, fields as people write them, errors of a change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from syncline.errors import DeadlineExceeded, MembershipError, NoLeader, Outcome, SynclineError, TransferFailed
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import IDS, KvWire, error_in

ID_B = f"{IDS['b']:016x}"


async def post(wire: KvWire, path: str, **fields: Any) -> Answer:
    return await wire.ask("POST", path, json.dumps(fields).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"ID": "d", "Address": "10.0.0.4:7100"},
        {"id": "d", "address": "10.0.0.4:7100"},
        {"Name": "d", "Peer": "10.0.0.4:7100", "Http": None},
        {"name": "d", "ID": "d", "Address": "10.0.0.4:7100", "Learner": False},
    ],
)
async def test_a_member_is_added_by_the_tutorials_fields_and_others(fields: dict[str, Any]) -> None:
    wire = KvWire()
    answer = await post(wire, "/raft/add", **fields)
    assert answer.status == 200, answer.body
    assert wire.backend.changes == [("add", "d", "10.0.0.4:7100", "", None, False, 30.0)]
    body = json.loads(answer.body)
    assert (body["status"], body["added"], body["member"]["name"]) == ("success", True, "d")
    assert len(body["members"]) == 4
    assert body["cluster_id"] == "0000000000000007"


async def test_add_member_passes_all_fields_on() -> None:
    wire = KvWire()
    fields = {"Name": "d", "NodeID": "00000000000000ff", "Address": "[::1]:7100", "Http": "http://d:8080/"}
    answer = await wire.ask("POST", "/raft/add?timeout=2m", json.dumps({**fields, "Learner": True}).encode())
    assert answer.status == 200
    assert wire.backend.changes == [("add", "d", "[::1]:7100", "http://d:8080", 255, True, 120.0)]


BAD_MEMBERS: list[dict[str, Any] | list[Any] | str] = [
    {},
    [],
    "d",
    {"ID": "d"},
    {"Address": "h:1"},
    {"ID": "d", "Address": "h"},
    {"ID": "d", "Address": "h:0"},
    {"ID": "d", "Address": "h:99999"},
    {"ID": "d", "Address": "0.0.0.0:7100"},
    {"ID": "d", "Address": "http://h:1"},
    {"ID": "d", "Address": "h:1", "Peer": "h:1"},
    {"ID": "d", "Address": "h:1", "Http": "h:8080"},
    {"ID": "d", "Address": "h:1", "Http": "ftp://h:8080"},
    {"ID": "d", "Address": "h:1", "Learner": "yes"},
    {"ID": "d", "Address": "h:1", "Voter": True},
    {"ID": "d", "id": "d", "Address": "h:1"},
    {"ID": None, "id": "d", "Address": "h:1"},
    {"ID": "d", "Name": "e", "Address": "h:1"},
    {"ID": "a b", "Address": "h:1"},
    {"ID": "x" * 65, "Address": "h:1"},
    {"ID": 5, "Address": "h:1"},
    {"ID": "00000000000000ff", "Address": "h:1"},
    {"Name": "00000000000000ff", "Address": "h:1"},
    {"Name": "d", "NodeID": "xyz", "Address": "h:1"},
    {"Name": "d", "NodeID": "0000000000000000", "Address": "h:1"},
    {"Name": "d", "NodeID": "ffffffffffffffff", "Address": "h:1"},
    {"ID": "00000000000000ff", "NodeID": "00000000000000fe", "Name": "d", "Address": "h:1"},
]


@pytest.mark.parametrize("body", BAD_MEMBERS)
async def test_a_member_that_makes_no_sense_is_refused(body: object) -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/raft/add", json.dumps(body).encode())
    assert answer.status == 400, answer.body
    assert error_in(answer)["code"] == "bad_request"
    assert wire.backend.changes == []


async def test_a_body_that_is_no_json_or_too_long_is_refused() -> None:
    wire = KvWire()
    assert (await wire.ask("POST", "/raft/remove", b"ID=d")).status == 400
    assert (await wire.ask("POST", "/raft/remove", b"\xff\xfe")).status == 400
    assert (await wire.ask("POST", "/raft/remove", b" " * 65537)).status == 413
    assert (await wire.ask("POST", "/raft/remove?force=1", b"{}")).status == 400
    assert (await wire.ask("GET", "/raft/remove")).status == 405


@pytest.mark.parametrize("action", ["snapshot", "transfer", "remove"])
async def test_raft_body_of_white_space_is_400(action: str) -> None:
    """It is no JSON. Only a request without a body stands for an empty object."""
    answer = await KvWire().ask("POST", f"/raft/{action}", b" \t")
    assert (answer.status, error_in(answer)["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "who", [{"ID": "b"}, {"id": ID_B}, {"name": "b"}, {"NodeID": ID_B}, {"name": "b", "node_id": ID_B}]
)
async def test_members_are_named_by_name_or_id(who: dict[str, str]) -> None:
    wire = KvWire()
    demoted = await post(wire, "/raft/demote", **who)
    assert json.loads(demoted.body)["members"][1]["role"] == "learner"
    assert (await post(wire, "/raft/promote", **who)).status == 200
    removed = json.loads((await post(wire, "/raft/remove", **who)).body)
    assert removed["status"] == "success"
    assert [member["name"] for member in removed["members"]] == ["a", "c"]
    assert wire.backend.changes == [
        ("demote", IDS["b"], 30.0),
        ("promote", IDS["b"], 30.0),
        ("remove", IDS["b"], 30.0),
    ]


@pytest.mark.parametrize("action", ["remove", "promote", "demote"])
async def test_raft_change_with_force_is_passed_on(action: str) -> None:
    """`Force` passes over the rule that a quorum must be alive afterwards."""
    wire = KvWire()
    wire.backend.learners.add(IDS["b"])
    assert (await post(wire, f"/raft/{action}", ID="b", Force=True)).status == 200
    assert (await post(wire, f"/raft/{action}", ID="c", Force="yes")).status == 400
    assert wire.backend.changes == [(action, IDS["b"], 30.0, "force")]


@pytest.mark.parametrize("who", [{"ID": "z"}, {"ID": "00000000000000ff"}, {"name": "a", "node_id": ID_B}])
@pytest.mark.parametrize("action", ["remove", "promote", "demote", "transfer"])
async def test_a_member_that_is_not_there_is_404(who: dict[str, str], action: str) -> None:
    wire = KvWire()
    answer = await post(wire, f"/raft/{action}", **who)
    assert (answer.status, error_in(answer)["code"]) == (404, "unknown_member")


async def test_member_that_is_gone_is_404_once_its_removal_is_durable() -> None:
    """The attempt that removed it may be of unknown outcome: `syncline repair` goes on after this answer."""
    wire = KvWire()
    gone = {"ID": "00000000000000ff"}
    assert (await post(wire, "/raft/remove?timeout=7s", **gone)).status == 404
    assert wire.backend.changes == [("remove", 255, 7.0)]
    wire.backend.change_error = DeadlineExceeded("not durable on a quorum", outcome=Outcome.UNKNOWN)
    answer = await post(wire, "/raft/remove", **gone)
    assert error_in(answer)["outcome"] == "unknown"
    assert answer.status != 404


async def test_raft_update_changes_one_address() -> None:
    """The member is named as for other changes; an address that others can't dial is refused before anything."""
    wire = KvWire()
    for who in ({"ID": "b"}, {"NodeID": ID_B}):
        answer = await post(wire, "/raft/update", Address="b2:7100", **who)
        assert (answer.status, json.loads(answer.body)["status"]) == (200, "success")
    assert wire.backend.changes == [("update", IDS["b"], "b2:7100", 30.0)] * 2
    for fields in ({"ID": "b"}, {"Address": "b2:7100"}, {"ID": "b", "Address": "0.0.0.0:7100"}):
        assert (await post(wire, "/raft/update", **fields)).status == 400
    assert (await post(wire, "/raft/update", ID="z", Address="z:7100")).status == 404
    assert len(wire.backend.changes) == 2


async def test_remove_without_a_name_removes_no_member() -> None:
    wire = KvWire()
    assert (await wire.ask("POST", "/raft/remove")).status == 400
    assert wire.backend.changes == []


@pytest.mark.parametrize(
    ("body", "to"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"To":"c"}', IDS["c"]),
        (b'{"ID":"c"}', IDS["c"]),
        (b'{"to":"%s"}' % ID_B.encode(), IDS["b"]),
    ],
)
async def test_transfer_moves_the_leadership(body: bytes, to: int | None) -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/raft/transfer", body)
    assert answer.status == 200
    assert wire.backend.changes == [("transfer", to, 30.0)]
    name = "c" if to == IDS["c"] else "b"
    assert json.loads(answer.body)["leader"]["name"] == name


async def test_transfer_takes_one_target() -> None:
    wire = KvWire()
    assert (await post(wire, "/raft/transfer", To="b", ID="c")).status == 400


async def test_a_snapshot_is_taken_or_was_not_needed() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    assert json.loads((await wire.ask("POST", "/raft/snapshot")).body) == {
        "status": "success",
        "created": True,
        "index": 1,
    }
    wire.backend.nothing_to_snapshot = True
    again = await wire.ask("POST", "/raft/snapshot")
    assert (again.status, json.loads(again.body)["created"]) == (200, False)


async def test_raft_upgrade_shows_holds_and_finalizes_the_levels() -> None:
    wire = KvWire()
    shown = json.loads((await wire.ask("GET", "/raft/upgrade")).body)
    assert (shown["level"], shown["possible_level"], shown["held"]) == (1, 2, False)
    assert shown["members"][0] == {"id": f"{IDS['a']:016x}", "name": "a", "level": 2, "machine_version": 1}
    held = await post(wire, "/raft/upgrade", Action="hold")
    assert (held.status, json.loads(held.body)["held"]) == (200, True)
    released = await wire.ask("POST", "/raft/upgrade?timeout=2m", b'{"action": "finalize"}')
    assert (json.loads(released.body)["status"], json.loads(released.body)["held"]) == ("success", False)
    assert wire.backend.changes == [("hold", 30.0), ("finalize", 120.0)]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"Action": "raise"}', b'{"Action": 1}', b'{"Level": 2}', b"[]"])
async def test_raft_upgrade_without_a_known_action_is_400(body: bytes) -> None:
    wire = KvWire()
    assert (await wire.ask("POST", "/raft/upgrade", body)).status == 400
    assert wire.backend.changes == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MembershipError("in use"), 409, "membership"),
        (NoLeader("nobody"), 503, "no_leader"),
        (TransferFailed("it lags"), 503, "transfer_failed"),
        (DeadlineExceeded("late"), 504, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("action", ["add", "remove", "transfer", "snapshot", "upgrade"])
async def test_a_change_that_fails_says_why(action: str, error: SynclineError, status: int, code: str) -> None:
    wire = KvWire()
    wire.backend.change_error = error
    fields = {
        "add": {"ID": "d", "Address": "h:1"},
        "snapshot": {},
        "transfer": {},
        "upgrade": {"Action": "hold"},
    }.get(action, {"ID": "b"})
    answer = await post(wire, f"/raft/{action}", **fields)
    assert (answer.status, error_in(answer)["code"]) == (status, code)
    assert error_in(answer)["message"] == str(error)


async def test_status_and_members() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    status = json.loads((await wire.ask("GET", "/raft/status")).body)
    assert set(status) == {
        "cluster_id", "cluster", "id", "name", "role", "term", "leader", "commit", "applied", "last_index",
        "first_index", "snapshot_index", "membership_index", "lag", "pid", "data_dir", "version", "http", "peer",
        "uptime_s", "revision", "digest", "last_contact_s", "members", "no_leader", "level", "machine_version",
        "digest_index", "digest_agreement", "digest_age_s",
    }  # fmt: skip
    assert (status["id"], status["revision"], status["leader"]["name"]) == (f"{IDS['a']:016x}", 1, "a")
    assert status["digest"] == f"{wire.backend.store.digest:032x}"
    members = json.loads((await wire.ask("GET", "/raft/members")).body)
    assert [member["name"] for member in members["members"]] == ["a", "b", "c"]
    assert set(members["members"][0]) == {
        "id", "name", "role", "peer", "http", "match", "lag", "active", "promote", "fault", "level",
        "machine_version",
    }  # fmt: skip
    wire.backend.leader_name = None
    assert json.loads((await wire.ask("GET", "/raft/members")).body)["leader"] is None
    assert (await wire.ask("GET", "/raft/status?x=1")).status == 400
