"""Blocking calls about users, roles and tokens."""

from __future__ import annotations

from collections.abc import Iterable

from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.user_schemas import (
    AccessName,
    AuthReply,
    AuthStatusReply,
    OperationName,
    RoleItem,
    RoleReply,
    TokenReply,
    UserItem,
    UserReply,
)
from syncline.client.users import TOKEN_TTL_S

__all__ = ["BlockingUserCalls"]


class BlockingUserCalls(PortalObject[AsyncClient]):
    """Manage users, roles and tokens."""

    def auth_status(self, *, timeout: float | None = None) -> AuthStatusReply:
        """Whether clients need credentials, and how many users, roles and tokens there are.

            print((kv.auth_status()).enabled)

        Its arguments and errors are those of `AsyncClient.auth_status`.
        """
        return self._call(lambda kv: kv.auth_status(timeout=timeout))

    def enable_auth(self, *, timeout: float | None = None) -> AuthReply:
        """Require credentials from all clients. There must be an administrator with a password.

            kv.enable_auth()

        Its arguments and errors are those of `AsyncClient.enable_auth`.
        """
        return self._call(lambda kv: kv.enable_auth(timeout=timeout))

    def disable_auth(self, *, timeout: float | None = None) -> AuthReply:
        """Require no credentials any more. Users, roles and tokens stay.

            kv.disable_auth()

        Its arguments and errors are those of `AsyncClient.disable_auth`.
        """
        return self._call(lambda kv: kv.disable_auth(timeout=timeout))

    def users(self, *, timeout: float | None = None) -> list[UserItem]:
        """All users.

            print([user.name for user in kv.users()])

        Its arguments and errors are those of `AsyncClient.users`.
        """
        return self._call(lambda kv: kv.users(timeout=timeout))

    def user(self, name: str, *, timeout: float | None = None) -> UserReply:
        """One user, with its roles and its tokens. The texts of tokens are not kept anywhere.

            print((kv.user("ann")).roles)

        Its arguments and errors are those of `AsyncClient.user`.
        """
        return self._call(lambda kv: kv.user(name, timeout=timeout))

    def add_user(
        self,
        name: str,
        password: str | None = None,
        *,
        roles: Iterable[str] = (),
        admin: bool = False,
        timeout: float | None = None,
    ) -> AuthReply:
        """Add a user. Without a password it has tokens alone. `admin`: with the role `root`.

            kv.add_user("ann", "a long password", roles=["reader"])

        Its arguments and errors are those of `AsyncClient.add_user`.
        """
        return self._call(lambda kv: kv.add_user(name, password, roles=roles, admin=admin, timeout=timeout))

    def remove_user(self, name: str, *, timeout: float | None = None) -> AuthReply:
        """Remove a user and its tokens. The last administrator can't be removed while clients need credentials.

            kv.remove_user("ann")

        Its arguments and errors are those of `AsyncClient.remove_user`.
        """
        return self._call(lambda kv: kv.remove_user(name, timeout=timeout))

    def set_password(self, name: str, password: str | None, *, timeout: float | None = None) -> AuthReply:
        """Change a user's password; None: it has none any more. Its tokens stay.

            kv.set_password("ann", "another password")

        Its arguments and errors are those of `AsyncClient.set_password`.
        """
        return self._call(lambda kv: kv.set_password(name, password, timeout=timeout))

    def grant_role(self, user: str, role: str, *, timeout: float | None = None) -> AuthReply:
        """Give a user a role.

            kv.grant_role("ann", "reader")

        Its arguments and errors are those of `AsyncClient.grant_role`.
        """
        return self._call(lambda kv: kv.grant_role(user, role, timeout=timeout))

    def revoke_role(self, user: str, role: str, *, timeout: float | None = None) -> AuthReply:
        """Withdraw a role from a user.

            kv.revoke_role("ann", "reader")

        Its arguments and errors are those of `AsyncClient.revoke_role`.
        """
        return self._call(lambda kv: kv.revoke_role(user, role, timeout=timeout))

    def new_token(
        self, user: str, *, ttl: float = TOKEN_TTL_S, about: str = "", timeout: float | None = None
    ) -> TokenReply:
        """Make a token of a user, good for `ttl` seconds. Its text is in this answer alone.

            token = (kv.new_token("ann", ttl=86_400, about="the nightly job")).token

        Its arguments and errors are those of `AsyncClient.new_token`.
        """
        return self._call(lambda kv: kv.new_token(user, ttl=ttl, about=about, timeout=timeout))

    def remove_token(self, token_id: str, *, timeout: float | None = None) -> AuthReply:
        """End a token, by its id.

            made = kv.new_token("ann")
            kv.remove_token(made.id)

        Its arguments and errors are those of `AsyncClient.remove_token`.
        """
        return self._call(lambda kv: kv.remove_token(token_id, timeout=timeout))

    def roles(self, *, timeout: float | None = None) -> list[RoleItem]:
        """All roles, with what they allow. The role `root` allows everything.

            print([role.name for role in kv.roles()])

        Its arguments and errors are those of `AsyncClient.roles`.
        """
        return self._call(lambda kv: kv.roles(timeout=timeout))

    def role(self, name: str, *, timeout: float | None = None) -> RoleReply:
        """One role.

            print((kv.role("reader")).keys)

        Its arguments and errors are those of `AsyncClient.role`.
        """
        return self._call(lambda kv: kv.role(name, timeout=timeout))

    def add_role(self, name: str, *, timeout: float | None = None) -> AuthReply:
        """Add a role that allows nothing yet.

            kv.add_role("reader")

        Its arguments and errors are those of `AsyncClient.add_role`.
        """
        return self._call(lambda kv: kv.add_role(name, timeout=timeout))

    def remove_role(self, name: str, *, timeout: float | None = None) -> AuthReply:
        """Remove a role, also from its users.

            kv.remove_role("reader")

        Its arguments and errors are those of `AsyncClient.remove_role`.
        """
        return self._call(lambda kv: kv.remove_role(name, timeout=timeout))

    def allow(
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

            kv.allow("reader", "read", prefix="config/")
            kv.allow("reader", operation="status")

        Its arguments and errors are those of `AsyncClient.allow`.
        """
        return self._call(
            lambda kv: kv.allow(
                role, access, key=key, prefix=prefix, start=start, end=end, operation=operation, timeout=timeout
            )
        )

    def disallow(
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

            kv.disallow("reader", prefix="config/")

        Its arguments and errors are those of `AsyncClient.disallow`.
        """
        return self._call(
            lambda kv: kv.disallow(
                role, key=key, prefix=prefix, start=start, end=end, operation=operation, timeout=timeout
            )
        )
