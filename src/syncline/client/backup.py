"""Read a backup of a server's store as it comes: the request behind `syncline backup save`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from syncline.client.caller import Caller, ClientRequest
from syncline.client.calls import ServerCalls
from syncline.client.connection import BadAnswer, ConnectionLost
from syncline.client.endpoints import Endpoint
from syncline.client.streaming import StreamConnection
from syncline.errors import OperationError, Outcome, Unreachable

__all__ = ["read_backup"]

SILENCE_S: Final = 30.0
"""A server that sends nothing for so long is away."""


async def read_backup(client: ServerCalls, *, stale: bool, timeout_s: float) -> AsyncIterator[bytes]:
    """The bytes of a backup, from the first server that answers. `timeout_s` bounds the begin of the answer.

    A connection that is lost in the middle is an error: another server's stream would be another backup.

    Raises:
        Unreachable: no server answers, or the connection was lost.
        OperationError: the servers refused it.
    """
    connection = await _opened(client._caller, stale=stale, timeout_s=timeout_s)
    try:
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    piece = await connection.read()
            except (ConnectionLost, BadAnswer) as error:
                raise Unreachable(f"the backup was interrupted: {error}", outcome=Outcome.NOT_APPLIED) from error
            except TimeoutError as error:
                reason = f"the server has been silent for {SILENCE_S:g} s"
                raise Unreachable(reason, outcome=Outcome.NOT_APPLIED) from error
            if not piece:
                return
            yield piece
    finally:
        connection.abort()


async def _opened(caller: Caller, *, stale: bool, timeout_s: float) -> StreamConnection:
    request = ClientRequest(
        method="GET", target="/backup", parameters={"stale": "true" if stale else None}, idempotent=True, timed=True
    )
    tried: set[Endpoint] = set()
    reason: OperationError | None = None
    while True:
        try:
            return (await caller.open_stream(request, caller.pick(tried), timeout_s))[1]
        except OperationError as error:
            if reason is None or isinstance(reason, Unreachable):
                reason = error  # the answer of a server says more than that others are away
            if len(tried) >= caller.servers:
                raise reason from error
            caller.told(error)
