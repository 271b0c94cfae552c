"""Bugs of watches that the rules of this project name, and what must notice each of them."""

from __future__ import annotations

from dataclasses import replace

from syncline.testing.sim.watcher import TOLD
from tests.mutations import watch_bugs
from tests.mutations.catalogue import Mutation, simulator_hunt, test_hunt

__all__ = ["WATCHES"]

WATCHES: tuple[Mutation, ...] = (
    Mutation(
        "an event missed on reconnect",
        "kazoo #151, #298",
        watch_bugs.missed_event_on_reconnect,
        (
            test_hunt(
                "unit.test_watch_hub",
                "test_watch_that_resumes_misses_nothing_and_is_told_nothing_twice",
                "none is missed, and none comes twice",
                behind=1,
            ),
            simulator_hunt(TOLD, "watches"),
        ),
    ),
    Mutation(
        "a client resumes one revision too late",
        "planted",
        watch_bugs.client_resumes_one_revision_late,
        (
            test_hunt(
                "unit.test_client_watch",
                "test_client_watch_resumes_where_it_was_after_a_lost_connection",
                "it asks for what follows",
                pieces=1,
            ),
        ),
    ),
    Mutation(
        "an event twice after a snapshot install",
        "planted",
        watch_bugs.event_twice_after_a_snapshot_install,
        (
            test_hunt("unit.test_watch_hub", "test_watch_goes_on_after_an_installed_snapshot", "each revision once"),
            replace(simulator_hunt(TOLD, "watches", "kill", "snapshot", "cut"), slow=True),
        ),
    ),
    Mutation(
        "a watch from the future told of the past",
        "etcd #15220 and others",
        watch_bugs.future_watch_told_of_the_past,
        (
            test_hunt(
                "unit.test_watch_hub",
                "test_watch_from_the_future_is_told_of_nothing_before",
                "nothing before its first revision",
            ),
            replace(simulator_hunt(TOLD, "watches"), slow=True),
        ),
    ),
)
