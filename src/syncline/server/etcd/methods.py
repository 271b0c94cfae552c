"""All methods of etcd's v3 interface that are offered, by their full gRPC names.

METHODS["/etcdserverpb.KV/Range"]      # Method(request="etcdserverpb.RangeRequest", …, route="/v3/kv/range")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

__all__ = ["METHODS", "READING", "WAITING", "Method"]

WAITING: Final = frozenset({"/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign"})
"""Methods with one answer that wait for other clients: by gRPC as long as their client does."""

TAKING_STREAMS: Final = frozenset({"/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"})
"""Methods whose request is a stream of messages."""

READING: Final = frozenset(
    {
        *("/etcdserverpb.KV/Range", "/etcdserverpb.Lease/LeaseTimeToLive", "/etcdserverpb.Lease/LeaseLeases"),
        *("/etcdserverpb.Cluster/MemberList", "/etcdserverpb.Maintenance/Status", "/v3electionpb.Election/Leader"),
        *("/etcdserverpb.Maintenance/Hash", "/etcdserverpb.Maintenance/HashKV"),
        *(f"/etcdserverpb.Auth/{name}" for name in ("AuthStatus", "UserGet", "UserList", "RoleGet", "RoleList")),
    }
)
"""Methods with one answer that change nothing."""


class Method(msgspec.Struct, frozen=True):
    """One method. `request` and `response` are names in `MESSAGES`.

    `streams`: its answer is a stream of messages: it is called by `EtcdFace.stream`, the others by `EtcdFace.call`.
    `takes_stream`: its request is one, too, so a client may open it and ask later. `route`: its path in the JSON
    gateway; `aliases`: older ones.
    """

    name: str
    request: str
    response: str
    route: str
    streams: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def takes_stream(self) -> bool:
        return self.name in TAKING_STREAMS


_SERVICES: Final[dict[str, str]] = {
    "etcdserverpb.KV": "Range kv/range; Put kv/put; DeleteRange kv/deleterange; Txn kv/txn; Compact kv/compaction",
    "etcdserverpb.Watch": "Watch* watch",
    "etcdserverpb.Lease": (
        "LeaseGrant lease/grant; LeaseRevoke lease/revoke kv/lease/revoke; LeaseKeepAlive* lease/keepalive; "
        "LeaseTimeToLive lease/timetolive kv/lease/timetolive; LeaseLeases lease/leases kv/lease/leases"
    ),
    "etcdserverpb.Cluster": (
        "MemberAdd cluster/member/add; MemberRemove cluster/member/remove; MemberUpdate cluster/member/update; "
        "MemberList cluster/member/list; MemberPromote cluster/member/promote"
    ),
    "etcdserverpb.Maintenance": (
        "Alarm maintenance/alarm; Status maintenance/status; Defragment maintenance/defragment; "
        "Hash maintenance/hash; HashKV maintenance/hashkv; Snapshot* maintenance/snapshot; "
        "MoveLeader maintenance/transfer-leadership; Downgrade maintenance/downgrade"
    ),
    "etcdserverpb.Auth": (
        "AuthEnable auth/enable; AuthDisable auth/disable; AuthStatus auth/status; Authenticate auth/authenticate; "
        "UserAdd auth/user/add; UserGet auth/user/get; UserList auth/user/list; UserDelete auth/user/delete; "
        "UserChangePassword auth/user/changepw; UserGrantRole auth/user/grant; UserRevokeRole auth/user/revoke; "
        "RoleAdd auth/role/add; RoleGet auth/role/get; RoleList auth/role/list; RoleDelete auth/role/delete; "
        "RoleGrantPermission auth/role/grant; RoleRevokePermission auth/role/revoke"
    ),
    "v3lockpb.Lock": "Lock lock/lock; Unlock lock/unlock",
    "v3electionpb.Election": (
        "Campaign election/campaign; Proclaim election/proclaim; Leader election/leader; "
        "Observe* election/observe; Resign election/resign"
    ),
}
"""By service: its methods, each with its paths below `/v3/`, the present one first; `*`: it streams."""

_MESSAGES: Final[dict[str, tuple[str, str]]] = {
    "Compact": ("etcdserverpb.CompactionRequest", "etcdserverpb.CompactionResponse"),
    "Observe": ("v3electionpb.LeaderRequest", "v3electionpb.LeaderResponse"),
}
"""Methods whose messages are not named as they are."""


def _messages(service: str, name: str) -> tuple[str, str]:
    if name in _MESSAGES:
        return _MESSAGES[name]
    package = service.partition(".")[0]
    stem = f"Auth{name}" if service == "etcdserverpb.Auth" and name.startswith(("User", "Role")) else name
    return f"{package}.{stem}Request", f"{package}.{stem}Response"


def _methods() -> Iterator[Method]:
    for service, text in _SERVICES.items():
        for part in text.split("; "):
            name, *paths = part.split(" ")
            bare = name.rstrip("*")
            route, *aliases = [f"/v3/{path}" for path in paths]
            yield Method(f"/{service}/{bare}", *_messages(service, bare), route, name != bare, tuple(aliases))


METHODS: Final[Mapping[str, Method]] = MappingProxyType({method.name: method for method in _methods()})
"""By full gRPC name, such as `/etcdserverpb.KV/Range`."""
