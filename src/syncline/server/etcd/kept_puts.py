"""Puts that keep the value or the lease of a key that is not there: an error, if their branch is taken.

Which branch is taken is decided by the records as they were read. The transaction that is proposed has compares that
hold as long as it would be decided so again: `pins`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.kv.commands import CompareTarget as Target
from syncline.kv.commands import Comparison, Put, Txn, TxnCompare
from syncline.kv.store import KeyStore
from syncline.kv.txn import holds
from syncline.server.etcd.errors import INVALID_ARGUMENT, EtcdError

__all__ = ["pins_of"]

MAX_COMPARED: Final = 1000
"""Records that one compare of a range is evaluated for here: they are read in one turn of the event loop."""


def pins_of(store: KeyStore, txn: Txn, taken: Callable[[Put], None]) -> tuple[TxnCompare, ...]:
    """Compares that hold as long as the same branches are taken. `taken` is called with each put in them.

    Raises:
        EtcdError: a compare is of too many keys.
    """
    pins: list[TxnCompare] = []
    succeeded = True
    for compare in txn.compares:
        if (failed := _failed(store, compare)) is None:
            pins.append(compare)
        else:
            pins, succeeded = [failed], False
            break
    for operation in txn.then if succeeded else txn.else_:
        if isinstance(operation, Put):
            taken(operation)
        elif isinstance(operation, Txn):
            pins += pins_of(store, operation, taken)
    return tuple(pins)


def _failed(store: KeyStore, compare: TxnCompare) -> TxnCompare | None:
    """None if the compare holds; else a compare that holds as long as it fails."""
    key, end = compare.key, compare.end
    if end is None:
        record = store.get(key)
        return None if holds(record, compare) else _unchanged(key, 0 if record is None else record.mod_revision)
    assert end is not False
    page = store.range(key, None if end is True else end, limit=MAX_COMPARED)
    for record in page.items:
        if not holds(record, compare):
            return _unchanged(record.key, record.mod_revision)
    if not page.items:
        return None if holds(None, compare) else TxnCompare(key, Target.VERSION, Comparison.EQUAL, 0, end)
    if page.more:
        raise EtcdError(INVALID_ARGUMENT, "etcdserver: request is too large")
    return None


def _unchanged(key: bytes, revision: int) -> TxnCompare:
    return TxnCompare(key, Target.MOD_REVISION, Comparison.EQUAL, revision)
