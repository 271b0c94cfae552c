"""The client: `AsyncClient` and `Client` talk HTTP to any node of a cluster.

    with Client("http://127.0.0.1:8080") as kv:
        kv.put("greeting", "hello")

    async with AsyncClient("http://127.0.0.1:8080") as kv:
        await kv.put("greeting", "hello")
        found = await kv.get("greeting")

Its results are plain, frozen data. `Store` has the same methods on a node inside the process (docs/store.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from syncline.client.blocking.barrier import BlockingBarrier
from syncline.client.blocking.client import Client
from syncline.client.blocking.election import BlockingTerm
from syncline.client.blocking.held_lease import BlockingLease
from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.lock import BlockingLock
from syncline.client.blocking.mapping import BlockingMapping
from syncline.client.blocking.once import BlockingOnce
from syncline.client.blocking.queue import BlockingItemClaim, BlockingQueue, BlockingQueueItem
from syncline.client.blocking.registry import BlockingRegistration, BlockingServices
from syncline.client.blocking.schedule import BlockingSchedule
from syncline.client.blocking.shared import BlockingCounter, BlockingSessions
from syncline.client.blocking.transaction import BlockingTransaction
from syncline.client.client import DEFAULT_TIMEOUT_S, AsyncClient
from syncline.client.coordination.barrier import Barrier
from syncline.client.coordination.calls import KeyValueCalls, TimedCalls
from syncline.client.coordination.counter import SharedCounter
from syncline.client.coordination.election import ElectedLeader, Term
from syncline.client.coordination.lock import Lock
from syncline.client.coordination.mapping import LiveMapping, MappingChange
from syncline.client.coordination.once import Once
from syncline.client.coordination.queue import Queue, QueueCounts, QueueEntry
from syncline.client.coordination.queue_claim import ItemClaim, QueueItem
from syncline.client.coordination.registry import LiveServices, Registration, RegistrationState, ServiceInstance
from syncline.client.coordination.schedule import Schedule
from syncline.client.coordination.sessions import SessionData, Sessions
from syncline.client.held_lease import HeldLease
from syncline.client.results import (
    CompactResult,
    DeleteResult,
    GrantedLease,
    KeyEvent,
    KeyInfo,
    KeyPage,
    KeyValue,
    LeaseDetails,
    LeaseSummary,
    OperationResult,
    PutResult,
    RevisionEvents,
    RevokeResult,
    TouchResult,
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
from syncline.client.transaction import Transaction
from syncline.client.txn import (
    Compare,
    DeleteOp,
    DeletePrefixOp,
    DeleteRangeOp,
    GetOp,
    IncrementOp,
    ListOp,
    Operation,
    PutOp,
    TouchOp,
    TxnOp,
)
from syncline.client.user_schemas import (
    AuthReply,
    AuthStatusReply,
    KeyAccessItem,
    RoleItem,
    RoleReply,
    TokenItem,
    TokenReply,
    UserItem,
    UserReply,
)
from syncline.client.watch_schemas import Watchers

if TYPE_CHECKING:
    from syncline.client.store import Store

__all__ = [
    "Added",
    "AsyncClient",
    "AuthReply",
    "AuthStatusReply",
    "Barrier",
    "BlockingBarrier",
    "BlockingCounter",
    "BlockingItemClaim",
    "BlockingLease",
    "BlockingLock",
    "BlockingMapping",
    "BlockingOnce",
    "BlockingQueue",
    "BlockingQueueItem",
    "BlockingRegistration",
    "BlockingSchedule",
    "BlockingServices",
    "BlockingSessions",
    "BlockingTerm",
    "BlockingTransaction",
    "Client",
    "CompactResult",
    "Compare",
    "DEFAULT_TIMEOUT_S",
    "DeleteOp",
    "DeletePrefixOp",
    "DeleteRangeOp",
    "DeleteResult",
    "ElectedLeader",
    "GetOp",
    "GrantedLease",
    "HeldLease",
    "IncrementOp",
    "ItemClaim",
    "KeyAccessItem",
    "KeyEvent",
    "KeyInfo",
    "KeyPage",
    "KeyValue",
    "KeyValueCalls",
    "LeaderInfo",
    "LeaseDetails",
    "LeaseSummary",
    "ListOp",
    "LiveMapping",
    "LiveServices",
    "Lock",
    "MappingChange",
    "MemberAbility",
    "MemberInfo",
    "Members",
    "NodeStatus",
    "Once",
    "Operation",
    "OperationResult",
    "PortalIterator",
    "PutOp",
    "PutResult",
    "Queue",
    "QueueCounts",
    "QueueEntry",
    "QueueItem",
    "Registration",
    "RegistrationState",
    "RevisionEvents",
    "RevokeResult",
    "RoleItem",
    "RoleReply",
    "Schedule",
    "ServiceInstance",
    "SessionData",
    "Sessions",
    "SharedCounter",
    "SnapshotResult",
    "Store",
    "Term",
    "TimedCalls",
    "TokenItem",
    "TokenReply",
    "TouchOp",
    "TouchResult",
    "Transaction",
    "TxnOp",
    "TxnResult",
    "UpgradeResult",
    "UserItem",
    "UserReply",
    "Watchers",
]


def __getattr__(name: str) -> object:
    if name == "Store":  # loaded when it is first used: a client needs no node
        found: object = importlib.import_module("syncline.client.store").Store
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
