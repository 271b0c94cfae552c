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

__all__ = ["RequestError", "error_response", "internal_error", "operation_error", "problem", "status_of"]

logger: logging.Logger = logging.getLogger("syncline.server")

RETRY_AFTER: Final = b"Retry-After: 1\r\n"
"""With every 503, and with each 429 that knows no better time. An election takes one to two seconds by default, and
whole seconds are all the field can say."""

# Codes of OperationErrors whose status does not follow from the class; the classes are below.
STATUS_BY_CODE: Final = {
    "precondition_failed": 412,
    "too_large": 413,
    "not_found": 404,
    "bad_request": 400,
    "unknown_member": 404,
    "lease_not_found": 404,
    "compacted": 410,
    "future_revision": 400,
    "limit": 429,
    "bad_command": 400,
    "session_expired": 410,
    "idempotency_mismatch": 422,
    "answer_not_kept": 409,
    "unauthenticated": 401,
    "permission_denied": 403,
    "user_not_found": 404,
    "role_not_found": 404,
    "token_not_found": 404,
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


CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="syncline", Basic realm="syncline", charset="UTF-8"\r\n'
"""Which credentials are accepted: in each answer with status 401 (RFC 9110, 11.6.1)."""

_INTERNAL: Final = "the server failed on this request; its log says why"


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
    if status == 503 or (status == 429 and b"Retry-After:" not in fields):
        fields = RETRY_AFTER + fields
    answer = bare(status, JSON + fields, encode_json(ErrorAnswer(content)) + b"\n")
    answer.code = code
    return answer


def error_response(error: BaseException, *, leader: tuple[str, str, str] | None = None, read: bool = False) -> Response:
    """The answer for an exception that ended a request. An unknown exception is an internal error: 500, and logged.

    `read`: the request only reads, so it had no effect.
    """
    if isinstance(error, RequestError):
        return error.response()
    status = status_of(error)
    if status == 500:
        return internal_error(error, read=read)
    outcome, code, details = _told(error, read=read)
    fields = _revision_fields(details or {}) if status == 412 else CHALLENGE if status == 401 else b""
    return problem(status, code, str(error), outcome=outcome, fields=fields, details=details, leader=leader)


def operation_error(error: BaseException) -> tuple[int, ErrorBody]:
    """The status and error of one operation of a batch. An unknown exception is an internal error, and logged."""
    if isinstance(error, RequestError):
        body = ErrorBody(code=error.code, message=str(error), outcome=Outcome.NOT_APPLIED, details=error.details)
        return error.status, body
    status = status_of(error)
    if status == 500:
        logger.error("an operation failed by a fault of the server", exc_info=error)
        return status, ErrorBody(code="internal", message=_INTERNAL, outcome=Outcome.UNKNOWN)
    outcome, code, details = _told(error, read=False)
    return status, ErrorBody(code=code, message=str(error), outcome=outcome, details=details)


def status_of(error: BaseException) -> int:
    """The status for an exception of the library; 500 for any other."""
    status = next((number for kind, number in STATUS_BY_CLASS if isinstance(error, kind)), 500)
    return STATUS_BY_CODE.get(error.code, status) if isinstance(error, errors.OperationError) else status


def _told(error: BaseException, *, read: bool) -> tuple[Outcome, str, Mapping[str, int | str] | None]:
    """The outcome, code and details of an exception of the library."""
    assert isinstance(error, errors.SynclineError)
    outcome = Outcome.NOT_APPLIED if read else error.outcome
    code = CODE_BY_CLASS.get(type(error), "operation_failed")
    if isinstance(error, errors.OperationError):
        code = error.code
    if isinstance(error, errors.WatchEnded):
        return outcome, code, {"from": error.resume}
    return outcome, code, (error.details or None) if isinstance(error, errors.Rejected) else None


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
        _INTERNAL,
        outcome=Outcome.NOT_APPLIED if read else Outcome.UNKNOWN,
    )
