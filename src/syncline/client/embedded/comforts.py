"""Calls that stand on others: many keys, JSON, updates, transactions in a readable form."""

from __future__ import annotations

import random
from collections.abc import Sequence

from syncline.client.caller import conflict_pause_s
from syncline.client.embedded.keys import EmbeddedKeyCalls
from syncline.client.embedded.operations import EmbeddedOperationCalls
from syncline.client.json_values import JsonCalls
from syncline.client.many import ManyKeys
from syncline.client.results import KeyValue, OperationResult
from syncline.client.transaction import TransactionCalls
from syncline.client.txn import Fields
from syncline.client.updates import UpdateCalls
from syncline.errors import OperationError
from syncline.kv.serving.reads import ReadPlan
from syncline.kv.store import KeyStore

__all__ = ["EmbeddedComfortCalls"]


class EmbeddedComfortCalls(
    EmbeddedKeyCalls, EmbeddedOperationCalls, JsonCalls, UpdateCalls, ManyKeys, TransactionCalls
):
    """The client's own, over the calls of a store. `Store` sets the field."""

    _rng: random.Random

    def _conflict_pause_s(self, attempts: int) -> float:
        return conflict_pause_s(attempts, self._rng)

    async def _carry_out_batch(
        self, items: Sequence[Fields], timeout_s: float, *, idempotent: bool = False
    ) -> list[OperationResult | OperationError]:
        del idempotent
        return await self._batch_of(list(items), timeout_s)

    async def _get_some(self, keys: list[bytes], deadline_s: float, found: dict[bytes, KeyValue]) -> list[bytes]:
        """Read them all: no answer has to hold them."""
        for key in keys:
            self._check_key(key)

        def look(store: KeyStore) -> None:
            for key in keys:
                if (record := store.get(key)) is not None:
                    found[key] = KeyValue(key, record.value, record.mod_revision, store.revision)

        await self._read(look, ReadPlan(timeout_s=max(0.001, deadline_s - self._embedded.loop.time())))
        return []
