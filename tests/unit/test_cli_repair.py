"""`repair` from the shell: what it says, what it asks of the cluster, and that a refusal changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.consensus.membership import encode_change
from syncline.consensus.types import ChangeType, EntryType, HardState, LogEntry, MembershipChange, SingleChange
from syncline.node.envelope import ChangeContext, Kind, MemberRecord, Proposal, encode
from syncline.node.known_members import known_members
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.wal.writer import Wal, WalWrite
from tests.helpers.command import Ran, environment, syncline
from tests.helpers.http_server import HttpDouble, KeyDouble, error_reply, in_thread, json_reply, refused_url

CLUSTER, OLD = 0xC1, 1
IDS = {name: f"{number:016x}" for number, name in enumerate(("a", "b", "c"), 1)}


def directory(path: Path, members: tuple[MemberRecord, ...], *, rotten: bool = True) -> str:
    """Node a's directory, with a log that has heard of some members, and is rotten at its end."""
    data_dir = DataDir.open(OsDisk(), str(path))
    data_dir.write_identity(Identity(CLUSTER, OLD, "a"))
    data_dir.mark_started()
    wal = Wal.open(OsDisk(), data_dir.wal_path, segment_bytes=8192, reserve_bytes=0, log_id=OLD)
    for index, member in enumerate(members, 1):
        first = MemberRecord(member.id, member.name, member.address)
        context = encode(ChangeContext(0, 0, (first,)))
        change = MembershipChange(changes=(SingleChange(ChangeType.ADD_NODE, member.id),), context=context)
        wal.write([WalWrite([LogEntry(1, index, EntryType.CONF_CHANGE_V2, encode_change(change))])])
    wal.write([WalWrite([LogEntry(1, len(members) + 1, EntryType.NORMAL, b"x" * 900)], HardState(1, 0, 1))])
    for index, member in enumerate(members, len(members) + 2):
        announcement = encode(Proposal(Kind.ANNOUNCE, member.id, 1, encode(member)))
        wal.write([WalWrite([LogEntry(1, index, EntryType.NORMAL, announcement)])])
    segment = wal.path + "/0000000000000001.wal"
    wal.close()
    data_dir.release()
    if rotten:
        with open(segment, "r+b") as file:
            content = bytearray(file.read())
            content[content.index(b"xxxx") + 300] ^= 1
            file.seek(0)
            file.write(content)
    return str(path)


def files(path: str) -> dict[str, bytes]:
    return {
        os.path.join(folder, name): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(path)
        for name in names
        if name != "LOCK"
    }


@contextmanager
def cluster(silent: str = "a") -> Iterator[tuple[dict[str, KeyDouble], list[HttpDouble], tuple[MemberRecord, ...]]]:
    """Nodes b (leader) and c of a cluster of three voters; those in `silent` don't answer."""
    nodes = {"b": KeyDouble(), "c": KeyDouble()}
    with in_thread(*nodes.values()) as doubles:
        urls = {"a": refused_url(), "b": doubles[0].url, "c": refused_url() if "c" in silent else doubles[1].url}
        views = [
            {"id": IDS[name], "name": name, "role": "voter", "peer": f"{name}:7100", "http": url, "match": None,
             "lag": 0, "active": name != "a"}
            for name, url in urls.items()
        ]  # fmt: skip
        for name, role in (("b", "leader"), ("c", "follower")):
            nodes[name].status = {
                "cluster_id": f"{CLUSTER:016x}", "cluster": "test", "id": IDS[name], "name": name, "role": role,
                "term": 3, "leader": {"id": IDS["b"], "name": "b", "http": urls["b"]}, "commit": 9, "applied": 9,
                "last_index": 9, "first_index": 1, "membership_index": 1, "pid": 100, "data_dir": f"/data/{name}",
                "http": urls[name], "peer": f"{name}:7100", "members": views,
            }  # fmt: skip
        members = tuple(MemberRecord(int(IDS[name], 16), name, f"{name}:7100", url) for name, url in urls.items())
        yield nodes, doubles, members


def answer_changes(nodes: dict[str, KeyDouble]) -> None:
    for node in nodes.values():
        node.answers["/raft/remove"] = json_reply({"status": "success", "membership_index": 5, "members": []})
        member = {"id": IDS["a"], "name": "a", "role": "learner"}
        node.answers["/raft/add"] = json_reply(
            {"added": True, "cluster_id": f"{CLUSTER:016x}", "membership_index": 6, "member": member, "members": []}
        )


def repair(path: str, *arguments: str) -> Ran:
    return syncline("repair", "--data-dir", path, *arguments)


def test_the_old_one_is_removed_by_its_id_and_the_new_one_added(tmp_path: Path) -> None:
    with cluster() as (nodes, doubles, members):
        answer_changes(nodes)
        path = directory(tmp_path / "a", members)
        ran = repair(path, "--yes")
        asked = [request.json() for double in doubles for request in double.requests if request.method == "POST"]
    assert ran.status == 0, ran
    assert asked[0] == {"ID": IDS["a"]}
    added = asked[1]
    assert isinstance(added, dict)
    new_id = str(added.pop("NodeID"))
    assert added == {"ID": "a", "Address": "a:7100", "Http": members[0].http, "Learner": False}
    found = DataDir.open(OsDisk(), path)
    assert found.identity == Identity(CLUSTER, int(new_id, 16), "a")
    found.release()
    assert sorted(os.listdir(path)) == ["LOCK", "identity", "set-aside-1"]
    assert "The log is damaged" in ran.text
    assert "2 of 3 voters answer, 2 are needed, b leads" in ran.text
    again = repair(path)
    assert (again.status, "Nothing is wrong" in again.text) == (0, True)


def test_it_acts_only_on_a_yes(tmp_path: Path) -> None:
    with cluster() as (nodes, _, members):
        answer_changes(nodes)
        path = directory(tmp_path / "a", members)
        before = files(path)
        ran = repair(path)
    assert (ran.status, "say --yes" in ran.error()) == (2, True)
    assert "the old files are moved to" in ran.text, "what it would do is told all the same"
    assert files(path) == before


def test_no_quorum_changes_nothing(tmp_path: Path) -> None:
    with cluster(silent="ac") as (nodes, doubles, members):
        answer_changes(nodes)
        path = directory(tmp_path / "a", members)
        before = files(path)
        ran = repair(path, "--yes", "--json")
        asked = [request for double in doubles for request in double.requests if request.method == "POST"]
    assert ran.status == 4
    assert '"code": "no_quorum"' in ran.error()
    assert asked == []
    assert files(path) == before


def test_a_node_that_is_alone_can_not_be_replaced(tmp_path: Path) -> None:
    path = directory(tmp_path / "a", (MemberRecord(OLD, "a", "a:7100", "http://a"),))
    before = files(path)
    ran = repair(path, "--yes")
    assert ran.status == 1
    assert "a is the only voter of its cluster" in ran.error()
    assert files(path) == before


def test_repair_without_an_answer_changes_nothing(tmp_path: Path) -> None:
    path = directory(tmp_path / "a", (MemberRecord(OLD, "a", "a:7100"), MemberRecord(2, "b", "b:7100", refused_url())))
    before = files(path)
    ran = repair(path, "--yes")
    assert (ran.status, "connection refused" in ran.error()) == (4, True)
    assert files(path) == before


def test_a_refusal_before_anything_was_changed_takes_the_note_back(tmp_path: Path) -> None:
    with cluster() as (nodes, _, members):
        for node in nodes.values():
            node.answers["/raft/remove"] = error_reply(409, "membership", message="it can't be")
        path = directory(tmp_path / "a", members)
        before = files(path)
        ran = repair(path, "--yes")
        assert (ran.status, ran.error()) == (1, "syncline: it can't be (nothing was changed)")
        assert files(path) == before


def test_a_failure_in_between_is_completed_by_the_same_command(tmp_path: Path) -> None:
    with cluster() as (nodes, doubles, members):
        answer_changes(nodes)
        for node in nodes.values():
            node.answers["/raft/add"] = error_reply(409, "membership", message="not now")
        path = directory(tmp_path / "a", members)
        ran = repair(path, "--yes")
        assert "run the same command again" in ran.error()
        assert os.path.exists(f"{path}/replacement")
        assert os.path.exists(f"{path}/wal"), "no file is moved before the cluster has agreed"
        answer_changes(nodes)
        for node in nodes.values():
            node.answers["/raft/remove"] = error_reply(404, "unknown_member", message="no such member")
        ran = repair(path, "--json")
        adds = [request.json() for double in doubles for request in double.requests if request.path == "/raft/add"]
    assert ran.status == 0, ran
    assert adds[0] == adds[1], "the same member, under the same new id"
    report = ran.json()
    assert isinstance(adds[0], dict)
    assert (report["status"], report["new_id"]) == ("repaired", adds[0]["NodeID"])


def test_replacement_that_can_not_complete_begins_again(tmp_path: Path) -> None:
    with cluster() as (nodes, doubles, members):
        answer_changes(nodes)
        for node in nodes.values():
            node.answers["/raft/add"] = error_reply(409, "membership", message="that node was removed")
        path = directory(tmp_path / "a", members)
        before = files(path)
        assert "--replace to start it again" in repair(path, "--yes").error()
        answer_changes(nodes)
        assert repair(path, "--yes", "--replace").status == 0
        first, second = (
            request.json() for double in doubles for request in double.requests if request.path == "/raft/add"
        )
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first.pop("NodeID") != second.pop("NodeID")
    assert first == second
    kept = {name.replace("/set-aside-1", ""): content for name, content in files(path).items() if "set-aside-1" in name}
    assert kept.pop(f"{path}/replacement")
    assert kept == before


def test_a_sound_directory_is_left_alone_unless_told(tmp_path: Path) -> None:
    with cluster() as (nodes, _, members):
        answer_changes(nodes)
        path = directory(tmp_path / "a", members, rotten=False)
        before = files(path)
        assert repair(path, "--yes", "--json").json() == {"status": "sound", "data_dir": path, "name": "a"}
        assert files(path) == before
        assert repair(path, "--yes", "--json", "--replace").json()["status"] == "repaired"


def test_a_node_that_never_ran_has_lost_nothing(tmp_path: Path) -> None:
    path = str(tmp_path)
    (tmp_path / "joining").write_text(json.dumps({"node_id": IDS["a"]}))
    ran = repair(path, "--json")
    assert (ran.status, ran.json()["status"]) == (0, "joining")
    with cluster() as (nodes, doubles, _):
        answer_changes(nodes)
        ran = repair(path, "--json", "--yes", "--name", "a", "--endpoints", doubles[0].url)
        assert (ran.status, ran.json()["status"]) == (0, "joining"), "the member of that name is the one that joins"
        (tmp_path / "joining").write_text(json.dumps({"node_id": "00000000000000aa"}))
        ran = repair(path, "--json", "--yes", "--name", "a", "--endpoints", doubles[0].url)
        assert (ran.status, ran.json()["status"]) == (0, "repaired"), "it was a member, and tried to join again"


def test_a_running_node_is_named_by_its_pid(tmp_path: Path) -> None:
    held = DataDir.open(OsDisk(), str(tmp_path))
    ran = repair(str(tmp_path), "--yes", "--name", "a")
    held.release()
    assert (ran.status, ran.error()) == (
        1,
        f"syncline: {tmp_path} is in use by the process with pid {os.getpid()}: stop that node first",
    )


def test_it_is_run_by_the_user_whose_files_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 54321)
    ran = repair(str(tmp_path), "--yes", "--name", "a", "--endpoints", "http://b")
    assert ran.status == 2
    assert f"this is user {os.getuid() + 54321}: run it as user" in ran.error()
    assert not list(tmp_path.iterdir()), "a lock of another user's would keep the node off"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data-dir", "missing"), "give --name"),
        (("--data-dir", "missing", "--name", "a"), "give --endpoints"),
        (("--data-dir", "missing", "--name", "a/b"), "name"),
        (("--data-dir", "missing", "--name", "a", "--address", "here"), "here"),
        (("--data-dir", "node", "--name", "b"), "is the directory of a, not of b"),
        ((), "--data-dir"),
    ],
)
def test_what_it_must_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    directory(tmp_path / "node", (MemberRecord(OLD, "a", "a:7100"), MemberRecord(2, "b", "b:7100", "http://b")))
    monkeypatch.chdir(tmp_path)
    ran = syncline("repair", *arguments)
    assert (ran.status, words in ran.error()) == (2, True), ran


def test_members_are_known_from_before_and_behind_the_damage(tmp_path: Path) -> None:
    members = (MemberRecord(OLD, "a", "a:7100", "http://a"), MemberRecord(2, "b", "b:7100", "http://b"))
    assert known_members(OsDisk(), directory(tmp_path / "a", members)) == {member.id: member for member in members}
    assert known_members(OsDisk(), str(tmp_path / "nothing")) == {}


@pytest.mark.parametrize("named", [True, False])
def test_repair_shows_the_credential_to_no_address_that_is_only_announced(tmp_path: Path, named: bool) -> None:
    """It went to each member of which another one told, and so did the changes."""
    (tmp_path / "token").write_text("syncline_" + "Zm9vYmFy_-0123456789" * 2 + "abc")
    (tmp_path / "token").chmod(0o600)
    with cluster() as (nodes, doubles, members), environment({"SYNCLINE_TOKEN_FILE": str(tmp_path / "token")}):
        answer_changes(nodes)
        announced = doubles[1].url.replace("127.0.0.1", "localhost")
        for node in nodes.values():
            views = node.status["members"]
            assert isinstance(views, list)
            views[2]["http"] = announced
        nodes["c"].status["http"] = announced
        path = directory(tmp_path / "a", members[:2])
        ran = repair(path, "--yes", *(("--endpoints", doubles[0].url) if named else ()))
        assert ran.status == 0, ran
        sent = [[request.headers.get("authorization") for request in double.requests] for double in doubles]
    assert None not in sent[0]
    assert len(sent[0]) > 2, "the changes"
    assert sent[1]
    assert set(sent[1]) == {None}
