"""Credentials: passwords, tokens, lock-out, and what happens when users change while something is under way."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from syncline.kv.auth.commands import TokenRemove, UserPassword, UserRemove
from syncline.node.futures import ReadFuture
from syncline.platform.entropy import system_entropy
from syncline.server.api.errors import RequestError
from syncline.server.auth.lockout import FREE_FAILURES, LONGEST_WAIT_S, LockOut
from syncline.server.auth.passwords import MAX_QUEUED, MAX_QUEUED_OF_ONE, Passwords
from syncline.server.http.networks import network_of
from tests.helpers.auth_site import (
    CHEAP,
    LONG_MS,
    NOW_S,
    PASSWORD,
    AuthWire,
    InlineWorkers,
    add_users,
    apply,
    basic,
    bearer,
    grant,
    token_add,
    token_of,
    verifier,
    withdraw,
)
from tests.helpers.kv_node import FakeBackend, error_in

A = (b"a", b"a\0")


async def status(wire: AuthWire, *fields: str, path: str = "/auth", method: str = "GET", body: bytes = b"") -> int:
    return (await wire.ask(method, path, body, *fields)).status


# --- passwords


async def test_password_is_hashed_once_for_many_requests() -> None:
    wire = AuthWire()
    for _ in range(5):
        assert await status(wire, basic("ann")) == 200
    assert wire.site.gate.passwords.checks == 1


async def test_password_that_was_kept_does_not_survive_its_change() -> None:
    wire = AuthWire()
    assert await status(wire, basic("ann")) == 200
    apply(wire.backend, UserPassword("ann", verifier("another")))
    assert await status(wire, basic("ann")) == 401
    assert await status(wire, basic("ann", "another")) == 200
    apply(wire.backend, UserPassword("ann", None))
    assert await status(wire, basic("ann", "another")) == 401
    assert await status(wire, bearer("ann")) == 200


async def test_password_that_was_kept_survives_changes_of_others() -> None:
    wire = AuthWire()
    assert await status(wire, basic("ann")) == 200
    apply(wire.backend, UserRemove("bob"))
    assert await status(wire, basic("ann")) == 200
    assert wire.site.gate.passwords.checks == 1


async def test_user_that_is_removed_and_added_again_has_no_old_credentials() -> None:
    wire = AuthWire()
    assert await status(wire, basic("bob")) == 200
    assert await status(wire, bearer("bob")) == 200
    apply(wire.backend, UserRemove("bob"))
    assert await status(wire, basic("bob")) == 401
    assert await status(wire, bearer("bob")) == 401


@pytest.mark.parametrize("user", ["ann", "none", "", "root"])
async def test_unknown_user_costs_as_much_as_a_wrong_password(user: str) -> None:
    """One scrypt, and the same answer."""
    wire = AuthWire()
    answer = await wire.ask("GET", "/auth", b"", basic(user, "wrong"))
    assert (answer.status, error_in(answer)["message"]) == (401, "the user or the password is wrong")
    assert wire.site.gate.passwords.checks == 1
    assert "basic" in answer.headers["www-authenticate"].lower()


@pytest.mark.parametrize(
    "field",
    [
        "Basic",
        "Basic !",
        "Basic YQ==",
        "Basic /zo=",
        basic("ann", "x" * 1025).partition(": ")[2],
        basic("ann", "").partition(": ")[2],
        "Bearer",
        "Bearer x",
        f"Bearer {token_of('ann')[:-1]}",
        f"Bearer {token_of('ann')}a",
        f"Bearer {token_of('ann').upper()}",
        f"Bearer {token_of('eve')}",
        token_of("ann"),
        f"Digest {token_of('ann')}",
        f"Bearer {token_of('ann')}, Bearer {token_of('ann')}",
    ],
)
async def test_malformed_credential_is_401(field: str) -> None:
    wire = AuthWire()
    answer = await wire.ask("GET", "/auth", b"", f"Authorization: {field}")
    assert (answer.status, error_in(answer)["code"]) == (401, "unauthenticated")


# --- lock-out


async def test_user_waits_after_wrong_passwords_and_is_served_after_that() -> None:
    wire = AuthWire()
    for _ in range(FREE_FAILURES):
        assert await status(wire, basic("root", "wrong")) == 401
    refused = await wire.ask("GET", "/auth", b"", basic("root"))
    assert (refused.status, error_in(refused)["code"], refused.headers["retry-after"]) == (429, "locked_out", "2")
    assert await status(wire, bearer("root")) == 200, "tokens do not wait"
    assert await status(wire, basic("ann")) == 200, "others do not wait"
    wire.now_s += LONGEST_WAIT_S
    assert await status(wire, basic("root")) == 200
    for _ in range(FREE_FAILURES * 3):
        await status(wire, basic("root", "wrong"))
    assert await status(wire, basic("root")) == 200, "a password that was checked before does not wait"


def test_lock_out_is_bounded_and_by_address() -> None:
    table = LockOut()
    for count in range(200):
        table.failed("root", "10.0.0.1", float(count))
    assert 0 < table.wait_s("root", "10.0.0.1", 199.0) <= LONGEST_WAIT_S
    assert table.wait_s("root", "10.0.0.2", 199.0) == 0
    for number in range(10_000):
        table.failed(f"user {number}", "10.0.0.3", 200.0)
    assert len(table) <= 4096


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2%eth0", "2001:db8::/64"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_lock_out_takes_a_network_of_ipv6_as_one(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_passwords_that_wait_are_bounded() -> None:
    passwords = Passwords(InlineWorkers(), system_entropy, CHEAP)
    first = [passwords.check(b"x", None, "10.0.0.1") for _ in range(MAX_QUEUED_OF_ONE)]
    with pytest.raises(RequestError) as refused:
        passwords.check(b"x", None, "10.0.0.1")
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    others = [passwords.check(b"x", None, f"10.0.1.{number}") for number in range(MAX_QUEUED - len(first) + 1)]
    with pytest.raises(RequestError):
        passwords.check(b"x", None, "10.0.2.1")
    assert await asyncio.gather(*first, *others) == [False] * (len(first) + len(others))
    assert not await passwords.check(b"x", None, "10.0.0.1")
    await passwords.close()


async def test_requests_with_one_password_share_its_check() -> None:
    """Many connections of one client begin at once."""
    backend = FakeBackend()
    add_users(backend)
    wire = AuthWire(backend)
    request = f"GET /auth HTTP/1.1\r\nHost: x\r\n{basic('ann')}\r\n\r\n".encode()
    wire.send(request * 10)
    await wire.settle()
    assert bytes(wire.received).count(b"HTTP/1.1 200") == 10
    assert wire.site.gate.passwords.checks == 1


# --- tokens


async def test_token_ends_with_its_time() -> None:
    wire = AuthWire()
    apply(wire.backend, TokenRemove(token_add("ann").id))
    apply(wire.backend, token_add("ann", round(NOW_S * 1000) + 1))
    assert await status(wire, bearer("ann")) == 200
    wire.wall_s += 0.001
    answer = await wire.ask("GET", "/auth", b"", bearer("ann"))
    assert (answer.status, error_in(answer)["message"]) == (401, "the token has expired")


async def test_token_that_was_ended_is_401() -> None:
    wire = AuthWire()
    assert await status(wire, bearer("ann")) == 200
    assert await status(wire, bearer("ann"), path=f"/token/{token_add('ann').id.hex()}", method="DELETE") == 200
    assert await status(wire, bearer("ann")) == 401


async def test_token_of_another_user_is_not_ended_or_made_without_the_role() -> None:
    wire = AuthWire()
    assert await status(wire, bearer("ann"), path=f"/token/{token_add('bob').id.hex()}", method="DELETE") == 403
    assert await status(wire, bearer("ann"), path="/user/bob/token", method="POST", body=b"{}") == 403
    assert await status(wire, basic("ann"), path="/user/ann/token", method="POST", body=b"{}") == 200
    assert await status(wire, bearer("ann"), path="/user/ann/token", method="POST", body=b"{}") == 403


async def test_own_password_is_changed_by_the_password_alone() -> None:
    wire = AuthWire()
    body = b'{"password":"new one"}'
    assert await status(wire, bearer("ann"), path="/user/ann/password", method="POST", body=body) == 403
    assert await status(wire, basic("ann"), path="/user/ann/password", method="POST", body=body) == 200
    assert await status(wire, basic("ann")) == 401
    assert await status(wire, basic("ann", "new one")) == 200


# --- a node that lags


class LaggingBackend(FakeBackend):
    """Its state is older until it is confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.behind: list[object] = []

    def read_index(self, timeout_s: float) -> ReadFuture:
        for command in self.behind:
            apply(self, command)  # type: ignore[arg-type]
        self.behind = []
        return super().read_index(timeout_s)


async def test_credential_that_the_node_does_not_know_yet_is_looked_for_again() -> None:
    backend = LaggingBackend()
    add_users(backend)
    wire = AuthWire(backend)
    apply(backend, TokenRemove(token_add("ann").id))
    backend.behind = [token_add("ann")]
    assert await status(wire, bearer("ann")) == 200
    backend.behind = [UserPassword("ann", verifier("newer"))]
    assert await status(wire, basic("ann", "newer")) == 200


async def test_permission_that_the_node_does_not_know_yet_is_looked_for_again() -> None:
    backend = LaggingBackend()
    add_users(backend)
    wire = AuthWire(backend)
    from syncline.kv.auth.commands import KeyAccessChange

    for path in ("/key/a", "/key?key=a"):
        for access, method, body in ((1, "GET", b""), (2, "PUT", b"v")):
            backend.behind = [KeyAccessChange("some", b"a", b"a\0", access)]
            assert await status(wire, bearer("ann"), path=path, method=method, body=body) == 200
            apply(backend, KeyAccessChange("some", b"a", b"a\0", 0))


async def test_linearizable_read_is_checked_when_it_is_confirmed() -> None:
    wire = AuthWire()
    grant(wire.backend, reads=(A,))
    for path in ("/key/a", "/keys?prefix=a", "/key/a?wait=1s&from=1"):
        wire.backend.hold = True
        grant(wire.backend, reads=(A, (b"a", b"b")))
        wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{bearer('ann')}\r\n\r\n".encode())
        await wire.settle()
        assert wire.backend.held
        withdraw(wire.backend)
        wire.backend.hold = False
        while wire.backend.held:
            wire.backend.release()
        await wire.settle()
        assert wire.next_answer().status == 403
        from syncline.kv.auth.commands import UserRoleChange

        apply(wire.backend, UserRoleChange("ann", "some", True))


async def test_write_is_refused_if_the_permission_went_before_it_is_applied() -> None:
    wire = AuthWire()
    grant(wire.backend, writes=(A,))
    wire.backend.hold = True
    wire.send(f"PUT /key/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n{bearer('ann')}\r\n\r\nv".encode())
    await wire.settle()
    withdraw(wire.backend)
    revision = wire.backend.store.revision
    wire.backend.release()
    await wire.settle()
    answer = wire.next_answer()
    assert (answer.status, error_in(answer)["code"]) == (403, "permission_denied")
    assert wire.backend.store.revision == revision


# --- streams


async def watching(wire: AuthWire, user: str = "ann") -> None:
    fields = f"Accept: application/x-ndjson\r\n{bearer(user)}\r\n"
    wire.send(f"GET /watch?prefix=a HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
    await wire.settle()
    assert bytes(wire.received).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("how", ["role", "token", "user", "time"])
async def test_watch_ends_when_the_permission_or_the_credential_goes(how: str) -> None:
    wire = AuthWire()
    grant(wire.backend, reads=((b"a", b"b"),))
    await watching(wire)
    other = AuthWire(wire.backend)
    assert await status(other, bearer("root"), path="/key/a", method="PUT", body=b"seen") == 200
    await wire.settle()
    assert b"seen" in wire.received
    if how == "role":
        withdraw(wire.backend)
    elif how == "token":
        apply(wire.backend, TokenRemove(token_add("ann").id))
    elif how == "user":
        apply(wire.backend, UserRemove("ann"))
    else:
        wire.wall_s = LONG_MS / 1000
    assert await status(other, bearer("root"), path="/key/a", method="PUT", body=b"secret") == 200
    await wire.settle()
    assert b"secret" not in wire.received
    code = b"permission_denied" if how == "role" else b"unauthenticated"
    assert code in wire.received
    assert bytes(wire.received).endswith(b"0\r\n\r\n"), "the stream has ended"
    assert len(wire.site.gate.streams) == 0


async def test_watch_that_is_refused_before_its_first_event_ends_at_once() -> None:
    """Its timer waits by the loop's clock, and the wall clock was changed."""
    wire = AuthWire()
    grant(wire.backend, reads=((b"a", b"b"),))
    wire.send(f"GET /watch?prefix=a HTTP/1.1\r\nHost: x\r\n{bearer('ann')}\r\n\r\n".encode())
    wire.wall_s = LONG_MS / 1000
    await wire.settle()
    assert b"unauthenticated" in wire.received
    assert bytes(wire.received).endswith(b"0\r\n\r\n"), "the stream has ended"
    assert len(wire.site.gate.streams) == 0


async def test_watch_goes_on_through_changes_of_others() -> None:
    wire = AuthWire()
    grant(wire.backend, reads=((b"a", b"b"),))
    await watching(wire)
    apply(wire.backend, UserRemove("bob"))
    other = AuthWire(wire.backend)
    assert await status(other, bearer("root"), path="/key/a", method="PUT", body=b"seen") == 200
    await wire.settle()
    assert b"seen" in wire.received


# --- answers of others


async def test_recorded_answer_is_not_given_to_another_user() -> None:
    wire = AuthWire()
    grant(wire.backend, reads=(A,), writes=(A,))
    body = json.dumps({"then": [{"op": "get", "key": "a"}]}).encode()
    first = await wire.ask("POST", "/txn", body, bearer("ann"), "Idempotency-Key: one")
    again = await wire.ask("POST", "/txn", body, bearer("ann"), "Idempotency-Key: one")
    assert (first.status, again.status, again.headers["idempotency-replayed"]) == (200, 200, "true")
    other = await wire.ask("POST", "/txn", body, bearer("root"), "Idempotency-Key: one")
    assert other.status == 200
    assert "idempotency-replayed" not in other.headers
    session = json.loads((await wire.ask("POST", "/session", b"", bearer("ann"))).body)["id"]
    key = f"Idempotency-Key: {session}/1"
    assert await status(wire, bearer("ann"), key, path="/key/a", method="PUT", body=b"v") == 200
    assert await status(wire, bearer("root"), key, path="/key/a", method="PUT", body=b"v") == 422
    operation = {"op": "put", "key": "a", "value": "v", "session": session, "sequence": 1}
    stolen = await wire.ask("POST", "/batch", json.dumps({"ops": [operation]}).encode(), bearer("root"))
    assert b"idempotency_mismatch" in stolen.body


# --- what is logged, and what never is


async def test_audit_log_tells_refusals_and_operations(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "syncline.audit")
    wire = AuthWire()
    await status(wire, path="/key/a%0A%1b%5B31m")
    await status(wire, bearer("ann"), path="/key/a", method="PUT", body=b"v")
    await status(wire, bearer("root"), path="/raft/transfer", method="POST", body=b"{}")
    await wire.ask("POST", "/batch", b'{"ops":[{"op":"get","key":"b"}]}', bearer("ann"))
    lines = [record.__dict__ for record in caplog.records]
    found = [(one["event"], one["user"], one["route"], one["status"]) for one in lines]
    assert found == [
        ("refused", "-", "GET /key/{key...}", 401),
        ("refused", "ann", "PUT /key/{key...}", 403),
        ("operation", "root", "POST /raft/transfer", 200),
        ("refused", "ann", "POST /batch", 403),
    ]
    assert lines[0]["target"] == "a\\n\\x1b[31m"


async def test_audit_log_is_bounded_in_a_flood(caplog: pytest.LogCaptureFixture) -> None:
    wire = AuthWire()
    for _ in range(500):
        await status(wire)
    assert len(caplog.records) <= 101
    wire.now_s += 1
    await status(wire)
    assert caplog.records[-1].__dict__["left_out"] == 400


async def test_secrets_appear_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in answers and log lines nor in the text of errors, settings and records."""
    caplog.set_level(logging.DEBUG)
    wire = AuthWire()
    secret = "a very secret password"
    made = await wire.ask("POST", "/user/ann/token", b"{}", basic("ann"))
    token = json.loads(made.body)["token"]
    body = json.dumps({"name": "eve", "password": secret}).encode()
    told = [
        await wire.ask("POST", "/user", body, bearer("root")),
        await wire.ask("POST", "/user", body, bearer("root")),
        await wire.ask("POST", "/user/eve/password", b'{"password":"a very secret password","x":1}', bearer("root")),
        await wire.ask("POST", "/user/eve/password", b'["a very secret password"]', bearer("root")),
        await wire.ask("GET", "/auth", b"", basic("eve", secret)),
        await wire.ask("GET", "/auth", b"", basic("eve", secret + "x")),
        await wire.ask("GET", "/user/ann", b"", bearer("root")),
        await wire.ask("GET", "/user", b"", bearer("root")),
        await wire.ask("GET", "/raft/status", b"", f"Authorization: Bearer {token}"),
        await wire.ask("GET", "/raft/status", b"", bearer("root")),
        await wire.ask("GET", "/metrics", b"", bearer("root")),
        await wire.ask("GET", "/auth", b"", f"Authorization: Bearer {token[:-1]}"),
    ]
    texts = [answer.body.decode() + str(answer.headers) for answer in told]
    texts += [str(record.__dict__) + record.getMessage() for record in caplog.records]
    auth = wire.backend.store.auth
    texts += [repr(auth.users), repr(auth.tokens), repr(auth.view())]
    for text in texts:
        for one in (secret, PASSWORD, token, token_of("root"), token_of("ann"), basic("eve", secret)[21:]):
            assert one not in text, text
    stored = b"".join(bytes(str(one), "utf-8") for one in auth.view())
    assert token.encode() not in stored
