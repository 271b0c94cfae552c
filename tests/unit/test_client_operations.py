"""Each operation's request and answer, against a server with keys in it."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.client import AsyncClient, Compare, DeleteOp, DeletePrefixOp, GetOp, PutOp
from syncline.client.wire import key_target, query, text_of
from syncline.errors import ConfigError, MembershipError, NotLeader, Rejected, RequestFailed
from syncline.platform.world import World
from tests.helpers.http_server import HttpDouble, KeyDouble, LoopNetwork, Reply, error_reply, json_reply, scripted

Result = TypeVar("Result")

KEYS = st.binary(min_size=1, max_size=12)


async def with_keys(work: Callable[[AsyncClient, KeyDouble], Awaitable[Result]], *, page_limit: int = 1000) -> Result:
    keys = KeyDouble(page_limit=page_limit)
    async with (
        HttpDouble(keys) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, world=World(network=LoopNetwork())) as kv,
    ):
        return await work(kv, keys)


async def answer_of(reply: Reply, work: Callable[[AsyncClient], Awaitable[Result]]) -> tuple[Result, HttpDouble]:
    async with (
        HttpDouble(scripted(reply)) as double,
        AsyncClient(
            double.url,
            retry_writes=False,
            batching=False,
            world=World(network=LoopNetwork(), rng=random.Random(1)),
            timeout=0.5,
        ) as kv,
    ):
        return await work(kv), double


@given(KEYS, st.binary(max_size=300))
@settings(max_examples=50)
async def test_any_key_and_value_come_back_as_they_went(key: bytes, value: bytes) -> None:
    async def work(kv: AsyncClient, keys: KeyDouble) -> None:
        assert await kv.get(key) is None
        written = await kv.put(key, value)
        found = await kv.get(key)
        assert found is not None
        assert (found.key, found.value, found.mod_revision) == (key, value, written.revision)
        assert list(keys.keys) == [key]
        assert (await kv.delete(key)).deleted
        assert not (await kv.delete(key)).deleted

    await with_keys(work)


@given(KEYS)
def test_a_keys_path_is_plain_ascii_without_directions(key: bytes) -> None:
    path, _, parameter = key_target(key).partition("?key=")
    assert path.isascii()
    assert path.isprintable()
    assert not {" ", "?", "#"} & set(path + parameter)
    assert not {".", ".."} & set(path.split("/"))


def test_client_key_with_dot_segments_is_told_as_a_parameter() -> None:
    """A proxy resolves them in a path, and the client would write another key."""
    assert key_target(b"a/../b") == "/key?key=a%2F..%2Fb"
    assert key_target(b".") == "/key?key=."
    assert key_target(b"a/b..c/...") == "/key/a/b..c/..."
    assert query({"timeout": "5"}, after=key_target(b"..")) == "&timeout=5"
    assert query({"timeout": "5"}, after=key_target(b"a")) == "?timeout=5"


@given(st.dictionaries(KEYS, st.binary(max_size=8), max_size=30), st.integers(1, 7), st.booleans())
@settings(max_examples=30)
async def test_a_scan_gives_every_key_once_in_order(data: dict[bytes, bytes], page: int, backwards: bool) -> None:
    async def work(kv: AsyncClient, keys: KeyDouble) -> None:
        for key, value in data.items():
            await kv.put(key, value)
        found = [(item.key, item.value) async for item in kv.scan(values=True, page=page, reverse=backwards)]
        assert found == sorted(data.items(), reverse=backwards)
        assert await kv.count() == len(data)

    await with_keys(work, page_limit=page)


async def test_a_listing_below_a_prefix_leaves_the_values_out() -> None:
    async def work(kv: AsyncClient, keys: KeyDouble) -> None:
        for key in (b"a/1", b"a/2", b"b/1", b"a/\xff"):
            await kv.put(key, b"value")
        part = await kv.list("a/")
        assert [item.key for item in part.items] == [b"a/1", b"a/2", b"a/\xff"]
        assert (part.next, part.count, part.items[0].value, part.items[0].size_bytes) == (None, 3, None, 5)
        assert await kv.count(b"a/") == 3

    await with_keys(work)


async def test_conditions_hold_or_name_the_current_revision() -> None:
    async def work(kv: AsyncClient, keys: KeyDouble) -> None:
        with pytest.raises(Rejected):
            await kv.put("k", b"v", if_present=True)
        first = await kv.put("k", b"1", if_absent=True)
        second = await kv.put("k", b"2", if_revision=first.revision)
        for expected in (first.revision, 0):
            with pytest.raises(Rejected) as caught:
                await kv.put("k", b"3", if_revision=expected)
            assert caught.value.code == "precondition_failed"
            assert caught.value.details == {"revision": second.revision}
        with pytest.raises(Rejected):
            await kv.delete("k", if_revision=first.revision)
        assert (await kv.delete("k", if_revision=second.revision)).deleted

    await with_keys(work)


async def test_two_conditions_at_once_are_refused_before_anything_is_sent() -> None:
    async def work(kv: AsyncClient, keys: KeyDouble) -> None:
        with pytest.raises(ConfigError):
            await kv.put("k", b"v", if_absent=True, if_present=True)

    await with_keys(work)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_deadline_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigError):
        AsyncClient("http://a:1", timeout=timeout_s, world=World(network=LoopNetwork()))


async def test_reads_say_how_consistent_they_want_to_be() -> None:
    reply = Reply(200, b"v", {"ETag": '"3"', "Syncline-Revision": "9"})
    _, double = await answer_of(reply, lambda kv: kv.get("k", consistency="stale", max_stale_s=2.5))
    assert double.requests[0].parameters["consistency"] == "stale"
    assert double.requests[0].parameters["max_stale"] == "2.5"


@pytest.mark.parametrize("headers", [{}, {"ETag": "x", "Syncline-Revision": "9"}, {"ETag": '"1"'}])
async def test_an_answer_without_its_revision_is_no_answer(headers: dict[str, str]) -> None:
    with pytest.raises(RequestFailed, match="header"):
        await answer_of(Reply(200, b"v", headers), lambda kv: kv.get("k"))


async def test_a_wrong_path_is_not_taken_for_an_absent_key() -> None:
    with pytest.raises(RequestFailed) as caught:
        await answer_of(error_reply(404, "unknown_route"), lambda kv: kv.get("k"))
    assert (caught.value.code, caught.value.status) == ("unknown_route", 404)


async def test_an_error_names_the_leader_where_the_server_does() -> None:
    reply = error_reply(503, "not_leader", leader={"id": "000000000000002a", "name": "b", "http": ""})
    with pytest.raises(NotLeader) as caught:
        await answer_of(reply, lambda kv: kv.put("k", b"v"))
    assert caught.value.leader == 42


async def test_a_transaction_is_written_and_read_in_the_documented_form() -> None:
    answer = {
        "succeeded": True,
        "revision": 12,
        "results": [
            {"op": "put", "revision": 12},
            {"op": "delete", "deleted": 1},
            {"op": "get", "found": True, "key_base64": "/w==", "value": "x", "mod_revision": 12},
        ],
    }

    async def work(kv: AsyncClient) -> None:
        result = await kv.txn(
            [Compare(b"a", number=7), Compare(b"\xff", value=b"x", op="!=")],
            [PutOp(b"a", b"\x00"), DeleteOp(b"b")],
            [GetOp(b"a"), DeletePrefixOp(b"p/")],
        )
        assert (result.succeeded, result.revision) == (True, 12)
        assert [item.op for item in result.results] == ["put", "delete", "get"]
        assert (result.results[2].key, result.results[2].value) == (b"\xff", b"x")

    _, double = await answer_of(json_reply(answer), work)
    assert double.requests[0].path == "/txn"
    assert double.requests[0].json() == {
        "compare": [
            {"key": "a", "op": "==", "target": "mod_revision", "number": 7},
            {"key_base64": "/w==", "op": "!=", "target": "value", "value_base64": "eA=="},
        ],
        "then": [{"op": "put", "key": "a", "value_base64": "AA=="}, {"op": "delete", "key": "b"}],
        "else": [{"op": "get", "key": "a"}, {"op": "delete_range", "prefix": "p/"}],
    }


MEMBER = {"id": "0" * 15 + "2", "name": "b", "role": "learner", "peer": "h:1", "http": "", "match": None}


async def test_adding_a_member_sends_the_tutorials_fields() -> None:
    answer = {"added": True, "cluster_id": "ab", "membership_index": 5, "member": MEMBER, "members": [MEMBER]}
    added, double = await answer_of(json_reply(answer), lambda kv: kv.add_member("b", "h:1", learner=True))
    assert added.member.name == "b"
    assert double.requests[0].path == "/raft/add"
    assert double.requests[0].json() == {"ID": "b", "Address": "h:1", "Http": "", "Learner": True}


@pytest.mark.parametrize("route", ["remove", "promote", "demote"])
async def test_a_change_of_a_member_names_it(route: str) -> None:
    answer = json_reply({"membership_index": 6, "members": [MEMBER]})
    members, double = await answer_of(answer, lambda kv: getattr(kv, f"{route}_member")("b"))
    assert members.membership_index == 6
    assert (double.requests[0].path, double.requests[0].json()) == (f"/raft/{route}", {"ID": "b"})


async def test_an_unknown_member_is_an_error_of_the_membership() -> None:
    with pytest.raises(MembershipError) as caught:
        await answer_of(error_reply(404, "unknown_member"), lambda kv: kv.remove_member("x"))
    assert caught.value.code == "unknown_member"


async def test_transfer_returns_the_new_leader() -> None:
    reply = json_reply({"status": "success", "leader": {"id": "2", "name": "b", "http": "http://b"}})
    leader, double = await answer_of(reply, lambda kv: kv.transfer_leadership())
    assert leader.name == "b"
    assert double.requests[0].json() == {}


async def test_a_snapshot_tells_where_it_stands() -> None:
    result, _ = await answer_of(json_reply({"created": True, "index": 77}), lambda kv: kv.snapshot())
    assert (result.created, result.index) == (True, 77)


async def test_watchers_of_a_key_are_counted_by_the_node_that_answers() -> None:
    reply = json_reply({"status": "success", "name": "b", "watches": 3})
    found, double = await answer_of(reply, lambda kv: kv.watchers("a/../b"))
    assert (found.name, found.watches) == ("b", 3)
    assert (double.requests[0].path, double.requests[0].parameters) == ("/watchers", {"key": "a/../b"})


STATUS = {
    "cluster_id": "ab", "id": "2", "name": "b", "role": "follower", "term": 3, "leader": None, "commit": 9,
    "applied": 8, "last_index": 10, "pid": 1, "data_dir": "/d", "lag": 1, "members": [MEMBER], "added_later": {"x": 1},
}  # fmt: skip


async def test_a_status_may_hold_more_than_this_client_knows() -> None:
    status, double = await answer_of(json_reply(STATUS), lambda kv: kv.status())
    assert (status.name, status.role, status.lag, status.members[0].role) == ("b", "follower", 1, "learner")
    assert "timeout" not in double.requests[0].parameters


@given(st.binary(max_size=40))
async def test_a_servers_garbage_is_an_error_and_no_crash(body: bytes) -> None:
    with pytest.raises(RequestFailed):
        await answer_of(Reply(200, body), lambda kv: kv.txn())


def test_bytes_for_people_escape_what_is_not_text() -> None:
    assert text_of("ä\n".encode() + b"\xff") == "ä\n\\xff"
    assert json.dumps(text_of(b"\xff")) == '"\\\\xff"'
