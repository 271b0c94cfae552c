"""The fast path of `POST /lease/{id}/keepalive`: a program renews each of its leases every few seconds.

The connection has recognised the request (`http/shortcuts.py`), and no router stands between. It is answered as the
ordinary route does (`leases.py`). What needs more goes there: a body, a condition, a query, another path below
`/lease/`, a user.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from syncline.errors import SynclineError
from syncline.kv.lease_calls import LeaseTime
from syncline.kv.limits import MAX_LEASE_ID
from syncline.kv.serving.lease_views import no_such_lease
from syncline.server.api.backend import Backend
from syncline.server.api.errors import internal_error
from syncline.server.api.leases import KEEP, TIMEOUT_S, kept_answer
from syncline.server.api.router import Explain
from syncline.server.http.fields import CONDITIONAL_FIELDS
from syncline.server.http.request import Request
from syncline.server.http.response import Respond
from syncline.server.http.shortcuts import FastRequest, FastRoute

__all__ = ["fast_keep_alive"]

_KEPT: Final = re.compile(rb"([0-9a-f]{16})/keepalive").fullmatch


def fast_keep_alive(backend: Backend, *, explain: Explain, handle: Callable[[Request, Respond], None]) -> FastRoute:
    """The route's fast path. `handle` is the ordinary way of a request."""
    auth = backend.auth_flag

    def keep(request: FastRequest) -> None:
        path = _KEPT(request.argument)
        if path is None or request.body or auth.on or not CONDITIONAL_FIELDS.isdisjoint(request.headers):
            handle(*request.ordinary())
            return
        name = path[1]
        lease = int(name, 16)
        if not 0 < lease <= MAX_LEASE_ID:
            handle(*request.ordinary())
            return
        try:
            backend.lease_calls.keep_alive_then(lease, TIMEOUT_S, partial(_kept, request, explain, name))
        except Exception as error:  # noqa: BLE001 - becomes the answer, as in the router
            request.respond(explain(error))

    return FastRoute(b"POST /lease/", Request("POST", b"", b"", {}, b"", route=f"POST {KEEP.pattern}"), keep)


def _kept(
    request: FastRequest, explain: Explain, name: bytes, time: LeaseTime | None, error: SynclineError | None
) -> None:
    try:
        if time is None:
            assert error is not None
            request.respond(explain(error))
        elif time.ttl_ms:
            request.found(*kept_answer(name, time.ttl_ms))
        else:
            request.respond(explain(no_such_lease(int(name, 16))))
    except Exception as fault:  # noqa: BLE001 - as in `answering`: the request must have an answer
        request.respond(internal_error(fault))
