"""Draws calls about users and roles, and calls that users carry out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from syncline.server.etcd.messages import Message
from tests.compat.etcd.differential.calls import Call
from tests.compat.etcd.differential.side import ROOT_PASSWORD

__all__ = ["AuthCalls"]

Drawn = TypeVar("Drawn")

USERS: Final = ("u", "v", "root")
ROLES: Final = ("r", "s", "root")
KEYS: Final = (b"a", b"ab", b"b", b"c")
ENDS: Final = (b"", b"", b"b", b"d", b"\0", b"a")
MOST_WRONG: Final = 1
"""Wrong passwords of a sequence: after several a node of ours locks the user out for a while."""


class AuthCalls:
    """Calls of one sequence. `other` draws those that are not about users."""

    def __init__(self, rng: random.Random, other: Callable[[], Call]) -> None:
        self._rng = rng
        self._other = other
        self._wrong = 0

    def setup(self) -> list[Call]:
        """Users and a role, and credentials that are needed from then on."""
        calls = [
            Call("Auth/UserAdd", {"name": "root", "password": ROOT_PASSWORD}),
            Call("Auth/RoleAdd", {"name": "root"}),  # a node of ours adds it with the first grant, etcd does not
            Call("Auth/UserGrantRole", {"user": "root", "role": "root"}),
            Call("Auth/UserAdd", {"name": "u", "password": "pu"}),
            Call("Auth/RoleAdd", {"name": "r"}),
            Call("Auth/UserGrantRole", {"user": "u", "role": "r"}),
            Call(
                "Auth/RoleGrantPermission",
                {"name": "r", "perm": {"permType": self._rng.randrange(3), "key": b"a", "range_end": b"c"}},
            ),
        ]
        enable = [
            Call("Auth/AuthEnable", {}),
            Call("Auth/Authenticate", {"name": "root", "password": ROOT_PASSWORD}),
            Call("Auth/Authenticate", {"name": "u", "password": "pu"}),
        ]
        return [*calls, *enable] if self._rng.random() < 0.8 else calls

    def call(self) -> Call:
        """One call, by one of the users."""
        call = self._other() if self._rng.random() < 0.5 else self._about_users()
        if call.method == "Auth/Authenticate":
            return call
        return msgspec.structs.replace(call, user=self._one(("root", "root", "root", "u", "u", "", "nobody")))

    def _one(self, of: Sequence[Drawn]) -> Drawn:
        return self._rng.choice(of)

    def _user(self) -> str:
        return "" if self._rng.random() < 0.03 else self._one(USERS)

    def _role(self) -> str:
        return "" if self._rng.random() < 0.03 else self._one(ROLES)

    def _bounds(self) -> Message:
        bounds: Message = {"key": self._one(KEYS)}
        if end := self._one(ENDS):
            bounds["range_end"] = end
        return bounds

    def _password(self, user: str) -> str:
        if self._rng.random() < 0.1 and self._wrong < MOST_WRONG:
            self._wrong += 1
            return "wrong"
        return ROOT_PASSWORD if user == "root" else f"p{user}"

    def _about_users(self) -> Call:
        user, role = self._user(), self._role()
        password = ROOT_PASSWORD if user == "root" else f"p{user}"
        # Without a permission etcd 3.4 ends; 3.5 has "permission not given".
        permission = {"permType": self._rng.randrange(3), **self._bounds()}
        kinds: tuple[tuple[str, Message], ...] = (
            ("AuthEnable", {}),
            ("AuthDisable", {}),
            ("Authenticate", {"name": user, "password": self._password(user)}),
            ("Authenticate", {"name": "u", "password": "pu"}),
            ("UserAdd", {"name": user, "password": password}),
            ("UserAdd", {"name": "n", "options": {"no_password": True}}),
            ("UserGet", {"name": user}),
            ("UserList", {}),
            ("UserDelete", {"name": user}),
            ("UserChangePassword", {"name": user, "password": password}),
            ("UserGrantRole", {"user": user, "role": role}),
            ("UserRevokeRole", {"name": user, "role": role}),
            ("RoleAdd", {"name": role}),
            ("RoleGet", {"role": role}),
            ("RoleList", {}),
            ("RoleDelete", {"role": role}),
            ("RoleGrantPermission", {"name": role, "perm": permission}),
            ("RoleGrantPermission", {"name": "r", "perm": permission}),
            ("RoleRevokePermission", {"role": self._one(("r", role)), **self._bounds()}),
        )
        name, message = self._one(kinds)
        return Call(f"Auth/{name}", message)
