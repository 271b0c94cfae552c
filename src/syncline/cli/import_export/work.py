"""What all copies share: the report, and the work on many items at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from syncline.errors import OperationError, Outcome, Unreachable

__all__ = ["CopyProgress", "CopyReport", "Problem", "pass_on", "run_each"]

PROBLEMS_KEPT: Final = 1000
"""Problems that are listed; more are counted only."""

_CLUSTER_CODES: Final = frozenset({"no_leader", "not_leader", "dropped", "closed", "deadline_exceeded", "disk_full"})

Item = TypeVar("Item")


class Problem(msgspec.Struct, frozen=True):
    """A file or key that was not copied, and the reason."""

    name: bytes
    reason: str


class CopyReport(msgspec.Struct):
    """What became of a copy: bytes of its contents, and each file or key that was not copied."""

    size_bytes: int = 0
    skipped: list[Problem] = []
    failed: list[Problem] = []
    skipped_count: int = 0
    failed_count: int = 0

    def skip(self, name: bytes, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < PROBLEMS_KEPT:
            self.skipped.append(Problem(name, reason))

    def fail(self, name: bytes, reason: str) -> None:
        self.failed_count += 1
        if len(self.failed) < PROBLEMS_KEPT:
            self.failed.append(Problem(name, reason))


class CopyProgress(Protocol):
    """Called for each file or key that is done."""

    def advance(self, size_bytes: int) -> None: ...


def pass_on(error: OperationError) -> None:
    """Raise an error that the next item will meet as well; return if it is an error of this item alone."""
    if isinstance(error, Unreachable) or error.outcome is Outcome.UNKNOWN or error.code in _CLUSTER_CODES:
        raise error


async def run_each(items: AsyncIterator[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Run `work` on every item, so many at a time; the first failure ends all."""
    turn = asyncio.Lock()

    async def worker() -> None:
        while True:
            async with turn:
                item = await anext(items, None)
            if item is None:
                return
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
