"""Commands on leases: grant, revoke, end, record what is left.

The end of a lease deletes its keys in one revision, in the order of the keys. Leases that end because their time is
over, and what is left of their time, are decided by a leader's clock: such a command names that leader's term, and is
refused in an entry of any other (a deposed leader's decision must not be carried into the next term).
"""

from __future__ import annotations

from syncline.errors import Rejected
from syncline.kv.commands import LeaseCheckpoint, LeaseEnd, LeaseGrant, LeaseRevoke
from syncline.kv.leases import LeaseBook
from syncline.kv.limits import MAX_DELETED_KEYS
from syncline.kv.records import LeaseAnswer, LeaseCheckpointAnswer, LeaseEndAnswer
from syncline.kv.store import KeyStore

__all__ = ["apply_checkpoint", "apply_end", "apply_grant", "apply_revoke", "check_term"]


def check_term(decided: int, term: int) -> None:
    """Raise `Rejected` (`superseded`) for a leader's decision of another term than its log entry's."""
    if decided != term:
        raise Rejected(
            f"a leader decided this in term {decided}, and its log entry is of term {term}: it has no effect",
            code="superseded",
            details={"decided": decided, "term": term},
        )


def apply_grant(store: KeyStore, command: LeaseGrant) -> LeaseAnswer:
    """Grant a lease. Raises `Rejected`: `lease_exists`, `limit`."""
    store.leases.check_grant(command.lease)
    record = store.leases.grant(command.lease, command.ttl_ms)
    return LeaseAnswer(record.id, record.ttl_ms)


def apply_revoke(store: KeyStore, command: LeaseRevoke) -> LeaseEndAnswer:
    """End one lease. Raises `Rejected` (`lease_not_found`)."""
    store.leases.find(command.lease)
    deleted = _end(store, command.lease)
    return LeaseEndAnswer(1, deleted, store.revision)


def apply_end(store: KeyStore, command: LeaseEnd, term: int) -> LeaseEndAnswer:
    """End leases whose time is over. Raises `Rejected` (`superseded`).

    If their keys are more than one command may delete, it stops before the lease that would exceed the limit: the
    leader proposes the rest again.
    """
    check_term(command.term, term)
    leases = store.leases
    ended = deleted = 0
    for place, lease in enumerate(command.leases):
        if not _is_as_decided(leases, lease, command.renewed, place):
            continue
        if deleted and deleted + leases.key_count(lease) > MAX_DELETED_KEYS:
            break
        deleted += _end(store, lease)
        ended += 1
    return LeaseEndAnswer(ended, deleted, store.revision)


def apply_checkpoint(store: KeyStore, command: LeaseCheckpoint, term: int) -> LeaseCheckpointAnswer:
    """Record what is left of leases' time. Raises `Rejected` (`superseded`)."""
    check_term(command.term, term)
    leases = store.leases
    recorded = 0
    for place, (lease, rest_ms) in enumerate(command.rests):
        if _is_as_decided(leases, lease, command.renewed, place):
            leases.checkpoint(lease, rest_ms)
            recorded += 1
    return LeaseCheckpointAnswer(recorded)


def _is_as_decided(leases: LeaseBook, lease: int, renewed: tuple[int, ...], place: int) -> bool:
    """Whether the lease still exists, and has not got its full time since the leader decided."""
    record = leases.get(lease)
    return record is not None and (not renewed or record.renewed == renewed[place])


def _end(store: KeyStore, lease: int) -> int:
    """Delete the keys of a lease in one revision, and the lease; return how many keys it had."""
    leases = store.leases
    keys = leases.keys(lease)
    revision = store.revision + 1
    for key in keys:
        store.delete(key, revision)
    if lease in leases:  # a lease of one key has gone with it
        leases.end(lease)
    return len(keys)
