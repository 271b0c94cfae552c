"""Users, roles and tokens in the store, beside a naive model; and the check of commands when they are applied."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import PermissionDenied, Rejected, TooLarge, Unauthenticated
from syncline.kv.auth import state as auth_state
from syncline.kv.auth.checks import check_command, check_operation
from syncline.kv.auth.commands import (
    AuthCommand,
    AuthSwitch,
    KeyAccessChange,
    OperationAccessChange,
    RoleAdd,
    RoleRemove,
    TokenAdd,
    TokenRemove,
    UserAdd,
    UserPassword,
    UserRemove,
    UserRoleChange,
)
from syncline.kv.auth.permissions import KeyRanges, UserPermissions
from syncline.kv.auth.records import KeyGrant, PasswordVerifier, RoleRecord
from syncline.kv.auth.state import AuthState
from syncline.kv.commands import (
    Authorised,
    Command,
    Compact,
    Delete,
    DeleteRange,
    Get,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    Put,
    Range,
    Touch,
    Txn,
    TxnOperation,
    authorised,
    decode_command,
    encode_command,
    encode_user_put,
)
from syncline.kv.limits import MAX_KEY_BYTES, MAX_VALUE_BYTES
from syncline.kv.machine import KvMachine
from syncline.kv.store import KeyStore
from syncline.node.fsm import Entry
from tests.helpers.auth_commands import AUTH_COMMANDS, VERIFIER, add_users
from tests.helpers.kv_commands import KEYS, Sink, bounds, ends, keys

UNIVERSE = [b"", b"\0", *KEYS, b"a/", b"a/1", b"a0", b"b\0", b"c", b"\xff\xff\xff"]
ranges = st.lists(st.tuples(bounds, ends).filter(lambda one: one[1] is None or one[1] > one[0]), max_size=5)


def covers(allowed: list[tuple[bytes, bytes | None]], key: bytes) -> bool:
    return any(start <= key and (end is None or key < end) for start, end in allowed)


@given(ranges, keys)
def test_key_ranges_hold_the_keys_of_each_range(allowed: list[tuple[bytes, bytes | None]], key: bytes) -> None:
    assert KeyRanges(allowed).has_key(key) == covers(allowed, key)


@given(ranges, bounds, ends)
def test_key_ranges_hold_a_range_if_they_hold_each_of_its_keys(
    allowed: list[tuple[bytes, bytes | None]], start: bytes, end: bytes | None
) -> None:
    """The naive way looks at each bound, and at the keys just before and after it."""
    edges = [start, *[one[0] for one in allowed], *[one[1] for one in allowed if one[1] is not None]]
    probes = {*edges, *[edge + b"\0" for edge in edges], *UNIVERSE, b"\xff" * 5}
    within = [key for key in probes if key and start <= key and (end is None or key < end)]
    assert KeyRanges(allowed).has_range(start, end) == all(covers(allowed, key) for key in within)


grants = st.lists(
    st.builds(KeyGrant, bounds, ends, st.integers(1, 3)).filter(lambda one: one.end is None or one.end > one.start),
    max_size=4,
)
operations = st.one_of(
    st.builds(Put, keys, st.just(b"v"), previous=st.booleans(), expect=st.none() | st.just(0)),
    st.builds(Delete, keys, st.none() | st.just(0), st.booleans()),
    st.builds(DeleteRange, bounds, ends, st.just(0), st.booleans()),
    st.builds(Get, keys),
    st.builds(Range, bounds, ends),
    st.builds(Increment, keys),
    st.builds(Touch, keys, st.just(9), st.just(9)),
)


def naive(allowed: list[KeyGrant], operation: TxnOperation) -> bool:
    """Key by key."""

    def may(access: int, start: bytes, end: bytes | None) -> bool:
        whole = [(one.start, one.end) for one in allowed if one.access & access]
        edges = {start, *[part[0] for part in whole], *[part[1] for part in whole if part[1] is not None]}
        probes = {*edges, *[edge + b"\0" for edge in edges], *UNIVERSE, b"\xff" * 5}
        within = [key for key in probes if key and start <= key and (end is None or key < end)]
        return all(covers(whole, key) for key in within)

    match operation:
        case Put(key, previous=previous, expect=expect) | Delete(key, previous=previous, expect=expect):
            one = (key, key + b"\0")
            return may(2, *one) and (may(1, *one) or not (previous or expect is not None))
        case DeleteRange(start, end, _, previous):
            return may(2, start, end) and (may(1, start, end) or not previous)
        case Get(key):
            return may(1, key, key + b"\0")
        case Range(start, end):
            return may(1, start, end)
        case Increment(key):
            return may(1, key, key + b"\0") and may(2, key, key + b"\0")
        case Touch(key):
            return may(2, key, key + b"\0")
        case _:
            raise AssertionError(operation)


def allows(call: Callable[[], object]) -> bool:
    try:
        call()
    except PermissionDenied:
        return False
    return True


@given(grants, operations)
def test_operation_is_allowed_as_the_naive_model_says(allowed: list[KeyGrant], operation: TxnOperation) -> None:
    permissions, store = UserPermissions([RoleRecord("r", tuple(allowed))]), KeyStore()
    expected = naive(allowed, operation)
    assert allows(lambda: check_operation(permissions, store, operation)) == expected
    nested = Txn(else_=(Txn(then=(operation,)),))
    assert allows(lambda: check_operation(permissions, store, nested)) == expected


# --- the state

names = st.sampled_from(["ann", "bob", "root"])
role_names = st.sampled_from(["root", "r", "s"])
tokens = st.sampled_from([bytes([number]) * 8 for number in range(3)])
auth_commands = st.one_of(
    st.builds(AuthSwitch, st.booleans()),
    st.builds(UserAdd, names, st.none() | st.just(VERIFIER), st.lists(role_names, max_size=2).map(tuple)),
    st.builds(UserRemove, names),
    st.builds(UserPassword, names, st.none() | st.just(VERIFIER)),
    st.builds(UserRoleChange, names, role_names, st.booleans()),
    st.builds(RoleAdd, role_names),
    st.builds(RoleRemove, role_names),
    st.builds(
        KeyAccessChange, role_names, st.sampled_from([b"", b"a"]), st.sampled_from([b"b", None]), st.integers(0, 3)
    ),
    st.builds(OperationAccessChange, role_names, st.integers(0, 5), st.booleans()),
    st.builds(TokenAdd, tokens, st.just(bytes(32)), names, st.just(9), st.just(0)),
    st.builds(TokenRemove, tokens),
)


class NaiveUsers:
    """Plain dictionaries, and the rules said once more."""

    def __init__(self) -> None:
        self.enabled = False
        self.users: dict[str, tuple[bool, set[str]]] = {}
        self.roles: dict[str, tuple[dict[Any, int], set[int]]] = {}
        self.tokens: dict[bytes, str] = {}

    def admins(self, users: dict[str, tuple[bool, set[str]]]) -> bool:
        return any(password and "root" in roles for password, roles in users.values())

    def apply(self, command: Any) -> str:
        """Empty, or the code of the refusal."""
        users = {name: (password, set(roles)) for name, (password, roles) in self.users.items()}
        match command:
            case AuthSwitch(enabled):
                if enabled and not self.admins(users):
                    return "no_administrator"
                self.enabled = enabled
            case UserAdd(name, password, roles):
                if name in users:
                    return "user_exists"
                if any(role not in self.roles and role != "root" for role in roles):
                    return "role_not_found"
                if "root" in roles:
                    self.roles.setdefault("root", ({}, set()))
                users[name] = (password is not None, set(roles))
            case UserRemove(name) | UserPassword(name) | UserRoleChange(name) if name not in users:
                return "user_not_found"
            case UserRemove(name):
                del users[name]
            case UserPassword(name, password):
                users[name] = (password is not None, users[name][1])
            case UserRoleChange(name, role, granted):
                if role not in self.roles:
                    return "role_not_found"
                (users[name][1].add if granted else users[name][1].discard)(role)
            case RoleAdd(name):
                if name in self.roles:
                    return "role_exists"
                self.roles[name] = ({}, set())
            case RoleRemove(name):
                if name not in self.roles:
                    return "role_not_found"
                if name == "root" and self.enabled:
                    return "last_administrator"
                del self.roles[name]
                for _, held in users.values():
                    held.discard(name)
            case KeyAccessChange("root") | OperationAccessChange("root"):
                return "bad_command"
            case KeyAccessChange(name) | OperationAccessChange(name) if name not in self.roles:
                return "role_not_found"
            case KeyAccessChange(name, start, end, access):
                found = self.roles[name][0]
                if not access and (start, end) not in found:
                    return "not_granted"
                found[start, end] = access
                if not access:
                    del found[start, end]
            case OperationAccessChange(name, operation, granted):
                if operation > 4:
                    return "bad_command"
                if not granted and operation not in self.roles[name][1]:
                    return "not_granted"
                (self.roles[name][1].add if granted else self.roles[name][1].discard)(operation)
            case TokenAdd(token, user=user):
                if user not in users:
                    return "user_not_found"
                if token in self.tokens:
                    return "bad_command"
                self.tokens[token] = user
            case TokenRemove(token):
                if token not in self.tokens:
                    return "token_not_found"
                del self.tokens[token]
        if self.enabled and not self.admins(users):
            return "last_administrator"
        self.users = users
        self.tokens = {token: user for token, user in self.tokens.items() if user in users}
        return ""


@given(st.lists(auth_commands, max_size=25))
def test_users_are_as_the_naive_model_says(commands: list[Any]) -> None:
    store, model = KeyStore(), NaiveUsers()
    for command in commands:
        before, digest = store.auth.view(), store.digest
        code = ""
        try:
            store.auth.apply(command)
        except Rejected as refusal:
            code = refusal.code
        assert code == model.apply(command), command
        if code:
            assert (store.auth.view(), store.digest) == (before, digest)
    auth = store.auth
    auth.check()
    assert auth.enabled == model.enabled
    assert {one.name: (one.password is not None, set(one.roles)) for one in auth.users.values()} == model.users
    assert {token.id: token.user for token in auth.tokens.values()} == model.tokens
    for name, (granted, allowed) in model.roles.items():
        role = auth.roles[name]
        assert {(one.start, one.end): one.access for one in role.keys} == granted
        assert set(role.operations) == allowed
    assert store.revision == 0, "revisions of keys are left alone"
    _check_restored(store)


def _check_restored(store: KeyStore) -> None:
    """A node that gets the snapshot decides the same."""
    machine, other = KvMachine(), KvMachine()
    machine.store = store
    sink, snapshot = Sink(), machine.snapshot()
    snapshot.persist(sink)
    snapshot.release()
    other.restore(io.BytesIO(sink.data))
    assert other.store.digest == store.digest
    assert other.store.auth.view() == store.auth.view()
    assert other.auth_flag.on == store.auth.enabled
    other.store.auth.check()


def test_digest_of_a_store_without_users_is_that_of_earlier_versions() -> None:
    """Members of two versions compare their digests in a rolling upgrade."""
    store = KeyStore()
    digest = store.digest
    store.auth.apply(RoleAdd("r"))
    assert store.digest != digest


# --- commands of users in the log


class Machine:
    def __init__(self) -> None:
        self.machine = KvMachine()
        self.index = 0
        add_users(self.machine.store)
        self.machine.auth_flag.on = True

    def apply(self, command: Command) -> object:
        self.index += 1
        return self.machine.apply(Entry(self.index, 1, encode_command(command)))

    def refused(self, command: Command) -> str:
        before = self.machine.store.digest
        with pytest.raises(Rejected) as raised:
            self.apply(command)
        assert self.machine.store.digest == before
        return raised.value.code

    @property
    def revision(self) -> int:
        return self.machine.store.auth.revision

    def system(self, command: Any) -> object:
        return self.apply(Authorised("", b"", self.revision, command))


@pytest.mark.parametrize(
    "command",
    [
        Put(b"a", b"v"),
        Delete(b"a"),
        Txn(),
        OperationBatch(()),
        LeaseGrant(1, 1),
        Compact(0),
        UserRemove("ann"),
        AuthSwitch(False),
    ],
)
def test_command_without_a_user_is_refused_while_clients_need_credentials(command: Command) -> None:
    """A node that has not applied the switch yet may still let it in."""
    assert Machine().refused(command) == "unauthenticated"


def test_command_of_the_leader_needs_no_user() -> None:
    machine = Machine()
    machine.apply(LeaseEnd((1,), 1))
    machine.apply(LeaseCheckpoint((), 1))
    machine.apply(Compact(0, 1))


def test_command_of_a_user_is_checked_again_after_a_change() -> None:
    machine = Machine()
    allowed = Authorised("ann", b"8 bytes.", machine.revision, Put(b"b", b"v"))
    machine.apply(allowed)
    machine.system(RoleAdd("other"))
    machine.apply(allowed)
    machine.system(KeyAccessChange("reader", b"b", b"b\0", 1))
    assert machine.refused(allowed) == "permission_denied"
    machine.system(KeyAccessChange("reader", b"b", b"b\0", 3))
    machine.apply(allowed)
    machine.system(TokenRemove(b"8 bytes."))
    assert machine.refused(allowed) == "unauthenticated"


def test_command_by_an_old_password_is_refused_after_its_change() -> None:
    machine = Machine()
    command = Authorised("root", b"", machine.revision, Put(b"b", b"v"))
    machine.apply(command)
    machine.system(UserPassword("root", VERIFIER))
    assert machine.refused(command) == "unauthenticated"


def test_restore_lets_no_command_pass_that_the_lost_users_allowed() -> None:
    """A node that is behind the restore still allows commands by the lost users, at an auth revision of theirs. The
    restored users must never be at that one: the command would be applied without a check.
    """
    machine = Machine()
    saved, snapshot = Sink(), machine.machine.snapshot()
    snapshot.persist(saved)
    machine.system(RoleAdd("writer"))
    machine.system(KeyAccessChange("writer", b"w", b"x", 3))
    machine.system(UserRoleChange("ann", "writer", True))
    machine.system(UserPassword("root", VERIFIER))
    allowed = Authorised("ann", b"8 bytes.", machine.revision, Put(b"w", b"v"))
    by_lost_password = Authorised("root", b"", machine.revision, Put(b"w", b"v"))
    machine.apply(allowed)
    machine.machine.renumber(9, io.BytesIO(saved.data))
    assert machine.revision == allowed.revision + 9
    assert machine.refused(allowed) == "permission_denied"
    assert machine.refused(by_lost_password) == "unauthenticated"
    machine.machine.store.auth.check()
    _check_restored(machine.machine.store)


def test_restore_of_a_state_without_users_keeps_the_auth_revision_rising() -> None:
    machine, empty = Machine(), Sink()
    KvMachine().snapshot().persist(empty)
    before = machine.revision
    machine.machine.renumber(9, io.BytesIO(empty.data))
    assert machine.revision == before + 9
    assert not machine.machine.auth_flag.on
    _check_restored(machine.machine.store)
    without = KvMachine()
    without.renumber(9, io.BytesIO(empty.data))
    assert without.store.auth.revision == 0, "older members read its snapshots"


def test_batch_of_a_user_is_refused_operation_by_operation() -> None:
    machine = Machine()
    batch = Authorised("ann", b"8 bytes.", machine.revision - 1, OperationBatch((Put(b"b", b"v"), Put(b"c", b"v"))))
    answer: Any = machine.apply(batch)
    first, second = answer.results
    assert first.revision == 1
    assert isinstance(second, PermissionDenied)


def test_lease_of_others_is_checked_when_the_command_is_applied() -> None:
    """Its keys may change between the node's check and the log."""
    machine = Machine()
    machine.system(LeaseGrant(7, 1000))
    machine.apply(Authorised("ann", b"8 bytes.", machine.revision, Put(b"b", b"v", 7)))
    machine.system(Put(b"secret", b"v", 7))
    for command in (LeaseRevoke(7), Put(b"b", b"w", 7), Txn(then=(Put(b"b", b"w", 7),))):
        assert machine.refused(Authorised("ann", b"8 bytes.", machine.revision, command)) == "permission_denied"
    machine.system(Delete(b"secret"))
    machine.apply(Authorised("ann", b"8 bytes.", machine.revision, LeaseRevoke(7)))


def test_commands_on_users_take_an_administrator() -> None:
    store = add_users(KeyStore())
    ann, root = store.auth.permissions("ann"), store.auth.permissions("root")
    for command in AUTH_COMMANDS.values():
        if isinstance(command, Authorised):
            continue
        own = isinstance(command, UserPassword | TokenAdd)
        check_command(root, store, command, "root", b"")
        if own:
            check_command(ann, store, command, "ann", b"")
        elif not isinstance(command, TokenRemove):
            with pytest.raises(PermissionDenied):
                check_command(ann, store, command, "ann", b"")
        if not isinstance(command, TokenRemove):
            with pytest.raises(PermissionDenied):
                check_command(ann, store, command, "ann", b"8 bytes.")


# --- bad input


@pytest.mark.parametrize("name", ["", " a", "a ", "a\n", "a\0", "\x1b[31m", "a\u202eb", "a:b", "x" * 129, "é" * 65])
def test_name_of_a_user_that_can_not_be_is_refused(name: str) -> None:
    with pytest.raises((Rejected, TooLarge)):
        encode_command(UserAdd(name))


@pytest.mark.parametrize("name", ["ann", "Ann Bob", "ann@example.com", "é" * 64, "名前"])
def test_name_of_a_user_is_any_printable_text(name: str) -> None:
    assert decode_command(encode_command(UserAdd(name))) == UserAdd(name)


@pytest.mark.parametrize(
    "verifier",
    [
        PasswordVerifier(2**30, 8, 1, b"s", bytes(32)),
        PasswordVerifier(3, 8, 1, b"s", bytes(32)),
        PasswordVerifier(2, 0, 1, b"s", bytes(32)),
        PasswordVerifier(2, 1, 1000, b"s", bytes(32)),
        PasswordVerifier(2, 1, 1, b"", bytes(32)),
        PasswordVerifier(2, 1, 1, b"s", bytes(31)),
        PasswordVerifier(2**20, 32, 1, b"s", bytes(32)),
    ],
)
def test_verifier_that_would_take_a_nodes_memory_is_refused(verifier: PasswordVerifier) -> None:
    with pytest.raises(Rejected):
        encode_command(UserAdd("ann", verifier))


def test_range_that_holds_no_key_is_refused() -> None:
    with pytest.raises(Rejected):
        encode_command(KeyAccessChange("r", b"b", b"a", 1))


def test_users_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_USERS", "MAX_ROLES", "MAX_TOKENS", "MAX_USER_ROLES", "MAX_ROLE_KEYS"):
        monkeypatch.setattr(auth_state, name, 2)
    state = AuthState()
    for command in (RoleAdd("r"), RoleAdd("s"), UserAdd("ann", None, ("r", "s")), UserAdd("bob")):
        state.apply(command)
    for key in (b"a", b"b"):
        state.apply(KeyAccessChange("r", key, None, 1))
        state.apply(TokenAdd(key * 8, bytes(32), "ann", 1_000, 0))
    further: list[AuthCommand] = [RoleAdd("t"), UserAdd("eve"), KeyAccessChange("r", b"c", None, 1)]
    for one in further:
        with pytest.raises(Rejected) as raised:
            state.apply(one)
        assert raised.value.code == "limit"
    with pytest.raises(Rejected):
        state.apply(TokenAdd(b"c" * 8, bytes(32), "ann", 9, 2_000))
    state.apply(TokenAdd(b"c" * 8, bytes(32), "ann", 9, 10**9))
    assert list(state.tokens) == [b"c" * 8], "tokens that expired long ago made room"
    state.check()


def test_tokens_of_one_user_leave_room_for_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_state, "MAX_TOKENS", 5)
    monkeypatch.setattr(auth_state, "MAX_USER_TOKENS", 3)
    state = AuthState()
    for name in ("ann", "bob"):
        state.apply(UserAdd(name))
    for key in (b"a", b"b", b"c"):
        state.apply(TokenAdd(key * 8, bytes(32), "ann", 10**9, 0))
    with pytest.raises(Rejected, match="the user 'ann' has 3 tokens") as raised:
        state.apply(TokenAdd(b"d" * 8, bytes(32), "ann", 10**9, 0))
    assert raised.value.code == "limit"
    state.apply(TokenAdd(b"d" * 8, bytes(32), "bob", 10**9, 0))
    state.apply(TokenRemove(b"a" * 8))
    state.apply(TokenAdd(b"e" * 8, bytes(32), "ann", 10**9, 0))
    state.apply(TokenAdd(b"f" * 8, bytes(32), "ann", 10**10, 10**9 + 4_000_000))
    assert sorted(state.tokens) == [b"f" * 8], "those that expired long ago made room"
    state.check()


def test_users_are_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_state, "MAX_AUTH_BYTES", 100)
    state = AuthState()
    state.apply(RoleAdd("x" * 60))
    with pytest.raises(Rejected) as raised:
        state.apply(RoleAdd("y" * 60))
    assert raised.value.code == "limit"
    assert state.size_bytes <= 100


def test_authorised_command_is_the_bytes_of_its_command_with_a_head() -> None:
    command = encode_command(Put(b"k", b"v"))
    data = authorised(command, "ann", b"8 bytes.", 7)
    assert decode_command(data) == Authorised("ann", b"8 bytes.", 7, Put(b"k", b"v"))
    assert encode_command(Authorised("ann", b"8 bytes.", 7, Put(b"k", b"v", 0))) is not None
    with pytest.raises(Rejected):
        decode_command(authorised(data, "ann", b"", 7))


@pytest.mark.parametrize("size", [0, 1, 31, 32, 300, MAX_VALUE_BYTES])
def test_put_of_a_user_is_encoded_as_in_two_steps(size: int) -> None:
    for key in (b"k", b"k" * MAX_KEY_BYTES):
        token = b"8 bytes."
        made = encode_user_put(key, bytes(size), "ann", token, 7)
        assert made == authorised(encode_command(Put(key, bytes(size))), "ann", token, 7)


@pytest.mark.parametrize(("key", "size"), [(b"k" * (MAX_KEY_BYTES + 1), 1), (b"k", MAX_VALUE_BYTES + 1)])
def test_put_of_a_user_that_no_log_takes_is_refused(key: bytes, size: int) -> None:
    with pytest.raises((TooLarge, ValueError)):
        encode_user_put(key, bytes(size), "ann", b"", 7)


def test_flag_is_on_before_the_users_of_a_snapshot_are_there() -> None:
    """A request on the event loop must not see the new keys without the new users."""
    source = KvMachine()
    add_users(source.store)
    sink, snapshot = Sink(), source.snapshot()
    snapshot.persist(sink)
    seen: list[bool] = []

    class Watched(KvMachine):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "store" and hasattr(self, "auth_flag"):
                seen.append(self.auth_flag.on)
            super().__setattr__(name, value)

    machine = Watched()
    machine.restore(io.BytesIO(sink.data))
    assert seen == [True]
    assert machine.auth_flag.on


def test_unauthenticated_and_denied_are_refusals_of_the_machine() -> None:
    assert issubclass(Unauthenticated, Rejected)
    assert issubclass(PermissionDenied, Rejected)
