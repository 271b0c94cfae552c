"""Leases on simulated clusters: they end in time and not before, whatever happens to the leader."""

from __future__ import annotations

import asyncio

import pytest

from syncline.errors import OperationError, Outcome
from syncline.kv.commands import LeaseRevoke, Touch
from syncline.kv.lease_calls import LeaseTime
from tests.helpers.lease_trial import LeaseTrial, lease_trial

LEASE = 0xA1
KEY = b"key"
LATE_S = 1.0
"""How much later than its time a lease may end on a cluster that works."""

CHECKPOINT_S = 5.0
"""The default of `SimCluster`."""


def check_end(ended_s: float, first_s: float, last_s: float) -> None:
    assert first_s <= ended_s <= last_s, f"ended at {ended_s:.2f} s, not from {first_s:.2f} to {last_s:.2f} s"


def test_lease_ends_at_its_time_and_its_keys_with_it() -> None:
    async def scenario(at: LeaseTrial) -> None:
        granted_s = await at.grant(LEASE, 3.0, KEY)
        revision = at.store(await at.leader()).revision
        ended_s = await at.ends_s(LEASE)
        check_end(ended_s, granted_s + 3.0, granted_s + 3.0 + LATE_S)
        await asyncio.sleep(1.0)
        for server in at.cluster.running:
            store = at.store(server)
            assert store.get(KEY) is None
            assert store.revision == revision + 1

    lease_trial(scenario)


def test_lease_that_is_kept_alive_on_any_node_does_not_end() -> None:
    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 3.0, KEY)
        for turn in range(9):
            server = at.cluster.running[turn % 3]
            assert await at.keep_alive(server, LEASE, 0xB2) == [LeaseTime(3000, 3000), LeaseTime(0, 0)]
            kept_s = at.now_s
            await asyncio.sleep(2.0)
            assert at.store(server).get(KEY) is not None, "ended too early"
        check_end(await at.ends_s(LEASE), kept_s + 2.9, kept_s + 3.0 + LATE_S)

    lease_trial(scenario)


def test_keep_alives_need_no_entry_of_the_log() -> None:
    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 4.0)
        raft = (await at.leader()).raft
        assert raft is not None
        await asyncio.sleep(1.0)
        last = raft.stats().last_index
        for server in at.cluster.running * 3:
            assert (await at.keep_alive(server, LEASE))[0].ttl_ms == 4000
            await asyncio.sleep(1.0)
        assert raft.stats().last_index == last

    lease_trial(scenario)


def test_time_left_is_that_of_the_leader_on_each_node() -> None:
    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 20.0)
        await asyncio.sleep(3.0)
        for server in at.cluster.running:
            known, unknown = await at.times_left(server, LEASE, 0xB2)
            assert known.ttl_ms == 20_000
            assert 16_000 < known.rest_ms <= 17_000
            assert unknown == LeaseTime(0, 0)

    lease_trial(scenario)


def test_leader_that_is_cut_off_answers_no_keep_alive() -> None:
    """It would promise time that the next leader does not know of."""

    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 3.0, KEY)
        leader = await at.leader()
        at.isolate(leader)
        assert leader.is_leader
        with pytest.raises(OperationError):
            await at.keep_alive(leader, LEASE, timeout_s=2.0)
        await at.next_leader(leader)
        at.cluster.heal()
        assert (await at.keep_alive(leader, LEASE))[0].ttl_ms == 3000, "it is asked for again by the node itself"

    lease_trial(scenario)


def test_keep_alive_goes_on_at_the_next_leader() -> None:
    """The node asks again until the deadline: a keep-alive can be made twice."""

    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 5.0, KEY)
        follower = await at.follower()
        raft = follower.raft
        assert raft is not None
        (await at.leader()).crash()
        assert (await at.keep_alive(follower, LEASE))[0].ttl_ms == 5000

    lease_trial(scenario)


@pytest.mark.parametrize("age_s", [2.5, 3.8])
def test_new_leader_gives_each_lease_its_full_time(age_s: float) -> None:
    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 4.0, KEY)
        await asyncio.sleep(age_s)
        leader = await at.leader()
        leader.crash()
        crashed_s = at.now_s
        await at.next_leader(leader)
        ended_s = await at.ends_s(LEASE)
        check_end(ended_s, crashed_s + 4.0, crashed_s + 4.0 + 3.0 + LATE_S)

    lease_trial(scenario)


def test_remaining_time_survives_a_change_of_leader() -> None:
    """Else a lease of an hour never ends on a cluster that elects a leader every half an hour."""

    async def scenario(at: LeaseTrial) -> None:
        granted_s = await at.grant(LEASE, 20.0, KEY)
        for _ in range(3):
            await asyncio.sleep(CHECKPOINT_S + 0.5)
            leader = await at.leader()
            leader.crash()
            await at.next_leader(leader)
            leader.start()
        ended_s = await at.ends_s(LEASE)
        # Each change gives back what was not recorded, and the time without a leader.
        check_end(ended_s, granted_s + 20.0, granted_s + 20.0 + 3 * (0.5 + 3.0) + LATE_S)

    lease_trial(scenario)


def test_remaining_time_survives_a_restart_of_all_nodes() -> None:
    async def scenario(at: LeaseTrial) -> None:
        granted_s = await at.grant(LEASE, 20.0, KEY)
        await asyncio.sleep(2 * CHECKPOINT_S + 1.0)
        servers = list(at.cluster.running)
        for server in servers:
            server.crash()
        await asyncio.sleep(30.0)
        started_s = at.now_s
        for server in servers:
            server.start()
        await at.leader()
        ended_s = await at.ends_s(LEASE)
        rest_s = 20.0 - 2 * CHECKPOINT_S
        check_end(ended_s, started_s + rest_s, started_s + rest_s + 3.0 + LATE_S)
        assert ended_s > granted_s + 20.0

    lease_trial(scenario)


def test_keep_alive_after_a_checkpoint_holds_at_the_next_leader() -> None:
    """The log has recorded less than what the keep-alive promises: it must have the full time before the answer."""

    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 12.0, KEY)
        await asyncio.sleep(2 * CHECKPOINT_S + 0.5)
        leader = await at.leader()
        assert at.store(leader).leases.find(LEASE).rest_ms < 3000
        asked_s = at.now_s
        assert (await at.keep_alive(leader, LEASE))[0].ttl_ms == 12_000
        leader.crash()
        await at.next_leader(leader)
        check_end(await at.ends_s(LEASE), asked_s + 12.0, asked_s + 12.0 + 3.0 + LATE_S)

    lease_trial(scenario)


def test_end_that_a_deposed_leader_decided_has_no_effect() -> None:
    """It sleeps through the change of leader, wakes when the lease is over by its own clock, and decides its end."""

    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 3.0, KEY)
        leader = await at.leader()
        leader.pause()
        new = await at.next_leader(leader)
        for _ in range(3):
            assert (await at.keep_alive(new, LEASE))[0].ttl_ms == 3000
            await asyncio.sleep(1.5)
        assert (await at.keep_alive(new, LEASE))[0].ttl_ms == 3000
        leader.resume()
        await asyncio.sleep(1.5)
        for server in at.cluster.running:
            assert at.store(server).get(KEY) is not None, "ended too early"
        assert (await at.keep_alive(leader, LEASE))[0].ttl_ms == 3000

    lease_trial(scenario)


def test_end_in_the_log_of_a_leader_that_is_cut_off_has_no_effect() -> None:
    """Its entry is replaced; and its decision is not proposed again in the next term."""

    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 2.0, KEY)
        await asyncio.sleep(1.8)
        leader = await at.leader()
        at.isolate(leader)
        await asyncio.sleep(0.4)  # it has not stepped down yet, and decides
        new = await at.next_leader(leader)
        assert (await at.keep_alive(new, LEASE))[0].ttl_ms == 2000
        at.cluster.heal()
        for _ in range(4):
            assert (await at.keep_alive(new, LEASE))[0].ttl_ms == 2000, "ended too early"
            await asyncio.sleep(1.0)
        for server in at.cluster.running:
            assert at.store(server).get(KEY) is not None, "ended too early"

    lease_trial(scenario)


def test_leases_that_end_together_go_at_a_bounded_rate() -> None:
    async def scenario(at: LeaseTrial) -> None:
        leases = range(1, 1501)
        raft = (await at.leader()).raft
        assert raft is not None
        await at.grant_many(leases, 3.0)
        await at.ends_s(1)
        began_s = at.now_s
        await at.cluster.until(lambda: all(not len(at.store(one).leases) for one in at.cluster.running), timeout_s=30.0)
        check_end(at.now_s, began_s + 0.9, began_s + 3.0)

    lease_trial(scenario)


def test_touch_and_revoke_move_the_clock() -> None:
    async def scenario(at: LeaseTrial) -> None:
        await at.put(KEY, ttl_s=3.0, lease=LEASE)
        await asyncio.sleep(2.0)
        before_s = at.now_s
        await at.apply(Touch(KEY, 6000, 0xC3))
        check_end(await at.ends_s(LEASE), before_s + 6.0, before_s + 6.0 + LATE_S)
        await at.grant(LEASE, 100.0, KEY)
        await at.apply(LeaseRevoke(LEASE))
        await asyncio.sleep(1.0)
        assert at.store(await at.leader()).get(KEY) is None
        await at.put(KEY, ttl_s=100.0, lease=LEASE)
        before_s = at.now_s
        await at.apply(Touch(KEY, 2000, 0xC3))
        check_end(await at.ends_s(LEASE), before_s + 2.0, before_s + 2.0 + LATE_S)

    lease_trial(scenario)


def test_keep_alive_without_a_quorum_has_an_unknown_outcome_or_none() -> None:
    async def scenario(at: LeaseTrial) -> None:
        await at.grant(LEASE, 30.0)
        follower = await at.follower()
        for server in list(at.cluster.running):
            if server is not follower:
                server.crash()
        with pytest.raises(OperationError) as caught:
            await at.keep_alive(follower, LEASE, timeout_s=3.0)
        assert caught.value.outcome in (Outcome.UNKNOWN, Outcome.NOT_APPLIED)

    lease_trial(scenario)
