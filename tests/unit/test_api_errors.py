"""Every error of the tree has a status, a stable code and an outcome; no trace ever leaves the process."""

from __future__ import annotations

import json

import pytest

from syncline import errors
from syncline.errors import Outcome, SynclineError
from syncline.server.api.errors import RequestError, error_response, problem


def code_and_outcome(body: bytes) -> tuple[str, str]:
    error = json.loads(body)["error"]
    return error["code"], error["outcome"]


CASES: list[tuple[BaseException, int, str, str]] = [
    (errors.Rejected("no"), 409, "rejected", "not_applied"),
    (errors.Rejected("no", code="precondition_failed"), 412, "precondition_failed", "not_applied"),
    (errors.Rejected("no", code="lease_not_found"), 404, "lease_not_found", "not_applied"),
    (errors.Rejected("no", code="bad_command"), 400, "bad_command", "not_applied"),
    (errors.Rejected("no", code="my_own"), 409, "my_own", "not_applied"),
    (errors.Rejected("no", code="limit"), 429, "limit", "not_applied"),
    (errors.AnswerNotKept("no"), 409, "answer_not_kept", "unknown"),
    (errors.IdempotencyMismatch("no"), 422, "idempotency_mismatch", "not_applied"),
    (errors.SessionExpired("no"), 410, "session_expired", "unknown"),
    (errors.LimitReached("no"), 429, "limit", "not_applied"),
    (errors.RevisionCompacted("no", oldest=7), 410, "compacted", "not_applied"),
    (errors.WatchEnded("no", code="closed", resume=7), 503, "closed", "not_applied"),
    (errors.NotLeader("no"), 503, "not_leader", "not_applied"),
    (errors.NoLeader("no"), 503, "no_leader", "not_applied"),
    (errors.Dropped("no"), 503, "dropped", "not_applied"),
    (errors.BacklogFull("no"), 503, "backlog", "not_applied"),
    (errors.NoSpace("no"), 507, "no_space", "not_applied"),
    (errors.TooLarge("no"), 413, "too_large", "not_applied"),
    (errors.DeadlineExceeded("no"), 504, "deadline_exceeded", "unknown"),
    (errors.Superseded("no"), 503, "superseded", "not_applied"),
    (errors.MembershipError("no"), 409, "membership", "not_applied"),
    (errors.QuorumAtRisk("no"), 409, "quorum_at_risk", "not_applied"),
    (errors.TransferFailed("no"), 503, "transfer_failed", "not_applied"),
    (errors.NothingToSnapshot("no"), 409, "nothing_to_snapshot", "not_applied"),
    (errors.Closed("no"), 503, "closed", "unknown"),
    (errors.NodeFailed("no"), 503, "node_failed", "unknown"),
    (errors.PermissionDenied("no"), 403, "permission_denied", "not_applied"),
    (errors.Unauthenticated("no"), 401, "unauthenticated", "not_applied"),
    (errors.DiskFull("no"), 507, "disk_full", "not_applied"),
    (RequestError("no", status=404, code="unknown_member"), 404, "unknown_member", "not_applied"),
]


@pytest.mark.parametrize(("error", "status", "code", "outcome"), CASES)
def test_each_error_has_its_status(error: BaseException, status: int, code: str, outcome: str) -> None:
    answer = error_response(error)
    assert answer.status == status
    assert code_and_outcome(answer.body) == (code, outcome)
    assert (b"Retry-After: 1\r\n" in answer.head) == (status in {429, 503})


INSIDE = {errors.LeadershipLost, errors.LeaseLost, errors.LockLost, errors.RequestFailed, errors.Unreachable}
"""Raised by the client or the library alone."""


def test_no_operation_error_is_left_out() -> None:
    named = {type(error) for error, *_ in CASES} | INSIDE
    pending = [errors.OperationError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__ == errors.__name__ and kind is not errors.OperationError:
            assert kind in named, f"{kind.__name__} has no case here"


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("secret"),
        errors.CorruptionError("secret", file="wal"),
        errors.UsageError("secret"),
        SynclineError("secret"),
        OSError("secret"),
    ],
)
def test_a_fault_of_ours_is_logged_and_not_told(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    answer = error_response(error)
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    assert code_and_outcome(answer.body) == ("internal", "unknown")
    assert "secret" in caplog.text


def test_details_and_the_leader_are_told_where_there_are_any() -> None:
    error = json.loads(
        problem(503, "x", "é", outcome=Outcome.UNKNOWN, details={"n": 1}, leader=("0" * 16, "a", "http://a")).body
    )["error"]
    assert error == {
        "code": "x",
        "message": "é",
        "outcome": "unknown",
        "details": {"n": 1},
        "leader": {"id": "0" * 16, "name": "a", "http": "http://a"},
    }
    assert set(json.loads(problem(400, "x", "y").body)["error"]) == {"code", "message", "outcome"}


def test_a_refused_condition_tells_the_revisions() -> None:
    refused = errors.Rejected("no", code="precondition_failed", details={"revision": 5, "store_revision": 9})
    answer = error_response(refused)
    assert b'ETag: "5"\r\n' in answer.head
    assert b"Syncline-Revision: 9\r\n" in answer.head
    absent = errors.Rejected("no", code="precondition_failed", details={"revision": 0, "store_revision": 9})
    assert b"ETag" not in error_response(absent).head
