"""The blocking face of a queue, and of a claim of one of its items."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from syncline.client.blocking.portal import HeldObject, Portal, PortalObject
from syncline.client.coordination.queue import DEFAULT_CLAIM_TTL_S, Queue, QueueCounts, QueueEntry
from syncline.client.coordination.queue_claim import ItemClaim, QueueItem
from syncline.client.txn import Operation

__all__ = ["BlockingItemClaim", "BlockingQueue", "BlockingQueueItem"]


class BlockingQueueItem(HeldObject[QueueItem]):
    """An item that is claimed, as `QueueItem`. `BlockingQueue.claim` gives it.

    with mail.claim() as item:
        print(item.value)
    """

    def __init__(self, portal: Portal, item: QueueItem) -> None:
        super().__init__(portal, item, "the item")
        self.id: str = item.id
        self.value: bytes = item.value
        self.deliveries: int = item.deliveries
        """How often it was claimed, this time included."""
        self.token: int = item.token
        """Fencing token: the revision of the claim. A later claim has a larger one."""
        self.lost: threading.Event = threading.Event()
        """Set when the claim is lost. The block goes on, and its end raises `LeaseLost`: look here, or call `check`."""

    @property
    def is_over(self) -> bool:
        """Whether it is done or given back."""
        return self._here().is_over

    def check(self) -> None:
        """Make sure that the claim is not lost.

            item.check()

        Its arguments and errors are those of `QueueItem.check`.
        """
        self._call(_check)

    def done(self, *operations: Operation, timeout: float | None = None) -> int:
        """Finish the item now, and carry out `operations` in the same transaction.

            item.done(PutOp(b"sent/7", b"yes"))

        Its arguments and errors are those of `QueueItem.done`.
        """
        return self._call(lambda item: item.done(*operations, timeout=timeout))

    def give_back(self, *, timeout: float | None = None) -> None:
        """Give the item back now: it is the first one that is free.

            item.give_back()

        Its arguments and errors are those of `QueueItem.give_back`.
        """
        return self._call(lambda item: item.give_back(timeout=timeout))


class BlockingItemClaim(HeldObject[ItemClaim]):
    """An item for the time of a block. `BlockingQueue.claim` makes it."""

    def __init__(self, portal: Portal, claim: ItemClaim) -> None:
        super().__init__(portal, claim, "the claim")
        self._block = portal.scope(lambda: claim, "the claim")

    def __enter__(self) -> BlockingQueueItem:
        self._here()
        item = self._block.__enter__()
        blocking = BlockingQueueItem(self._portal, item)

        async def follow() -> None:
            self._held.tell(blocking.lost.set)

        self._portal.call(follow)
        return blocking

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.end(error)


class BlockingQueue(PortalObject[Queue]):
    """A queue of work that many workers share, as `Queue`. `Client.queue` makes it.

        mail = kv.queue("mail")
        mail.put("to: ada")
        with mail.claim(ttl=30) as item:
            print(item.value)

    Threads and forked children may share it.
    """

    def put(self, value: bytes | str, *, timeout: float | None = None) -> str:
        """Put an item at the end. Returns its id.

            mail.put("to: ada")

        Its arguments and errors are those of `Queue.put`.
        """
        return self._call(lambda queue: queue.put(value, timeout=timeout))

    def put_many(self, values: Sequence[bytes | str], *, timeout: float | None = None) -> list[str]:
        """Put up to 100 items at the end, in their order: all of them, or none.

            mail.put_many(["to: bob", "to: eve"])

        Its arguments and errors are those of `Queue.put_many`.
        """
        return self._call(lambda queue: queue.put_many(values, timeout=timeout))

    def claim(self, *, ttl: float = DEFAULT_CLAIM_TTL_S, wait: float | None = None) -> BlockingItemClaim:
        """Claim the first item that is free, for the time of a block.

            with mail.claim(ttl=30, wait=60) as item:
                print(item.value, item.deliveries)

        It is renewed by the client's own thread.

        Its arguments and errors are those of `Queue.claim`.
        """
        return BlockingItemClaim(self._portal, self._plain(lambda queue: queue.claim(ttl=ttl, wait=wait)))

    def size(self, *, timeout: float | None = None) -> int:
        """How many items are not done.

            print(mail.size())

        Its arguments and errors are those of `Queue.size`.
        """
        return self._call(lambda queue: queue.size(timeout=timeout))

    def counts(self, *, timeout: float | None = None) -> QueueCounts:
        """How many items wait, are claimed, and were given up.

            print(mail.counts().waiting)

        Its arguments and errors are those of `Queue.counts`.
        """
        return self._call(lambda queue: queue.counts(timeout=timeout))

    def peek(self, limit: int = 10, *, timeout: float | None = None) -> tuple[QueueEntry, ...]:
        """The first items that are not done, without claiming one.

            print(mail.peek())

        Its arguments and errors are those of `Queue.peek`.
        """
        return self._call(lambda queue: queue.peek(limit, timeout=timeout))

    def dead_letters(self, limit: int = 10, *, timeout: float | None = None) -> tuple[QueueEntry, ...]:
        """The first items that were delivered too often and never done.

            print(mail.dead_letters())

        Its arguments and errors are those of `Queue.dead_letters`.
        """
        return self._call(lambda queue: queue.dead_letters(limit, timeout=timeout))

    def restore(self, item: str, *, timeout: float | None = None) -> bool:
        """Put an item of `dead_letters` back at its old place.

            mail.restore(item)

        Its arguments and errors are those of `Queue.restore`.
        """
        return self._call(lambda queue: queue.restore(item, timeout=timeout))

    def discard(self, item: str, *, timeout: float | None = None) -> bool:
        """Delete an item of `dead_letters`.

            mail.discard(item)

        Its arguments and errors are those of `Queue.discard`.
        """
        return self._call(lambda queue: queue.discard(item, timeout=timeout))


async def _check(item: QueueItem) -> None:
    item.check()
