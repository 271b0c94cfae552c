"""`/key/{key}`: what is stored is what comes back, conditions hold, limits bind, errors say what happened."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import Closed, DeadlineExceeded, DiskFull, Dropped, NoLeader, NotLeader, Outcome, SynclineError
from syncline.server.api.errors import RequestError
from syncline.server.api.keys import ANY_ETAG, parse_etags
from tests.helpers.http_wire import Wire
from tests.helpers.kv_node import IDS, KvWire, error_in


async def test_a_value_comes_back_as_it_was_stored() -> None:
    wire = KvWire()
    stored = await wire.ask("PUT", "/key/a/b", b"\x00 raw \xff")
    assert stored.status == 200
    assert json.loads(stored.body) == {"status": "success", "revision": 1}
    assert stored.headers["etag"] == '"1"'
    assert stored.headers["syncline-revision"] == "1"
    await wire.ask("POST", "/key/other", b"")
    found = await wire.ask("GET", "/key/a/b")
    assert (found.status, found.body) == (200, b"\x00 raw \xff")
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert (found.headers["etag"], found.headers["syncline-revision"]) == ('"1"', "2")


@pytest.mark.parametrize(
    ("method", "target"),
    [("PUT", "/key/a"), ("DELETE", "/key/a"), ("GET", "/key/absent"), ("GET", "/keys"), ("GET", "/key/?"), ("X", "/")],
)
async def test_json_answers_end_with_a_line_feed(method: str, target: str) -> None:
    """So that `curl` leaves the prompt of a shell on a line of its own; errors are JSON, too."""
    answer = await KvWire().ask(method, target, b"x" if method == "PUT" else b"")
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.endswith(b"}\n")
    assert json.loads(answer.body)


async def test_an_empty_value_is_not_a_missing_key() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"")
    assert (await wire.ask("GET", "/key/a")).status == 200
    missing = await wire.ask("GET", "/key/b")
    assert missing.status == 404
    assert error_in(missing)["code"] == "not_found"
    assert missing.headers["syncline-revision"] == "1"


async def test_head_tells_the_size_and_the_etag() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"12345")
    answer = await wire.ask("HEAD", "/key/a")
    assert (answer.status, answer.headers["content-length"], answer.headers["etag"]) == (200, "5", '"1"')


async def test_delete_says_whether_there_was_something() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"x")
    first = await wire.ask("DELETE", "/key/a")
    assert json.loads(first.body) == {"status": "success", "deleted": True, "revision": 2}
    second = await wire.ask("DELETE", "/key/a")
    assert (second.status, json.loads(second.body)["deleted"]) == (200, False)
    assert second.headers["syncline-revision"] == "2"


@settings(max_examples=60, deadline=None)
@given(key=st.binary(min_size=1, max_size=40))
async def test_every_key_can_be_written_and_read(key: bytes) -> None:
    wire = KvWire()
    path = "/key/" + quote(key, safe="")
    await wire.ask("PUT", path, b"v")
    assert wire.backend.store.get(key) is not None
    assert (await wire.ask("GET", path)).body == b"v"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/key/a/b", b"a/b"),
        ("/key/a%2Fb", b"a/b"),
        ("/key/a%2fb", b"a/b"),
        ("/key//", b"/"),
        ("/key/../x", b"../x"),
        ("/key/a+b", b"a+b"),
        ("/key/%25", b"%"),
        ("/key/%00", b"\0"),
        ("/key/%C3%A9", "é".encode()),
    ],
)
async def test_the_path_is_the_key(path: str, key: bytes) -> None:
    wire = KvWire()
    await wire.ask("PUT", path, b"v")
    assert wire.backend.store.get(key) is not None


@pytest.mark.parametrize(
    ("method", "path", "fields", "status", "code"),
    [
        ("GET", "/key/", (), 400, "bad_request"),
        ("PUT", "/key/", (), 400, "bad_request"),
        ("GET", "/key", (), 404, "unknown_route"),
        ("GET", "/key/a%", (), 400, "bad_request"),
        ("GET", "/key/a%zz", (), 400, "bad_request"),
        ("GET", "/key/" + "k" * 101, (), 413, "too_large"),
        ("PUT", "/key/" + "k" * 101, (), 413, "too_large"),
        ("PUT", "/key/a?ttl=1s", (), 400, "bad_request"),
        ("PUT", "/key/a?lease=1", (), 400, "bad_request"),
        ("DELETE", "/key/a?ttl=30s", (), 400, "bad_request"),
        ("GET", "/key/a?from=1", (), 400, "bad_request"),
        ("PUT", "/key/a", ("Idempotency-Key: x,y",), 400, "bad_request"),
        ("PUT", "/key/a?nonsense=1", (), 400, "bad_request"),
        ("PUT", "/key/a?timeout=1s&timeout=2s", (), 400, "bad_request"),
        ("PUT", "/key/a?timeout=0", (), 400, "bad_request"),
        ("PUT", "/key/a?timeout=61s", (), 400, "bad_request"),
        ("PUT", "/key/a?timeout=soon", (), 400, "bad_request"),
        ("GET", "/key/a?consistency=maybe", (), 400, "bad_request"),
        ("GET", "/key/a?max_stale=5s", (), 400, "bad_request"),
        ("GET", "/key/a?consistency=stale&max_stale=x", (), 400, "bad_request"),
        ("PUT", "/key/a", ("If-Match: abc",), 400, "bad_request"),
        ("PUT", "/key/a", ('If-Match: "1", "2"',), 400, "bad_request"),
        ("PUT", "/key/a", ('If-Match: W/"1"',), 400, "bad_request"),
        ("PUT", "/key/a", ('If-Match: "0"',), 400, "bad_request"),
        ("PUT", "/key/a", (f'If-Match: "{2**63}"',), 400, "bad_request"),
        ("PUT", "/key/a", ('If-None-Match: "1"',), 400, "bad_request"),
        ("PUT", "/key/a", ("If-None-Match: *", "If-Match: *"), 400, "bad_request"),
        ("DELETE", "/key/a", ("If-None-Match: *",), 400, "bad_request"),
        ("PATCH", "/key/a", (), 405, "method_not_allowed"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    method: str, path: str, fields: tuple[str, ...], status: int, code: str
) -> None:
    wire = KvWire()
    answer = await wire.ask(method, path, b"v" if method in {"PUT", "PATCH"} else b"", *fields)
    assert (answer.status, error_in(answer)["code"]) == (status, code)
    assert error_in(answer)["outcome"] == "not_applied"
    assert wire.backend.store.revision == 0
    assert answer.keep_alive, "the connection goes on: the request was understood"


async def test_a_value_at_the_limit_is_stored_and_one_above_is_not() -> None:
    wire = KvWire()
    assert (await wire.ask("PUT", "/key/a", b"x" * 1000)).status == 200
    answer = await wire.ask("PUT", "/key/b", b"x" * 1001)
    assert (answer.status, error_in(answer)["code"]) == (413, "too_large")
    assert wire.backend.store.get(b"b") is None


# --- conditions


async def test_if_match_writes_only_at_the_revision() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"1")
    assert (await wire.ask("PUT", "/key/a", b"2", 'If-Match: "1"')).status == 200
    late = await wire.ask("PUT", "/key/a", b"3", "If-Match: 1")
    assert late.status == 412
    assert error_in(late)["code"] == "precondition_failed"
    assert error_in(late)["details"]["revision"] == 2
    assert (late.headers["etag"], late.headers["syncline-revision"]) == ('"2"', "2")
    assert (await wire.ask("GET", "/key/a")).body == b"2"
    assert (await wire.ask("DELETE", "/key/a", b"", 'If-Match: "1"')).status == 412
    assert (await wire.ask("DELETE", "/key/a", b"", 'If-Match: "2"')).status == 200


async def test_if_match_star_needs_the_key_and_if_none_match_star_its_absence() -> None:
    wire = KvWire()
    absent = await wire.ask("PUT", "/key/a", b"1", "If-Match: *")
    assert absent.status == 412
    assert error_in(absent)["details"]["revision"] == 0
    assert "etag" not in absent.headers
    assert (await wire.ask("PUT", "/key/a", b"1", "If-None-Match: *")).status == 200
    assert (await wire.ask("PUT", "/key/a", b"2", "If-None-Match: *")).status == 412
    assert (await wire.ask("PUT", "/key/a", b"3", "If-Match: *")).status == 200
    assert (await wire.ask("GET", "/key/a")).body == b"3"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (('If-None-Match: "1"',), 304),
        (('If-None-Match: W/"1"',), 304),
        (("If-None-Match: 1",), 304),
        (('If-None-Match: "7", "1"',), 304),
        (("If-None-Match: *",), 304),
        (('If-None-Match: "2"',), 200),
        (('If-Match: "1"',), 200),
        (("If-Match: *",), 200),
        (('If-Match: W/"1"',), 412),
        (('If-Match: "2"',), 412),
        (('If-Match: "2"', 'If-None-Match: "1"'), 412),
        (("If-None-Match: x",), 400),
    ],
)
async def test_conditions_of_a_read(fields: tuple[str, ...], status: int) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"value")
    answer = await wire.ask("GET", "/key/a", b"", *fields)
    assert answer.status == status
    if status == 304:
        assert (answer.body, answer.headers["etag"]) == (b"", '"1"')
    assert (await wire.ask("GET", "/key/a")).status == 200, "the connection is in step"


async def test_conditions_of_a_read_of_a_missing_key() -> None:
    wire = KvWire()
    assert (await wire.ask("GET", "/key/a", b"", "If-None-Match: *")).status == 404
    assert (await wire.ask("GET", "/key/a", b"", "If-Match: *")).status == 412


def test_etags() -> None:
    assert parse_etags(b'"1", W/"2" ,3,*', "x", weak=True) == {1, 2, 3, ANY_ETAG}
    assert parse_etags(b'"1", W/"2"', "x", weak=False) == {1}
    for bad in (b"", b'""', b'"a"', b"-1", b'"1', b"99999999999999999999"):
        with pytest.raises(RequestError):
            parse_etags(bad, "x", weak=True)


# --- consistency


async def test_a_linearizable_read_waits_and_reads_what_was_written_meanwhile() -> None:
    wire = KvWire()
    wire.backend.hold = True
    wire.send(b"GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n")
    another = Wire(server=wire.server)  # on one connection the write would wait for the read
    another.send(b"PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nnew")
    wire.backend.release(1)
    await wire.settle()
    assert wire.received == b""
    wire.backend.release(0)
    await wire.settle()
    assert wire.answers[0].body == b"new"


async def test_reads_of_one_moment_share_one_confirmation() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    wire.backend.hold = True
    for _ in range(5):
        wire.send(b"GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(wire.backend.held) == 1
    future, _ = wire.backend.held[0]
    assert len(future._callbacks) == 1
    wire.backend.release()
    await wire.settle()
    assert [answer.body for answer in wire.answers[1:]] == [b"v"] * 5


async def test_stale_and_leader_reads_ask_no_peer_unless_needed() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    assert (await wire.ask("GET", "/key/a?consistency=stale")).body == b"v"
    assert (await wire.ask("GET", "/key/a?consistency=leader")).body == b"v"
    assert wire.backend.reads == 0
    wire.backend.is_leader = False
    assert (await wire.ask("GET", "/key/a?consistency=leader")).body == b"v"
    assert wire.backend.reads == 1
    assert (await wire.ask("GET", "/key/a?consistency=linearizable")).body == b"v"
    assert wire.backend.reads == 2


@pytest.mark.parametrize(("age_s", "confirmed"), [(0.0, 0), (5.0, 0), (5.1, 1), (None, 1)])
async def test_a_state_that_may_be_older_than_max_stale_is_confirmed_first(age_s: float | None, confirmed: int) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    wire.backend.state_age_s = age_s
    assert (await wire.ask("GET", "/key/a?consistency=stale&max_stale=5s")).body == b"v"
    assert wire.backend.reads == confirmed


NOBODY = DeadlineExceeded("nobody confirmed it", outcome=Outcome.NOT_APPLIED)


@pytest.mark.parametrize(("error", "leader"), [(NOBODY, "a"), (NoLeader("none"), "a"), (NoLeader("none"), None)])
async def test_stale_read_without_confirmation_is_too_stale(error: SynclineError, leader: str | None) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    wire.backend.state_age_s = 5.1
    wire.backend.read_error = error
    wire.backend.leader_name = leader
    answer = await wire.ask("GET", "/key/a?consistency=stale&max_stale=5s")
    assert (answer.status, error_in(answer)["code"], answer.headers["retry-after"]) == (503, "too_stale", "1")
    assert wire.backend.reads == (leader is not None), "without a leader there is nothing to wait for"
    assert (await wire.ask("GET", "/key/a?consistency=stale")).status == 200
    wire.backend.state_age_s = 4.0
    assert (await wire.ask("GET", "/key/a?consistency=stale&max_stale=5s")).status == 200


async def test_another_failure_of_the_confirmation_is_told_as_it_is() -> None:
    wire = KvWire()
    wire.backend.state_age_s = None
    wire.backend.read_error = Closed("the node is closing")
    answer = await wire.ask("GET", "/key/a?consistency=stale&max_stale=5s")
    assert (answer.status, error_in(answer)["code"]) == (503, "closed")


@pytest.mark.parametrize("level", ["stale", "leader"])
async def test_a_node_that_may_be_behind_what_it_showed_refuses_to_show_it(level: str) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    wire.backend.catching_up = True
    answer = await wire.ask("GET", f"/key/a?consistency={level}")
    assert (answer.status, error_in(answer)["code"], answer.headers["retry-after"]) == (503, "too_stale", "1")
    assert (await wire.ask("GET", "/key/a")).status == 200, "a confirmed read is never behind"


async def test_deadline_is_passed_on() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    await wire.ask("PUT", "/key/a?timeout=250ms", b"v")
    await wire.ask("GET", "/key/a?timeout=2")
    await wire.ask("DELETE", "/key/a?timeout=1m")
    assert wire.backend.timeouts_s == [5.0, 0.25, 2.0, 60.0]


# --- failures


@pytest.mark.parametrize(
    ("error", "status", "code", "outcome"),
    [
        (NoLeader("nobody"), 503, "no_leader", "not_applied"),
        (NotLeader("not here", leader=IDS["a"]), 503, "not_leader", "not_applied"),
        (Dropped("too much"), 503, "dropped", "not_applied"),
        (Closed("closing"), 503, "closed", "unknown"),
        (DeadlineExceeded("late"), 504, "deadline_exceeded", "unknown"),
        (DeadlineExceeded("late", outcome=Outcome.NOT_APPLIED), 504, "deadline_exceeded", "not_applied"),
        (DiskFull("no space"), 507, "disk_full", "not_applied"),
    ],
)
async def test_a_failed_write_says_what_is_known_of_it(error: Exception, status: int, code: str, outcome: str) -> None:
    wire = KvWire()
    wire.backend.propose_error = error  # type: ignore[assignment]
    answer = await wire.ask("PUT", "/key/a", b"v")
    found = error_in(answer)
    assert (answer.status, found["code"], found["outcome"]) == (status, code, outcome)
    assert (answer.headers.get("retry-after") == "1") == (status == 503)
    if isinstance(error, NotLeader):
        assert found["leader"] == {"id": f"{IDS['a']:016x}", "name": "a", "http": "http://a:8080"}


async def test_a_failed_read_is_an_error_and_not_old_data() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    wire.backend.read_error = NoLeader("nobody")
    answer = await wire.ask("GET", "/key/a")
    assert (answer.status, error_in(answer)["code"]) == (503, "no_leader")


async def test_an_operation_that_the_node_gives_up_is_answered() -> None:
    wire = KvWire()
    wire.backend.hold = True
    reader, writer = wire, Wire(server=wire.server)
    reader.send(b"GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.send(b"PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
    (read, _), (write, _) = wire.backend.held
    read.set_exception(Closed("the node is closing"))
    write.cancel()
    await wire.settle()
    assert [error_in(answer)["code"] for answer in (*reader.answers, *writer.answers)] == ["closed", "closed"]
