"""All messages of etcd's v3 interface that the methods of `methods.py` need, as one table.

A message is a `dict[str, object]` with the names of this table: `bytes` for bytes, `int` for numbers and enumerations,
`bool`, `str`, a dict for a message, a list for a repeated field. A field that is absent has its default value. The
JSON gateway (`json_codec.py`) and gRPC (`protobuf.py`) read and write messages by this table alone.

    MESSAGES["etcdserverpb.PutRequest"][1]     # MessageField(name="key", type="bytes")

Names and numbers are those of etcd 3.5's rpc.proto, kv.proto, auth.proto, v3lock.proto and v3election.proto.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec

__all__ = ["ENUMS", "MESSAGES", "SCALARS", "MessageField", "Message"]

Message: TypeAlias = dict[str, object]
"""One message."""

SCALARS: Final = frozenset({"bool", "bytes", "int64", "string", "uint32", "uint64"})
"""The types that are no message and no enumeration."""


class MessageField(msgspec.Struct, frozen=True):
    """One field of a message. `type` is one of `SCALARS`, or a name in `MESSAGES` or `ENUMS`.

    `oneof`: the name of the group of which a message has one field at most; empty: none.
    """

    name: str
    type: str
    repeated: bool = False
    oneof: str = ""


_PACKAGE: Final = "etcdserverpb."
"""The package of the names below that have none."""

_ENUMS: Final[dict[str, str]] = {
    "authpb.Permission.Type": "READ WRITE READWRITE",
    "RangeRequest.SortOrder": "NONE ASCEND DESCEND",
    "RangeRequest.SortTarget": "KEY VERSION CREATE MOD VALUE",
    "Compare.CompareResult": "EQUAL GREATER LESS NOT_EQUAL",
    "Compare.CompareTarget": "VERSION CREATE MOD VALUE LEASE",
    "WatchCreateRequest.FilterType": "NOPUT NODELETE",
    "AlarmRequest.AlarmAction": "GET ACTIVATE DEACTIVATE",
    "DowngradeRequest.DowngradeAction": "VALIDATE ENABLE CANCEL",
    "AlarmType": "NONE NOSPACE CORRUPT",
    "mvccpb.Event.EventType": "PUT DELETE",
}
"""The names of each enumeration, numbered from 0."""

_MESSAGES: Final[dict[str, str]] = {
    "authpb.UserAddOptions": "1 no_password bool",
    "authpb.User": "1 name bytes; 2 password bytes; 3 roles *string; 4 options authpb.UserAddOptions",
    "authpb.Permission": "1 permType authpb.Permission.Type; 2 key bytes; 3 range_end bytes",
    "authpb.Role": "1 name bytes; 2 keyPermission *authpb.Permission",
    "ResponseHeader": "1 cluster_id uint64; 2 member_id uint64; 3 revision int64; 4 raft_term uint64",
    "RangeRequest": (
        "1 key bytes; 2 range_end bytes; 3 limit int64; 4 revision int64; 5 sort_order RangeRequest.SortOrder; "
        "6 sort_target RangeRequest.SortTarget; 7 serializable bool; 8 keys_only bool; 9 count_only bool; 10 "
        "min_mod_revision int64; 11 max_mod_revision int64; 12 min_create_revision int64; 13 "
        "max_create_revision int64"
    ),
    "RangeResponse": "1 header ResponseHeader; 2 kvs *mvccpb.KeyValue; 3 more bool; 4 count int64",
    "PutRequest": (
        "1 key bytes; 2 value bytes; 3 lease int64; 4 prev_kv bool; 5 ignore_value bool; 6 ignore_lease bool"
    ),
    "PutResponse": "1 header ResponseHeader; 2 prev_kv mvccpb.KeyValue",
    "DeleteRangeRequest": "1 key bytes; 2 range_end bytes; 3 prev_kv bool",
    "DeleteRangeResponse": "1 header ResponseHeader; 2 deleted int64; 3 prev_kvs *mvccpb.KeyValue",
    "RequestOp": (
        "1 request_range RangeRequest (request); 2 request_put PutRequest (request); 3 request_delete_range "
        "DeleteRangeRequest (request); 4 request_txn TxnRequest (request)"
    ),
    "ResponseOp": (
        "1 response_range RangeResponse (response); 2 response_put PutResponse (response); 3 "
        "response_delete_range DeleteRangeResponse (response); 4 response_txn TxnResponse (response)"
    ),
    "Compare": (
        "1 result Compare.CompareResult; 2 target Compare.CompareTarget; 3 key bytes; 4 version int64 "
        "(target_union); 5 create_revision int64 (target_union); 6 mod_revision int64 (target_union); 7 value "
        "bytes (target_union); 8 lease int64 (target_union); 64 range_end bytes"
    ),
    "TxnRequest": "1 compare *Compare; 2 success *RequestOp; 3 failure *RequestOp",
    "TxnResponse": "1 header ResponseHeader; 2 succeeded bool; 3 responses *ResponseOp",
    "CompactionRequest": "1 revision int64; 2 physical bool",
    "CompactionResponse": "1 header ResponseHeader",
    "HashRequest": "",
    "HashKVRequest": "1 revision int64",
    "HashKVResponse": "1 header ResponseHeader; 2 hash uint32; 3 compact_revision int64; 4 hash_revision int64",
    "HashResponse": "1 header ResponseHeader; 2 hash uint32",
    "SnapshotRequest": "",
    "SnapshotResponse": "1 header ResponseHeader; 2 remaining_bytes uint64; 3 blob bytes; 4 version string",
    "WatchRequest": (
        "1 create_request WatchCreateRequest (request_union); 2 cancel_request WatchCancelRequest "
        "(request_union); 3 progress_request WatchProgressRequest (request_union)"
    ),
    "WatchCreateRequest": (
        "1 key bytes; 2 range_end bytes; 3 start_revision int64; 4 progress_notify bool; 5 filters "
        "*WatchCreateRequest.FilterType; 6 prev_kv bool; 7 watch_id int64; 8 fragment bool"
    ),
    "WatchCancelRequest": "1 watch_id int64",
    "WatchProgressRequest": "",
    "WatchResponse": (
        "1 header ResponseHeader; 2 watch_id int64; 3 created bool; 4 canceled bool; 5 compact_revision int64; "
        "6 cancel_reason string; 7 fragment bool; 11 events *mvccpb.Event"
    ),
    "LeaseGrantRequest": "1 TTL int64; 2 ID int64",
    "LeaseGrantResponse": "1 header ResponseHeader; 2 ID int64; 3 TTL int64; 4 error string",
    "LeaseRevokeRequest": "1 ID int64",
    "LeaseRevokeResponse": "1 header ResponseHeader",
    "LeaseKeepAliveRequest": "1 ID int64",
    "LeaseKeepAliveResponse": "1 header ResponseHeader; 2 ID int64; 3 TTL int64",
    "LeaseTimeToLiveRequest": "1 ID int64; 2 keys bool",
    "LeaseTimeToLiveResponse": "1 header ResponseHeader; 2 ID int64; 3 TTL int64; 4 grantedTTL int64; 5 keys *bytes",
    "LeaseLeasesRequest": "",
    "LeaseStatus": "1 ID int64",
    "LeaseLeasesResponse": "1 header ResponseHeader; 2 leases *LeaseStatus",
    "Member": "1 ID uint64; 2 name string; 3 peerURLs *string; 4 clientURLs *string; 5 isLearner bool",
    "MemberAddRequest": "1 peerURLs *string; 2 isLearner bool",
    "MemberAddResponse": "1 header ResponseHeader; 2 member Member; 3 members *Member",
    "MemberRemoveRequest": "1 ID uint64",
    "MemberRemoveResponse": "1 header ResponseHeader; 2 members *Member",
    "MemberUpdateRequest": "1 ID uint64; 2 peerURLs *string",
    "MemberUpdateResponse": "1 header ResponseHeader; 2 members *Member",
    "MemberListRequest": "1 linearizable bool",
    "MemberListResponse": "1 header ResponseHeader; 2 members *Member",
    "MemberPromoteRequest": "1 ID uint64",
    "MemberPromoteResponse": "1 header ResponseHeader; 2 members *Member",
    "DefragmentRequest": "",
    "DefragmentResponse": "1 header ResponseHeader",
    "MoveLeaderRequest": "1 targetID uint64",
    "MoveLeaderResponse": "1 header ResponseHeader",
    "AlarmRequest": "1 action AlarmRequest.AlarmAction; 2 memberID uint64; 3 alarm AlarmType",
    "AlarmMember": "1 memberID uint64; 2 alarm AlarmType",
    "AlarmResponse": "1 header ResponseHeader; 2 alarms *AlarmMember",
    "DowngradeRequest": "1 action DowngradeRequest.DowngradeAction; 2 version string",
    "DowngradeResponse": "1 header ResponseHeader; 2 version string",
    "StatusRequest": "",
    "StatusResponse": (
        "1 header ResponseHeader; 2 version string; 3 dbSize int64; 4 leader uint64; 5 raftIndex uint64; 6 "
        "raftTerm uint64; 7 raftAppliedIndex uint64; 8 errors *string; 9 dbSizeInUse int64; 10 isLearner bool; "
        "11 storageVersion string; 12 dbSizeQuota int64; 13 downgradeInfo DowngradeInfo"
    ),
    "DowngradeInfo": "1 enabled bool; 2 targetVersion string",
    "AuthEnableRequest": "",
    "AuthDisableRequest": "",
    "AuthStatusRequest": "",
    "AuthenticateRequest": "1 name string; 2 password string",
    "AuthUserAddRequest": (
        "1 name string; 2 password string; 3 options authpb.UserAddOptions; 4 hashedPassword string"
    ),
    "AuthUserGetRequest": "1 name string",
    "AuthUserDeleteRequest": "1 name string",
    "AuthUserChangePasswordRequest": "1 name string; 2 password string; 3 hashedPassword string",
    "AuthUserGrantRoleRequest": "1 user string; 2 role string",
    "AuthUserRevokeRoleRequest": "1 name string; 2 role string",
    "AuthRoleAddRequest": "1 name string",
    "AuthRoleGetRequest": "1 role string",
    "AuthUserListRequest": "",
    "AuthRoleListRequest": "",
    "AuthRoleDeleteRequest": "1 role string",
    "AuthRoleGrantPermissionRequest": "1 name string; 2 perm authpb.Permission",
    "AuthRoleRevokePermissionRequest": "1 role string; 2 key bytes; 3 range_end bytes",
    "AuthEnableResponse": "1 header ResponseHeader",
    "AuthDisableResponse": "1 header ResponseHeader",
    "AuthStatusResponse": "1 header ResponseHeader; 2 enabled bool; 3 authRevision uint64",
    "AuthenticateResponse": "1 header ResponseHeader; 2 token string",
    "AuthUserAddResponse": "1 header ResponseHeader",
    "AuthUserGetResponse": "1 header ResponseHeader; 2 roles *string",
    "AuthUserDeleteResponse": "1 header ResponseHeader",
    "AuthUserChangePasswordResponse": "1 header ResponseHeader",
    "AuthUserGrantRoleResponse": "1 header ResponseHeader",
    "AuthUserRevokeRoleResponse": "1 header ResponseHeader",
    "AuthRoleAddResponse": "1 header ResponseHeader",
    "AuthRoleGetResponse": "1 header ResponseHeader; 2 perm *authpb.Permission",
    "AuthRoleListResponse": "1 header ResponseHeader; 2 roles *string",
    "AuthUserListResponse": "1 header ResponseHeader; 2 users *string",
    "AuthRoleDeleteResponse": "1 header ResponseHeader",
    "AuthRoleGrantPermissionResponse": "1 header ResponseHeader",
    "AuthRoleRevokePermissionResponse": "1 header ResponseHeader",
    "mvccpb.KeyValue": (
        "1 key bytes; 2 create_revision int64; 3 mod_revision int64; 4 version int64; 5 value bytes; 6 lease int64"
    ),
    "mvccpb.Event": "1 type mvccpb.Event.EventType; 2 kv mvccpb.KeyValue; 3 prev_kv mvccpb.KeyValue",
    "v3lockpb.LockRequest": "1 name bytes; 2 lease int64",
    "v3lockpb.LockResponse": "1 header ResponseHeader; 2 key bytes",
    "v3lockpb.UnlockRequest": "1 key bytes",
    "v3lockpb.UnlockResponse": "1 header ResponseHeader",
    "v3electionpb.LeaderKey": "1 name bytes; 2 key bytes; 3 rev int64; 4 lease int64",
    "v3electionpb.CampaignRequest": "1 name bytes; 2 lease int64; 3 value bytes",
    "v3electionpb.CampaignResponse": "1 header ResponseHeader; 2 leader v3electionpb.LeaderKey",
    "v3electionpb.LeaderRequest": "1 name bytes",
    "v3electionpb.LeaderResponse": "1 header ResponseHeader; 2 kv mvccpb.KeyValue",
    "v3electionpb.ResignRequest": "1 leader v3electionpb.LeaderKey",
    "v3electionpb.ResignResponse": "1 header ResponseHeader",
    "v3electionpb.ProclaimRequest": "1 leader v3electionpb.LeaderKey; 2 value bytes",
    "v3electionpb.ProclaimResponse": "1 header ResponseHeader",
}
"""Each message: number, name and type of its fields; `*` before a type: repeated; in brackets: the oneof."""

_FIELD: Final = re.compile(r"(\d+) (\w+) (\*?)([\w.]+)(?: \((\w+)\))?")
_PACKAGES: Final = ("authpb.", "mvccpb.", "v3lockpb.", "v3electionpb.")


def _full(name: str) -> str:
    return name if name in SCALARS or name.startswith(_PACKAGES) else _PACKAGE + name


def _fields(text: str) -> Mapping[int, MessageField]:
    fields: dict[int, MessageField] = {}
    for part in filter(None, text.split("; ")):
        found = _FIELD.fullmatch(part)
        assert found is not None, part
        number, name, repeated, kind, oneof = found.groups("")
        fields[int(number)] = MessageField(name, _full(kind), bool(repeated), oneof)
    return MappingProxyType(fields)


MESSAGES: Final[Mapping[str, Mapping[int, MessageField]]] = MappingProxyType(
    {_full(name): _fields(text) for name, text in _MESSAGES.items()}
)
"""By the full name of the message, and by the number of the field, in ascending order."""

ENUMS: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {_full(name): {one: number for number, one in enumerate(names.split())} for name, names in _ENUMS.items()}
)
"""By the full name of the enumeration, and by the name of the value."""
