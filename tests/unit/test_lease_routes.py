"""Leases over HTTP: strict documents, stable codes, and the key that ends in `/touch`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from syncline.errors import Dropped, NotLeader
from syncline.kv.commands import LeaseGrant, Put, encode_command
from syncline.kv.limits import MAX_LEASES
from syncline.node.fsm import Entry
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import KvWire, error_in

LEASE = "00000000000000a1"
GONE = "00000000000000ff"


async def granted(ttl: str = "30s", *, keys: tuple[str, ...] = ()) -> KvWire:
    """A store with one lease, and these keys in it."""
    wire = KvWire()
    answer = await wire.ask("POST", "/lease", json.dumps({"ttl": ttl, "id": LEASE}).encode())
    assert answer.status == 200, answer.body
    for key in keys:
        assert (await wire.ask("PUT", f"/key/{key}?lease={LEASE}", b"v")).status == 200
    return wire


def body_of(answer: Answer, status: int = 200) -> dict[str, Any]:
    assert answer.status == status, answer.body
    body = json.loads(answer.body)
    assert isinstance(body, dict)
    return body


async def test_grant_with_a_chosen_id_answers_id_and_time() -> None:
    wire = KvWire()
    answer = await wire.ask("POST", "/lease", b'{"ttl":"90s","id":"00000000000000a1"}')
    assert body_of(answer) == {"status": "success", "id": LEASE, "ttl_s": 90}
    assert body_of(await wire.ask("POST", "/lease", b'{"ttl":"2500ms"}')) == {
        "status": "success", "id": "0000000000000001", "ttl_s": 2.5,
    }  # fmt: skip
    refused = await wire.ask("POST", "/lease", b'{"ttl":"90s","id":"00000000000000a1"}')
    error = error_in(refused)
    assert (refused.status, error["code"], error["details"]) == (409, "lease_exists", {"lease": LEASE})


async def test_grant_above_the_limit_on_leases_is_429() -> None:
    wire = KvWire()
    for lease in range(1, MAX_LEASES + 1):
        wire.backend.machine.apply(Entry(lease, 1, encode_command(LeaseGrant(lease, 5000))))
    wire.backend.leases = MAX_LEASES
    refused = await wire.ask("POST", "/lease", b'{"ttl":"90s"}')
    assert (refused.status, error_in(refused)["code"]) == (429, "limit")


async def test_lease_shows_its_times_and_its_keys() -> None:
    wire = await granted(keys=("b", "a%FF"))
    answer = await wire.ask("GET", f"/lease/{LEASE}")
    assert body_of(answer) == {
        "id": LEASE,
        "ttl_s": 30,
        "granted_ttl_s": 30,
        "keys": [{"key_base64": "Yf8="}, {"key": "b"}],
        "more": False,
    }
    assert answer.headers["syncline-revision"] == "2"
    absent = await wire.ask("GET", f"/lease/{GONE}")
    assert (absent.status, error_in(absent)["code"]) == (404, "lease_not_found")


async def test_lease_with_very_long_keys_shows_a_part() -> None:
    wire = await granted()
    for number in range(400):
        put = Put(b"%04d" % number + b"x" * 4000, b"", int(LEASE, 16))
        wire.backend.machine.apply(Entry(number + 2, 1, encode_command(put)))
    body = body_of(await wire.ask("GET", f"/lease/{LEASE}"))
    assert body["more"] is True
    assert len(body["keys"]) == 1024 * 1024 // 4004


async def test_leases_are_listed_in_pages() -> None:
    wire = await granted(keys=("a", "b"))
    for _ in range(3):
        await wire.ask("POST", "/lease", b'{"ttl":"9s"}')
    whole = body_of(await wire.ask("GET", "/lease"))
    assert [one["id"] for one in whole["leases"]] == [f"{number:016x}" for number in (1, 2, 3)] + [LEASE]
    assert whole["leases"][3] == {"id": LEASE, "granted_ttl_s": 30, "keys": 2}
    assert (whole["count"], whole["next"], whole["revision"]) == (4, None, 2)
    first = body_of(await wire.ask("GET", "/lease?limit=3"))
    second = body_of(await wire.ask("GET", f"/lease?limit=3&after={first['next']}"))
    assert first["leases"] + second["leases"] == whole["leases"]
    assert second["next"] is None


async def test_keep_alive_answers_the_full_time() -> None:
    wire = await granted()
    revision = wire.backend.store.revision
    assert body_of(await wire.ask("POST", f"/lease/{LEASE}/keepalive")) == {
        "status": "success", "id": LEASE, "ttl_s": 30,
    }  # fmt: skip
    absent = await wire.ask("POST", f"/lease/{GONE}/keepalive")
    assert (absent.status, error_in(absent)["code"]) == (404, "lease_not_found")
    many = await wire.ask("POST", "/lease/keepalive", json.dumps({"ids": [GONE, LEASE]}).encode())
    assert body_of(many) == {"status": "success", "leases": [{"id": LEASE, "ttl_s": 30}], "missing": [GONE]}
    assert wire.backend.store.revision == revision


async def test_keep_alive_of_a_thousand_leases_is_one_request() -> None:
    wire = await granted()
    ids = [f"{number:016x}" for number in range(1, 1001)]
    answer = body_of(await wire.ask("POST", "/lease/keepalive", json.dumps({"ids": ids}).encode()))
    assert [one["id"] for one in answer["leases"]] == [LEASE]
    refused = await wire.ask("POST", "/lease/keepalive", json.dumps({"ids": [*ids, LEASE]}).encode())
    assert refused.status == 400
    assert "ids" in error_in(refused)["message"]


async def test_keep_alive_that_fails_has_an_outcome() -> None:
    wire = await granted()
    wire.backend.propose_error = NotLeader("no")
    answer = await wire.ask("POST", f"/lease/{LEASE}/keepalive")
    assert (answer.status, error_in(answer)["code"]) == (503, "not_leader")
    wire.backend.propose_error = Dropped("full")
    answer = await wire.ask("POST", "/lease/keepalive", json.dumps({"ids": [LEASE]}).encode())
    assert (answer.status, error_in(answer)["code"]) == (503, "dropped")


async def test_revoke_deletes_the_keys_in_one_revision() -> None:
    wire = await granted(keys=("a", "b"))
    answer = await wire.ask("DELETE", f"/lease/{LEASE}")
    assert body_of(answer) == {"status": "success", "deleted": 2, "revision": 3}
    assert answer.headers["syncline-revision"] == "3"
    assert wire.backend.freeing[-1] is True
    assert (await wire.ask("GET", "/key/a")).status == 404
    again = await wire.ask("DELETE", f"/lease/{LEASE}")
    assert (again.status, error_in(again)["code"]) == (404, "lease_not_found")


async def test_put_with_a_ttl_answers_its_own_lease() -> None:
    wire = KvWire()
    answer = body_of(await wire.ask("PUT", "/key/a?ttl=30s", b"v"))
    assert answer == {"status": "success", "revision": 1, "lease": "0000000000000001"}
    assert body_of(await wire.ask("POST", f"/lease/{answer['lease']}/keepalive"))["ttl_s"] == 30
    assert body_of(await wire.ask("PUT", "/key/a", b"v")) == {"status": "success", "revision": 2}
    assert (await wire.ask("GET", f"/lease/{answer['lease']}")).status == 404, "it went with the next put"


async def test_put_into_a_lease_needs_one_that_exists() -> None:
    wire = await granted()
    assert body_of(await wire.ask("PUT", f"/key/a?lease={LEASE}", b"v")) == {"status": "success", "revision": 1}
    refused = await wire.ask("PUT", f"/key/a?lease={GONE}", b"v")
    assert (refused.status, error_in(refused)["code"]) == (404, "lease_not_found")
    own = body_of(await wire.ask("PUT", "/key/b?ttl=30s", b"v"))["lease"]
    full = await wire.ask("PUT", f"/key/c?lease={own}", b"v")
    assert (full.status, error_in(full)["code"]) == (409, "lease_full")


async def test_touch_renews_or_sets_a_ttl() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a/b", b"v")
    first = await wire.ask("POST", "/key/a/b/touch?ttl=30s")
    assert body_of(first) == {"status": "success", "revision": 2, "lease": "0000000000000001", "ttl_s": 30}
    second = await wire.ask("POST", "/key/a/b/touch?ttl=1m")
    assert body_of(second) == {"status": "success", "revision": 2, "lease": "0000000000000001", "ttl_s": 60}
    assert (await wire.ask("GET", "/key/a/b")).body == b"v"
    absent = await wire.ask("POST", "/key/x/touch?ttl=1m")
    assert (absent.status, error_in(absent)["code"]) == (404, "not_found")
    by_query = await wire.ask("POST", "/touch?key=a/b&ttl=90s")
    assert body_of(by_query)["ttl_s"] == 90


async def test_key_that_ends_in_touch_is_reached() -> None:
    """Only a POST of a path that ends in a plain `/touch` is a touch."""
    wire = KvWire()
    assert (await wire.ask("PUT", "/key/a/touch", b"1")).status == 200
    assert (await wire.ask("POST", "/key/b%2Ftouch", b"2")).status == 200
    assert (await wire.ask("POST", "/key?key=c/touch", b"3")).status == 200
    assert (await wire.ask("POST", "/key/touch", b"4")).status == 200
    for key, value in (("a/touch", b"1"), ("b/touch", b"2"), ("c/touch", b"3"), ("touch", b"4")):
        assert (await wire.ask("GET", f"/key/{key}")).body == value
        assert (await wire.ask("POST", f"/key/{key}/touch?ttl=30s")).status == 200
    assert (await wire.ask("DELETE", "/key/a/touch")).status == 200
    assert (await wire.ask("GET", "/key/a/touch")).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "names"),
    [
        ("POST", "/lease", b"", "the body"),
        ("POST", "/lease", b"[]", "object"),
        ("POST", "/lease", b'{"ttl":30}', "$.ttl"),
        ("POST", "/lease", b"", "it is empty"),
        ("POST", "/lease", b"{}", "ttl"),
        ("POST", "/lease", b'{"ttl":"30s","TTL":"30s"}', "TTL"),
        ("POST", "/lease", b'{"ttl":"30s","ttl":"40s"}', "ttl"),
        ("POST", "/lease", b'{"ttl":"0s"}', "'ttl'"),
        ("POST", "/lease", b'{"ttl":"1999ms"}', "'ttl'"),
        ("POST", "/lease", b'{"ttl":"-5s"}', "'ttl'"),
        ("POST", "/lease", b'{"ttl":"9000000001s"}', "'ttl'"),
        ("POST", "/lease", b'{"ttl":"' + b"9" * 500 + b's"}', "'ttl'"),
        ("POST", "/lease", b'{"ttl":"nans"}', "'ttl'"),
        ("POST", "/lease", b'{"ttl":"30s","id":"5"}', "'id'"),
        ("POST", "/lease", b'{"ttl":"30s","id":"0000000000000000"}', "'id'"),
        ("POST", "/lease", b'{"ttl":"30s","id":"8000000000000000"}', "'id'"),
        ("POST", "/lease", b'{"ttl":"30s","id":"00000000000000A1"}', "'id'"),
        ("POST", "/lease", b'{"ttl":"30s","id":5}', "$.id"),
        ("POST", "/lease?ttl=30s", b'{"ttl":"30s"}', "'ttl'"),
        ("GET", "/lease/5", b"", "id of the lease"),
        ("GET", "/lease/%30000000000000000%2F", b"", "id of the lease"),
        ("GET", f"/lease/{LEASE}?keys=true", b"", "'keys'"),
        ("DELETE", "/lease/x", b"", "id of the lease"),
        ("POST", "/lease/x/keepalive", b"", "id of the lease"),
        ("POST", f"/lease/{LEASE}/keepalive", b"{}", "body"),
        ("POST", "/lease/keepalive", b'{"ids":[]}', "ids"),
        ("POST", "/lease/keepalive", b'{"ids":["x"]}', "$.ids[0]"),
        ("POST", "/lease/keepalive", b'{"ids":["0000000000000000"]}', "'id'"),
        ("POST", "/lease/keepalive", b'{"id":["00000000000000a1"]}', "id"),
        ("GET", "/lease?limit=0", b"", "limit"),
        ("GET", "/lease?limit=10001", b"", "limit"),
        ("GET", "/lease?after=x", b"", "after"),
        ("PUT", "/key/a?ttl=0s", b"v", "ttl"),
        ("PUT", "/key/a?ttl=", b"v", "ttl"),
        ("PUT", "/key/a?ttl=1s", b"v", "ttl"),
        ("PUT", "/key/a?ttl=31536000000000s", b"v", "ttl"),
        ("PUT", "/key/a?lease=7", b"v", "lease"),
        ("PUT", "/key/a?lease=0000000000000000", b"v", "lease"),
        ("PUT", f"/key/a?lease={LEASE}&ttl=30s", b"v", "'lease' and 'ttl'"),
        ("POST", "/key/a/touch", b"", "'ttl'"),
        ("POST", "/key/a/touch?ttl=1s", b"", "ttl"),
        ("POST", "/key/a/touch?ttl=30s", b"v", "body"),
        ("POST", "/key//touch?ttl=30s", b"", "key"),
        ("POST", "/touch?ttl=30s", b"", "key"),
    ],
)
async def test_bad_request_about_a_lease_names_its_fault(method: str, path: str, body: bytes, names: str) -> None:
    wire = KvWire()
    answer = await wire.ask(method, path, body)
    assert answer.status in {400, 404}
    assert error_in(answer)["code"] in {"bad_request", "unknown_route"}
    assert names in error_in(answer)["message"]
    assert wire.backend.store.revision == 0
    assert len(wire.backend.store.leases) == 0


async def test_methods_that_a_lease_does_not_have_are_405() -> None:
    wire = await granted()
    keep_alive = f"/lease/{LEASE}/keepalive"
    for method, path in (
        ("PUT", f"/lease/{LEASE}"),
        ("PUT", "/lease"),
        ("POST", f"/lease/{LEASE}"),
        ("GET", keep_alive),
        ("DELETE", "/lease/keepalive"),
    ):
        answer = await wire.ask(method, path, b"")
        assert (answer.status, error_in(answer)["code"]) == (405, "method_not_allowed")
