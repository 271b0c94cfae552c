"""`POST /txn`: compares, then, else, as JSON. One atomic revision, or nothing."""

from __future__ import annotations

from functools import partial
from typing import Final

from syncline.client.schemas import TxnBody, TxnReply
from syncline.kv import commands
from syncline.kv.commands import encode_command
from syncline.kv.records import TxnAnswer
from syncline.server.api.backend import Backend
from syncline.server.api.bodies import JsonBody
from syncline.server.api.declare import IDEMPOTENCY_KEY, REPLAYED, REVISION, Reply, Route
from syncline.server.api.error_codes import (
    BAD_COMMAND,
    COMPACTED,
    FUTURE_REVISION,
    KEYED,
    LEASE_FULL,
    LEASE_LIMIT,
    LEASE_NOT_FOUND,
    NOT_A_NUMBER,
    NOT_FOUND,
    RANGE_TOO_LARGE,
    READS_TOO_LARGE,
)
from syncline.server.api.idempotency import propose
from syncline.server.api.operation_results import JsonResults
from syncline.server.api.operations import OperationReader
from syncline.server.api.parameters import Query
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router
from syncline.server.auth.access import KEYS
from syncline.server.http.limits import MIB
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, json_response

__all__ = ["MAX_TXN_BYTES", "TxnRoutes"]

MAX_TXN_BYTES: Final = 4 * MIB
"""The JSON of one transaction."""


QUERY: Final = Query(TIMEOUT)
BODY: Final = JsonBody(TxnBody, what="a transaction", about="Compares, then, else.", max_bytes=MAX_TXN_BYTES)

ROUTE: Final = Route(
    "POST",
    "/txn",
    summary="Carry out a transaction",
    access=KEYS,
    about="If all compares hold `then` is done, else `else`: in one revision, or not at all.",
    query=QUERY,
    body=BODY,
    fields=(IDEMPOTENCY_KEY,),
    answers={200: Reply("One of the branches was carried out.", (TxnReply,), (REVISION, REPLAYED))},
    errors=(
        *KEYED,
        BAD_COMMAND,
        COMPACTED,
        FUTURE_REVISION,
        LEASE_FULL,
        LEASE_LIMIT,
        LEASE_NOT_FOUND,
        NOT_A_NUMBER,
        NOT_FOUND,
        RANGE_TOO_LARGE,
        READS_TOO_LARGE,
    ),
)


class TxnRoutes:
    """Transactions."""

    def __init__(self, backend: Backend, reader: OperationReader, *, explain: Explain) -> None:
        self._backend = backend
        self._reader = reader
        self._explain = explain

    def add_to(self, router: Router) -> None:
        """Register the route."""
        router.declare(ROUTE, self.txn)

    def txn(self, request: Request, respond: Respond) -> None:
        """Carry out one transaction."""
        timeout_s = TIMEOUT.of(QUERY.parse(request.query))
        body = BODY.read(request)
        txn = self._reader.txn(body, "the transaction")
        propose(
            self._backend,
            request,
            encode_command(txn),
            timeout_s,
            respond,
            partial(self._done, txn, request.mount),
            frees_space=commands.frees_space(txn),
            fingerprint=request.body,  # the command may have the id of a new lease, drawn for each attempt
        )

    def _done(
        self, txn: commands.Txn, mount: str, respond: Respond, result: object, error: BaseException | None
    ) -> None:
        if error is not None:
            respond(self._explain(error))
            return
        assert isinstance(result, TxnAnswer), result
        body = {
            "status": "success",
            "succeeded": result.succeeded,
            "revision": result.revision,
            "results": JsonResults(mount).results(txn, result),
        }
        respond(json_response(body, fields=b"Syncline-Revision: %d\r\n" % result.revision))
