"""What the words do while they wait: which errors pass, how cleaning up is bounded, how a watch is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from syncline.errors import (
    AnswerNotKept,
    Closed,
    DeadlineExceeded,
    Dropped,
    LimitReached,
    NoLeader,
    NotLeader,
    OperationError,
    RequestFailed,
    RevisionCompacted,
    SessionExpired,
    Superseded,
    Unreachable,
    WatchEnded,
)

__all__ = ["PAUSE_S", "SIGNS_S", "closing", "passes", "to_its_end"]

Item = TypeVar("Item")

PAUSE_S: Final = 0.2
"""Between two tries, after an error that passes. The client itself has tried for seconds by then."""

SIGNS_S: Final = 3.0
"""How often the server of a watch gives a sign of life, if callers wait for what the watch tells. A server that lost
its power sends no more: the watch goes on with another one in three times this, about the TTL of a lock."""

_PASSING: Final = (
    AnswerNotKept,
    Closed,
    DeadlineExceeded,
    Dropped,
    LimitReached,
    NoLeader,
    NotLeader,
    SessionExpired,
    Superseded,
    Unreachable,
    WatchEnded,
)


def passes(error: OperationError) -> bool:
    """Whether the same call may succeed later: the cluster is out of reach, has no leader, or too much to do.

    Or the history was compacted between two pages of one listing, which then begins again.
    """
    if isinstance(error, RequestFailed):
        return error.status is None or error.status >= 500 or error.status in {408, 429}
    return isinstance(error, _PASSING) or error.code == RevisionCompacted.code


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, also if this task is cancelled meanwhile. It must be bounded in time by itself."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.add_done_callback(_seen)
        raise
    task.result()


def _seen(task: asyncio.Task[None]) -> None:
    """An error of a task that nothing waits for any more."""
    if not task.cancelled():
        task.exception()


@asynccontextmanager
async def closing(items: AsyncIterator[Item]) -> AsyncIterator[AsyncIterator[Item]]:
    """Close a watch with the block. Left to the garbage collector its connection would stay open for a while."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
