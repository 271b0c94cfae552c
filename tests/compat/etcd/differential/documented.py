"""The differences that docs/etcd.md tells of. The states may differ after one, so the sequence ends there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from syncline.server.etcd.messages import Message
from tests.compat.etcd.differential.calls import Call
from tests.compat.etcd.differential.side import Answer

__all__ = ["is_documented", "is_documented_of_watches"]

DUPLICATE: Final = ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request")
NO_USER: Final = ("INVALID_ARGUMENT", "etcdserver: user name is empty")
BAD_TOKEN: Final = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
DENIED: Final = ("PERMISSION_DENIED", "etcdserver: permission denied")
EMPTY_RANGE: Final = "mvcc: watcher range is empty"
LOCKED_OUT: Final = (
    "UNAVAILABLE",
    "etcdserver: too many wrong passwords of this user came from this address: try again later",
)
BAD_RANGE: Final = ("INVALID_ARGUMENT", "etcdserver: invalid auth management")
TXN_FAULTS: Final = (
    ("NOT_FOUND", "etcdserver: requested lease not found"),
    ("INVALID_ARGUMENT", "etcdserver: key not found"),
    ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision"),
    ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted"),
)
OPEN_IN_ETCD: Final = ("Lease/", "Maintenance/", "Cluster/")


def is_documented(call: Call, theirs: Answer, ours: Answer) -> bool:
    """Whether a difference is there on purpose."""
    if ours == LOCKED_OUT:
        return True
    if call.method.startswith("Auth/Role") and _is_of_root(call, ours):
        return True  # the role root is there with its first grant, and can't be changed
    if theirs == DENIED and ours != DENIED and "key" in call.message:
        return _is_empty(call.message)  # an empty range needs no permission
    if ours in (NO_USER, BAD_TOKEN):
        # Credentials are looked at before the fields of the request; and leases need some, as other calls do.
        return isinstance(theirs, tuple) or call.method.startswith(OPEN_IN_ETCD)
    if ours == DENIED:
        return call.method == "KV/Compact" or call.method.startswith(OPEN_IN_ETCD)
    if call.method == "Auth/RoleGrantPermission" and _is_empty(call.message["perm"]):
        return ours == BAD_RANGE  # as etcd 3.5; 3.4 grants it
    if call.method == "KV/Txn" and theirs in TXN_FAULTS and ours in TXN_FAULTS:
        return True  # which of several faults is told
    return ours == DUPLICATE and _deletes_onward(call.message)


def is_documented_of_watches(theirs: Mapping[str, object], ours: Mapping[str, object]) -> bool:
    """Whether a node of ours ended the stream or a watch for want of a user who may read it.

    etcd refuses each watch of such a stream, and leaves watches that were there before. A watch of an empty range needs
    no permission here: the range is what it is refused for.
    """
    ended, denied = _reasons(ours), f"rpc error: code = PermissionDenied desc = {DENIED[1]}"
    if EMPTY_RANGE in ended and denied in _reasons(theirs):
        return True
    return ours["error"] in (NO_USER, BAD_TOKEN) or any(reason in ended for _, reason in (NO_USER, BAD_TOKEN, DENIED))


def _reasons(seen: Mapping[str, object]) -> list[object]:
    return [part.get("cancel_reason") for watch in seen.values() if isinstance(watch, list) for part in watch]


def _is_of_root(call: Call, ours: Answer) -> bool:
    if "root" in (call.message.get("role"), call.message.get("name")):
        return True
    return isinstance(ours, dict) and call.method == "Auth/RoleList" and "root" in ours.get("roles", ())


def _is_empty(permission: object) -> bool:
    assert isinstance(permission, dict)
    key, end = permission.get("key", b""), permission.get("range_end", b"")
    return bool(end not in (b"", b"\0") and end <= key)


def _deletes_onward(message: Message) -> bool:
    """Whether a transaction deletes from a key on: etcd does not see that a put is in that range."""
    return any(
        name == "request_delete_range" and inner.get("range_end") == b"\0" for name, inner in _operations(message)
    )


def _operations(message: Message) -> Iterator[tuple[str, Message]]:
    for branch in ("success", "failure"):
        parts = message.get(branch, [])
        assert isinstance(parts, list)
        for part in parts:
            for name, inner in part.items():
                yield name, inner
                if name == "request_txn":
                    yield from _operations(inner)
