"""The errors of the HTTP interface: each status and code, and groups of those that many routes can answer.

A route declares its own beside the groups below. `/openapi.json` shows them, and `docs/http.md` has all in a table.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = [
    "AUTH_LIMIT",
    "BACKUP_LIMIT",
    "BAD_COMMAND",
    "CHANGING",
    "COMPACTED",
    "EVERYWHERE",
    "FUTURE_REVISION",
    "GUARDED",
    "KEYED",
    "LAST_ADMINISTRATOR",
    "LEASE_EXISTS",
    "LEASE_FULL",
    "LEASE_LIMIT",
    "LEASE_NOT_FOUND",
    "LENGTH_REQUIRED",
    "NOT_A_NUMBER",
    "NOT_GRANTED",
    "NO_ADMINISTRATOR",
    "ROLE_EXISTS",
    "ROLE_NOT_FOUND",
    "TOKEN_NOT_FOUND",
    "USER_EXISTS",
    "USER_NOT_FOUND",
    "NOT_FOUND",
    "PRECONDITION_FAILED",
    "OPEN_LIMIT",
    "RANGE_TOO_LARGE",
    "READING",
    "READS_TOO_LARGE",
    "UNKNOWN_MEMBER",
    "UNKNOWN_ROUTE",
    "UNSAFE",
    "WAIT_LIMIT",
    "WATCH_LIMIT",
    "WRITING",
    "ErrorCode",
]


class ErrorCode(msgspec.Struct, frozen=True):
    """One way in which a request can fail."""

    status: int
    code: str
    about: str


BAD_COMMAND: Final = ErrorCode(400, "bad_command", "No store can carry out this command.")
FUTURE_REVISION: Final = ErrorCode(400, "future_revision", "The store has not reached this revision.")
NOT_FOUND: Final = ErrorCode(404, "not_found", "There is no such key.")
UNKNOWN_ROUTE: Final = ErrorCode(404, "unknown_route", "There is nothing at this path.")
UNKNOWN_MEMBER: Final = ErrorCode(404, "unknown_member", "The cluster has no such member.")
RANGE_TOO_LARGE: Final = ErrorCode(409, "range_too_large", "The transaction deletes too many keys at once.")
READS_TOO_LARGE: Final = ErrorCode(409, "reads_too_large", "The transaction reads more than 16 MiB.")
NOT_A_NUMBER: Final = ErrorCode(409, "not_a_number", "The value is no decimal number, or the sum needs over 64 bits.")
LEASE_EXISTS: Final = ErrorCode(409, "lease_exists", "There is a lease with this id already.")
LEASE_FULL: Final = ErrorCode(409, "lease_full", "The lease has 10,000 keys, or is the own lease of another key.")
LEASE_LIMIT: Final = ErrorCode(429, "limit", "There are 100,000 leases.")
LEASE_NOT_FOUND: Final = ErrorCode(404, "lease_not_found", "There is no such lease.")
COMPACTED: Final = ErrorCode(410, "compacted", "The revision is below `details.oldest`, the oldest readable one.")
OPEN_LIMIT: Final = ErrorCode(429, "limit", "Too many sessions were opened within a minute.")
WATCH_LIMIT: Final = ErrorCode(429, "limit", "This node, or this connection, has too many watches.")
BACKUP_LIMIT: Final = ErrorCode(429, "limit", "Too many backups of this node are under way.")
WAIT_LIMIT: Final = ErrorCode(429, "limit", "Too many reads wait for later revisions on this node.")
LENGTH_REQUIRED: Final = ErrorCode(411, "length_required", "The request has no Content-Length and no chunks.")
PRECONDITION_FAILED: Final = ErrorCode(412, "precondition_failed", "`If-Match` or `If-None-Match` does not hold.")

EVERYWHERE: Final = (
    ErrorCode(400, "bad_request", "The URL, a parameter, a field or the body is malformed."),
    ErrorCode(408, "request_timeout", "The request came too slowly."),
    ErrorCode(413, "too_large", "The body, the key or the value is above its limit. Nothing was stored."),
    ErrorCode(414, "too_large", "The URL is above its limit."),
    ErrorCode(417, "expectation_failed", "`Expect` asks for something other than `100-continue`."),
    ErrorCode(421, "foreign_host", "The name in `Host` is not one of this server."),
    ErrorCode(431, "too_large", "The header is above its limit."),
    ErrorCode(500, "internal", "The server failed; its log says why."),
    ErrorCode(501, "not_supported", "The only transfer coding is `chunked`."),
    ErrorCode(503, "overloaded", "Too much is asked at once. Nothing was done."),
    ErrorCode(503, "starting", "The node is not open yet."),
)
"""Of every route: the connection, the parser or the router answers."""

USER_NOT_FOUND: Final = ErrorCode(404, "user_not_found", "There is no such user.")
ROLE_NOT_FOUND: Final = ErrorCode(404, "role_not_found", "There is no such role.")
TOKEN_NOT_FOUND: Final = ErrorCode(404, "token_not_found", "There is no such token.")
USER_EXISTS: Final = ErrorCode(409, "user_exists", "There is a user of this name already.")
ROLE_EXISTS: Final = ErrorCode(409, "role_exists", "There is a role of this name already.")
NOT_GRANTED: Final = ErrorCode(409, "not_granted", "The role does not allow exactly this.")
NO_ADMINISTRATOR: Final = ErrorCode(409, "no_administrator", "There is no administrator with a password.")
LAST_ADMINISTRATOR: Final = ErrorCode(
    409, "last_administrator", "After it no administrator with a password would be left, and clients need credentials."
)
AUTH_LIMIT: Final = ErrorCode(429, "limit", "There are too many users, roles, ranges or tokens.")

GUARDED: Final = (
    ErrorCode(401, "unauthenticated", "The credential is missing, wrong, expired or withdrawn, and clients need one."),
    ErrorCode(403, "permission_denied", "The user may not do this."),
    ErrorCode(429, "locked_out", "Too many wrong passwords of this user came from this address."),
)
"""Of every route that is not open, while clients need credentials."""

UNSAFE: Final = (
    ErrorCode(403, "cross_site", "A web page of another site may not change anything."),
    ErrorCode(415, "unsupported_media_type", "The body has a Content-Encoding, or a charset other than UTF-8."),
)
"""Of every method that changes something."""

_NODE: Final = (
    ErrorCode(503, "no_leader", "No node leads."),
    ErrorCode(503, "not_leader", "This node does not lead."),
    ErrorCode(503, "dropped", "The leader dropped the request."),
    ErrorCode(503, "closed", "The node was closed."),
    ErrorCode(503, "node_failed", "The node has stopped itself."),
    ErrorCode(504, "deadline_exceeded", "The deadline passed."),
)
READING: Final = (*_NODE, ErrorCode(503, "too_stale", "The state of this node may be older than the request accepts."))
"""Of a route that reads the store."""

WRITING: Final = (
    *_NODE,
    ErrorCode(409, "needs_upgrade", "Some member does not know this command yet: finish the upgrade."),
    ErrorCode(503, "backlog", "Too much is committed and not applied yet."),
    ErrorCode(503, "superseded", "Another leader's entry was committed in its place."),
    ErrorCode(507, "disk_full", "The disk is down to its reserve."),
    ErrorCode(507, "no_space", "The store has reached its memory limit."),
)
"""Of a route that proposes a command."""

KEYED: Final = (
    *WRITING,
    ErrorCode(409, "answer_not_kept", "An earlier request with this key was carried out. Its answer is not kept."),
    ErrorCode(410, "session_expired", "The session of the key has ended, or the sequence is too old."),
    ErrorCode(422, "idempotency_mismatch", "The key was used for another request."),
)
"""Of a route that proposes a command, and takes `Idempotency-Key`."""

CHANGING: Final = (
    *WRITING,
    ErrorCode(409, "membership", "This change of the membership can't be made."),
    ErrorCode(409, "quorum_at_risk", "After the change no quorum of the voters would be alive."),
    ErrorCode(503, "transfer_failed", "The leadership did not reach the node that it was meant for."),
)
"""Of a route that changes the cluster."""
