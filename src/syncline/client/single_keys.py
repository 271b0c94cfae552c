"""What the calls that stand on others need of a client: of `AsyncClient`, and of a store in the process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from syncline.client.calls import Key
from syncline.client.results import DeleteResult, KeyValue, PutResult, TxnResult
from syncline.client.txn import Compare, Operation

__all__ = ["AtomicCalls", "SingleKeyCalls"]


class SingleKeyCalls(ABC):
    """Read, write and delete one key."""

    _limit_s: Callable[[float | None], float]
    """The time of one call."""

    if TYPE_CHECKING:

        @abstractmethod
        async def get(
            self,
            key: Key,
            *,
            revision: int | None = None,
            consistency: str | None = None,
            max_stale_s: float | None = None,
            timeout: float | None = None,
        ) -> KeyValue | None: ...

        @abstractmethod
        async def put(
            self,
            key: Key,
            value: bytes | str,
            *,
            if_revision: int | None = None,
            if_absent: bool = False,
            if_present: bool = False,
            ttl: float | None = None,
            lease: str | int | None = None,
            idempotent: bool = False,
            timeout: float | None = None,
        ) -> PutResult: ...

        @abstractmethod
        async def delete(
            self, key: Key, *, if_revision: int | None = None, idempotent: bool = False, timeout: float | None = None
        ) -> DeleteResult: ...

        @abstractmethod
        def _conflict_pause_s(self, attempts: int) -> float:
            """How long to wait after so many attempts at a key that other clients write."""


class AtomicCalls(ABC):  # noqa: B024 - its abstract methods are for type checkers
    """Transactions."""

    if TYPE_CHECKING:

        @abstractmethod
        async def txn(
            self,
            compare: Sequence[Compare] = (),
            then: Sequence[Operation] = (),
            else_: Sequence[Operation] = (),
            *,
            idempotent: bool = False,
            timeout: float | None = None,
        ) -> TxnResult: ...
