"""`Idempotency-Key`: a write that is sent again takes effect once, and gets the first answer again.

Each route that writes calls `propose` here. `docs/exactly-once.md` has the forms of the key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from syncline.server.api.answering import answering
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response
from syncline.sessions.entries import LARGEST_SEQUENCE, MAX_TEXT_BYTES, OnceKey

__all__ = ["FIELD", "REPEATED", "Done", "parse_key", "propose"]

FIELD: Final = b"idempotency-key"

Done: TypeAlias = Callable[[Respond, object, BaseException | None], None]
"""Answers the request, from the state machine's answer or the error."""

REPEATED: Final = b"Idempotency-Replayed: true\r\n"
"""Header line of an answer that was recorded."""

_SESSION: Final = re.compile(rb"([0-9A-Fa-f]{16})/(.*)", re.DOTALL)
"""A key of this form is never a free text: a mistake in it must not turn one promise into another."""

_TEXT: Final = re.compile(rb"[!-+\--~]+")
"""Visible ASCII without a comma: a field that is given twice is one field with a comma (RFC 9110, 5.3)."""


def propose(
    backend: Backend,
    request: Request,
    command: bytes,
    timeout_s: float,
    respond: Respond,
    done: Done,
    *,
    frees_space: bool = False,
    fingerprint: bytes = b"",
) -> None:
    """Propose the command of a request, once for its `Idempotency-Key` if it has one; then `done` answers it.

    While clients need credentials the command is checked here, and goes into the log as one of its user: whatever
    route it comes from.

    `fingerprint` tells the request from others if the same request does not always make the same command. Raises
    `RequestError` if the key is none, `PermissionDenied` or `Unauthenticated`.
    """
    raw, principal, plain = request.headers.get(FIELD), request.principal, command
    if principal is not None:
        command = principal.authorised(command)
    if raw is None:
        backend.propose(command, timeout_s, answering(respond, partial(done, respond)), frees_space=frees_space)
        return
    then_once, key = answering(respond, partial(_once, respond, done)), parse_key(raw)
    if principal is not None:
        key, fingerprint = principal.scoped(key), principal.fingerprint(fingerprint or plain)
    backend.propose_once(command, key, timeout_s, then_once, frees_space=frees_space, fingerprint=fingerprint)


def _once(respond: Respond, done: Done, result: object, error: BaseException | None, repeated: bool) -> None:
    done(partial(_respond_repeated, respond) if repeated else respond, result, error)


def _respond_repeated(respond: Respond, answer: Response) -> None:
    answer.head += REPEATED
    respond(answer)


def parse_key(raw: bytes) -> OnceKey:
    """The key in a field `Idempotency-Key`: `SESSION/SEQUENCE`, or a free text. Quotes around it mean nothing.

    Raises `RequestError` if it is neither.
    """
    text = raw[1:-1] if len(raw) > 2 and raw[:1] == raw[-1:] == b'"' else raw
    if found := _SESSION.fullmatch(text):
        session, digits = int(found[1], 16), found[2]
        sequence = int(digits) if digits.isdigit() and len(digits) <= 19 else 0
        if 0 < session <= LARGEST_SEQUENCE and 0 < sequence <= LARGEST_SEQUENCE:
            return OnceKey(session, sequence)
        raise RequestError(
            "Idempotency-Key: after the 16 digits of a session and a slash comes a sequence, a number from 1 on;"
            " nothing was done"
        )
    if len(text) > MAX_TEXT_BYTES:
        raise RequestError(f"Idempotency-Key has {len(text)} bytes; the limit is {MAX_TEXT_BYTES}; nothing was done")
    if not _TEXT.fullmatch(text):
        raise RequestError(
            "Idempotency-Key: accepted are visible ASCII characters without a comma, given once; nothing was done"
        )
    return OnceKey(text=text)
