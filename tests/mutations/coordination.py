"""Bugs planted into the words of coordination, and what must notice each of them."""

from __future__ import annotations

from tests.mutations import coordination_bugs as bugs
from tests.mutations.catalogue import Mutation, simulator_hunt, test_hunt

__all__ = ["COORDINATION"]

MODULE = "simulation.test_coordination"
SEED = 5

COORDINATION: tuple[Mutation, ...] = (
    Mutation(
        "lock granted after its lease had expired while queued",
        "etcd, Jepsen 2020",
        bugs.lock_granted_after_its_lease_has_ended,
        (
            test_hunt(
                MODULE,
                "test_lock_waiter_whose_lease_has_ended_never_gets_it",
                "a lock is entered while its lease lasts",
            ),
        ),
    ),
    Mutation(
        "a lock that trusts its watch and does not read",
        "planted",
        bugs.lock_taken_without_reading,
        (
            test_hunt(
                MODULE, "test_lock_is_not_taken_when_another_waiter_leaves", "a lock has no more holders than places"
            ),
            simulator_hunt("a holder that is told nothing has its key|a lock has no more holders", "coordination"),
        ),
    ),
    Mutation(
        "a holder counts its time from the answer",
        "two holders",
        bugs.time_counted_from_the_answer,
        (
            test_hunt(
                MODULE,
                "test_lock_time_is_counted_from_the_request",
                "a holder that is told nothing has its key|a lock has no more holders",
            ),
        ),
    ),
    Mutation(
        "the release of a lost lock deletes the key of the next holder",
        "planted",
        bugs.release_deletes_the_first_key,
        (
            test_hunt(
                MODULE,
                "test_semaphore_has_as_many_holders_as_places",
                "a holder that is told nothing has its key",
                seed=SEED,
            ),
            test_hunt(MODULE, "test_lock_is_lost_to_a_holder_that_is_stopped", "[aA]ssert", suspended=False, seed=SEED),
        ),
    ),
    Mutation(
        "a wait for a lock that is cancelled leaves its key",
        "planted",
        bugs.cancelled_acquire_leaves_its_key,
        (test_hunt(MODULE, "test_lock_wait_that_is_cancelled_leaves_no_key", "the holder's"),),
    ),
    Mutation(
        "a claim that is lost finishes its item",
        "planted",
        bugs.lost_claim_finishes_its_item,
        (
            test_hunt(
                MODULE,
                "test_queue_claim_that_is_lost_finishes_nothing",
                "each item of a queue is finished once",
                seed=SEED,
            ),
        ),
    ),
)
