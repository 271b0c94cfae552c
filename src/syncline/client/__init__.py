"""The client: `AsyncClient` talks HTTP to any node of a cluster."""

from syncline.client.client import DEFAULT_TIMEOUT_S, AsyncClient
from syncline.client.results import (
    DeleteResult,
    KeyInfo,
    KeyPage,
    KeyValue,
    OperationResult,
    PutResult,
    TxnResult,
)
from syncline.client.schemas import (
    Added,
    LeaderInfo,
    MemberAbility,
    MemberInfo,
    Members,
    NodeStatus,
    SnapshotResult,
    UpgradeResult,
)
from syncline.client.txn import Compare, DeleteOp, DeletePrefixOp, GetOp, Operation, PutOp

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "Added",
    "AsyncClient",
    "Compare",
    "DeleteOp",
    "DeletePrefixOp",
    "DeleteResult",
    "GetOp",
    "KeyInfo",
    "KeyPage",
    "KeyValue",
    "LeaderInfo",
    "MemberAbility",
    "MemberInfo",
    "Members",
    "NodeStatus",
    "Operation",
    "OperationResult",
    "PutOp",
    "PutResult",
    "SnapshotResult",
    "TxnResult",
    "UpgradeResult",
]
