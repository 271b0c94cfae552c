"""Locks of stores on etcd and PostgreSQL: processes that hold them are killed (kill -9) and stopped."""

from __future__ import annotations

import pytest

from tests.compat.engines.servers import EtcdServers, PostgresServer
from tests.helpers.store_holders import survive_holders

ROUNDS = [pytest.param(2, id="twice"), pytest.param(20, id="twenty-times", marks=pytest.mark.slow)]
pytestmark = [pytest.mark.parametrize("rounds", ROUNDS), pytest.mark.timeout(580), pytest.mark.deadline(560.0)]


async def test_store_lock_on_etcd_passes_on_when_its_holder_goes(rounds: int, etcd_alone: EtcdServers) -> None:
    await survive_holders([f"etcd://{etcd_alone.hosts}/holders-{rounds}"] * 3, rounds)


async def test_store_lock_on_postgres_passes_on_when_its_holder_goes(rounds: int, postgres: PostgresServer) -> None:
    await survive_holders([postgres.url(f"holders-{rounds}")] * 3, rounds)
