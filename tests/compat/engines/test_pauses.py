"""A leader that is paused for longer than its lease (SIGSTOP): it writes nothing behind its successor."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

import syncline
from syncline.engines import leases
from tests.compat.engines.servers import EtcdServers, PostgresServer
from tests.helpers.node_cluster import Listing

LEASE_S = 2.0
pytestmark = [pytest.mark.timeout(180), pytest.mark.deadline(90.0)]


async def test_engine_etcd_paused_leader_writes_nothing_more(
    etcd_alone: EtcdServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _pause_a_leader(f"etcd://{etcd_alone.hosts}/paused-leader", monkeypatch)


async def test_engine_postgres_paused_leader_writes_nothing_more(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _pause_a_leader(postgres.url("paused-leader"), monkeypatch)


async def _pause_a_leader(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", LEASE_S)
    monkeypatch.setattr(leases, "RENEW_S", LEASE_S / 4)
    machine = Listing()
    program = [sys.executable, "-m", "tests.compat.engines.holder", url, str(LEASE_S)]
    async with syncline.open(url, machine) as node:
        holder = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
        assert holder.stdout is not None
        try:
            acknowledged = [await holder.stdout.readline() for _ in range(3)]
            assert acknowledged == [b"1\n", b"2\n", b"3\n"]
            holder.send_signal(signal.SIGSTOP)
            async with node.leadership(timeout=40) as term:
                await term.apply(b"new 1", timeout=30)
                holder.send_signal(signal.SIGCONT)
                rest = (await asyncio.wait_for(holder.stdout.read(), 60)).splitlines()
                await term.apply(b"new 2", timeout=30)
        finally:
            if holder.returncode is None:
                holder.kill()
            await holder.wait()
        await node.read_index(timeout=30)
    assert rest[-1] in (b"superseded", b"leadership_lost"), rest
    first = machine.items.index(b"new 1")
    assert machine.items[first:] == [b"new 1", b"new 2"]
    assert [b"old %s" % line for line in [b"1", b"2", b"3", *rest[:-1]]] == machine.items[:first][: 3 + len(rest) - 1]
