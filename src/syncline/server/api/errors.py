"""Errors as HTTP answers: one JSON form, stable codes, and the status for each error class.

    {"error": {"code": "not_found", "message": "…", "outcome": "not_applied"}}

`outcome` is `not_applied` (safe to retry) or `unknown` (it may have taken effect, or may still). `details` and
`leader` are added if they help. An internal error has a fixed text; its traceback is in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from syncline import errors
from syncline.client.schemas import ErrorAnswer, ErrorBody, LeaderInfo
from syncline.errors import Outcome
from syncline.platform.texts import encode_json
from syncline.server.http.response import JSON, Response, bare

__all__ = ["RequestError", "error_response", "internal_error", "problem"]

logger: logging.Logger = logging.getLogger("syncline.server")

RETRY_AFTER: Final = b"Retry-After: 1\r\n"
"""With every 503: an election takes one to two seconds by default, and whole seconds are all the field can say."""

# Codes of OperationErrors whose status does not follow from the class; the classes are below.
STATUS_BY_CODE: Final = {
    "precondition_failed": 412,
    "too_large": 413,
    "not_found": 404,
    "not_supported": 400,
    "bad_request": 400,
    "unknown_member": 404,
    "lease_not_found": 404,
    "bad_command": 400,
}
STATUS_BY_CLASS: Final[tuple[tuple[type[errors.SynclineError], int], ...]] = (
    (errors.TooLarge, 413),
    (errors.DeadlineExceeded, 504),
    (errors.Rejected, 409),
    (errors.MembershipError, 409),
    (errors.NoSpace, 507),
    (errors.NothingToSnapshot, 409),
    (errors.OperationError, 503),  # no leader, dropped, superseded, closed …: the same request may succeed later
    (errors.NodeFailed, 503),
    (errors.DiskFull, 507),
)
CODE_BY_CLASS: Final[dict[type[errors.SynclineError], str]] = {
    errors.NodeFailed: "node_failed",
    errors.DiskFull: "disk_full",
}


class RequestError(Exception):
    """A request that is refused as it is. Raised by routes, answered by the router."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "bad_request",
        fields: bytes = b"",
        details: Mapping[str, int | str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.fields = fields
        self.details = details

    def response(self) -> Response:
        return problem(self.status, self.code, str(self), fields=self.fields, details=self.details)


def problem(
    status: int,
    code: str,
    message: str,
    *,
    outcome: Outcome = Outcome.NOT_APPLIED,
    fields: bytes = b"",
    details: Mapping[str, int | str] | None = None,
    leader: tuple[str, str, str] | None = None,
) -> Response:
    """An error as an answer. `fields` are further header lines; `leader` is (id as hex, name, HTTP address)."""
    content = ErrorBody(
        code=code,
        message=message,
        outcome=outcome,
        details=details or None,
        leader=LeaderInfo(*leader) if leader else None,
    )
    if status == 503:
        fields = RETRY_AFTER + fields
    return bare(status, JSON + fields, encode_json(ErrorAnswer(content)) + b"\n")


def error_response(error: BaseException, *, leader: tuple[str, str, str] | None = None, read: bool = False) -> Response:
    """The answer for an exception that ended a request. An unknown exception is an internal error: 500, and logged.

    `read`: the request only reads, so it had no effect.
    """
    if isinstance(error, RequestError):
        return error.response()
    if not isinstance(error, errors.SynclineError):
        return internal_error(error, read=read)
    status = next((number for kind, number in STATUS_BY_CLASS if isinstance(error, kind)), 500)
    if status == 500:
        return internal_error(error, read=read)
    code = CODE_BY_CLASS.get(type(error), "operation_failed")
    outcome, details, fields = Outcome.NOT_APPLIED if read else error.outcome, None, b""
    if isinstance(error, errors.OperationError):
        code = error.code
        status = STATUS_BY_CODE.get(code, status)
    if isinstance(error, errors.Rejected):
        details = error.details
        fields = _revision_fields(details) if status == 412 else b""
    return problem(status, code, str(error), outcome=outcome, fields=fields, details=details, leader=leader)


def _revision_fields(details: Mapping[str, int | str]) -> bytes:
    """Header lines of a refused write: the key's revision as its ETag, and the store's."""
    revision, store_revision = details.get("revision"), details.get("store_revision")
    fields = b'ETag: "%d"\r\n' % revision if isinstance(revision, int) and revision > 0 else b""
    return fields + (b"Syncline-Revision: %d\r\n" % store_revision if isinstance(store_revision, int) else b"")


def internal_error(error: BaseException, *, read: bool = False) -> Response:
    """500 without a traceback, which goes to the log. Unless it is a read, its outcome is `unknown`."""
    logger.error("a request failed by a fault of the server", exc_info=error)
    return problem(
        500,
        "internal",
        "the server failed on this request; its log says why",
        outcome=Outcome.NOT_APPLIED if read else Outcome.UNKNOWN,
    )
