"""`recover` from the shell: what it says, what it asks of the cluster, and that a refusal changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from syncline import Config, Raft
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.node.known_members import known_members
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import read_identity
from syncline.storage.replace import Replacement, begin
from tests.helpers.async_tests import run
from tests.helpers.command import Ran, syncline
from tests.helpers.http_server import KeyDouble, in_thread
from tests.helpers.ports import free_block
from tests.unit.test_recover import content


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a stopped node, the only one of its cluster."""
    path = tmp_path_factory.mktemp("node") / "a"
    address = f"127.0.0.1:{free_block(1)}"
    config = Config(
        name="a", data_dir=str(path), listen=address, peers={"a": address}, heartbeat_s=0.02, election_s=0.1,
        reserve_bytes=0, segment_bytes=1 << 20, http="http://127.0.0.1:1",
    )  # fmt: skip

    async def fill() -> None:
        async with Raft.open(config, KvMachine()) as raft:
            for number in range(3):
                await raft.apply(encode_command(Put(b"k%d" % number, b"v")))
            while not raft.membership().members[raft.node_id].http:
                await raft.barrier()

    run(fill(), timeout_s=20.0)
    return str(path)


@pytest.fixture
def path(directory: str, tmp_path: Path) -> str:
    """A copy of it."""
    shutil.copytree(directory, tmp_path / "a")
    return str(tmp_path / "a")


def recover(path: str, *arguments: str, endpoints: str | None = None) -> Ran:
    return syncline("recover", "--data-dir", path, *arguments, endpoints=endpoints)


def test_recover_says_what_it_keeps_and_acts_only_on_a_yes(path: str) -> None:
    before = content(Path(path))
    asked = recover(path)
    assert (asked.status, "say --yes" in asked.error()) == (2, True)
    assert "all of it is kept" in asked.text
    assert "No acknowledged write can be lost." in asked.text
    assert recover(path, "--dry-run").status == 0
    assert content(Path(path)) == before
    old = read_identity(OsDisk(), path)
    done = recover(path, "--yes", "--json")
    assert done.status == 0, done
    document = json.loads(done.text)
    new = read_identity(OsDisk(), path)
    assert old is not None
    assert new is not None
    assert (document["status"], document["may_lose"]) == ("recovered", False)
    assert document["old_cluster_id"] == f"{old.cluster_id:016x}"
    assert (document["cluster_id"], document["node_id"]) == (f"{new.cluster_id:016x}", f"{new.node_id:016x}")
    assert new.cluster_id != old.cluster_id


def test_recover_of_what_is_no_directory_of_a_node_is_refused(tmp_path: Path, path: str) -> None:
    assert "is not there" in recover(str(tmp_path / "none")).error()
    (tmp_path / "empty").mkdir()
    assert "it has no identity" in recover(str(tmp_path / "empty")).error()
    note = Replacement("00000000000000c1", "", "00000000000000c2", "a", "b:1", "", True, (), "set-aside-1")
    begin(OsDisk(), path, note)
    refused = recover(path, "--yes")
    assert (refused.status, "in the middle of a repair" in refused.error()) == (7, True)


@pytest.mark.parametrize(
    ("role", "last_index", "code"),
    [("leader", 9, "has_leader"), ("follower", 10_000, "newer_copy"), ("follower", 3, "members_run")],
)
def test_recover_is_refused_while_members_of_the_cluster_run(path: str, role: str, last_index: int, code: str) -> None:
    identity = read_identity(OsDisk(), path)
    assert identity is not None
    assert known_members(OsDisk(), path)[identity.node_id].http
    double = KeyDouble()
    with in_thread(double) as [server]:
        view = {"id": "00000000000000bb", "name": "b", "role": "voter", "peer": "b:7100", "http": server.url,
                "match": None, "lag": 0, "active": True}  # fmt: skip
        leader = {"id": view["id"], "name": "b", "http": server.url} if role == "leader" else None
        double.status = {
            "cluster_id": f"{identity.cluster_id:016x}", "cluster": "test", "id": view["id"], "name": "b",
            "role": role, "term": 3, "leader": leader, "commit": 9, "applied": 9, "last_index": last_index,
            "first_index": 1, "membership_index": 1, "pid": 100, "data_dir": "/data/b", "http": server.url,
            "peer": "b:7100", "members": [view],
        }  # fmt: skip
        before = content(Path(path))
        ran = recover(path, "--yes", "--json", endpoints=server.url)
        assert (ran.status, msgspec.json.decode(ran.err)["error"]["code"]) == (1, code), ran
        assert content(Path(path)) == before


def test_recover_compared_with_its_own_directory_is_refused(tmp_path: Path) -> None:
    """It was told to stop the node that holds the directory, which was the command itself."""
    place = tmp_path / "n1"
    place.mkdir()
    ran = syncline("recover", "--data-dir", str(place), "--compare", f"{tmp_path}/./n1", "--dry-run")
    assert (ran.status, "the directory of --data-dir: name" in ran.error()) == (2, True), ran.err
