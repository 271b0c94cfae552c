"""The engine of etcd on Syncline's own etcd face: each proves the other."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from syncline.testing.process_cluster import ProcessCluster
from tests.compat.engines.sites import ServerSite, engine_site
from tests.helpers import engine_checks, engine_machine_checks
from tests.helpers.engine_checks import EVERY, LogCheck

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.timeout(180), pytest.mark.deadline(120.0)]

CHECKS: list[LogCheck] = [
    *EVERY,
    engine_checks.lost_answers_repeat_nothing,
    engine_checks.session_survives_lost_answers,
    engine_checks.history_with_faults_is_linearizable,
    engine_checks.snapshot_replaces_the_log,
    engine_checks.trim_of_nothing_removes_nothing,
    engine_checks.late_attempt_after_the_trim_has_no_effect,
    engine_checks.slow_node_loads_the_snapshot,
    engine_checks.fenced_command_is_refused_after_the_leadership,
    engine_checks.cut_off_node_says_what_is_known,
    engine_checks.restarted_backend_loses_and_repeats_nothing,
    engine_checks.broken_machine_stops_the_node,
    engine_checks.record_at_the_limit_is_taken,
    engine_checks.snapshots_are_taken_by_themselves,
    engine_machine_checks.log_of_another_machine_is_refused,
    engine_machine_checks.empty_log_is_of_the_first_machine,
]
"""All that need no backup: ours is restored in a way of its own (docs/recovery.md)."""


class Leader:
    """The backend that is restarted: the leader of the cluster."""

    def __init__(self, cluster: ProcessCluster) -> None:
        self._cluster = cluster
        self._killed = 0

    def stop(self) -> None:
        self._killed = self._cluster.leader()
        self._cluster.kill(self._killed)

    def start(self) -> None:
        self._cluster.restart(self._killed)

    def save(self) -> None:
        raise AssertionError("not here")

    def restore(self) -> None:
        raise AssertionError("not here")

    def forget_machine(self, log: str) -> None:
        raise AssertionError("not here")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_engine_etcd_conforms_on_our_face(check: LogCheck, syncline_cluster: ProcessCluster) -> None:
    hosts = ",".join(urlsplit(url).netloc for url in syncline_cluster.endpoints)
    url = f"etcd://{hosts}/{check.__name__}"
    async with engine_site(ServerSite(url, Leader(syncline_cluster))) as site:
        await check(site)
