"""Leases in the machine: grants, keys, ends, the fence by term, and leases of one key."""

from __future__ import annotations

import pytest

from syncline.errors import Rejected
from syncline.kv.commands import (
    Command,
    Delete,
    DeleteRange,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    Put,
    Touch,
    Txn,
    encode_command,
)
from syncline.kv.leases import ATTACHED_KEY_BYTES, LEASE_OVERHEAD_BYTES, LeaseBook, LeaseEvent
from syncline.kv.limits import MAX_LEASE_KEYS, MAX_LEASES, MAX_TTL_MS
from syncline.kv.machine import KvMachine
from syncline.kv.records import (
    LeaseAnswer,
    LeaseCheckpointAnswer,
    LeaseEndAnswer,
    LeaseRecord,
    PutAnswer,
    TouchAnswer,
)
from syncline.node.fsm import Entry
from tests.helpers.kv_commands import entries, persisted


def apply(machine: KvMachine, command: Command, term: int = 1) -> object:
    return machine.apply(Entry(1, term, encode_command(command)))


def machine_of(*commands: Command) -> KvMachine:
    machine = KvMachine()
    for entry in entries(commands):
        machine.apply(entry)
    return machine


def refusal(machine: KvMachine, command: Command, term: int = 1) -> Rejected:
    """The refusal of a command, which has changed nothing."""
    before = persisted(machine)
    with pytest.raises(Rejected) as raised:
        apply(machine, command, term)
    assert persisted(machine) == before
    return raised.value


def test_lease_grant_takes_the_id_that_the_caller_chose() -> None:
    machine = KvMachine()
    assert apply(machine, LeaseGrant(7, MAX_TTL_MS)) == LeaseAnswer(7, MAX_TTL_MS)
    assert machine.store.leases.get(7) == LeaseRecord(7, MAX_TTL_MS, MAX_TTL_MS, own=False, renewed=1)
    assert machine.store.revision == 0
    refused = refusal(machine, LeaseGrant(7, 1000))
    assert (refused.code, refused.details) == ("lease_exists", {"lease": f"{7:016x}"})


def test_lease_grant_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.leases.MAX_LEASES", 2)
    machine = machine_of(Put(b"plain", b""), LeaseGrant(1, 10), Put(b"k", b"v", 2, ttl_ms=10))
    for command in (
        LeaseGrant(3, 10),
        Put(b"j", b"v", 3, ttl_ms=10),
        Txn(then=(Put(b"j", b"v", 3, ttl_ms=10),)),
        Touch(b"plain", 10, 3),
    ):
        assert refusal(machine, command).code == "limit"
    assert MAX_LEASES == 100_000
    # A key that has a lease of its own can get another one: there are no more than before.
    assert apply(machine, Put(b"k", b"w", 3, ttl_ms=10)) == PutAnswer(3, False, 2, lease=3)
    assert apply(machine, Txn(then=(Put(b"k", b"w", 4, ttl_ms=10),)))
    assert [record.id for record in machine.store.leases.records()] == [1, 4]


def test_lease_limit_counts_all_grants_of_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.leases.MAX_LEASES", 2)
    puts = [Put(b"%d" % lease, b"", lease, ttl_ms=10) for lease in (1, 2, 3)]
    assert refusal(KvMachine(), Txn(then=tuple(puts))).code == "limit"
    assert apply(KvMachine(), Txn(then=tuple(puts[:2])))


def test_lease_end_deletes_its_keys_in_one_revision() -> None:
    machine = machine_of(
        LeaseGrant(1, 10), Put(b"b", b"", 1), Put(b"a", b"", 1), Put(b"c", b""), LeaseGrant(2, 10), Put(b"d", b"", 2)
    )
    assert apply(machine, LeaseEnd((1, 9, 2), 1)) == LeaseEndAnswer(2, 3, 6)
    changes = list(machine.store.changes(5))
    assert [(revision, [change.record.key for change in group]) for revision, group in changes] == [
        (5, [b"a", b"b"]),
        (6, [b"d"]),
    ]
    assert all(change.record.version == 0 for _, group in changes for change in group)
    assert len(machine.store.leases) == 0
    machine.store.check()


def test_lease_keys_are_deleted_in_their_order_on_every_node() -> None:
    """A node that loaded a snapshot has attached the keys in another order."""
    keys = [b"%02d" % number for number in range(60)]
    machine = machine_of(LeaseGrant(1, 10), *[Put(key, b"", 1) for key in reversed(keys)], LeaseRevoke(1))
    [(_, changes)] = machine.store.changes(61)
    assert [change.record.key for change in changes] == keys


def test_lease_end_without_keys_takes_no_revision() -> None:
    machine = machine_of(Put(b"k", b""), LeaseGrant(1, 10), LeaseGrant(2, 10))
    assert apply(machine, LeaseRevoke(1)) == LeaseEndAnswer(1, 0, 1)
    assert apply(machine, LeaseEnd((2, 2), 1)) == LeaseEndAnswer(1, 0, 1)
    assert refusal(machine, LeaseRevoke(1)).code == "lease_not_found"


@pytest.mark.parametrize("command", [LeaseEnd((1,), 3), LeaseCheckpoint(((1, 4),), 3)], ids=["end", "checkpoint"])
@pytest.mark.parametrize("term", [2, 4])
def test_lease_decision_in_another_term_is_refused(command: Command, term: int) -> None:
    """Otherwise the decision of a deposed leader would end a lease that the next leader has renewed."""
    machine = machine_of(LeaseGrant(1, 10), Put(b"k", b"", 1))
    refused = refusal(machine, command, term)
    assert (refused.code, refused.details) == ("superseded", {"decided": 3, "term": term})
    apply(machine, command, 3)


def test_lease_end_passes_over_a_lease_that_was_touched_since() -> None:
    """The touch stands before the end in the log, and its caller was told that the key has its full time again."""
    machine = machine_of(Put(b"k", b"", 1, ttl_ms=10), LeaseGrant(2, 10), Touch(b"k", 10, 9))
    assert apply(machine, LeaseEnd((1, 2), 1, (1, 2))) == LeaseEndAnswer(1, 0, 1)
    assert apply(machine, LeaseEnd((1,), 1, (3,))) == LeaseEndAnswer(1, 1, 2)


def test_lease_decisions_pass_over_another_lease_with_the_same_id() -> None:
    """It was revoked and granted again, while the leader's decision about the first one was on its way."""
    machine = machine_of(LeaseGrant(1, 10), LeaseRevoke(1), LeaseGrant(1, 10))
    assert apply(machine, LeaseEnd((1,), 1, (1,))) == LeaseEndAnswer(0, 0, 0)
    assert apply(machine, LeaseCheckpoint(((1, 4),), 1, (1,))) == LeaseCheckpointAnswer(0)
    assert machine.store.leases.get(1) == LeaseRecord(1, 10, 10, renewed=3)
    assert apply(machine, LeaseCheckpoint(((1, 4),), 1, (3,))) == LeaseCheckpointAnswer(1)
    assert apply(machine, LeaseEnd((1,), 1, (3,))) == LeaseEndAnswer(1, 0, 0)


@pytest.mark.parametrize("renewed", [(1,), (0, 0, 0)])
def test_lease_end_with_another_number_of_renewals_is_a_bad_command(renewed: tuple[int, ...]) -> None:
    with pytest.raises(Rejected, match="renewals of 2 leases") as caught:
        encode_command(LeaseEnd((1, 2), 1, renewed))
    assert caught.value.code == "bad_command"


def test_lease_end_stops_before_it_deletes_too_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.lease_commands.MAX_DELETED_KEYS", 3)
    machine = machine_of(
        *[LeaseGrant(lease, 10) for lease in (1, 2, 3)],
        *[Put(b"%d %d" % (lease, number), b"", lease) for lease in (1, 2, 3) for number in range(2)],
    )
    assert apply(machine, LeaseEnd((1, 2, 3), 1)) == LeaseEndAnswer(1, 2, 7)
    assert [record.id for record in machine.store.leases.records()] == [2, 3]
    assert apply(machine, LeaseEnd((2, 3), 1)) == LeaseEndAnswer(1, 2, 8)


def test_lease_end_goes_through_if_one_lease_alone_has_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.lease_commands.MAX_DELETED_KEYS", 3)
    machine = machine_of(LeaseGrant(1, 10), *[Put(b"%d" % number, b"", 1) for number in range(5)])
    assert apply(machine, LeaseEnd((1,), 1)) == LeaseEndAnswer(1, 5, 6)


def test_lease_with_all_its_keys_takes_no_further_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.leases.MAX_LEASE_KEYS", 2)
    machine = machine_of(LeaseGrant(1, 10), Put(b"a", b"", 1), Put(b"b", b""))
    over = Txn(then=(Put(b"x", b""), Put(b"b", b"", 1), Put(b"c", b"", 1)))
    refused = refusal(machine, over)
    assert (refused.code, refused.details) == ("lease_full", {"lease": f"{1:016x}", "limit": 2})
    assert apply(machine, Txn(then=(Put(b"a", b"again", 1), Put(b"b", b"", 1))))
    assert refusal(machine, Put(b"c", b"", 1)).code == "lease_full"
    assert apply(machine, Put(b"a", b"and again", 1)) == PutAnswer(4, False, 3)
    assert MAX_LEASE_KEYS == 10_000


def test_own_lease_ends_with_its_key() -> None:
    granted = Put(b"k", b"v", 5, ttl_ms=10)
    endings: list[tuple[Command, ...]] = [
        (Delete(b"k"),),
        (DeleteRange(b"", None),),
        (Put(b"k", b"without"),),
        (Put(b"k", b"another", 6, ttl_ms=20),),
        (LeaseGrant(7, 10), Put(b"k", b"shared", 7)),
        (Txn(then=(Delete(b"k"),)),),
        (LeaseRevoke(5),),
        (LeaseEnd((5,), 1),),
        (OperationBatch((Put(b"k", b"without"),)),),
    ]
    for commands in endings:
        machine = machine_of(granted, *commands)
        assert machine.store.leases.get(5) is None, commands
        record = machine.store.get(b"k")
        assert (record.lease if record else 0) != 5
        machine.store.check()


def test_own_lease_stays_with_a_write_that_keeps_it() -> None:
    machine = machine_of(Put(b"k", b"1", 5, ttl_ms=10), Increment(b"k"), Put(b"k", b"3", 5))
    assert machine.store.leases.keys(5) == [b"k"]
    refused = refusal(machine, Put(b"other", b"", 5))
    assert (refused.code, refused.details) == ("lease_full", {"lease": f"{5:016x}", "limit": 1})


def test_own_lease_with_an_id_that_exists_is_refused() -> None:
    machine = machine_of(Put(b"k", b"1", 5, ttl_ms=10), LeaseGrant(6, 10))
    for command in (Put(b"j", b"", 5, ttl_ms=10), Put(b"k", b"", 5, ttl_ms=10), Put(b"k", b"", 6, ttl_ms=10)):
        assert refusal(machine, command).code == "lease_exists"
    twice = Txn(then=(Put(b"x", b"", 8, ttl_ms=10), Put(b"y", b"", 8, ttl_ms=10)))
    assert refusal(machine, twice).code == "lease_exists"


def test_touch_renews_an_own_lease_without_a_revision() -> None:
    machine = machine_of(Put(b"k", b"v", 5, ttl_ms=10), LeaseCheckpoint(((5, 4),), 1))
    assert machine.store.leases.get(5) == LeaseRecord(5, 10, 4, own=True, renewed=1)
    assert machine.apply(Entry(8, 1, encode_command(Touch(b"k", 30, 9)))) == TouchAnswer(1, 5)
    assert machine.store.leases.get(5) == LeaseRecord(5, 30, 30, own=True, renewed=8)
    machine.store.check()


def test_touch_gives_a_key_a_lease_of_its_own() -> None:
    machine = machine_of(LeaseGrant(1, 10), Put(b"k", b"v", 1), Put(b"j", b"v"))
    assert apply(machine, Touch(b"k", 30, 9)) == TouchAnswer(3, 9)
    assert apply(machine, Touch(b"j", 30, 8)) == TouchAnswer(4, 8)
    record = machine.store.get(b"k")
    assert record is not None
    assert (record.value, record.lease, record.version) == (b"v", 9, 2)
    assert machine.store.leases.keys(1) == []
    assert refusal(machine, Touch(b"missing", 30, 7)).code == "not_found"
    machine = machine_of(LeaseGrant(1, 10), Put(b"k", b"v"))
    assert refusal(machine, Touch(b"k", 30, 1)).code == "lease_exists"


def test_checkpoint_records_the_rest_and_starts_a_full_lease_again() -> None:
    machine = machine_of(LeaseGrant(1, 10), LeaseGrant(2, 10))
    rests = encode_command(LeaseCheckpoint(((1, 3), (9, 3), (2, 99)), 1))
    assert machine.apply(Entry(9, 1, rests)) == LeaseCheckpointAnswer(2)
    assert list(machine.store.leases.records()) == [LeaseRecord(1, 10, 3, renewed=1), LeaseRecord(2, 10, 10, renewed=9)]
    apply(machine, LeaseCheckpoint(((1, 10),), 1))
    assert machine.store.leases.get(1) == LeaseRecord(1, 10, 10, renewed=1)


def test_lease_observer_is_told_of_each_event() -> None:
    machine, told = KvMachine(), list[tuple[LeaseEvent, LeaseRecord]]()
    machine.store.leases.observe(lambda event, record: told.append((event, record)))
    for entry in entries(
        [
            Put(b"k", b"", 5, ttl_ms=10),
            Touch(b"k", 20, 6),
            LeaseCheckpoint(((5, 7),), 1),
            LeaseCheckpoint(((5, 20),), 1),
            Put(b"k", b""),
            LeaseGrant(1, 10),
            LeaseRevoke(1),
        ]
    ):
        machine.apply(entry)
    assert told == [
        (LeaseEvent.GRANTED, LeaseRecord(5, 10, 10, True, 1)),
        (LeaseEvent.RENEWED, LeaseRecord(5, 20, 20, True, 2)),
        (LeaseEvent.CHECKPOINTED, LeaseRecord(5, 20, 7, True, 2)),
        (LeaseEvent.RENEWED, LeaseRecord(5, 20, 20, True, 4)),
        (LeaseEvent.ENDED, LeaseRecord(5, 20, 20, True, 4)),
        (LeaseEvent.GRANTED, LeaseRecord(1, 10, 10, renewed=6)),
        (LeaseEvent.ENDED, LeaseRecord(1, 10, 10, renewed=6)),
    ]


def test_leases_count_for_the_size_and_the_digest() -> None:
    machine = machine_of(Put(b"k", b"v"))
    size, digest = machine.size_bytes, machine.digest()
    apply(machine, LeaseGrant(1, 10))
    assert machine.size_bytes == size + LEASE_OVERHEAD_BYTES
    granted = machine.digest()
    apply(machine, LeaseCheckpoint(((1, 5),), 1))
    assert len({digest, granted, machine.digest()}) == 3
    apply(machine, Put(b"k", b"v", 1))
    assert machine.size_bytes == size + LEASE_OVERHEAD_BYTES + ATTACHED_KEY_BYTES


@pytest.mark.parametrize(
    "records",
    [
        [LeaseRecord(0, 10, 10)],
        [LeaseRecord(2**63, 10, 10)],
        [LeaseRecord(1, MAX_TTL_MS + 1, 1)],
        [LeaseRecord(1, 10, 11)],
        [LeaseRecord(1, 10, 0)],
        [LeaseRecord(1, 10, 10, False, -1)],
        [LeaseRecord(1, 10, 10), LeaseRecord(1, 10, 10)],
    ],
)
def test_lease_that_can_not_be_is_not_loaded(records: list[LeaseRecord]) -> None:
    with pytest.raises(ValueError, match="lease"):
        LeaseBook().load(records)


def test_lease_keys_that_can_not_be_are_not_loaded() -> None:
    book = LeaseBook()
    book.load([LeaseRecord(1, 10, 10, own=True), LeaseRecord(2, 10, 10)])
    with pytest.raises(ValueError, match="belongs to one key"):
        book.check_loaded()
    book.load_key(1, b"k")
    book.check_loaded()
    for lease in (1, 3):
        with pytest.raises(ValueError, match="unknown or full"):
            book.load_key(lease, b"j")
    book.load_key(2, b"j")
    book.check()
