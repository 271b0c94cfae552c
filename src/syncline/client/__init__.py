"""The client: `AsyncClient` talks HTTP to any node of a cluster.

    async with AsyncClient("http://127.0.0.1:8080") as kv:
        await kv.put("greeting", "hello")
        found = await kv.get("greeting")

Its results are plain, frozen data.
"""

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
    "Added",
    "AsyncClient",
    "Compare",
    "DEFAULT_TIMEOUT_S",
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
