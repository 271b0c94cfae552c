"""Clients with transactions of all compares and operations: each is judged by what was applied before it.

The workload's own transactions have only the compares that the checker knows. These have ranges, leases and nested
transactions. An answer tells its revision, and so the state that the transaction saw: it is run again on that state by
a model of its own.
"""

from __future__ import annotations

import asyncio
import operator
import random
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from syncline.client.schemas import ResultItem, TxnResultBody
from syncline.kv.records import KeyRecord
from syncline.server.http.request import Request
from syncline.testing.faults.asking import ask_server
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.changes import ChangeRecord

__all__ = ["DECIDED", "transactions"]

DECIDED: Final = "a transaction is decided by the state before it"

CLIENTS: Final = 2
KEYS: Final = ("x0", "x1", "x2", "x3")
COUNTER: Final = "xn"
PREFIX: Final = "x"
NO_LEASE: Final = "0" * 16

Json: TypeAlias = dict[str, Any]
State: TypeAlias = dict[bytes, KeyRecord]

_ran: Final = msgspec.json.Decoder(TxnResultBody)

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


async def transactions(trouble: Trouble) -> None:
    """Some clients send transactions to any server, on keys of their own."""
    seeds = [trouble.rng.getrandbits(64) for _ in range(CLIENTS)]
    await asyncio.gather(*(_TxnClient(trouble, random.Random(seed)).run() for seed in seeds))


class _TxnClient:
    def __init__(self, trouble: Trouble, rng: random.Random) -> None:
        assert trouble.changes is not None, "a scenario records what is applied"
        self._trouble = trouble
        self._rng = rng
        self._record: ChangeRecord = trouble.changes
        self._count = 0

    async def run(self) -> None:
        while True:
            await self._trouble.wait(0.5)
            body = self._transaction(depth=0)
            before = self._record.revision
            request = Request("POST", b"/txn", b"timeout=500ms", {}, msgspec.json.encode(body))
            answer = await ask_server(self._trouble, self._rng, request)
            if answer is None:
                continue
            if answer.status == 200:
                self._judge(body, _ran.decode(answer.body), before)
            elif answer.status < 500:
                self._trouble.broken(DECIDED, f"{body} is refused: {answer.body!r}")

    # what is asked

    def _transaction(self, *, depth: int) -> Json:
        compares = [self._compare() for _ in range(self._rng.randint(0, 3))]
        return {"compare": compares, "then": self._branch(depth), "else": self._branch(depth)}

    def _compare(self) -> Json:
        rng = self._rng
        place: Json = rng.choice(
            [
                {"key": rng.choice((*KEYS, COUNTER))},
                {"key": rng.choice(KEYS)},
                {"key": "x1", "end": "x3"},
                {"prefix": PREFIX},
                {"prefix": "xabsent"},
            ]
        )
        known = self._record.at(rng.choice(KEYS).encode(), self._record.revision)
        target = rng.choice(["mod_revision", "create_revision", "version", "value", "lease"])
        compare = {**place, "target": target, "op": rng.choice(list(_COMPARISONS))}
        if target == "value":
            return {**compare, "value": known.value.decode() if known is not None else "none"}
        if target == "lease":
            lease = known.lease if known is not None and rng.random() < 0.7 else 0
            return {**compare, "lease": f"{lease:016x}"}
        number = _number(known, target) if rng.random() < 0.7 else rng.choice([0, 1, 2])
        return {**compare, "number": number}

    def _branch(self, depth: int) -> list[Json]:
        rng = self._rng
        if rng.random() < 0.1:
            bounds = rng.choice([{"prefix": PREFIX}, {"start": "x1", "end": "x3"}])
            return [{"op": "get", "key": rng.choice(KEYS)}, {"op": "delete_range", **bounds}]
        keys = rng.sample(KEYS, rng.randint(0, len(KEYS)))
        branch = [self._operation(key) for key in keys]
        if rng.random() < 0.3:
            branch.append({"op": "increment", "key": COUNTER})
        if rng.random() < 0.3:
            branch.append({"op": "range", "prefix": PREFIX})
        if depth == 0 and not keys and rng.random() < 0.5:
            branch = [{"op": "txn", **self._transaction(depth=1)}]
        rng.shuffle(branch)
        return branch

    def _operation(self, key: str) -> Json:
        self._count += 1
        match self._rng.randrange(6):
            case 0:
                return {"op": "delete", "key": key}
            case 1:
                return {"op": "get", "key": key}
            case 2:
                return {"op": "put", "key": key, "value": f"txn-{self._count}", "ttl": "2s"}
            case _:
                return {"op": "put", "key": key, "value": f"txn-{self._count}"}

    # what is answered

    def _judge(self, body: Json, ran: TxnResultBody, before: int) -> None:
        """`before`: a revision that was applied somewhere before the request was sent."""
        record, revision = self._record, ran.revision
        answer = (ran.succeeded, [_told(one) for one in ran.results])
        writing, reading = (_ModelRun(record.keys_at(number)) for number in (revision - 1, revision))
        as_writing, as_reading = writing.txn(body), reading.txn(body)
        written = {change.record.key for change in record.changes(revision)}
        # The revision is its own if it changed something, else that of the write before it.
        if answer == as_writing and writing.changed and writing.changed == written and revision > before:
            return
        if answer == as_reading and not reading.changed and revision >= before:
            return
        self._trouble.broken(
            DECIDED,
            f"{body} at revision {revision}, {before} or later: {answer}, expected {as_writing} or {as_reading}",
        )


class _ModelRun:
    """Runs a transaction on a state, as the specification says. `changed` has the keys that it wrote."""

    def __init__(self, before: State) -> None:
        self.changed: set[bytes] = set()
        self._before = before
        self._values = {key: record.value for key, record in before.items()}

    def txn(self, body: Json) -> tuple[bool, list[object]]:
        succeeded = all(self._holds(compare) for compare in body["compare"])
        branch = body["then"] if succeeded else body["else"]
        return succeeded, [self._operation(operation) for operation in branch]

    def _holds(self, compare: Json) -> bool:
        """Compares see the state before the whole transaction."""
        if "prefix" in compare or "end" in compare:
            records: list[KeyRecord | None] = [self._before[key] for key in _within(compare, self._before)]
        else:
            records = [self._before.get(compare["key"].encode())]
        return all(_compared(record, compare) for record in records or [None])

    def _operation(self, operation: Json) -> object:
        kind = operation["op"]
        if kind == "txn":
            return self.txn(operation)
        if kind in {"range", "delete_range"}:
            found = _within(operation, self._values)
            if kind == "range":
                return sorted(found)
            self._delete(found)
            return len(found)
        key = operation["key"].encode()
        old = self._values.get(key)
        match kind:
            case "get":
                return None if old is None else old.decode()
            case "delete":
                self._delete([key] if old is not None else [])
                return int(old is not None)
            case "increment":
                number = int(old or b"0") + 1
                self._put(key, b"%d" % number)
                return number
            case _:
                self._put(key, operation["value"].encode())
                return old is None

    def _put(self, key: bytes, value: bytes) -> None:
        self._values[key] = value
        self.changed.add(key)

    def _delete(self, keys: list[bytes]) -> None:
        for key in keys:
            del self._values[key]
        self.changed.update(keys)


def _within(bounds: Json, keys: dict[bytes, Any]) -> list[bytes]:
    """The keys in the range of a compare or an operation."""
    if "prefix" in bounds:
        return [key for key in keys if key.startswith(bounds["prefix"].encode())]
    start, end = bounds["start" if "start" in bounds else "key"].encode(), bounds["end"].encode()
    return [key for key in keys if start <= key < end]


def _compared(record: KeyRecord | None, compare: Json) -> bool:
    holds = _COMPARISONS[compare["op"]]
    match compare["target"]:
        case "value":
            return record is not None and holds(record.value, compare["value"].encode())
        case "lease":
            return holds(record.lease if record is not None else 0, int(compare["lease"], 16))
        case target:
            return holds(_number(record, target), compare["number"])


def _number(record: KeyRecord | None, target: str) -> int:
    number = getattr(record, target) if record is not None else 0
    assert isinstance(number, int)
    return number


def _told(result: ResultItem) -> object:
    """A result in the form that `_ModelRun` gives."""
    match result.op:
        case "txn":
            assert isinstance(result.results, list)
            return result.succeeded, [_told(one) for one in result.results]
        case "get":
            return result.value if result.found else None
        case "range":
            assert isinstance(result.keys, list)
            return sorted(str(item.key).encode() for item in result.keys)
        case "put":
            return result.created
        case "increment":
            return result.value
        case _:
            return result.deleted
