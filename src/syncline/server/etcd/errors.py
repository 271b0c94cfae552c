"""Errors of etcd's interface: the texts and codes of etcd, which its clients compare as a whole.

    raise EtcdError(NOT_FOUND, "etcdserver: requested lease not found")

A code is gRPC's number. The gateway derives the HTTP status from it (`HTTP_STATUS`), and gRPC sends it in the trailers.
"""

from __future__ import annotations

import logging
from typing import Final

from syncline.errors import (
    ConfigError,
    DeadlineExceeded,
    DiskFull,
    LimitReached,
    MembershipError,
    NoSpace,
    Rejected,
    SynclineError,
    TooLarge,
    TransferFailed,
)
from syncline.server.api.errors import RequestError

__all__ = [
    "ABORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "HTTP_STATUS",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
    "UNKNOWN",
    "EtcdError",
    "etcd_error",
]

logger: logging.Logger = logging.getLogger("syncline.server")

CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
ABORTED: Final = 10
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

HTTP_STATUS: Final[dict[int, int]] = {
    CANCELLED: 408,
    UNKNOWN: 500,
    INVALID_ARGUMENT: 400,
    DEADLINE_EXCEEDED: 504,
    NOT_FOUND: 404,
    ALREADY_EXISTS: 409,
    PERMISSION_DENIED: 403,
    RESOURCE_EXHAUSTED: 429,
    FAILED_PRECONDITION: 400,
    ABORTED: 409,
    OUT_OF_RANGE: 400,
    UNIMPLEMENTED: 501,
    INTERNAL: 500,
    UNAVAILABLE: 503,
    UNAUTHENTICATED: 401,
}
"""The gateway's HTTP status of each code, as etcd 3.5 has it."""


class EtcdError(Exception):
    """A call that failed. `code` is gRPC's; `text` is the whole text, as etcd has it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


_BY_CODE: Final[dict[str, tuple[int, str]]] = {
    "lease_not_found": (NOT_FOUND, "requested lease not found"),
    "lease_exists": (FAILED_PRECONDITION, "lease already exists"),
    "compacted": (OUT_OF_RANGE, "mvcc: required revision has been compacted"),
    "future_revision": (OUT_OF_RANGE, "mvcc: required revision is a future revision"),
    "too_large": (INVALID_ARGUMENT, "request is too large"),
    "range_too_large": (INVALID_ARGUMENT, "request is too large"),
    "reads_too_large": (INVALID_ARGUMENT, "request is too large"),
    "permission_denied": (PERMISSION_DENIED, "permission denied"),
    "unauthenticated": (UNAUTHENTICATED, "invalid auth token"),
    "locked_out": (INVALID_ARGUMENT, "authentication failed, invalid user ID or password"),
    "user_exists": (FAILED_PRECONDITION, "user name already exists"),
    "user_not_found": (FAILED_PRECONDITION, "user name not found"),
    "role_exists": (FAILED_PRECONDITION, "role name already exists"),
    "role_not_found": (FAILED_PRECONDITION, "role name not found"),
    "not_granted": (FAILED_PRECONDITION, "permission is not granted to the role"),
    "no_administrator": (FAILED_PRECONDITION, "root user does not have root role"),
    "last_administrator": (INVALID_ARGUMENT, "invalid auth management"),
    "unknown_member": (NOT_FOUND, "member not found"),
    "quorum_at_risk": (FAILED_PRECONDITION, "re-configuration failed due to not enough started members"),
    "deadline_exceeded": (UNAVAILABLE, "request timed out"),
    "no_leader": (UNAVAILABLE, "no leader"),
    "not_leader": (UNAVAILABLE, "not leader"),
    "backlog": (UNAVAILABLE, "too many requests"),
}
"""By the code of a `SynclineError`: the errors for which etcd has a text of its own, without `etcdserver: `."""


def etcd_error(error: BaseException) -> EtcdError:
    """The error of a call that ended with `error`. An error that is no `SynclineError` is a fault, and is logged."""
    if isinstance(error, EtcdError):
        return error
    known = getattr(error, "code", "")
    if isinstance(error, SynclineError) and known in _BY_CODE:
        number, text = _BY_CODE[known]
        return EtcdError(number, f"etcdserver: {text}")
    match error:
        case TooLarge():
            return EtcdError(INVALID_ARGUMENT, "etcdserver: request is too large")
        case DeadlineExceeded():
            return EtcdError(UNAVAILABLE, "etcdserver: request timed out")
        case NoSpace() | DiskFull():
            return EtcdError(RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
        case LimitReached():
            return EtcdError(RESOURCE_EXHAUSTED, f"etcdserver: {error}")
        case TransferFailed():
            return EtcdError(UNAVAILABLE, "etcdserver: request timed out, leader transfer took too long")
        case MembershipError() | Rejected():
            return EtcdError(FAILED_PRECONDITION, f"etcdserver: {error}")
        case RequestError():
            code = {503: UNAVAILABLE, 429: RESOURCE_EXHAUSTED}.get(error.status, INVALID_ARGUMENT)
            return EtcdError(code, f"etcdserver: {error}")
        case ConfigError():  # such as an address that none can be
            return EtcdError(INVALID_ARGUMENT, f"etcdserver: {error}")
        case SynclineError():  # dropped, superseded, closed, node failed: another node may answer
            return EtcdError(UNAVAILABLE, f"etcdserver: {error}")
    logger.error("a call of etcd's interface failed by a fault of the server", exc_info=error)
    return EtcdError(INTERNAL, "etcdserver: the server failed on this request; its log says why")
