"""Callbacks that answer a request later: a fault in one is answered with 500, as a fault in a handler is.

The node or the event loop calls them, and only reports what they raise. The request would have no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec

from syncline.server.api.errors import internal_error
from syncline.server.http.response import Respond

__all__ = ["answering"]

P = ParamSpec("P")


def answering(respond: Respond, then: Callable[P, None], *, read: bool = False) -> Callable[P, None]:
    """`then`, for others to call. If it raises, the request is answered with 500, unless it has an answer already.

    The log says what was raised. The outcome is `unknown`, unless the request is a `read`: what it asked for may have
    been carried out.
    """
    return partial(_call, respond, then, read)


def _call(respond: Respond, then: Callable[P, None], read: bool, *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        then(*args, **kwargs)
    except Exception as fault:  # noqa: BLE001 - the request must not be left without an answer
        respond(internal_error(fault, read=read))
