"""Leases of a store on an engine without a leader: who ends them, when, and what a late node can't undo."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import msgspec
import pytest

from syncline.client import PutOp
from syncline.errors import NodeFailed, NoSpace, Outcome
from syncline.kv import lease_commands, log_lessor
from syncline.kv.auth.commands import AuthSwitch, RoleAdd, UserAdd
from syncline.kv.commands import Command, LeaseEnd, LeaseGrant, encode_command
from syncline.kv.lease_calls import LeaseTime, TimesLeft, decode_times
from syncline.kv.limits import MAX_LEASES_AT_ONCE
from syncline.kv.log_lessor import SPREAD_S
from tests.helpers.auth_commands import VERIFIER
from tests.helpers.engine_stores import EngineStores, lessor_of, run_stores

TTL_S = 4.0
SLACK_S = SPREAD_S + 0.1


def test_lease_ends_on_all_nodes_after_its_time() -> None:
    """One end takes effect, and a store without leases writes nothing."""

    async def scenario(stores: EngineStores) -> None:
        one, two, three = await stores.open_all(3)
        begun_s = stores.now_s()
        lease = (await one.grant_lease(TTL_S)).id
        await two.put("worker", "alive", lease=lease)
        ended_s = await stores.until(lambda: not len(three._machine.store.leases))
        assert begun_s + TTL_S <= ended_s <= begun_s + TTL_S + SLACK_S
        assert three._machine.store.get(b"worker") is None
        await asyncio.sleep(1)
        assert sum(lessor_of(store).counts.ended for store in stores.stores) == 1
        before = stores.commands()
        await asyncio.sleep(100)
        assert stores.commands() == before

    run_stores(scenario)


def test_lease_lives_while_any_node_keeps_it_alive() -> None:
    async def scenario(stores: EngineStores) -> None:
        one, two, _ = await stores.open_all(3)
        lease = (await one.grant_lease(TTL_S)).id
        for _ in range(10):
            await asyncio.sleep(TTL_S * 0.9)
            kept = await two.keep_alive([lease, 0x77])
            assert [found.id for found in kept] == [lease]
        kept_s = stores.now_s()
        left = await one.lease_details(lease)
        assert left.ttl_s == pytest.approx(TTL_S, abs=0.1)
        ended_s = await stores.until(lambda: not len(one._machine.store.leases))
        assert kept_s + TTL_S <= ended_s <= kept_s + TTL_S + SLACK_S
        assert await two.keep_alive([lease]) == []

    run_stores(scenario)


def test_lease_is_not_ended_by_a_node_that_has_not_read_its_keep_alives() -> None:
    """The node counts on, and proposes the end. The log has a keep-alive before it."""

    async def scenario(stores: EngineStores) -> None:
        one, late = await stores.open_all(2)
        lease = (await one.grant_lease(TTL_S)).id
        await late.get("a")  # it knows the lease
        stores.backends[1].held = held = asyncio.Event()
        appends = stores.backends[1].appends
        for _ in range(5):
            await asyncio.sleep(TTL_S / 2)
            await one.keep_alive([lease])
        assert stores.backends[1].appends > appends, "it has proposed the end"
        assert len(one._machine.store.leases) == 1
        held.set()
        await late.get("a")
        assert len(late._machine.store.leases) == 1

    run_stores(scenario)


def test_lease_of_a_node_that_is_cut_off_ends_by_the_others() -> None:
    async def scenario(stores: EngineStores) -> None:
        one, two, _ = await stores.open_all(3)
        granted_s = stores.now_s()
        await one.grant_lease(TTL_S)
        await two.get("a")
        stores.backends[0].cut = True
        ended_s = await stores.until(lambda: not len(two._machine.store.leases))
        assert granted_s + TTL_S <= ended_s <= granted_s + TTL_S + SLACK_S
        stores.backends[0].cut = False

    run_stores(scenario)


def test_lease_ends_after_an_outage_of_the_backend() -> None:
    """Nothing can be proposed meanwhile. It is tried again."""

    async def scenario(stores: EngineStores) -> None:
        (one,) = await stores.open_all(1)
        await one.grant_lease(TTL_S)
        stores.backends[0].cut = True
        await asyncio.sleep(60)
        stores.backends[0].cut = False
        healed_s = stores.now_s()
        ended_s = await stores.until(lambda: not len(one._machine.store.leases))
        assert ended_s <= healed_s + 10

    run_stores(scenario)


def test_lease_that_a_new_node_finds_has_its_full_time() -> None:
    """It knows nothing of the time before its start. An end may be late, and is never early."""

    async def scenario(stores: EngineStores) -> None:
        (one,) = await stores.open_all(1)
        lease = (await one.grant_lease(TTL_S)).id
        await asyncio.sleep(TTL_S / 2)
        stores.backends[0].cut = True  # as a process that was killed
        two = await stores.open()
        opened_s = stores.now_s()
        ended_s = await stores.until(lambda: not len(two._machine.store.leases))
        assert opened_s + TTL_S <= ended_s <= opened_s + TTL_S + SLACK_S
        stores.backends[0].cut = False
        assert await one.keep_alive([lease]) == []

    run_stores(scenario)


def test_long_lease_has_its_rest_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that are started again and again do not make it longer. The shortest rest counts on all of them."""

    async def scenario(stores: EngineStores) -> None:
        monkeypatch.setattr(log_lessor.LogLessor.__init__, "__kwdefaults__", {"checkpoint_s": 10.0})
        first = await stores.open()
        begun_s = stores.now_s()
        await first.grant_lease(100)
        for _ in range(8):
            await asyncio.sleep(11)
            later = await stores.open()
            await stores.stores[-2].close()
        ended_s = await stores.until(lambda: not len(later._machine.store.leases), 200)
        assert begun_s + 100 <= ended_s <= begun_s + 120
        assert sum(lessor_of(store).counts.recorded for store in stores.stores) >= 8

    run_stores(scenario)


def test_long_lease_has_the_shortest_rest_that_any_node_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that has counted for a shorter time takes what another one has recorded."""

    async def scenario(stores: EngineStores) -> None:
        monkeypatch.setattr(log_lessor.LogLessor.__init__, "__kwdefaults__", {"checkpoint_s": 10.0})
        first = await stores.open()
        begun_s = stores.now_s()
        await first.grant_lease(100)
        await asyncio.sleep(8)
        later = await stores.open()
        await asyncio.sleep(4)
        stores.backends[0].cut = True
        ended_s = await stores.until(lambda: not len(later._machine.store.leases), 200)
        assert begun_s + 100 <= ended_s <= begun_s + 100 + 2 * SLACK_S
        stores.backends[0].cut = False

    run_stores(scenario)


def test_long_lease_is_recorded_by_one_node_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(stores: EngineStores) -> None:
        monkeypatch.setattr(log_lessor.LogLessor.__init__, "__kwdefaults__", {"checkpoint_s": 10.0})
        await stores.open_all(4)
        await stores.stores[0].grant_lease(1000)
        before = stores.commands()
        await asyncio.sleep(105)
        assert 10 <= stores.commands() - before <= 10 + 4, "one for each interval; the first ones of each writer"

    run_stores(scenario)


def test_leases_that_end_together_end_within_the_limits_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command ends so many leases, and deletes so many keys. The rest follows."""

    async def scenario(stores: EngineStores) -> None:
        monkeypatch.setattr(lease_commands, "MAX_DELETED_KEYS", 10)
        one, two = await stores.open_all(2)
        for _ in range(7):
            lease = (await one.grant_lease(TTL_S)).id
            await one.batch([PutOp(f"{lease}/{at}".encode(), b"", lease=lease) for at in range(6)])
        many = [encode_command(LeaseGrant(number, int(TTL_S * 1000))) for number in range(1, MAX_LEASES_AT_ONCE + 2)]
        await asyncio.gather(*one.replica.apply_many(many))
        await stores.until(lambda: not len(two._machine.store.leases), 30)
        assert await two.count() == 0

    run_stores(scenario)


def test_lease_ends_while_clients_need_credentials() -> None:
    """A state that came from a cluster with users: what a node decides is no client's command."""

    async def scenario(stores: EngineStores) -> None:
        one, two = await stores.open_all(2)
        users: list[Command] = [RoleAdd("r"), UserAdd("ann", VERIFIER, ("root",)), AuthSwitch(True)]
        for command in users:
            await one.replica.apply(encode_command(command))
        assert one._machine.store.auth.enabled
        lease = (await one.grant_lease(TTL_S)).id
        await asyncio.sleep(TTL_S / 2)
        assert len(await two.keep_alive([lease])) == 1
        await stores.until(lambda: not len(two._machine.store.leases))

    run_stores(scenario)


class _Log:
    """A node that notes what is proposed, and answers with an error."""

    def __init__(self, error: Exception) -> None:
        self.proposed = 0
        self.error = error

    def apply(self, data: bytes, *, timeout: float, frees_space: bool = False) -> Awaitable[object]:
        del data, timeout
        assert frees_space, "an end is no growth"
        self.proposed += 1
        return self._refused()

    async def _refused(self) -> object:
        raise self.error

    async def read_index(self, *, timeout: float) -> object:
        del timeout
        return None


@pytest.mark.parametrize(
    ("error", "tries"),
    [(NoSpace("full", outcome=Outcome.NOT_APPLIED), 10), (NodeFailed("it has stopped itself"), 1)],
    ids=["refused", "stopped"],
)
def test_end_of_a_lease_that_is_refused_is_proposed_again(error: Exception, tries: int) -> None:
    """A second apart, and not by a node that has stopped."""

    async def scenario(stores: EngineStores) -> None:
        (one,) = await stores.open_all(1)
        await one.grant_lease(TTL_S)
        await one._upkeep.close()
        log = _Log(error)
        lessor = log_lessor.LogLessor(log, one._machine, rng=stores.rng)
        lessor.start()
        await asyncio.sleep(TTL_S + 12)
        await lessor.close()
        assert tries <= log.proposed <= tries + 2

    run_stores(scenario)


def test_lease_that_was_revoked_is_not_counted_any_more() -> None:
    async def scenario(stores: EngineStores) -> None:
        one, two = await stores.open_all(2)
        lease = (await one.grant_lease(1000)).id
        await two.revoke_lease(lease)
        await one.get("a")
        assert [len(lessor_of(store)._clock) for store in stores.stores] == [0, 0]

    run_stores(scenario)


def test_lease_clock_of_a_restored_store_is_a_new_one() -> None:
    """A node that was too slow for the log loads a snapshot: from then on its leases have their full time."""

    async def scenario(stores: EngineStores) -> None:
        (one,) = await stores.open_all(1)
        lease = (await one.grant_lease(TTL_S)).id
        await asyncio.sleep(TTL_S / 2)
        machine = one._machine
        machine.store = machine.store.__class__()
        machine.store.leases.grant(int(lease, 16), 8000)
        machine._tell()
        data = msgspec.msgpack.encode(TimesLeft((int(lease, 16), 7)))
        times = decode_times(await lessor_of(one).ask_leader(data, timeout=5.0), 2)
        assert times == (LeaseTime(8000, 8000), LeaseTime(0, 0))

    run_stores(scenario)


def test_end_of_a_lease_names_the_entry_that_renewed_it() -> None:
    """Without that an end could be carried out behind a keep-alive."""

    async def scenario(stores: EngineStores) -> None:
        (one,) = await stores.open_all(1)
        granted = await one.replica.apply(encode_command(LeaseGrant(7, 4000)))
        assert granted is not None
        record = one._machine.store.leases.find(7)
        end = encode_command(LeaseEnd((7,), 0, (record.renewed,)))
        await one.keep_alive([7])
        assert await one.replica.apply(end) is not None
        assert 7 in one._machine.store.leases

    run_stores(scenario)
