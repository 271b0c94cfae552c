"""The service Auth: Syncline's own users and roles, as etcd's clients see and change them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from syncline.errors import Rejected, SynclineError
from syncline.kv.auth.commands import (
    AuthCommand,
    AuthSwitch,
    KeyAccessChange,
    RoleAdd,
    RoleRemove,
    TokenAdd,
    UserAdd,
    UserPassword,
    UserRemove,
    UserRoleChange,
)
from syncline.kv.auth.names import check_role_name, check_user_name
from syncline.kv.auth.permissions import key_end
from syncline.kv.auth.records import ROOT, KeyGrant, PasswordVerifier, RoleRecord, UserRecord, login_text
from syncline.platform.entropy import Entropy
from syncline.server.auth.passwords import MAX_PASSWORD_BYTES
from syncline.server.auth.principal import Principal
from syncline.server.auth.tokens import hash_of_token, id_of_token, new_token
from syncline.server.etcd.admission import GateAdmission
from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, UNIMPLEMENTED, EtcdError
from syncline.server.etcd.face import EtcdCaller, EtcdFace
from syncline.server.etcd.messages import Message

__all__ = ["AuthService"]

TOKEN_MS: Final = 24 * 3_600_000
"""How long a token of `Authenticate` is good."""
UNBOUND_MS: Final = 300_000
"""The same while a member does not know tokens that end with the password: as long as a token of etcd's."""
MAX_REUSED: Final = 1000
"""Users for which a token is kept."""
ABOUT: Final = "etcd"
"""What the tokens are for, in the list of a user's tokens (`login_text`)."""

_READ, _WRITE, _BOTH = 0, 1, 2
_OPEN_END: Final = b"\0"


class AuthService:
    """Users, roles, and the switch."""

    def __init__(self, context: ServiceContext, admission: GateAdmission, entropy: Entropy) -> None:
        self._context = context
        self._admission = admission
        self._entropy = entropy
        self._given: dict[str, tuple[bytes, str, int]] = {}
        """By user: the id and the text of the token that was given last, and until when it is given again. That is half
        of its time: clients such as etcdctl log in for each call, and a store has 1000 tokens of a user."""
        self._making: dict[tuple[str, int], asyncio.Task[str]] = {}
        """By user and the revision of its password: the token that is being made. Clients that log in at the same
        time get the same one: a user has a limited number."""

    def add_to(self, face: EtcdFace) -> None:
        """Register the methods."""
        for name, call in (
            ("AuthEnable", self.enable),
            ("AuthDisable", self.disable),
            ("AuthStatus", self.status),
            ("Authenticate", self.authenticate),
            ("UserAdd", self.add_user),
            ("UserGet", self.get_user),
            ("UserList", self.list_users),
            ("UserDelete", self.delete_user),
            ("UserChangePassword", self.change_password),
            ("UserGrantRole", self.grant_role),
            ("UserRevokeRole", self.revoke_role),
            ("RoleAdd", self.add_role),
            ("RoleGet", self.get_role),
            ("RoleList", self.list_roles),
            ("RoleDelete", self.delete_role),
            ("RoleGrantPermission", self.grant_permission),
            ("RoleRevokePermission", self.revoke_permission),
        ):
            face.unary(f"/etcdserverpb.Auth/{name}", call)

    # --- the switch, and logging in

    async def enable(self, request: Message, caller: EtcdCaller) -> Message:
        """Require credentials from clients."""
        del request
        await self._context.node.read_index(caller.timeout_s)
        if ROOT not in self._context.node.store.auth.users:
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: root user does not exist")
        return await self._changed(AuthSwitch(True), caller)

    async def disable(self, request: Message, caller: EtcdCaller) -> Message:
        """Require none any more."""
        del request
        return await self._changed(AuthSwitch(False), caller)

    async def status(self, request: Message, caller: EtcdCaller) -> Message:
        """Whether clients need credentials."""
        del request
        await self._context.node.read_index(caller.timeout_s)
        auth = self._context.node.store.auth
        return {"header": self._context.header(), "enabled": auth.enabled, "authRevision": auth.revision}

    async def authenticate(self, request: Message, caller: EtcdCaller) -> Message:
        """Make a token for a user and its password."""
        if not self._admission.needed:
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
        user, password = _text(request, "name"), _text(request, "password")
        principal = await self._admission.log_in(user, password, caller.address)
        return {"header": self._context.header(), "token": await self._token_of(principal, caller)}

    async def _token_of(self, principal: Principal, caller: EtcdCaller) -> str:
        user, now_ms = principal.user, round(self._context.gate.wall_ms())
        if (given := self._given.get(user)) is not None:
            token_id, text, reused_ms = given
            auth = self._context.node.store.auth
            if now_ms < reused_ms and auth.is_valid(user, token_id, auth.revision):
                return text
        key = (user, principal.verified)
        making = self._making.get(key)
        if making is None:
            work = self._make_token(principal, caller, now_ms)
            making = self._making[key] = asyncio.get_running_loop().create_task(work, name="etcd token")
            making.add_done_callback(partial(self._made, key))
        return await asyncio.shield(making)

    def _made(self, key: tuple[str, int], making: asyncio.Task[str]) -> None:
        del self._making[key]
        if not making.cancelled():
            making.exception()  # it is retrieved, also if all clients have left

    async def _make_token(self, principal: Principal, caller: EtcdCaller, now_ms: int) -> str:
        user, text, life_ms = principal.user, new_token(self._entropy), TOKEN_MS
        hashed = hash_of_token(text.encode())
        assert hashed is not None
        token_id = id_of_token(hashed)
        named = EtcdCaller(timeout_s=caller.timeout_s, address=caller.address, principal=principal)
        about = login_text(ABOUT, principal.verified)
        try:
            add = TokenAdd(token_id, hashed, user, now_ms + life_ms, now_ms, about)
            await self._context.proposed(add, named, frees_space=True)
        except Rejected as refusal:
            if refusal.code != "needs_upgrade":
                raise
            # A member does not know tokens of a login: a rolling upgrade is under way, and clients go on.
            life_ms = UNBOUND_MS
            add = TokenAdd(token_id, hashed, user, now_ms + life_ms, now_ms, ABOUT)
            await self._context.proposed(add, named, frees_space=True)
        if len(self._given) >= MAX_REUSED:
            self._given.clear()
        self._given[user] = token_id, text, now_ms + life_ms // 2
        return text

    # --- users

    async def add_user(self, request: Message, caller: EtcdCaller) -> Message:
        """Add a user."""
        name = _text(request, "name")
        if not name:
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: user name is empty")
        check_user_name(name)
        await self._require_admin(caller)
        options = cast("Message", request.get("options", {}))
        verifier = None if options.get("no_password") else await self._verifier(request)
        return await self._changed(UserAdd(name, verifier), caller)

    async def get_user(self, request: Message, caller: EtcdCaller) -> Message:
        """The roles of a user."""
        name = _text(request, "name")
        if caller.principal is not None and caller.principal.user != name:
            await self._require_admin(caller)
        await self._context.node.read_index(caller.timeout_s)
        return {"header": self._context.header(), "roles": list(self._user(name).roles)}

    async def list_users(self, request: Message, caller: EtcdCaller) -> Message:
        """The names of all users."""
        del request
        await self._require_admin(caller)
        await self._context.node.read_index(caller.timeout_s)
        return {"header": self._context.header(), "users": sorted(self._context.node.store.auth.users)}

    async def delete_user(self, request: Message, caller: EtcdCaller) -> Message:
        """Remove a user and its tokens."""
        return await self._changed(UserRemove(_user_name(request, "name")), caller)

    async def change_password(self, request: Message, caller: EtcdCaller) -> Message:
        """Change a password. The tokens that were made with the old one end."""
        name = _text(request, "name")
        await self._require_admin(caller)
        await self._context.node.read_index(caller.timeout_s)
        self._user(name)
        return await self._changed(UserPassword(name, await self._verifier(request)), caller)

    async def grant_role(self, request: Message, caller: EtcdCaller) -> Message:
        """Give a user a role. As in etcd, the role `root` need not be added before."""
        user = _text(request, "user")
        await self._require_admin(caller)
        await self._context.node.read_index(caller.timeout_s)
        self._user(user)
        role = _role_name(request, "role")
        if role == ROOT and ROOT not in self._context.node.store.auth.roles:
            try:
                await self._changed(RoleAdd(ROOT), caller)
            except SynclineError as refusal:
                if getattr(refusal, "code", "") != "role_exists":  # another client has added it
                    raise
        return await self._changed(UserRoleChange(user, role, True), caller)

    async def revoke_role(self, request: Message, caller: EtcdCaller) -> Message:
        """Withdraw a role from a user."""
        name, role = _text(request, "name"), _text(request, "role")
        await self._require_admin(caller)
        await self._context.node.read_index(caller.timeout_s)
        if role not in self._user(name).roles:
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: role is not granted to the user")
        return await self._changed(UserRoleChange(name, role, False), caller)

    # --- roles

    async def add_role(self, request: Message, caller: EtcdCaller) -> Message:
        """Add a role that allows nothing yet."""
        name = _text(request, "name")
        if not name:
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: role name is empty")
        check_role_name(name)
        return await self._changed(RoleAdd(name), caller)

    async def get_role(self, request: Message, caller: EtcdCaller) -> Message:
        """What a role allows on keys."""
        name = _text(request, "role")
        principal = caller.principal
        await self._context.node.read_index(caller.timeout_s)
        user = None if principal is None else self._context.node.store.auth.users.get(principal.user)
        if user is None or name not in user.roles:
            await self._require_admin(caller)
        return {"header": self._context.header(), "perm": [_permission(grant) for grant in self._role(name).keys]}

    async def list_roles(self, request: Message, caller: EtcdCaller) -> Message:
        """The names of all roles."""
        del request
        await self._require_admin(caller)
        await self._context.node.read_index(caller.timeout_s)
        return {"header": self._context.header(), "roles": sorted(self._context.node.store.auth.roles)}

    async def delete_role(self, request: Message, caller: EtcdCaller) -> Message:
        """Remove a role, also from its users."""
        return await self._changed(RoleRemove(_role_name(request, "role")), caller)

    async def grant_permission(self, request: Message, caller: EtcdCaller) -> Message:
        """Let a role allow access to a key or a range."""
        if (given := request.get("perm")) is None:
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: permission not given")
        role, perm = _role_name(request, "name"), cast("Message", given)
        kind = cast("int", perm.get("permType", 0))
        if kind not in (_READ, _WRITE, _BOTH):
            raise EtcdError(INVALID_ARGUMENT, f"etcdserver: there is no permission type {kind}")
        start, end = _range(perm)
        if end is not None and end <= start:
            await self._require_admin(caller)
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: invalid auth management")
        if role == ROOT:
            await self._require_admin(caller)
            await self._context.node.read_index(caller.timeout_s)
            self._role(role)
        return await self._changed(KeyAccessChange(role, start, end, kind + 1), caller)

    async def revoke_permission(self, request: Message, caller: EtcdCaller) -> Message:
        """Withdraw access to exactly a range as it was granted."""
        role = _role_name(request, "role")
        start, end = _range(request)
        if role == ROOT or (end is not None and end <= start):  # which no role was granted
            await self._require_admin(caller)
            await self._context.node.read_index(caller.timeout_s)
            self._role(role)
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: permission is not granted to the role")
        return await self._changed(KeyAccessChange(role, start, end, 0), caller)

    # --- what they have in common

    async def _changed(self, command: AuthCommand, caller: EtcdCaller) -> Message:
        await self._context.proposed(command, caller, frees_space=True)
        return {"header": self._context.header()}

    async def _require_admin(self, caller: EtcdCaller) -> None:
        await self._context.require(caller)

    async def _verifier(self, request: Message) -> PasswordVerifier | None:
        """What a password is checked with; None if it is empty."""
        if request.get("hashedPassword"):
            raise EtcdError(UNIMPLEMENTED, "etcdserver: send the password itself: a hash of etcd's can't be used here")
        password = _text(request, "password").encode("utf-8", "surrogatepass")
        if len(password) > MAX_PASSWORD_BYTES or b"\0" in password:
            text = f"a password has up to {MAX_PASSWORD_BYTES} bytes, and no zero character"
            raise EtcdError(INVALID_ARGUMENT, f"etcdserver: {text}")
        return await self._context.gate.passwords.make(password) if password else None

    def _user(self, name: str) -> UserRecord:
        user = self._context.node.store.auth.users.get(name)
        if user is None:
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: user name not found")
        return user

    def _role(self, name: str) -> RoleRecord:
        role = self._context.node.store.auth.roles.get(name)
        if role is None:
            raise EtcdError(FAILED_PRECONDITION, "etcdserver: role name not found")
        return role


def _text(request: Message, name: str) -> str:
    return cast("str", request.get(name, ""))


def _user_name(request: Message, name: str) -> str:
    return _existing(_text(request, name), check_user_name, "user")


def _role_name(request: Message, name: str) -> str:
    return _existing(_text(request, name), check_role_name, "role")


def _existing(name: str, check: Callable[[str], None], what: str) -> str:
    """The name of a user or role that may be there. Raises `EtcdError` for one that none can have."""
    try:
        check(name)
    except Rejected:
        raise EtcdError(FAILED_PRECONDITION, f"etcdserver: {what} name not found") from None
    return name


def _range(message: Message) -> tuple[bytes, bytes | None]:
    start, end = cast("bytes", message.get("key", b"")), cast("bytes", message.get("range_end", b""))
    if not end:
        return start, key_end(start)
    return start, None if end == _OPEN_END else end


def _permission(grant: KeyGrant) -> Message:
    permission: Message = {"permType": grant.access - 1, "key": grant.start}
    if grant.end != key_end(grant.start):
        permission["range_end"] = _OPEN_END if grant.end is None else grant.end
    return permission
