"""Users over etcd's gateway: Syncline's own users and roles, with etcd's texts."""

from __future__ import annotations

import asyncio
import logging

import pytest

from syncline.errors import Rejected
from syncline.kv.auth.commands import (
    TOKEN_ID_BYTES,
    KeyAccessChange,
    TokenAdd,
    UserAdd,
    UserPassword,
    UserRemove,
)
from syncline.kv.auth.records import BOTH, TokenRecord, login_text
from syncline.kv.auth.state import AuthState
from syncline.kv.commands import Put
from syncline.kv.versions import LOGIN_VERSION, USERS_VERSION, check_version
from syncline.node.futures import Then
from syncline.server.etcd.face import EtcdCaller
from syncline.server.etcd.methods import METHODS
from tests.helpers.auth_site import PASSWORD, apply, grant, token_of, verifier
from tests.helpers.etcd_wire import Document, EtcdWire, GuardedEtcdWire, b64


def shown(document: Document) -> tuple[int, str]:
    return document["code"], document["error"].removeprefix("etcdserver: ")


def as_user(user: str) -> str:
    return f"Authorization: {token_of(user)}"


async def watch_a(wire: GuardedEtcdWire) -> None:
    """Let ann watch the key a."""
    body = b'{"create_request":{"key":"YQ=="}}'
    lines = ["POST /v3/watch HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", as_user("ann"), "", ""]
    wire.send("\r\n".join(lines).encode() + body)
    await wire.settle()


async def test_etcd_call_without_a_token_names_no_user() -> None:
    wire = GuardedEtcdWire()
    status, document = await wire.post("kv/range", {"key": b64("a")})
    assert (status, *shown(document)) == (400, 3, "user name is empty")
    status, document = await wire.post("watch", {"create_request": {"key": b64("a")}})
    assert (status, *shown(document)) == (400, 3, "user name is empty")


async def test_etcd_call_with_a_wrong_token_is_unauthenticated() -> None:
    wire = GuardedEtcdWire()
    for token in ("x", token_of("nobody"), "Bearer x"):
        status, document = await wire.post("kv/range", {"key": b64("a")}, f"Authorization: {token}")
        assert (status, *shown(document)) == (401, 16, "invalid auth token")


async def test_etcd_members_are_told_without_a_token() -> None:
    status, document = await GuardedEtcdWire().post("cluster/member/list")
    assert (status, len(document["members"])) == (200, 3)


async def test_etcd_user_logs_in_and_uses_the_token() -> None:
    wire = GuardedEtcdWire()
    status, document = await wire.post("auth/authenticate", {"name": "root", "password": PASSWORD})
    assert status == 200
    token = document["token"]
    for form in (token, f"Bearer {token}"):
        status, document = await wire.post("kv/range", {"key": b64("a")}, f"Authorization: {form}")
        assert (status, document["count"]) == (200, "1")


async def test_etcd_user_that_logs_in_often_has_one_token() -> None:
    """A command line tool logs in for each call, and a user has a limited number of tokens."""
    wire = GuardedEtcdWire()
    before = len(wire.backend.store.auth.tokens)
    tokens = {(await wire.post("auth/authenticate", {"name": "ann", "password": PASSWORD}))[1]["token"] for _ in "123"}
    assert len(tokens) == 1
    assert len(wire.backend.store.auth.tokens) == before + 1
    wire.wall_s += 13 * 3600
    await wire.post("auth/authenticate", {"name": "ann", "password": PASSWORD})
    assert len(wire.backend.store.auth.tokens) == before + 2, "one that ends soon is not given again"


async def test_etcd_users_that_log_in_at_once_get_one_token() -> None:
    """A fleet of one user that starts together must not use up the tokens of the user."""
    wire = GuardedEtcdWire()
    before = len(wire.backend.store.auth.tokens)
    login: Document = {"name": "ann", "password": PASSWORD}
    calls = (wire.face.call(METHODS["/etcdserverpb.Auth/Authenticate"], login, EtcdCaller()) for _ in range(20))
    tokens = {answer["token"] for answer in await asyncio.gather(*calls)}
    assert len(tokens) == 1
    assert len(wire.backend.store.auth.tokens) == before + 1


async def test_etcd_wrong_password_is_refused_as_etcd_does() -> None:
    wire = GuardedEtcdWire()
    for name, password in (("root", "x"), ("nobody", PASSWORD), ("", ""), ("a:b", "c")):
        status, document = await wire.post("auth/authenticate", {"name": name, "password": password})
        assert (status, *shown(document)) == (400, 3, "authentication failed, invalid user ID or password")


async def test_etcd_user_does_what_its_roles_allow() -> None:
    wire = GuardedEtcdWire()
    grant(wire.backend, reads=[(b"a", b"b")], writes=[(b"a", b"b")])
    denied = (403, 7, "permission denied")
    for route, body, expected in (
        ("kv/put", {"key": b64("a")}, 200),
        ("kv/put", {"key": b64("b")}, 403),
        ("kv/range", {"key": b64("a")}, 200),
        ("kv/range", {"key": b64("a"), "range_end": b64("c")}, 403),
        ("kv/range", {"key": b64("b"), "serializable": True}, 403),
        ("kv/txn", {"success": [{"request_range": {"key": b64("b")}}]}, 403),
        ("kv/deleterange", {"key": b64("b")}, 403),
        ("kv/compaction", {"revision": 1}, 403),
        ("lease/leases", {}, 403),
        ("maintenance/defragment", {}, 403),
        ("maintenance/hashkv", {}, 403),
        ("cluster/member/remove", {"ID": 0x2222}, 403),
        ("auth/user/add", {"name": "x", "password": "y"}, 403),
        ("auth/user/get", {"name": "ann"}, 200),
        ("auth/user/get", {"name": "root"}, 403),
        ("auth/role/get", {"role": "some"}, 200),
        ("auth/disable", {}, 403),
    ):
        status, document = await wire.post(route, body, as_user("ann"))
        assert status == expected, (route, document)
        if expected == 403:
            assert (status, *shown(document)) == denied


async def test_etcd_put_that_keeps_a_value_does_not_show_unreadable_keys() -> None:
    wire = GuardedEtcdWire()
    put = {"key": b64("nowhere"), "ignore_value": True}
    for route, body in (("kv/put", put), ("kv/txn", {"success": [{"request_put": put}]})):
        status, document = await wire.post(route, body, as_user("ann"))
        assert (status, *shown(document)) == (403, 7, "permission denied")


async def test_etcd_watch_of_an_unreadable_key_is_cancelled() -> None:
    wire = GuardedEtcdWire()
    await watch_a(wire)
    assert b'"created":true,"canceled":true' in wire.received
    assert b"permission denied" in wire.received


async def test_etcd_watch_ends_when_its_permission_does() -> None:
    wire = GuardedEtcdWire()
    grant(wire.backend, reads=[(b"a", b"b")])
    await watch_a(wire)
    apply(wire.backend, KeyAccessChange("some", b"a", b"b", 0))
    apply(wire.backend, Put(b"a", b"secret"))
    await wire.settle()
    assert b64("secret").encode() not in wire.received
    assert b"permission denied" in wire.received


async def test_etcd_changes_and_refusals_are_in_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    wire = GuardedEtcdWire()
    with caplog.at_level(logging.INFO, "syncline.audit"):
        await wire.post("auth/role/add", {"name": "x"}, as_user("root"))
        await wire.post("auth/user/list", None, as_user("root"))
        await wire.post("kv/put", {"key": b64("b")}, as_user("ann"))
        await wire.post("auth/authenticate", {"name": "ann", "password": "wrong"})
        await wire.post("kv/put", {"key": b64("b")})
    lines = [(one.message, vars(one)["user"], vars(one)["route"], vars(one)["status"]) for one in caplog.records]
    assert lines == [
        ("operation", "root", "/etcdserverpb.Auth/RoleAdd", 200),
        ("refused", "ann", "/etcdserverpb.KV/Put", 403),
        ("refused", "ann", "/etcdserverpb.Auth/Authenticate", 401),
        ("refused", "-", "/v3/", 401),
    ]


@pytest.fixture
def open_wire() -> EtcdWire:
    """A site without users."""
    return EtcdWire()


async def test_etcd_users_and_roles_are_those_of_the_own_routes() -> None:
    wire = EtcdWire()
    await wire.good("auth/user/add", {"name": "root", "options": {"no_password": True}})
    await wire.good("auth/role/add", {"name": "r"})
    await wire.good("auth/role/grant", {"name": "r", "perm": {"permType": "READWRITE", "key": b64("k")}})
    prefix = {"permType": 0, "key": b64("p"), "range_end": b64("q")}
    await wire.good("auth/role/grant", {"name": "r", "perm": prefix})
    await wire.good("auth/role/grant", {"name": "r", "perm": {"permType": 1, "key": b64("x"), "range_end": "AA=="}})
    await wire.good("auth/user/grant", {"user": "root", "role": "r"})
    await wire.good("auth/user/grant", {"user": "root", "role": "root"})
    auth = wire.backend.store.auth
    assert auth.users["root"].roles == ("r", "root")
    assert (auth.roles["r"].keys[0].start, auth.roles["r"].keys[0].access) == (b"k", BOTH)
    perms = (await wire.good("auth/role/get", {"role": "r"}))["perm"]
    assert perms == [
        {"permType": "READWRITE", "key": b64("k")},
        {"key": b64("p"), "range_end": b64("q")},
        {"permType": "WRITE", "key": b64("x"), "range_end": b64(b"\0")},
    ]
    assert (await wire.good("auth/user/get", {"name": "root"}))["roles"] == ["r", "root"]
    assert (await wire.good("auth/user/list"))["users"] == ["root"]
    assert (await wire.good("auth/role/list"))["roles"] == ["r", "root"]
    await wire.good("auth/role/revoke", {"role": "r", "key": b64("p"), "range_end": b64("q")})
    assert len((await wire.good("auth/role/get", {"role": "r"}))["perm"]) == 2
    assert (await wire.good("auth/status"))["authRevision"] == str(auth.revision)


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("auth/user/add", {"password": "x"}, (3, "user name is empty")),
        ("auth/user/get", {"name": "x"}, (9, "user name not found")),
        ("auth/user/delete", {"name": "x"}, (9, "user name not found")),
        ("auth/user/grant", {"user": "x", "role": "r"}, (9, "user name not found")),
        ("auth/user/changepw", {"name": "x", "password": "y"}, (9, "user name not found")),
        ("auth/role/get", {"role": "x"}, (9, "role name not found")),
        ("auth/role/delete", {"role": "x"}, (9, "role name not found")),
        ("auth/role/add", {}, (3, "role name is empty")),
        ("auth/role/add", {"name": "r"}, (9, "role name already exists")),
        ("auth/role/revoke", {"role": "r", "key": "YQ=="}, (9, "permission is not granted to the role")),
        ("auth/user/add", {"name": "u", "options": {"no_password": True}}, (9, "user name already exists")),
        ("auth/user/grant", {"user": "u", "role": "none"}, (9, "role name not found")),
        ("auth/user/revoke", {"name": "u", "role": "r"}, (9, "role is not granted to the user")),
        ("auth/enable", {}, (9, "root user does not exist")),
    ],
)
async def test_etcd_user_error_has_the_text_of_etcd(
    open_wire: EtcdWire, route: str, body: Document, expected: tuple[int, str]
) -> None:
    await open_wire.good("auth/role/add", {"name": "r"})
    await open_wire.good("auth/user/add", {"name": "u", "options": {"no_password": True}})
    status, code, text = await open_wire.refused(route, body)
    assert (status, code, text) == (400, *expected)


@pytest.mark.parametrize(
    ("route", "body"),
    [("auth/user/changepw", {"name": "ann", "password": "new"}), ("/user/ann/password", {"password": "new"})],
)
async def test_etcd_changed_password_ends_the_tokens_of_the_old_one(route: str, body: Document) -> None:
    """By etcd's route and by the own one."""
    wire = GuardedEtcdWire()
    _, document = await wire.post("auth/authenticate", {"name": "ann", "password": PASSWORD})
    old = f"Authorization: {document['token']}"
    assert (await wire.post("auth/user/get", {"name": "ann"}, old))[0] == 200
    status, _ = await wire.post(route, body, f"Authorization: Bearer {token_of('root')}")
    assert status == 200
    assert (await wire.post("auth/user/get", {"name": "ann"}, old))[0] == 401
    status, document = await wire.post("auth/authenticate", {"name": "ann", "password": "new"})
    assert (status, f"Authorization: {document['token']}" != old) == (200, True)
    new = f"Authorization: {document['token']}"
    assert (await wire.post("auth/user/get", {"name": "ann"}, new))[0] == 200
    assert (await wire.post("auth/user/get", {"name": "ann"}, as_user("ann")))[0] == 200, "made by another route"


async def test_etcd_token_of_a_removed_user_stays_ended_when_it_is_added_again() -> None:
    wire = GuardedEtcdWire()
    _, document = await wire.post("auth/authenticate", {"name": "ann", "password": PASSWORD})
    apply(wire.backend, UserRemove("ann"))
    apply(wire.backend, UserAdd("ann", verifier()))
    for token in (document["token"], token_of("ann")):
        assert (await wire.post("auth/user/get", {"name": "ann"}, f"Authorization: {token}"))[0] == 401
    status, document = await wire.post("auth/authenticate", {"name": "ann", "password": PASSWORD})
    assert status == 200, document


def test_login_token_is_refused_by_the_state_after_a_newer_password() -> None:
    """A node that is behind may still let a command in: it is checked again when it is applied."""
    state = AuthState()
    state.apply(UserAdd("ann", verifier()))
    for name, about in (("api", "etcd"), ("login", login_text("etcd", state.revision))):
        state.apply(TokenAdd(name.ljust(TOKEN_ID_BYTES).encode(), bytes(32), "ann", 1, 0, about))
    ids = sorted(state.tokens)
    assert [state.is_valid("ann", token, state.revision) for token in ids] == [True, True]
    state.apply(UserPassword("ann", verifier("new")))
    assert [state.is_valid("ann", token, state.revision) for token in ids] == [True, False]


async def test_etcd_login_beside_an_older_member_gets_a_short_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older member would not end a token of a login with the password. So clients get one that ends soon anyway."""
    wire = GuardedEtcdWire()
    version, propose = USERS_VERSION, wire.backend.propose

    def checked(command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        try:
            check_version(command, version)
        except Rejected as refusal:
            then(None, refusal)
        else:
            propose(command, timeout_s, then, frees_space=frees_space)

    async def login() -> TokenRecord:
        before = set(wire.backend.store.auth.tokens)
        status, document = await wire.post("auth/authenticate", {"name": "ann", "password": PASSWORD})
        assert status == 200, document
        assert (await wire.post("auth/user/get", {"name": "ann"}, f"Authorization: {document['token']}"))[0] == 200
        (made,) = set(wire.backend.store.auth.tokens) - before
        return wire.backend.store.auth.tokens[made]

    monkeypatch.setattr(wire.backend, "propose", checked)
    token = await login()
    assert (token.about, token.login_revision) == ("etcd", 0)
    assert token.expires_ms == round(wire.wall_s * 1000) + 300_000
    version = LOGIN_VERSION
    wire.wall_s += 151
    token = await login()
    assert token.login_revision > 0
    assert token.expires_ms == round(wire.wall_s * 1000) + 24 * 3_600_000


async def test_etcd_auth_is_switched_on_and_off() -> None:
    wire = GuardedEtcdWire()
    status, _ = await wire.post("auth/disable", None, as_user("root"))
    assert status == 200
    assert (await wire.post("kv/range", {"key": b64("a")}))[0] == 200
    status, document = await wire.post("auth/status")
    assert (status, "enabled" in document) == (200, False)
    assert (await wire.post("auth/enable"))[0] == 200
    assert (await wire.post("kv/range", {"key": b64("a")}))[0] == 400


@pytest.mark.parametrize("name", ["", "x" * 300, " x"])
async def test_etcd_user_or_role_with_an_impossible_name_is_not_found(name: str) -> None:
    """As in etcd: no such user or role can be there. The text tells nothing of the store's commands."""
    wire = EtcdWire()
    await wire.good("auth/user/add", {"name": "ann", "options": {"no_password": True}})
    grant: Document = {"name": name, "perm": {"key": b64("a")}}
    assert await wire.refused("auth/user/delete", {"name": name}) == (400, 9, "user name not found")
    role_calls: dict[str, Document] = {
        "delete": {"role": name},
        "revoke": {"role": name, "key": b64("a")},
        "grant": grant,
    }
    for call, body in role_calls.items():
        assert await wire.refused(f"auth/role/{call}", body) == (400, 9, "role name not found")
    assert await wire.refused("auth/user/grant", {"user": "ann", "role": name}) == (400, 9, "role name not found")
    for call in ("user", "role"):
        _, _, text = await wire.refused(f"auth/{call}/add", {"name": name})
        assert text.startswith(("the name of a", f"{call} name is empty"))


async def test_etcd_role_grant_without_a_permission_grants_nothing() -> None:
    wire = EtcdWire()
    await wire.good("auth/role/add", {"name": "r"})
    assert await wire.refused("auth/role/grant", {"name": "r"}) == (400, 3, "permission not given")
    assert "perm" not in await wire.good("auth/role/get", {"role": "r"})


async def test_etcd_permissions_of_an_empty_range_are_refused() -> None:
    """No role has one, so none can be revoked either. Missing roles are told first there."""
    wire = EtcdWire()
    await wire.good("auth/role/add", {"name": "r"})
    empty = {"key": b64("b"), "range_end": b64("a")}
    _, *told = await wire.refused("auth/role/grant", {"name": "r", "perm": {"permType": "READ", **empty}})
    assert told == [3, "invalid auth management"]
    for role, text in (("r", "permission is not granted to the role"), ("none", "role name not found")):
        _, *told = await wire.refused("auth/role/revoke", {"role": role, **empty})
        assert told == [9, text]


async def test_etcd_permissions_of_root_need_the_role() -> None:
    wire = EtcdWire()
    for route in ("grant", "revoke"):
        body = {"name": "root", "role": "root", "key": b64("a"), "perm": {"key": b64("a")}}
        del body["name" if route == "revoke" else "role"]
        if route == "grant":
            del body["key"]
        else:
            del body["perm"]
        _, *told = await wire.refused(f"auth/role/{route}", body)
        assert told == [9, "role name not found"]


async def test_etcd_grant_to_a_missing_user_tells_of_the_user() -> None:
    _, *told = await EtcdWire().refused("auth/user/grant", {"user": "none", "role": ""})
    assert told == [9, "user name not found"]
