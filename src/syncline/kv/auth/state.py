"""The users, roles and tokens of one store, and the commands that change them.

No clock is here: whether a token has expired is decided by the node that is asked. Everything is deterministic.

The auth revision rises with each change that may alter what a client is allowed. A new token alters nothing for the
others, so it does not raise it; the end of one does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from msgspec.structs import replace

from syncline.errors import Rejected
from syncline.kv.auth.commands import (
    AuthAnswer,
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
from syncline.kv.auth.limits import (
    MAX_AUTH_BYTES,
    MAX_ROLE_KEYS,
    MAX_ROLES,
    MAX_TOKENS,
    MAX_USER_ROLES,
    MAX_USER_TOKENS,
    MAX_USERS,
)
from syncline.kv.auth.permissions import NOTHING, UserPermissions
from syncline.kv.auth.records import (
    ROOT,
    AuthRecord,
    AuthSettings,
    ClusterOperation,
    KeyGrant,
    RoleRecord,
    TokenRecord,
    UserRecord,
    auth_checksum,
    encoded_size,
)

__all__ = ["AuthState"]

EXPIRED_MS: Final = 3_600_000
"""How long ago a token must have expired to make room: the clocks of the nodes differ."""

Kind = TypeVar("Kind", RoleRecord, UserRecord, TokenRecord)
Id = TypeVar("Id", str, bytes)


class AuthState:
    """Users, roles and tokens. One thread writes and reads it."""

    __slots__ = ("_permissions", "checksum_sum", "enabled", "revision", "roles", "size_bytes", "tokens", "users")

    def __init__(self) -> None:
        self.enabled: bool = False
        """Whether clients need credentials."""
        self.revision: int = 0
        """Of the latest change; 0: there never were users."""
        self.users: dict[str, UserRecord] = {}
        self.roles: dict[str, RoleRecord] = {}
        self.tokens: dict[bytes, TokenRecord] = {}
        """By id."""
        self.checksum_sum: int = 0
        """The sum of the checksums of all records; part of the store's digest."""
        self.size_bytes: int = 0
        """The records, encoded."""
        self._permissions: dict[str, UserPermissions] = {}

    def permissions(self, user: str) -> UserPermissions:
        """What a user may do now; nothing if there is no such user."""
        found = self._permissions.get(user)
        if found is None:
            record = self.users.get(user)
            if record is None:
                return NOTHING
            found = UserPermissions([self.roles[role] for role in record.roles])
            self._permissions[user] = found
        return found

    def is_valid(self, user: str, token: bytes, revision: int) -> bool:
        """Whether a credential that was good at an auth revision is still: the user's password, or a token's id."""
        record = self.users.get(user)
        if record is None:
            return False
        if token:
            found = self.tokens.get(token)
            if found is None or found.user != user:
                return False
            if not (revision := found.login_revision):
                return True
        return record.password is not None and record.changed <= revision

    @property
    def administrators(self) -> list[str]:
        """The users with the role `root` and a password: without one a cluster could not be managed."""
        return [user.name for user in self.users.values() if ROOT in user.roles and user.password is not None]

    def digest_part(self) -> tuple[int, bool, int, str] | None:
        """What the store's digest covers of it; None before the first user."""
        if not self.revision:
            return None
        return (self.revision, self.enabled, self._count, str(self.checksum_sum))

    @property
    def _count(self) -> int:
        return len(self.users) + len(self.roles) + len(self.tokens)

    # -- commands ------------------------------------------------------------------------------------------------------

    def apply(self, command: AuthCommand) -> AuthAnswer:
        """Carry out a command. Raises `Rejected` and changes nothing."""
        match command:
            case AuthSwitch(enabled):
                return self._switch(enabled)
            case UserAdd():
                return self._add_user(command)
            case UserRemove(name):
                return self._remove_user(name)
            case UserPassword(name, password):
                user = self._user(name)
                changed = replace(user, password=password, changed=self.revision + 1)
                return self._set_user(user, changed)
            case UserRoleChange(name, role, granted):
                return self._change_role(name, role, granted=granted)
            case RoleAdd(name):
                return self._add_role(name)
            case RoleRemove(name):
                return self._remove_role(name)
            case KeyAccessChange():
                return self._change_keys(command)
            case OperationAccessChange(name, operation, granted):
                return self._change_operation(name, operation, granted=granted)
            case TokenAdd():
                return self._add_token(command)
            case TokenRemove(token):
                return self._remove_token(token)

    def _switch(self, enabled: bool) -> AuthAnswer:
        if enabled and not self.administrators:
            raise Rejected(
                "there is no administrator with a password: add one first (`syncline user add root --admin`)",
                code="no_administrator",
            )
        if enabled == self.enabled:
            return AuthAnswer(self.revision, False)
        self.enabled = enabled
        return self._changed()

    def _add_user(self, command: UserAdd) -> AuthAnswer:
        name = command.name
        if name in self.users:
            raise Rejected(f"there is a user {name!r} already", code="user_exists")
        if len(self.users) >= MAX_USERS:
            raise Rejected(f"there are {MAX_USERS} users", code="limit")
        roles = tuple(sorted(set(command.roles)))
        missing = [role for role in roles if role != ROOT and role not in self.roles]
        if missing:
            raise _no_role(missing[0])
        made = [] if ROOT not in roles or ROOT in self.roles else [RoleRecord(ROOT)]
        user = UserRecord(name, command.password, roles, self.revision + 1)
        self._check_room([user, *made])
        for role in made:
            self.roles[role.name] = self._added(role)
        self.users[name] = self._added(user)
        return self._changed()

    def _remove_user(self, name: str) -> AuthAnswer:
        user = self._user(name)
        self._check_administrators(user, None)
        for token in [one for one in self.tokens.values() if one.user == name]:
            self._removed(self.tokens.pop(token.id))
        self._removed(self.users.pop(name))
        return self._changed()

    def _change_role(self, name: str, role: str, *, granted: bool) -> AuthAnswer:
        user = self._user(name)
        if role not in self.roles:
            raise _no_role(role)
        if (role in user.roles) == granted:
            return AuthAnswer(self.revision, False)
        roles = {*user.roles, role} if granted else {*user.roles} - {role}
        if len(roles) > MAX_USER_ROLES:
            raise Rejected(f"the user {name!r} has {MAX_USER_ROLES} roles", code="limit")
        return self._set_user(user, replace(user, roles=tuple(sorted(roles))))

    def _set_user(self, user: UserRecord, changed: UserRecord) -> AuthAnswer:
        self._check_administrators(user, changed)
        self._check_room([changed])
        self._removed(user)
        self.users[user.name] = self._added(changed)
        return self._changed()

    def _add_role(self, name: str) -> AuthAnswer:
        if name in self.roles:
            raise Rejected(f"there is a role {name!r} already", code="role_exists")
        if len(self.roles) >= MAX_ROLES:
            raise Rejected(f"there are {MAX_ROLES} roles", code="limit")
        role = RoleRecord(name)
        self._check_room([role])
        self.roles[name] = self._added(role)
        return self._changed()

    def _remove_role(self, name: str) -> AuthAnswer:
        role = self._role(name)
        if name == ROOT and self.enabled:
            raise _last_administrator("the role 'root' can't be removed")
        for user in [one for one in self.users.values() if name in one.roles]:
            left = tuple([role for role in user.roles if role != name])
            self._removed(user)
            self.users[user.name] = self._added(replace(user, roles=left))
        self._removed(role)
        del self.roles[name]
        return self._changed()

    def _change_keys(self, command: KeyAccessChange) -> AuthAnswer:
        role = self._changeable(command.role)
        others = [one for one in role.keys if (one.start, one.end) != (command.start, command.end)]
        if command.access:
            others.append(KeyGrant(command.start, command.end, command.access))
        elif len(others) == len(role.keys):
            raise Rejected(f"the role {role.name!r} allows nothing on exactly this range", code="not_granted")
        if len(others) > MAX_ROLE_KEYS:
            raise Rejected(f"the role {role.name!r} has {MAX_ROLE_KEYS} ranges of keys", code="limit")
        keys = tuple(sorted(others, key=lambda one: (one.start, one.end is None, one.end or b"")))
        return self._set_role(role, replace(role, keys=keys))

    def _change_operation(self, name: str, operation: int, *, granted: bool) -> AuthAnswer:
        role = self._changeable(name)
        if operation not in set(ClusterOperation):
            raise Rejected(f"there is no operation of number {operation}", code="bad_command")
        if not granted and operation not in role.operations:
            raise Rejected(f"the role {name!r} does not allow this operation", code="not_granted")
        left = {*role.operations, operation} if granted else {*role.operations} - {operation}
        return self._set_role(role, replace(role, operations=tuple(sorted(left))))

    def _set_role(self, role: RoleRecord, changed: RoleRecord) -> AuthAnswer:
        if changed == role:
            return AuthAnswer(self.revision, False)
        self._check_room([changed])
        self._removed(role)
        self.roles[role.name] = self._added(changed)
        return self._changed()

    def _add_token(self, command: TokenAdd) -> AuthAnswer:
        self._user(command.user)
        if command.id in self.tokens:
            raise Rejected("there is a token with this id already", code="bad_command")
        if self._tokens_left(command.user) <= 0:
            latest_ms = command.now_ms - EXPIRED_MS
            for token in [one for one in self.tokens.values() if one.expires_ms < latest_ms]:
                self._removed(self.tokens.pop(token.id))
        if len(self.tokens) >= MAX_TOKENS:
            raise Rejected(f"there are {MAX_TOKENS} tokens: remove some", code="limit")
        if self._tokens_left(command.user) <= 0:
            raise Rejected(f"the user {command.user!r} has {MAX_USER_TOKENS} tokens: remove some", code="limit")
        token = TokenRecord(command.id, command.hash, command.user, command.expires_ms, command.about)
        self._check_room([token])
        self.tokens[token.id] = self._added(token)
        return AuthAnswer(self.revision, True)

    def _tokens_left(self, user: str) -> int:
        """How many more tokens there may be of this user."""
        left = MAX_TOKENS - len(self.tokens)
        if len(self.tokens) < MAX_USER_TOKENS:  # most stores: nothing need be counted
            return left
        return min(left, MAX_USER_TOKENS - sum(token.user == user for token in self.tokens.values()))

    def _remove_token(self, token: bytes) -> AuthAnswer:
        found = self.tokens.pop(token, None)
        if found is None:
            raise Rejected(f"there is no token {token.hex()}", code="token_not_found")
        self._removed(found)
        return self._changed()

    # -- refusals ------------------------------------------------------------------------------------------------------

    def _user(self, name: str) -> UserRecord:
        user = self.users.get(name)
        if user is None:
            raise Rejected(f"there is no user {name!r}", code="user_not_found")
        return user

    def _role(self, name: str) -> RoleRecord:
        role = self.roles.get(name)
        if role is None:
            raise _no_role(name)
        return role

    def _changeable(self, name: str) -> RoleRecord:
        if name == ROOT:
            raise Rejected("the role 'root' allows everything, and can't be changed", code="bad_command")
        return self._role(name)

    def _check_administrators(self, user: UserRecord, changed: UserRecord | None) -> None:
        """While clients need credentials, one administrator with a password is always left."""
        if not self.enabled or self.administrators != [user.name]:
            return
        if changed is None or ROOT not in changed.roles or changed.password is None:
            raise _last_administrator(f"{user.name!r} is the last administrator with a password")

    def _check_room(self, records: Iterable[AuthRecord]) -> None:
        if self.size_bytes + sum(map(encoded_size, records)) > MAX_AUTH_BYTES:
            raise Rejected(f"users, roles and tokens come to {MAX_AUTH_BYTES} bytes", code="limit")

    # -- records -------------------------------------------------------------------------------------------------------

    def _added(self, record: Kind) -> Kind:
        self.checksum_sum += auth_checksum(record)
        self.size_bytes += encoded_size(record)
        return record

    def _removed(self, record: AuthRecord) -> None:
        self.checksum_sum -= auth_checksum(record)
        self.size_bytes -= encoded_size(record)

    def _changed(self) -> AuthAnswer:
        self.revision += 1
        self._permissions.clear()
        return AuthAnswer(self.revision, True)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def renumber(self, revision: int) -> None:
        """Go on from a later auth revision, for a state that takes the place of a newer one.

        Each user counts as changed then. So no credential that was good before counts without being checked again, and
        no command that was allowed before is applied without another check.
        """
        assert revision > self.revision, (revision, self.revision)
        for name, user in self.users.items():
            self._removed(user)
            self.users[name] = self._added(replace(user, changed=revision))
        self.revision = revision
        self._permissions.clear()

    def view(self) -> tuple[AuthRecord, ...]:
        """All records as they are now, for a snapshot; none before the first user."""
        if not self.revision:
            return ()
        settings = AuthSettings(self.enabled, self.revision)
        roles = [self.roles[name] for name in sorted(self.roles)]
        users = [self.users[name] for name in sorted(self.users)]
        tokens = [self.tokens[token] for token in sorted(self.tokens)]
        return (settings, *roles, *users, *tokens)

    def load(self, records: Iterable[AuthRecord]) -> None:
        """Add records of a snapshot, in the order of `view`. Raises ValueError for any that can't be."""
        for record in records:
            match record:
                case AuthSettings(enabled, revision):
                    if self.revision or self._count or revision <= 0:
                        raise ValueError("the settings of the users stand in the wrong place, or without a revision")
                    self.enabled, self.revision = enabled, revision
                case RoleRecord(name) if self.revision and not self.users and not self.tokens:
                    self._check_order(self.roles, name)
                    self.roles[name] = self._added(record)
                case UserRecord(name) if self.revision and not self.tokens:
                    self._check_order(self.users, name)
                    if not set(record.roles) <= self.roles.keys() or record.changed > self.revision:
                        raise ValueError(f"the user {name!r} has a role that does not exist, or a later revision")
                    self.users[name] = self._added(record)
                case TokenRecord(token) if record.user in self.users:
                    self._check_order(self.tokens, token)
                    self.tokens[token] = self._added(record)
                case _:
                    raise ValueError("a record of users, roles and tokens in the wrong place")

    def check_loaded(self) -> None:
        """Raise ValueError if clients need credentials and no administrator has any."""
        if self.enabled and not self.administrators:
            raise ValueError("clients need credentials, and there is no administrator")

    @staticmethod
    def _check_order(records: dict[Id, Kind], record_id: Id) -> None:
        if records and next(reversed(records)) >= record_id:
            raise ValueError("records of users, roles and tokens out of order")

    def check(self) -> None:
        """Assert the invariants; for tests."""
        records: list[AuthRecord] = [*self.users.values(), *self.roles.values(), *self.tokens.values()]
        assert self.checksum_sum == sum(map(auth_checksum, records))
        assert self.size_bytes == sum(map(encoded_size, records))
        assert not self.enabled or self.administrators
        assert all(set(user.roles) <= self.roles.keys() for user in self.users.values())
        assert all(token.user in self.users for token in self.tokens.values())


def _no_role(name: str) -> Rejected:
    return Rejected(f"there is no role {name!r}", code="role_not_found")


def _last_administrator(why: str) -> Rejected:
    return Rejected(
        f"{why}, and clients need credentials: no client could manage the cluster any more. Add another administrator"
        " first, or disable the check (`syncline auth disable`)",
        code="last_administrator",
    )
