"""Leave users or leases out of a backup: the store as if an administrator had removed them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from syncline.kv.auth.commands import AuthSwitch, RoleRemove, UserRemove
from syncline.kv.commands import LeaseRevoke
from syncline.kv.lease_commands import apply_revoke
from syncline.kv.store import KeyStore

__all__ = ["LEASES", "PARTS", "USERS", "leave_out"]

USERS: Final = "users"
"""Users, roles, passwords and tokens, and that credentials are required."""

LEASES: Final = "leases"
"""Leases, and the keys that end with them: locks, registrations, what has a time to live."""

PARTS: Final = (LEASES, USERS)


def leave_out(store: KeyStore, parts: Collection[str]) -> None:
    """Remove parts of a store that nothing else uses. Revisions only rise."""
    if LEASES in parts:
        for lease in [record.id for record in store.leases.records()]:
            apply_revoke(store, LeaseRevoke(lease))
    if USERS in parts:
        auth = store.auth
        if auth.enabled:
            auth.apply(AuthSwitch(False))
        for user in sorted(auth.users):
            auth.apply(UserRemove(user))
        for role in sorted(auth.roles):
            auth.apply(RoleRemove(role))
