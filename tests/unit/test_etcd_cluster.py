"""Cluster and Maintenance over etcd's gateway, where it is offered, and what `/version` says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from syncline.cli.up.plan import make_plan, write_plan
from syncline.client.schemas import Members
from syncline.errors import ConfigError
from syncline.platform.disk import OsDisk
from syncline.server.config import ServerConfig, load_config
from syncline.server.etcd.errors import EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace
from syncline.server.etcd.methods import METHODS
from syncline.server.exposure import offers_etcd
from syncline.server.tasks import Tasks
from tests.helpers.etcd_wire import EtcdWire
from tests.helpers.kv_node import IDS, FakeBackend


async def test_etcd_members_have_ids_names_and_urls() -> None:
    document = await EtcdWire().good("cluster/member/list", {"linearizable": True})
    assert document["header"] == {"cluster_id": "7", "member_id": "4369", "raft_term": "3"}
    first = document["members"][0]
    assert first == {
        "ID": str(IDS["a"]),
        "name": "a",
        "peerURLs": ["http://a:7100"],
        "clientURLs": ["http://a:8080"],
    }


async def test_etcd_member_changes_reach_the_node() -> None:
    wire = EtcdWire()
    added = await wire.good("cluster/member/add", {"peerURLs": ["http://127.0.0.1:24999"], "isLearner": True})
    assert added["member"]["ID"]
    assert wire.backend.changes[-1][:3] == ("add", "peer-127.0.0.1-24999", "127.0.0.1:24999")
    await wire.good("cluster/member/update", {"ID": str(IDS["b"]), "peerURLs": ["http://h:1"]})
    assert wire.backend.changes[-1][:3] == ("update", IDS["b"], "h:1")
    wire.backend.learners.add(IDS["b"])
    await wire.good("cluster/member/promote", {"ID": IDS["b"]})
    assert wire.backend.changes[-1][:2] == ("promote", IDS["b"])
    left = await wire.good("cluster/member/remove", {"ID": IDS["c"]})
    assert str(IDS["c"]) not in [member["ID"] for member in left["members"]]


class LearnerBackend(FakeBackend):
    """The member b is a learner, as the test describes it."""

    def __init__(self, learner: dict[str, Any]) -> None:
        super().__init__()
        self.learners.add(IDS["b"])
        self.learner = learner

    def members(self) -> Members:
        found = super().members()
        rows = [replace(one, **self.learner) if one.name == "b" else one for one in found.members]
        return replace(found, members=tuple(rows))


@pytest.mark.parametrize(
    ("learner", "text"),
    [
        ({"http": "", "level": 0}, "can only promote a learner member which is in sync with leader"),
        ({"match": 89, "lag": 11, "active": True}, "can only promote a learner member which is in sync with leader"),
        ({"match": 100, "lag": 0, "active": False}, "can only promote a learner member which is in sync with leader"),
        ({"role": "voter"}, "can only promote a learner member"),
        ({"match": 91, "lag": 9, "active": True}, ""),
        ({"match": None, "lag": None}, ""),
    ],
)
async def test_etcd_promote_takes_a_learner_in_sync_alone(learner: dict[str, Any], text: str) -> None:
    """A voter that has not started counts for the quorum, and can't help it."""
    backend = LearnerBackend(learner)
    wire = EtcdWire(backend)
    if not text:
        await wire.good("cluster/member/promote", {"ID": IDS["b"]})
        assert backend.changes[-1][:2] == ("promote", IDS["b"])
        return
    assert await wire.refused("cluster/member/promote", {"ID": IDS["b"]}) == (400, 9, text)
    assert not backend.changes


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["http://a:1", "http://b:1"],
        ["a:1"],
        ["http://a"],
        ["http://a:x"],
        ["http://a:1/p"],
        ["http://a:1?q"],
        ["http://a:1#f"],
        ["http://u:p@a:1"],
        ["http://a b:1"],
        ["http://a:0"],
        ["http://" + "a" * 600 + ":1"],
    ],
)
async def test_etcd_member_with_a_bad_peer_url_is_refused(urls: list[str]) -> None:
    wire = EtcdWire()
    status, code, _ = await wire.refused("cluster/member/add", {"peerURLs": urls})
    assert (status, code) == (400, 3)
    assert not wire.backend.changes


async def test_etcd_status_names_the_leader_by_its_member_id() -> None:
    wire = EtcdWire()
    document = await wire.good("maintenance/status")
    assert document["leader"] == document["header"]["member_id"]
    assert {"dbSize", "raftIndex", "raftTerm", "raftAppliedIndex", "version"} <= set(document)
    assert "errors" not in document
    wire.backend.leader_name = None
    document = await wire.good("maintenance/status")
    assert "leader" not in document
    assert document["errors"] == ["etcdserver: no leader"]


async def test_etcd_leadership_moves_from_the_leader() -> None:
    wire = EtcdWire()
    await wire.good("maintenance/transfer-leadership", {"targetID": IDS["b"]})
    assert wire.backend.changes[-1][:2] == ("transfer", IDS["b"])
    wire.backend.is_leader = False
    assert await wire.refused("maintenance/transfer-leadership", {"targetID": IDS["b"]}) == (400, 9, "not leader")


async def test_etcd_alarm_shows_a_shortage() -> None:
    wire = EtcdWire()
    assert "alarms" not in await wire.good("maintenance/alarm", {"action": "GET"})
    wire.backend.shortages = {"disk_space": "it is short", "store_space": ""}
    document = await wire.good("maintenance/alarm", {})
    assert document["alarms"] == [{"memberID": str(IDS["a"]), "alarm": "NOSPACE"}]
    assert "errors" in await wire.good("maintenance/status")
    assert "alarms" not in await wire.good("maintenance/alarm", {"action": "DEACTIVATE"})


async def test_etcd_alarm_of_a_client_is_listed_until_it_is_cleared() -> None:
    wire = EtcdWire()
    raised = {"action": "ACTIVATE", "memberID": "5", "alarm": "NOSPACE"}
    expected = [{"memberID": "5", "alarm": "NOSPACE"}]
    assert (await wire.good("maintenance/alarm", raised))["alarms"] == expected
    await wire.good("maintenance/alarm", raised)
    assert (await wire.good("maintenance/alarm"))["alarms"] == expected
    assert "alarms" not in await wire.good("maintenance/alarm", {"alarm": "CORRUPT"})
    await wire.good("kv/put", {"key": "YQ=="})
    assert (await wire.good("maintenance/alarm", {**raised, "action": 2}))["alarms"] == expected
    assert "alarms" not in await wire.good("maintenance/alarm")
    for number in range(100):
        await wire.good("maintenance/alarm", {**raised, "memberID": number})
    assert (await wire.refused("maintenance/alarm", {**raised, "memberID": 100}))[:2] == (429, 8)
    assert (await wire.refused("maintenance/alarm", {"action": 7}))[:2] == (400, 3)


async def test_etcd_hash_is_that_of_the_present_state() -> None:
    wire = EtcdWire()
    await wire.good("maintenance/defragment")
    one = await wire.good("maintenance/hashkv")
    assert one["hash_revision"] == "2"
    assert one["hash"] == (await wire.good("maintenance/hash"))["hash"] == wire.backend.store.digest & 0xFFFFFFFF
    await wire.good("kv/put", {"key": "YQ=="})
    assert (await wire.good("maintenance/hashkv"))["hash"] != one["hash"]
    assert (await wire.refused("maintenance/hashkv", {"revision": 99}))[1] == 11


async def test_version_names_etcd_only_if_it_is_served() -> None:
    wire = EtcdWire()
    assert set(json.loads((await wire.ask("GET", "/version")).body)) == {"syncline", "api"}
    assert (await wire.ask("GET", "/version", b"{}")).status == 400
    wire.site.offer_etcd("3.5.0")
    answer = await wire.ask("GET", "/version", b"{}")
    assert answer.status == 200, "some clients of etcd send a body"
    shown = json.loads(answer.body)
    assert (shown["etcdserver"], shown["etcdcluster"]) == ("3.5.0", "3.5.0")


@pytest.mark.parametrize(
    ("setting", "listen", "offered"),
    [
        ("loopback", "127.0.0.1:8080", True),
        ("loopback", "[::1]:8080", True),
        ("loopback", "10.0.0.1:8080", False),
        ("loopback", "0.0.0.0:8080", False),
        ("loopback", "", False),
        ("on", "10.0.0.1:8080", True),
        ("on", "", True),
        ("off", "127.0.0.1:8080", False),
    ],
)
async def test_etcd_is_offered_by_its_setting(tmp_path: Path, setting: str, listen: str, offered: bool) -> None:
    config = ServerConfig(name="a", data_dir=str(tmp_path), http_listen=listen, etcd_api=setting)  # type: ignore[arg-type]
    assert await offers_etcd(config) is offered


def test_etcd_setting_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="etcd_api"):
        ServerConfig(name="a", data_dir=str(tmp_path), etcd_api="yes")  # type: ignore[arg-type]


def test_etcd_setting_of_up_is_kept(tmp_path: Path) -> None:
    """From the start that names it on."""
    directory, disk = str(tmp_path), OsDisk()
    plan = make_plan(directory, nodes=1, port=9000)
    write_plan(plan, disk)
    assert "etcd_api" not in Path(plan.nodes[0].config_path).read_text()
    write_plan(make_plan(directory, nodes=None, port=None, etcd_api="off"), disk)
    again = make_plan(directory, nodes=None, port=None)
    write_plan(again, disk)
    assert load_config(file=again.nodes[0].config_path, environment={}).etcd_api == "off"


# --- the face, for protocols


async def test_etcd_face_calls_each_kind_of_method() -> None:
    wire = EtcdWire()
    caller = EtcdCaller()
    answer = await wire.face.call(METHODS["/etcdserverpb.KV/Put"], {"key": b"a"}, caller)
    assert answer["header"]
    answer = await wire.face.call(METHODS["/etcdserverpb.Maintenance/Status"], {}, caller)
    assert answer["leader"] == IDS["a"]
    with pytest.raises(EtcdError, match="key is not provided") as caught:
        await wire.face.call(METHODS["/etcdserverpb.KV/Range"], {}, caller)
    assert caught.value.code == 3


async def test_etcd_face_without_a_service_is_unimplemented() -> None:
    face = EtcdFace(Tasks())
    with pytest.raises(EtcdError, match="unknown method Range") as caught:
        await face.call(METHODS["/etcdserverpb.KV/Range"], {}, EtcdCaller())
    assert caught.value.code == 12


async def test_etcd_member_update_looks_for_the_member_first() -> None:
    wire = EtcdWire()
    assert (await wire.refused("cluster/member/update", {"ID": "7", "peerURLs": ["x"]}))[1:] == (5, "member not found")
    for urls in ([], ["x"]):
        _, *told = await wire.refused("cluster/member/add", {"peerURLs": urls})
        assert told == [3, "given member URLs are invalid"]
