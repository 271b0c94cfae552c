"""The server's URLs and JSON, as the client writes and reads them. `docs/http.md` is the contract.

Unknown JSON fields are ignored: a newer server may send more than this client knows.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from syncline.client.connection import ClientResponse
from syncline.client.lease_schemas import LeaseKey
from syncline.client.packed_schemas import PackedBatchAnswer, PackedKey, PackedResult
from syncline.client.results import KeyInfo, KeyPage, OperationResult, TxnResult
from syncline.client.schemas import (
    ErrorAnswer,
    ErrorBody,
    KeyItem,
    KeyItemPage,
    MaybeBytes,
    MaybeText,
    ResultItem,
    TxnResultBody,
)
from syncline.decoding import UNDECODABLE
from syncline.errors import (
    AnswerNotKept,
    BacklogFull,
    Closed,
    DeadlineExceeded,
    Dropped,
    IdempotencyMismatch,
    LimitReached,
    MembershipError,
    NoLeader,
    NoSpace,
    NotLeader,
    OperationError,
    Outcome,
    PermissionDenied,
    QuorumAtRisk,
    Rejected,
    RequestFailed,
    RevisionCompacted,
    SessionExpired,
    Superseded,
    TooLarge,
    TransferFailed,
    Unauthenticated,
)

__all__ = [
    "JsonBytes",
    "batch_results",
    "decode",
    "error_from",
    "json_key",
    "key_page",
    "key_target",
    "operation_error",
    "query",
    "quoted",
    "revision_of",
    "text_of",
    "txn_result",
    "unpacked_keys",
]

Answer = TypeVar("Answer")
JsonBytes = dict[str, str]

_UNRESERVED_BYTES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_UNRESERVED: Final = frozenset(_UNRESERVED_BYTES)
_QUOTED: Final = tuple(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256))
_DOTS: Final = frozenset({b".", b".."})

_CLASSES: Final[dict[str, type[OperationError]]] = {
    "no_leader": NoLeader,
    "not_leader": NotLeader,
    "dropped": Dropped,
    "backlog": BacklogFull,
    "no_space": NoSpace,
    "superseded": Superseded,
    "closed": Closed,
    "transfer_failed": TransferFailed,
    "deadline_exceeded": DeadlineExceeded,
    "too_large": TooLarge,
    "membership": MembershipError,
    "quorum_at_risk": QuorumAtRisk,
    "unknown_member": MembershipError,
    "session_expired": SessionExpired,
    "idempotency_mismatch": IdempotencyMismatch,
    "answer_not_kept": AnswerNotKept,
    "limit": LimitReached,
}
_REFUSED_CREDENTIALS: Final[dict[str, type[Rejected]]] = {
    "unauthenticated": Unauthenticated,
    "permission_denied": PermissionDenied,
}
_REFUSED_BY_STATE_MACHINE: Final = frozenset({409, 412})
_REFUSALS: Final = frozenset(
    {
        "bad_command",
        "compacted",
        "future_revision",
        "lease_not_found",
        "not_found",
        "role_not_found",
        "token_not_found",
        "user_not_found",
    }
)
"""Codes of the state machine's refusals with other statuses."""
_SERVER_FAULT: Final = 500
MESSAGE_LIMIT: Final = 500
"""Characters of a foreign answer that are shown in an error."""


def quoted(data: bytes) -> str:
    """Percent-encode."""
    if not data.translate(None, _UNRESERVED_BYTES):  # most keys need no quoting
        return data.decode("ascii")
    return "".join([_QUOTED[byte] for byte in data])


def key_target(key: bytes) -> str:
    """The path of a key. One with `.` or `..` segments becomes a parameter: proxies resolve them, also as `%2E`."""
    parts = key.split(b"/")
    if not _DOTS.isdisjoint(parts):
        return f"/key?key={quoted(key)}"
    return "/key/" + "/".join([quoted(part) for part in parts])


def query(parameters: dict[str, str | bytes | None], *, after: str = "") -> str:
    """`?name=value&…` of those that are given, or nothing; `after` is the target that it follows."""
    given = [
        f"{name}={quoted(value.encode() if isinstance(value, str) else value)}"
        for name, value in parameters.items()
        if value is not None
    ]
    return ("&" if "?" in after else "?") + "&".join(given) if given else ""


def json_key(name: str, data: bytes) -> JsonBytes:
    """Bytes as a JSON member: text if they are UTF-8, base64 under `<name>_base64` if they are not."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}


def text_of(data: bytes) -> str:
    """Bytes for people: text, with what is not UTF-8 escaped."""
    return data.decode("utf-8", "backslashreplace")


def decode(response: ClientResponse, answer: type[Answer]) -> Answer:
    """Read a JSON answer. Raises `RequestFailed` (outcome unknown) if it has another form."""
    try:
        return msgspec.json.decode(response.body, type=answer)
    except UNDECODABLE as error:
        raise _unreadable(f"the server's answer can't be read: {error}", response) from error


def revision_of(response: ClientResponse, header: str) -> int:
    """A revision from an answer's header. Gateways that compress make an ETag weak: `W/"7"` is revision 7 as well."""
    try:
        return int(response.headers[header].removeprefix("W/").strip('"'))
    except (KeyError, ValueError) as error:
        raise _unreadable(f"the server's answer has no usable {header!r} header", response) from error


def error_from(response: ClientResponse) -> OperationError:
    """The error that an answer above 299 stands for, as the class that the library itself would raise."""
    try:
        body = msgspec.json.decode(response.body, type=ErrorAnswer).error
    except UNDECODABLE:
        shown = text_of(response.body[:MESSAGE_LIMIT]).strip() or "no explanation"
        return _unreadable(f"the server answered with status {response.status}: {shown}", response)
    return operation_error(body, response.status)


def operation_error(body: ErrorBody, status: int) -> OperationError:
    """The error that a server's error body stands for, as the class that the library itself would raise."""
    outcome = Outcome.UNKNOWN if body.outcome is None else body.outcome
    leader = int(body.leader.id, 16) if body.leader is not None and _is_id(body.leader.id) else None
    known = _CLASSES.get(body.code)
    if body.code == RevisionCompacted.code:
        oldest = (body.details or {}).get("oldest", 0)
        return RevisionCompacted(body.message, oldest=oldest if isinstance(oldest, int) else 0)
    if body.code in _REFUSED_CREDENTIALS:
        refused = _REFUSED_CREDENTIALS[body.code](body.message)
        refused.outcome = outcome
        return refused
    if known is not None:
        error = known(body.message, outcome=outcome, leader=leader)
        error.code = body.code
        return error
    if status in _REFUSED_BY_STATE_MACHINE or body.code in _REFUSALS:
        return Rejected(body.message, code=body.code, details=dict(body.details or {}))
    return RequestFailed(body.message, code=body.code, status=status, outcome=outcome, leader=leader)


def _unreadable(message: str, response: ClientResponse) -> RequestFailed:
    refused = 400 <= response.status < _SERVER_FAULT
    outcome = Outcome.NOT_APPLIED if refused else Outcome.UNKNOWN
    return RequestFailed(message, code="bad_answer", status=response.status, outcome=outcome)


def _is_id(text: str) -> bool:
    try:
        return int(text, 16) > 0
    except ValueError:
        return False


def key_page(response: ClientResponse) -> KeyPage:
    """A page of `GET /keys`."""
    page = decode(response, KeyItemPage)
    try:
        items = tuple(_key_info(item) for item in page.keys)
    except ValueError as error:
        raise _unreadable(f"the server's answer can't be read: {error}", response) from error
    return KeyPage(revision=page.revision, items=items, count=page.count, next=page.next)


def _key_info(item: KeyItem | PackedKey) -> KeyInfo:
    key = bytes_of(item.key, item.key_base64)
    if key is None:
        raise ValueError("a key without its name")
    return KeyInfo(
        key=key,
        mod_revision=item.mod_revision,
        create_revision=item.create_revision,
        version=item.version,
        size_bytes=_given(item.size_bytes),
        value=bytes_of(item.value, item.value_base64),
        lease=0 if item.lease is UNSET else int(item.lease, 16),
    )


def unpacked_keys(keys: Iterable[LeaseKey], response: ClientResponse) -> tuple[bytes, ...]:
    """The keys of a lease."""
    found = [bytes_of(one.key, one.key_base64) for one in keys]
    if None in found:
        raise _unreadable("the server's answer can't be read: a key without its name", response)
    return tuple(key for key in found if key is not None)


def txn_result(response: ClientResponse) -> TxnResult:
    """The answer of `POST /txn`."""
    answer = decode(response, TxnResultBody)
    try:
        results = tuple(_operation_result(item) for item in answer.results)
    except ValueError as error:
        raise _unreadable(f"the server's answer can't be read: {error}", response) from error
    return TxnResult(succeeded=answer.succeeded, revision=answer.revision, results=results)


def batch_results(response: ClientResponse, count: int) -> list[OperationResult | OperationError]:
    """The answer of `POST /batch`: for each of `count` operations its result, or the error that it stands for."""
    try:
        items = msgspec.msgpack.decode(response.body, type=PackedBatchAnswer).results
        if len(items) != count:
            raise ValueError(f"{len(items)} results for {count} operations")
        return [_batch_result(item) for item in items]
    except (*UNDECODABLE, ValueError) as error:
        raise _unreadable(f"the server's answer can't be read: {error}", response) from error


def _batch_result(item: PackedResult) -> OperationResult | OperationError:
    if item.error is UNSET:
        return _operation_result(item)
    return operation_error(item.error, 0 if item.status is UNSET else item.status)


def _operation_result(item: ResultItem | PackedResult) -> OperationResult:
    if item.op is UNSET:
        raise ValueError("a result without 'op'")
    previous = () if item.prev is UNSET else item.prev
    return OperationResult(
        op=item.op,
        revision=_given(item.revision),
        deleted=_given(item.deleted),
        found=item.found is True,
        key=bytes_of(item.key, item.key_base64) or b"",
        value=_value(item),
        mod_revision=_given(item.mod_revision),
        create_revision=_given(item.create_revision),
        version=_given(item.version),
        lease="" if item.lease is UNSET else item.lease,
        created=item.created is True,
        number=item.value if isinstance(item.value, int) else 0,
        count=_given(item.count),
        more=item.more is True,
        succeeded=item.succeeded is True,
        items=() if item.keys is UNSET else tuple(_key_info(one) for one in item.keys),
        previous=tuple(_key_info(one) for one in (previous if isinstance(previous, list | tuple) else [previous])),
        results=() if item.results is UNSET else tuple(_operation_result(one) for one in item.results),
    )


def _value(item: ResultItem | PackedResult) -> bytes:
    value = item.value
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return item.value_base64 if isinstance(item.value_base64, bytes) else b""


def _given(number: int | UnsetType) -> int:
    return 0 if number is UNSET else number


def bytes_of(text: MaybeText, plain: MaybeBytes) -> bytes | None:
    if text is not UNSET:
        return text.encode()
    return None if plain is UNSET else plain
