"""What a client could try to get more than it is allowed: keys of whole batches, old streams, floods, the log."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys

import pytest

from syncline.errors import NoLeader
from syncline.kv.auth.commands import UserAdd
from syncline.kv.commands import Put
from syncline.platform.entropy import system_entropy
from syncline.server.api.errors import RequestError
from syncline.server.auth.gate import MAX_KNOWN
from syncline.server.auth.lockout import FREE_FAILURES
from syncline.server.auth.passwords import MAX_QUEUED_OF_ONE, Passwords
from syncline.server.logs import JsonFormatter, TextFormatter
from tests.helpers.auth_site import (
    CHEAP,
    PASSWORD,
    AuthWire,
    InlineWorkers,
    add_users,
    apply,
    basic,
    bearer,
    grant,
    token_of,
)
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import FakeBackend, error_in

A = (b"a", b"a\0")
B = (b"b", b"b\0")


# --- a batch with one key


async def whole(wire: AuthWire, user: str, key: str, *ops: dict[str, object]) -> Answer:
    body = json.dumps({"ops": ops}).encode()
    return await wire.ask("POST", "/batch", body, bearer(user), f"Idempotency-Key: {key}")


async def test_batch_key_of_a_user_with_another_batch_is_a_mismatch() -> None:
    wire = AuthWire()
    grant(wire.backend, writes=(A, B))
    put_a: dict[str, object] = {"op": "put", "key": "a", "value": "1"}
    put_b: dict[str, object] = {"op": "put", "key": "b", "value": "2"}
    session = json.loads((await wire.ask("POST", "/session", b"", bearer("ann"))).body)["id"]
    for key in ("free-text", f"{session}/1"):
        assert (await whole(wire, "ann", key, put_a)).status == 200
        for other in ([put_b], [put_a, put_b], [{"op": "put", "key": "a", "value": "2"}]):
            answer = await whole(wire, "ann", key, *other)
            assert (answer.status, error_in(answer)["code"]) == (422, "idempotency_mismatch")
        again = await whole(wire, "ann", key, put_a)
        assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")


async def test_batch_key_of_another_user_gives_no_answer() -> None:
    wire = AuthWire()
    grant(wire.backend, reads=(A,), writes=(A,))
    ops: list[dict[str, object]] = [{"op": "put", "key": "a", "value": "1"}, {"op": "get", "key": "a"}]
    session = json.loads((await wire.ask("POST", "/session", b"", bearer("ann"))).body)["id"]
    for key, status in (("free-text", 200), (f"{session}/1", 422)):
        assert (await whole(wire, "ann", key, *ops)).status == 200
        other = await whole(wire, "root", key, *ops)
        assert other.status == status
        assert "idempotency-replayed" not in other.headers
        denied = await whole(wire, "bob", key, *ops)
        assert b'"value"' not in denied.body


async def test_batch_key_after_a_change_of_permissions_is_a_mismatch() -> None:
    """What is refused by itself is not in the command, so it is another command when it is allowed."""
    wire = AuthWire()
    grant(wire.backend, writes=(A,))
    ops: list[dict[str, object]] = [{"op": "put", "key": "a", "value": "1"}, {"op": "put", "key": "b", "value": "2"}]
    first = await whole(wire, "ann", "one", *ops)
    assert [one["status"] for one in json.loads(first.body)["results"]] == [200, 403]
    grant(wire.backend, writes=(B,))
    assert (await whole(wire, "ann", "one", *ops)).status == 422


# --- what began before credentials were needed


async def without_users() -> tuple[FakeBackend, AuthWire]:
    backend = FakeBackend()
    apply(backend, Put(b"a", b"v"))
    return backend, AuthWire(backend)


@pytest.mark.parametrize("path", ["/watch?prefix=", "/watch?key=a"])
async def test_watch_without_a_user_ends_when_credentials_are_needed(path: str) -> None:
    backend, wire = await without_users()
    wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n".encode())
    await wire.settle()
    assert bytes(wire.received).startswith(b"HTTP/1.1 200")
    apply(backend, Put(b"a", b"seen"))
    await wire.settle()
    assert b"seen" in wire.received
    add_users(backend)
    apply(backend, Put(b"a", b"secret"))
    await wire.settle()
    assert b"secret" not in wire.received
    assert b'"unauthenticated"' in wire.received
    assert bytes(wire.received).endswith(b"0\r\n\r\n"), "the stream has ended"
    assert len(wire.site.gate.streams) == 0


async def test_watch_without_a_user_goes_on_while_none_is_needed() -> None:
    backend, wire = await without_users()
    wire.send(b"GET /watch?prefix= HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
    await wire.settle()
    apply(backend, UserAdd("root", None, ("root",)))
    apply(backend, Put(b"a", b"seen"))
    await wire.settle()
    assert b"seen" in wire.received


@pytest.mark.parametrize("path", ["/key/a?wait=30s", "/key/a?wait=30s&consistency=stale"])
async def test_long_poll_without_a_user_is_refused_when_credentials_are_needed(path: str) -> None:
    backend, wire = await without_users()
    wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await wire.settle()
    add_users(backend)
    apply(backend, Put(b"a", b"secret"))
    await wire.settle()
    answer = wire.next_answer()
    assert (answer.status, b"secret" in answer.body) == (401, False)


@pytest.mark.parametrize("path", ["/key/a", "/keys", "/keys?prefix=a", "/key/a?revision=1"])
async def test_read_without_a_user_is_checked_when_it_is_confirmed(path: str) -> None:
    backend, wire = await without_users()
    for count in range(3):  # the third one takes the fast path, if there is one
        backend.hold = count == 2
        wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.settle()
        if count < 2:
            assert wire.next_answer().status == 200
    assert backend.held
    add_users(backend)
    backend.hold = False
    while backend.held:
        backend.release()
    await wire.settle()
    assert wire.next_answer().status == 401


# --- guesses


async def test_wrong_passwords_without_a_leader_count_too() -> None:
    """Otherwise a node that is cut off could be asked for passwords without an end."""
    wire = AuthWire()
    wire.backend.read_error = NoLeader("no leader")
    found = [(await wire.ask("GET", "/auth", b"", basic("root", "wrong"))).status for _ in range(FREE_FAILURES)]
    assert set(found) == {503}
    answer = await wire.ask("GET", "/auth", b"", basic("root", "wrong"))
    assert (answer.status, error_in(answer)["code"]) == (429, "locked_out")


async def test_password_with_zeros_behind_it_is_another_one() -> None:
    """HMAC, inside scrypt, takes both for the same key."""
    wire = AuthWire()
    for zeros in ("\0", "\0\0\0"):
        assert (await wire.ask("GET", "/auth", b"", basic("ann", PASSWORD + zeros))).status == 401
    assert (await wire.ask("GET", "/auth", b"", basic("ann"))).status == 200
    body = json.dumps({"password": "x\0y"}).encode()
    assert (await wire.ask("POST", "/user/ann/password", body, basic("ann"))).status == 400


async def test_passwords_that_wait_are_bounded_by_network() -> None:
    """One host commonly has 2**64 addresses of IPv6."""
    passwords = Passwords(InlineWorkers(), system_entropy, CHEAP)
    first = [passwords.check(b"x", None, f"2001:db8::{number}") for number in range(MAX_QUEUED_OF_ONE)]
    with pytest.raises(RequestError):
        passwords.check(b"x", None, "2001:db8::ffff")
    await asyncio.gather(*first, passwords.check(b"x", None, "2001:db8:1::1"))
    await passwords.close()


async def test_one_credential_in_many_forms_takes_one_place() -> None:
    """Else one user with a token could push out the passwords of all others, and each would be hashed again."""
    wire = AuthWire()
    assert (await wire.ask("GET", "/auth", b"", basic("root"))).status == 200
    token = token_of("ann")
    for number in range(MAX_KNOWN + 1):
        scheme = "".join(letter.upper() if number >> at & 1 else letter for at, letter in enumerate("bearer"))
        field = f"Authorization: {scheme}{' ' * (number // 64 + 1)}{token}"
        assert (await wire.ask("GET", "/auth", b"", field)).status == 200
    assert (await wire.ask("GET", "/auth", b"", basic("root"))).status == 200
    assert wire.site.gate.passwords.checks == 1


# --- the log


@pytest.mark.parametrize(
    "credential",
    [token_of("ann") + ":", token_of("ann"), f"{token_of('ann')}:{token_of('ann')}", f" {token_of('ann')} :x"],
)
async def test_token_in_the_place_of_the_user_is_not_logged(credential: str, caplog: pytest.LogCaptureFixture) -> None:
    """`curl -u TOKEN:` is how other services take a token."""
    caplog.set_level(logging.INFO)
    wire = AuthWire()
    encoded = base64.b64encode(credential.encode()).decode()
    answer = await wire.ask("GET", "/auth", b"", f"Authorization: Basic {encoded}")
    assert answer.status == 401
    told = str([record.__dict__ for record in caplog.records]) + answer.body.decode()
    assert caplog.records
    assert token_of("ann") not in told


async def test_token_without_base64_is_not_logged_in_another_form(caplog: pytest.LogCaptureFixture) -> None:
    """`Basic TOKEN`, or both schemes in two fields: a lenient decoder makes bytes of it that tell the token."""
    caplog.set_level(logging.INFO)
    wire = AuthWire()
    bare = "syncline_" + base64.b64encode(b"seed:" + bytes(25)).decode()
    answer = await wire.ask("GET", "/auth", b"", f"Authorization: Basic {bare}")
    assert answer.status == 401
    assert caplog.records
    assert "seed" not in str([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_log_lines_hold_no_terminal_controls(formatter: logging.Formatter) -> None:
    """In the message, in a field and in a trace: names and reasons come from peers and clients."""
    evil = "a\x1b[2J\x9b31m\u202eb\x7f\r\n2026-11-30T00:00:00.000+00:00 INFO forged"
    try:
        raise ValueError(evil.partition("\r")[0])
    except ValueError:
        trace = sys.exc_info()
    record = logging.LogRecord("syncline.x", logging.INFO, "", 0, "from %s", (evil,), trace)
    record.target = evil
    line = formatter.format(record)
    assert all(part.isprintable() for part in line.split("\n"))
    assert not any(part.startswith("2026") and "forged" in part for part in line.split("\n")[1:])
    assert "forged" in line
