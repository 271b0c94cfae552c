"""Single operations in the form of a batch, with the results that they have alone.

The arguments are checked already: these functions are the hot path of a client with many tasks.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from syncline.client.arguments import checked_revision
from syncline.client.gathering import OVERHEAD_BYTES, Gathering, unreadable
from syncline.client.results import DeleteResult, KeyValue, PutResult
from syncline.client.txn import Fields
from syncline.errors import ConfigError, Outcome

__all__ = [
    "BATCH_CONSISTENCIES",
    "Condition",
    "condition_headers",
    "delete_in_batch",
    "get_in_batch",
    "increment_in_batch",
    "put_condition",
    "put_in_batch",
]

BATCH_CONSISTENCIES: Final = frozenset({None, "linearizable"})
"""A batch that only reads is linearizable; it has no other consistency."""

Condition: TypeAlias = int | Literal["absent", "present"] | None
"""Of a write: the revision of the key, 1 or more, or whether there is one."""


def put_condition(if_revision: int | None, *, if_absent: bool, if_present: bool) -> Condition:
    """The condition of a put. Raises `ConfigError` for several, or a revision that can't be, and `TypeError`."""
    if if_revision is None and not if_absent and not if_present:
        return None
    if (if_revision is not None) + bool(if_absent) + bool(if_present) > 1:
        raise ConfigError("give one of if_revision, if_absent and if_present, not several")
    if if_revision is None:
        return "absent" if if_absent else "present"
    return checked_revision(if_revision, "if_revision", 0) or "absent"


def condition_headers(condition: Condition) -> tuple[tuple[str, str], ...]:
    """A condition as header fields of a single request."""
    if condition is None:
        return ()
    if condition == "absent":
        return (("If-None-Match", "*"),)
    return (("If-Match", "*" if condition == "present" else f'"{condition}"'),)


async def get_in_batch(gathering: Gathering, key: bytes, timeout_s: float) -> KeyValue | None:
    """`KeyCalls.get`. Raises `SendAlone` if it is to be sent alone."""
    found = await gathering.ask({"op": "get", "key": key}, len(key), timeout_s)
    if not found.found:
        return None
    value = found.value
    if not isinstance(value, bytes):
        raise unreadable("the value of a key is a number", Outcome.NOT_APPLIED)
    return KeyValue(key, value, found.mod_revision, found.store_revision)


async def put_in_batch(
    gathering: Gathering,
    key: bytes,
    value: bytes,
    condition: Condition,
    ttl: str | None,
    lease: str | None,
    timeout_s: float,
) -> PutResult:
    """`KeyCalls.put`. Raises `SendAlone` if it is to be sent alone."""
    fields: Fields = {"op": "put", "key": key, "value": value}
    if condition is not None:
        _add_condition(fields, condition)
    if ttl is not None:
        fields["ttl"] = ttl
    if lease is not None:
        fields["lease"] = lease
    written = await gathering.ask(fields, len(key) + len(value) + OVERHEAD_BYTES, timeout_s)
    return PutResult(written.revision, written.lease)


async def delete_in_batch(gathering: Gathering, key: bytes, condition: Condition, timeout_s: float) -> DeleteResult:
    """`KeyCalls.delete`. Raises `SendAlone` if it is to be sent alone."""
    fields: Fields = {"op": "delete", "key": key}
    if condition is not None:
        _add_condition(fields, condition)
    done = await gathering.ask(fields, len(key) + OVERHEAD_BYTES, timeout_s)
    return DeleteResult(done.deleted > 0, done.revision)


async def increment_in_batch(gathering: Gathering, key: bytes, by: int, initial: int, timeout_s: float) -> int:
    """`OperationCalls.increment`. Raises `SendAlone` if it is to be sent alone."""
    fields: Fields = {"op": "increment", "key": key, "by": by, "initial": initial}
    counted = await gathering.ask(fields, len(key) + OVERHEAD_BYTES, timeout_s)
    value = counted.value
    if not isinstance(value, int):
        raise unreadable("the new number is a text", Outcome.UNKNOWN)
    return value


def _add_condition(fields: Fields, condition: int | str) -> None:
    if condition == "absent":
        fields["if_absent"] = True
    elif condition == "present":
        fields["if_present"] = True
    else:
        fields["if_revision"] = condition
