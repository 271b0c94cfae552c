"""`POST /batch`: up to 1,000 independent operations in one round of the cluster, each with its own result.

The operations are carried out in order, and not atomically: each has its own revision, answer or refusal. A batch that
writes is one entry of the log. One that only reads takes no entry: the node confirms once, and reads its own state.

An operation above a limit of this server, or that no store can carry out, is refused alone, and the others go on:
clients gather operations that have nothing to do with each other. A body that can't be read is refused as a whole.

An operation may carry a `session` and a `sequence`: it takes effect once, in whichever batch it is sent again. Or the
batch as a whole has an `Idempotency-Key`: it is one entry, and is sent again as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import msgspec

from syncline.client.packed_schemas import PackedBatchBody
from syncline.client.schemas import BatchBody, BatchReply, PutItem
from syncline.decoding import UNDECODABLE, json_fault
from syncline.errors import OperationError, PermissionDenied, SynclineError, Unauthenticated
from syncline.kv import commands
from syncline.kv.batch import apply_batch
from syncline.kv.commands import OperationBatch
from syncline.kv.limits import MAX_BATCH_OPS
from syncline.kv.serving.reads import ConfirmedReads
from syncline.server.api.answering import answering
from syncline.server.api.backend import Backend
from syncline.server.api.batch_parts import BatchPart, BatchParts, authorise_once, authorise_part, once_key
from syncline.server.api.declare import IDEMPOTENCY_KEY, LEADER, REPLAYED, REVISION, Reply, Route
from syncline.server.api.error_codes import BAD_COMMAND, KEYED
from syncline.server.api.errors import RequestError
from syncline.server.api.idempotency import FIELD, REPEATED, parse_key
from syncline.server.api.leader_field import LeaderField
from syncline.server.api.operation_counts import check_batch_counts
from syncline.server.api.operation_results import JsonResults, PackedResults
from syncline.server.api.operations import AnyOperation, OperationReader
from syncline.server.api.parameters import Query, Schema
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router
from syncline.server.auth.access import KEYS
from syncline.server.auth.gate import AccessGate
from syncline.server.auth.principal import Principal
from syncline.server.http.documents import check_charset, check_members
from syncline.server.http.limits import MIB
from syncline.server.http.media_types import media_type, weight
from syncline.server.http.packed import check_packed_members
from syncline.server.http.request import Request
from syncline.server.http.response import Deferred, Respond, Response, bare, json_response
from syncline.sessions.entries import OnceKey

__all__ = ["MAX_BATCH_BYTES", "BatchRoutes"]

MAX_BATCH_BYTES: Final = 4 * MIB
"""The body of one batch. Its command is smaller than its body, so one log entry (8 MiB at least) holds it."""

MSGPACK: Final = b"application/msgpack"
PACKED: Final = b"Content-Type: application/msgpack\r\n"

QUERY: Final = Query(TIMEOUT)


class OperationsBody:
    """The declared body: JSON, or MessagePack with the same fields and bytes as they are."""

    about: Final = "Operations in the form of /txn. As `application/msgpack` keys and values are of the type bin."
    required: Final = True

    def __init__(self) -> None:
        self._json = msgspec.json.Decoder(BatchBody)
        self._packed = msgspec.msgpack.Decoder(PackedBatchBody)

    def forms(self) -> Mapping[str, type | Schema]:
        """JSON, or MessagePack, which no schema describes."""
        return {"application/json": BatchBody, MSGPACK.decode(): {"type": "string", "format": "binary"}}

    def check(self, request: Request) -> bool:
        """Whether the body is MessagePack. Raises `RequestError` for one that can't be a batch."""
        body = request.body
        check_charset(request.headers)
        if len(body) > MAX_BATCH_BYTES:
            raise RequestError(f"the body is above the limit of {MAX_BATCH_BYTES} bytes", status=413, code="too_large")
        if not body:
            raise RequestError("the body is not a batch: it is empty")
        return media_type(request.headers.get(b"content-type", b"")) == MSGPACK

    def read(self, body: bytes, *, packed: bool) -> list[AnyOperation]:
        """The operations. Raises `RequestError`, or `TooLarge` if there are too many."""
        items: list[AnyOperation]
        try:
            items = [*(self._packed.decode(body) if packed else self._json.decode(body)).ops]
        except UNDECODABLE as error:
            raise RequestError(f"the body is not a batch: {error if packed else json_fault(error, body)}") from None
        if len(items) > MAX_BATCH_OPS:
            message = f"'ops' has {len(items)} operations; the limit is {MAX_BATCH_OPS}; nothing was done"
            raise RequestError(message, status=413, code="too_large")
        check_batch_counts(items)
        if packed:
            check_packed_members(body)
        elif not _has_plain_members(items, body):
            check_members(body)
        return items


BODY: Final = OperationsBody()

ROUTE: Final = Route(
    "POST",
    "/batch",
    summary="Carry out independent operations in one round",
    access=KEYS,
    about="They are carried out in order, not atomically. Each has its own result or error, with the status that it"
    " would have alone.",
    query=QUERY,
    fields=(IDEMPOTENCY_KEY,),
    body=BODY,
    answers={
        200: Reply(
            "The batch was taken: see each result.",
            (BatchReply, "application/msgpack"),
            (REVISION, LEADER, REPLAYED),
        )
    },
    errors=(*KEYED, BAD_COMMAND),
)


class BatchRoutes:
    """Batches."""

    def __init__(
        self,
        backend: Backend,
        reads: ConfirmedReads[Respond],
        reader: OperationReader,
        *,
        gate: AccessGate,
        explain: Explain,
        explain_read: Explain,
    ) -> None:
        self._backend = backend
        self._reads = reads
        self._reader = reader
        self._gate = gate
        self._explain = explain
        self._explain_read = explain_read
        self._leader = LeaderField(backend)

    def add_to(self, router: Router) -> None:
        """Register the route."""
        router.declare(ROUTE, self.batch)

    def batch(self, request: Request, respond: Respond) -> None:
        """Carry out one batch."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        raw = request.headers.get(FIELD)
        whole = None if raw is None else parse_key(raw)
        packed = BODY.check(request)
        principal = request.principal
        puts = self._reader.plain_puts(request.body) if packed and principal is None else None
        items = BODY.read(request.body, packed=packed) if puts is None else []
        answers_packed = _answers_packed(request.headers.get(b"accept", b""), packed=packed)
        form = PackedResults() if answers_packed else JsonResults(request.mount)
        batch = BatchParts(len(items if puts is None else puts), form)
        if puts is None:
            self._collect(items, batch, request)
        else:
            batch.add_puts(puts)
        parts = batch.parts
        if whole is not None and any(part.key is not None for part in parts):
            raise RequestError("give the batch an Idempotency-Key, or its operations a 'session', not both")
        reads_only = batch.reads_only
        if reads_only:
            batch.check_reads()
        else:
            batch.encode()
        if not batch.parts:
            respond(self._response(batch, self._backend.store.revision))
            return
        if reads_only:
            self._reads.within(timeout_s, self._confirmed, (batch, principal), respond)
            return
        if whole is not None:
            (part,) = batch.parts
            if puts is None:
                part.fingerprint = _whole_fingerprint(items, part)
            if principal is not None:
                whole = authorise_once(part, whole, principal)
            self._propose(part, whole, timeout_s, batch, respond)
            return
        if principal is not None:
            for part in batch.parts:
                authorise_part(part, principal)
        for part in batch.parts:
            self._propose(part, part.key, timeout_s, batch, respond)

    def _collect(self, items: list[AnyOperation], batch: BatchParts, request: Request) -> None:
        """Add the operations to the batch; those that are refused by themselves get their results."""
        read, plain_put, principal = self._reader.batch_operation, self._reader.plain_put, request.principal
        writable = None if principal is None else principal.permissions.writable
        for place, item in enumerate(items):
            if (put := plain_put(item)) is not None and (writable is None or writable.has_key(put.key)):
                batch.add(place, put, None, b"")
                continue
            try:
                operation, key = read(item, "the operation"), once_key(item)
                if principal is not None:
                    principal.check_operation(operation)
            except PermissionDenied as error:
                assert principal is not None
                self._gate.audit.refused(request, principal.user, 403, what=f"operation {place}: {error}")
                batch.refuse(place, error)
            except (RequestError, OperationError) as error:
                batch.refuse(place, error)
            else:
                batch.add(place, operation, key, b"" if key is None else _fingerprint(item, operation))

    def _propose(
        self, part: BatchPart, key: OnceKey | None, timeout_s: float, batch: BatchParts, respond: Respond
    ) -> None:
        backend, done = self._backend, answering(respond, partial(self._done, part, batch, respond))
        if key is None:
            backend.propose(part.command, timeout_s, done, frees_space=part.frees_space)
        else:
            backend.propose_once(
                part.command, key, timeout_s, done, frees_space=part.frees_space, fingerprint=part.fingerprint
            )

    def _confirmed(
        self, read: tuple[BatchParts, Principal | None], respond: Respond, error: BaseException | None
    ) -> None:
        if error is not None:
            respond(self._explain_read(error))
            return
        respond(Deferred.by(partial(self._read_all, *read)))

    def _read_all(self, batch: BatchParts, principal: Principal | None) -> Response:
        (part,) = batch.parts
        try:
            permissions = self._gate.present(principal).permissions
        except Unauthenticated as refusal:
            return self._explain_read(refusal)
        operations = OperationBatch(tuple(part.operations))
        batch.answered(part, apply_batch(self._backend.store, operations, permissions))
        return self._response(batch, batch.revision)

    def _done(
        self,
        part: BatchPart,
        batch: BatchParts,
        respond: Respond,
        result: object,
        error: SynclineError | None,
        repeated: bool = False,
    ) -> None:
        if error is not None:
            self._backend.note_refusal(error)
        if not batch.done(part, result, error, repeated):
            return
        failure = batch.failure
        revision = batch.revision or self._backend.store.revision
        answer = self._response(batch, revision) if failure is None else self._explain(failure)
        if repeated and part.key is None:
            answer.head += REPEATED
        respond(answer)

    def _response(self, batch: BatchParts, revision: int) -> Response:
        """The answer to a request whose results are all known."""
        body = {"results": batch.results}
        fields = b"Syncline-Revision: %d\r\n%s" % (revision, self._leader.line)
        if isinstance(batch.form, PackedResults):
            return bare(200, PACKED + fields, msgspec.msgpack.encode(body))
        return json_response(body, fields=fields)


def _has_plain_members(items: list[AnyOperation], body: bytes) -> bool:
    """Whether the body has the member `ops`, and in each operation `op`, `key` and `value` as texts, and nothing else.

    Then no member is there twice. These have twelve quotes in each operation; another member would have more.
    """
    if b"\\" in body or body.count(b'"') != 2 + 12 * len(items):
        return False
    for item in items:
        if type(item) is not PutItem or type(item.key) is not str or type(item.value) is not str:
            return False
    return True


def _fingerprint(item: AnyOperation, operation: commands.BatchOperation) -> bytes:
    """What tells the operation from others. A command with a new lease differs from attempt to attempt."""
    if isinstance(operation, commands.Touch | commands.Txn) or (
        isinstance(operation, commands.Put) and operation.ttl_ms
    ):
        return msgspec.msgpack.encode(item)
    return b""


def _whole_fingerprint(items: list[AnyOperation], part: BatchPart) -> bytes:
    """`_fingerprint` of all operations of a batch that has one key."""
    if any(_fingerprint(items[at], one) for at, one in zip(part.places, part.operations, strict=True)):
        return msgspec.msgpack.encode([items[at] for at in part.places])
    return b""


def _answers_packed(accept: bytes, *, packed: bool) -> bool:
    """Whether the answer is MessagePack: as `Accept` says; the form of the request if it names neither."""
    packed_weight, json_weight = weight(accept, MSGPACK), weight(accept, b"application/json")
    if packed_weight == json_weight:
        return packed
    if 0.0 in {packed_weight, json_weight}:
        return json_weight == 0.0
    return packed_weight > json_weight
