"""The conformance suite of engines on etcd and PostgreSQL."""

from __future__ import annotations

import pytest

from tests.compat.engines.servers import EtcdServers, PostgresServer
from tests.compat.engines.sites import etcd_site, postgres_site
from tests.helpers.engine_checks import EVERY, ON_LOGS, LogCheck
from tests.helpers.engine_machine_checks import MACHINES
from tests.helpers.engine_replaced_checks import REPLACED

ALL: list[LogCheck] = [*EVERY, *ON_LOGS, *REPLACED, *MACHINES]
NAMES = [check.__name__ for check in ALL]

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.deadline(90.0)]


@pytest.mark.parametrize("check", ALL, ids=NAMES)
async def test_engine_etcd_conforms(check: LogCheck, etcd_alone: EtcdServers) -> None:
    async with etcd_site(etcd_alone, check.__name__[:60]) as site:
        await check(site)


@pytest.mark.parametrize("check", ALL, ids=NAMES)
async def test_engine_postgres_conforms(check: LogCheck, postgres: PostgresServer) -> None:
    async with postgres_site(postgres, check.__name__[:60]) as site:
        await check(site)
