"""Calls about users, roles and tokens, and whether clients need credentials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from syncline.client.arguments import checked_flag, checked_items, checked_text, checked_timeout_s, to_bytes
from syncline.client.caller import ClientRequest
from syncline.client.calls import JSON_BODY, Key, ServerCalls, as_read
from syncline.client.connection import ClientResponse
from syncline.client.user_schemas import (
    AccessName,
    AuthReply,
    AuthStatusReply,
    OperationName,
    RoleItem,
    RoleReply,
    RolesReply,
    TokenReply,
    UserItem,
    UserReply,
    UsersReply,
)
from syncline.client.wire import decode, json_key, quoted
from syncline.errors import ConfigError

__all__ = ["UserCalls"]

TOKEN_TTL_S: Final = 30 * 86_400.0


class UserCalls(ServerCalls):
    """Manage users, roles and tokens. Each method raises `OperationError` (`Rejected` with a `code` such as
    `user_not_found`, `PermissionDenied`, `Unauthenticated`), and `ConfigError` or `TypeError` for an argument.
    """

    async def auth_status(self, *, timeout: float | None = None) -> AuthStatusReply:
        """Whether clients need credentials, and how many users, roles and tokens there are.

            print((await kv.auth_status()).enabled)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it (`code` says why), or could not do it.
        """
        return decode(await self._look("/auth", timeout), AuthStatusReply)

    async def enable_auth(self, *, timeout: float | None = None) -> AuthReply:
        """Require credentials from all clients. There must be an administrator with a password.

            await kv.enable_auth()

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._changed("POST", "/auth/enable", None, timeout)

    async def disable_auth(self, *, timeout: float | None = None) -> AuthReply:
        """Require no credentials any more. Users, roles and tokens stay.

            await kv.disable_auth()

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._changed("POST", "/auth/disable", None, timeout)

    # --- users

    async def users(self, *, timeout: float | None = None) -> list[UserItem]:
        """All users.

            print([user.name for user in await kv.users()])

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it (`code` says why), or could not do it.
        """
        return decode(await self._look("/user", timeout), UsersReply).users

    async def user(self, name: str, *, timeout: float | None = None) -> UserReply:
        """One user, with its roles and its tokens. The texts of tokens are not kept anywhere.

            print((await kv.user("ann")).roles)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it (`code` says why), or could not do it.
        """
        return decode(await self._look(_path("user", name), timeout), UserReply)

    async def add_user(
        self,
        name: str,
        password: str | None = None,
        *,
        roles: Iterable[str] = (),
        admin: bool = False,
        timeout: float | None = None,
    ) -> AuthReply:
        """Add a user. Without a password it has tokens alone. `admin`: with the role `root`.

            await kv.add_user("ann", "a long password", roles=["reader"])

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        fields: dict[str, object] = {
            "name": checked_text(name, "name"),
            "roles": [checked_text(role, "role") for role in checked_items(roles, "roles")],
            "admin": checked_flag(admin, "admin"),
        }
        if password is not None:
            fields["password"] = _checked_password(password)
        return await self._changed("POST", "/user", fields, timeout)

    async def remove_user(self, name: str, *, timeout: float | None = None) -> AuthReply:
        """Remove a user and its tokens. The last administrator can't be removed while clients need credentials.

            await kv.remove_user("ann")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._changed("DELETE", _path("user", name), None, timeout)

    async def set_password(self, name: str, password: str | None, *, timeout: float | None = None) -> AuthReply:
        """Change a user's password; None: it has none any more. Its tokens stay.

            await kv.set_password("ann", "another password")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        fields = {"password": None if password is None else _checked_password(password)}
        return await self._changed("POST", _path("user", name, "password"), fields, timeout)

    async def grant_role(self, user: str, role: str, *, timeout: float | None = None) -> AuthReply:
        """Give a user a role.

            await kv.grant_role("ann", "reader")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        fields = {"role": checked_text(role, "role")}
        return await self._changed("POST", _path("user", user, "grant"), fields, timeout)

    async def revoke_role(self, user: str, role: str, *, timeout: float | None = None) -> AuthReply:
        """Withdraw a role from a user.

            await kv.revoke_role("ann", "reader")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        fields = {"role": checked_text(role, "role")}
        return await self._changed("POST", _path("user", user, "revoke"), fields, timeout)

    # --- tokens

    async def new_token(
        self, user: str, *, ttl: float = TOKEN_TTL_S, about: str = "", timeout: float | None = None
    ) -> TokenReply:
        """Make a token of a user, good for `ttl` seconds. Its text is in this answer alone.

            token = (await kv.new_token("ann", ttl=86_400, about="the nightly job")).token

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        ttl = checked_timeout_s(ttl, "ttl")
        if not 60 <= ttl <= 10 * 365 * 86_400:
            raise ConfigError(f"ttl is {ttl:g} s; accepted are 60 s to 10 years")
        fields = {"ttl": f"{round(ttl)}s", "about": checked_text(about, "about")}
        response = await self._send("POST", _path("user", user, "token"), fields, timeout)
        return decode(response, TokenReply)

    async def remove_token(self, token_id: str, *, timeout: float | None = None) -> AuthReply:
        """End a token, by its id.

            made = await kv.new_token("ann")
            await kv.remove_token(made.id)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._changed("DELETE", _path("token", token_id), None, timeout)

    # --- roles

    async def roles(self, *, timeout: float | None = None) -> list[RoleItem]:
        """All roles, with what they allow. The role `root` allows everything.

            print([role.name for role in await kv.roles()])

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it (`code` says why), or could not do it.
        """
        return decode(await self._look("/role", timeout), RolesReply).roles

    async def role(self, name: str, *, timeout: float | None = None) -> RoleReply:
        """One role.

            print((await kv.role("reader")).keys)

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it (`code` says why), or could not do it.
        """
        return decode(await self._look(_path("role", name), timeout), RoleReply)

    async def add_role(self, name: str, *, timeout: float | None = None) -> AuthReply:
        """Add a role that allows nothing yet.

            await kv.add_role("reader")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._changed("POST", "/role", {"name": checked_text(name, "name")}, timeout)

    async def remove_role(self, name: str, *, timeout: float | None = None) -> AuthReply:
        """Remove a role, also from its users.

            await kv.remove_role("reader")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._changed("DELETE", _path("role", name), None, timeout)

    async def allow(
        self,
        role: str,
        access: AccessName | None = None,
        *,
        key: Key | None = None,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        operation: OperationName | None = None,
        timeout: float | None = None,
    ) -> AuthReply:
        """Let a role allow access to one key, a prefix (empty: all keys) or a range; or an operation on the cluster.

            await kv.allow("reader", "read", prefix="config/")
            await kv.allow("reader", operation="status")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        fields = _granted(key, prefix, start, end, operation)
        if access is not None:
            fields["access"] = checked_text(access, "access")
        return await self._changed("POST", _path("role", role, "grant"), fields, timeout)

    async def disallow(
        self,
        role: str,
        *,
        key: Key | None = None,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        operation: OperationName | None = None,
        timeout: float | None = None,
    ) -> AuthReply:
        """Withdraw an operation, or exactly a range as it was allowed.

            await kv.disallow("reader", prefix="config/")

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it: `PermissionDenied`, `Rejected` with a `code`, or another one.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        fields = _granted(key, prefix, start, end, operation)
        return await self._changed("POST", _path("role", role, "revoke"), fields, timeout)

    # --- requests

    async def _look(self, target: str, timeout: float | None) -> ClientResponse:
        with as_read():
            return await self._answer(ClientRequest(method="GET", target=target, idempotent=True), timeout)

    async def _changed(self, method: str, target: str, fields: object, timeout: float | None) -> AuthReply:
        return decode(await self._send(method, target, fields, timeout), AuthReply)

    async def _send(self, method: str, target: str, fields: object, timeout: float | None) -> ClientResponse:
        body = b"" if fields is None else msgspec.json.encode(fields)
        headers = () if fields is None else JSON_BODY
        request = ClientRequest(method=method, target=target, headers=headers, body=body)
        return await self._answer(request, timeout)


def _path(room: str, name: str, action: str = "") -> str:
    shown = quoted(checked_text(name, "the name").encode())
    if not shown:
        raise ConfigError("the name is empty")
    return f"/{room}/{shown}" + (f"/{action}" if action else "")


def _checked_password(password: str) -> str:
    if not isinstance(password, str):
        raise TypeError(f"password must be a str, not {type(password).__name__}")
    try:
        password.encode()
    except UnicodeEncodeError:  # its text, and that of an error it causes, would show a part of the password
        raise ConfigError("password has a lone surrogate: it has no UTF-8 form") from None
    return password


def _granted(
    key: Key | None, prefix: Key | None, start: Key | None, end: Key | None, operation: OperationName | None
) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in (("key", key), ("prefix", prefix), ("start", start), ("end", end)):
        if value is not None:
            fields.update(json_key(name, to_bytes(value, name)))
    if operation is not None:
        fields["operation"] = checked_text(operation, "operation")
    return fields
