"""Comparison of states on simulated clusters: who differs stops, sound nodes never do, and an alarm ends."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from syncline.consensus.types import ChangeType
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.state_digest import DigestEntry
from syncline.testing.cluster import Settings
from syncline.testing.sim.server import Condition
from syncline.transport.messages import DigestReport, Forward, ForwardedProposal
from tests.helpers.digests import INTERVAL, LoopTally, Tally, Trial, trial

MACHINES = [Tally, LoopTally]


@pytest.mark.parametrize("machine", MACHINES)
def test_digest_of_sound_nodes_agrees_and_is_logged_once(
    machine: type[Tally], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(at: Trial) -> None:
        await at.until_all_agree()
        await at.until_all_agree()
        assert at.alarms() == [False, False, False]
        for server in at.servers():
            assert server.raft is not None
            stats = server.raft.stats()
            assert stats.digest_agreement == "agreed"
            assert stats.digest_index % INTERVAL == 0
            assert stats.digest_age_s is not None
            assert 0 <= stats.digest_age_s < 10
            assert stats.digests_ignored == 0

    with caplog.at_level(logging.INFO, "syncline.node"):
        trial(scenario, machine=machine)
    assert caplog.text.count("has the same state") == 3, "once for each node"


@pytest.mark.parametrize("machine", MACHINES)
def test_digest_stops_a_follower_that_diverges(machine: type[Tally], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        wrong = (await at.followers())[0]
        at.machine(wrong).twist = b"x"
        text = await at.until_failed(wrong)
        assert f"node {wrong.name} ({at.cluster.node_id(wrong):016x}) has stopped" in text
        assert "syncline repair --replace" in text
        assert len(at.cluster.running) == 2
        await at.until_all_agree()
        assert at.alarms() == [False, False]

    trial(scenario, machine=machine)
    assert [record.levelno for record in caplog.records if "has stopped" in record.message] == [logging.CRITICAL]


@pytest.mark.parametrize("machine", MACHINES)
def test_digest_stops_a_leader_that_diverges(machine: type[Tally]) -> None:
    """Its digest alone would stop every sound follower."""

    async def scenario(at: Trial) -> None:
        await at.write()
        wrong = await at.leader()
        at.machine(wrong).twist = b"x"
        assert "differs from that of the majority" in await at.until_failed(wrong)
        assert len(at.cluster.running) == 2
        await at.until_all_agree()

    trial(scenario, machine=machine)


def test_digest_stops_one_of_five_that_diverges_while_one_is_down() -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        wrong, down, *_ = await at.followers()
        down.crash()
        at.machine(wrong).twist = b"x"
        await at.until_failed(wrong)
        await at.until_all_agree()
        assert len(at.cluster.running) == 3

    trial(scenario, nodes=5)


def test_digest_without_a_majority_stops_no_node_and_the_alarm_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        one, other = await at.followers()
        at.machine(one).twist, at.machine(other).twist = b"x", b"y"
        await at.write()
        await at.until(lambda: all(at.alarms()))
        await at.write()  # writes go on
        assert len(at.cluster.running) == 3
        raft = one.raft
        assert raft is not None
        assert "no majority" in raft.state_alarm
        assert raft.stats().digest_agreement == "no_majority"
        for server in (one, other):
            at.machine(server).twist = b""
        leader = await at.leader()
        await at.until(lambda: len({server.driver.applied for server in at.servers() if server.driver}) == 1)
        for server in (one, other):
            at.machine(server).state = at.machine(leader).state
        await at.until_all_agree()
        assert at.alarms() == [False, False, False]

    trial(scenario)
    critical = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(critical) == 3, "once for each node, not for each point"


def test_digest_with_two_against_two_has_no_majority() -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        await at.until_all_agree()  # else one of the two passes a point without the other
        for server in (await at.followers())[:2]:
            at.machine(server).twist = b"x"
        await at.write()
        await at.until(lambda: all(at.alarms()))
        assert len(at.cluster.running) == 4

    trial(scenario, nodes=4)


def test_digest_waits_for_a_third_before_two_that_differ_are_an_alarm() -> None:
    """A member that lags a little decides which of the other two is right."""

    async def scenario(at: Trial) -> None:
        await at.write()
        wrong, late = await at.followers()
        at.cluster.delays[late.name] = lambda _worker, _rng: 0.2
        at.machine(wrong).twist = b"x"
        await at.until_failed(wrong)
        assert at.alarms() == [False, False]

    trial(scenario)


def test_digest_after_a_restart_with_a_sound_replay_goes_on() -> None:
    """The log was right and the memory wrong: a node that has applied it again is not stopped for its old digest."""

    async def scenario(at: Trial) -> None:
        await at.write()
        wrong = (await at.followers())[0]
        machine = at.machine(wrong)
        machine.twist = b"x"
        machine.on_digest = lambda: at.cluster.network.partition([wrong.name])  # it will have passed a point alone
        seen = machine.digests
        await at.write(INTERVAL)
        await at.until(lambda: machine.digests > seen)
        wrong.crash()
        at.cluster.heal()
        wrong.start()
        await at.until(lambda: wrong.running)
        await at.until_all_agree()
        assert len(at.cluster.running) == 3

    trial(scenario)


def test_digest_after_a_restart_on_a_wrong_snapshot_stops_again() -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        wrong = (await at.followers())[0]
        at.machine(wrong).twist = b"x"
        at.cluster.network.partition([wrong.name])
        await at.write(INTERVAL)
        at.machine(wrong).state = b"changed outside the log".ljust(32)
        raft = wrong.raft
        assert raft is not None
        task = await wrong.call(lambda: asyncio.ensure_future(raft.apply(b"", timeout=0.1)))
        await asyncio.wait([task])
        assert task.exception() is not None
        at.cluster.heal()
        await at.until(lambda: wrong.driver is not None and wrong.driver.core.leader != 0)
        at.machine(wrong).twist = b""
        await at.write(2)
        taken = await wrong.call(lambda: asyncio.ensure_future(raft.snapshot()))
        await asyncio.wait([taken])
        assert taken.exception() is None
        await at.until_failed(wrong)
        wrong.start()
        assert "differs" in await at.until_failed(wrong)

    trial(scenario)


def test_digest_after_an_installed_snapshot_agrees_again() -> None:
    """The wrong state is gone with the snapshot, and points are compared on from there."""

    async def scenario(at: Trial) -> None:
        await at.write()
        wrong = (await at.followers())[0]
        at.cluster.partition([wrong.name])
        await asyncio.sleep(30.0)  # until the links are given up: nothing is on its way to it
        at.machine(wrong).state = bytes(32)
        await at.write(10 * INTERVAL)
        at.cluster.heal()
        after = await at.until_all_agree()
        assert at.agreed_since(wrong, after)
        assert wrong.raft is not None
        assert wrong.raft.stats().snapshots_installed == 1

    trial(scenario, settings=Settings(snapshot_entries=20, trailing_entries=2))


def test_digest_stops_a_learner_that_differs_and_learners_do_not_count() -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        learners = []
        for _ in range(3):
            learners.append(server := await at.operator.add())
            node_id = at.cluster.node_id(server)
            await at.until(lambda server=server: server.running)  # type: ignore[misc]
            await at.operator.demote(node_id)
        await at.until_all_agree()
        for server in learners:
            at.machine(server).twist = b"x"
        for server in learners:
            await at.until_failed(server)
        await at.until_all_agree()
        assert len(at.cluster.running) == 3

    trial(scenario)


def test_digest_through_a_joint_change_between_point_and_comparison() -> None:
    """Voters come and go while states are compared: a diverging one is found, and no sound one is stopped."""

    async def scenario(at: Trial) -> None:
        await at.write()
        members = [at.cluster.node_id(server) for server in at.servers()]
        leader = await at.leader()
        gone = [node_id for node_id in members if node_id != at.cluster.node_id(leader)]
        for _ in range(3):
            writing = asyncio.ensure_future(at.write(2 * INTERVAL))
            await at.operator.change([(ChangeType.ADD_LEARNER_NODE, node_id) for node_id in gone[:2]])
            await at.operator.change([(ChangeType.ADD_NODE, node_id) for node_id in gone[:2]])
            await writing
        await at.until_all_agree()
        assert len(at.cluster.running) == 5
        wrong = (await at.followers())[0]
        at.machine(wrong).twist = b"x"
        await at.until_failed(wrong)
        await at.until_all_agree()

    trial(scenario, nodes=5)


def test_digest_of_an_idle_cluster_proposes_nothing() -> None:
    async def scenario(at: Trial) -> None:
        await at.until_all_agree()
        leader = await at.leader()
        assert leader.driver is not None
        await asyncio.sleep(10.0)  # the nodes announce themselves
        links = leader.driver.parts.transport.stats
        before, last_s = leader.driver.core.last_index, leader.driver.digests.status.compared_s
        sent = sum(link.sent_messages for link in links().values())
        await asyncio.sleep(30.0)
        assert leader.driver.core.last_index == before
        assert leader.driver.digests.status.compared_s == last_s
        beats = 2 * 30.0 / at.cluster.settings.heartbeat_s
        assert sum(link.sent_messages for link in links().values()) - sent <= beats + 2

    trial(scenario)


def test_digest_of_a_single_node_proposes_nothing() -> None:
    async def scenario(at: Trial) -> None:
        await at.write(5 * INTERVAL)
        [server] = at.servers()
        assert server.driver is not None
        assert at.digests(server).status.agreement == "none"
        assert server.driver.core.last_index == server.driver.applied < 7 * INTERVAL

    trial(scenario, nodes=1)


@pytest.mark.parametrize("leads", [False, True])
def test_digest_that_raises_disables_the_comparison_of_that_node_alone(leads: bool) -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        faulty = await at.leader() if leads else (await at.followers())[0]
        at.machine(faulty).fault = RuntimeError("no digest")
        await at.write()
        await at.until_all_agree()
        assert len(at.cluster.running) == 3

    trial(scenario)


def test_digest_of_a_new_leader_compares_what_the_old_one_did_not() -> None:
    async def scenario(at: Trial) -> None:
        await at.write()
        for server in await at.followers():
            await at.operator.transfer(at.cluster.node_id(server))
            await at.until_all_agree()

    trial(scenario)


def test_digest_messages_that_make_no_sense_are_counted_and_ignored() -> None:
    async def scenario(at: Trial) -> None:
        await at.until_all_agree()
        leader = await at.leader()
        peer = at.cluster.node_id((await at.followers())[0])
        digests, driver = at.digests(leader), leader.driver
        assert driver is not None
        last = driver.core.last_index
        beyond = (last // INTERVAL + 1) * INTERVAL
        version = digests._version
        forged = [
            (peer, DigestReport(beyond, version, bytes(16))),
            (peer, DigestReport(-INTERVAL, version, bytes(16))),
            (peer, DigestReport(INTERVAL + 1, version, bytes(16))),
            (peer, DigestReport(INTERVAL, version, bytes(15))),
            (peer + 1, DigestReport(INTERVAL, version, bytes(16))),
        ]
        for sender, report in forged:
            await leader.call(lambda sender=sender, report=report: driver.on_messages(sender, [report]))  # type: ignore[misc]
        assert digests.ignored == len(forged)
        await leader.call(lambda: driver.on_messages(peer, [DigestReport(INTERVAL, version + 1, bytes(16))]))
        await at.until_all_agree()
        assert digests.ignored == len(forged)
        assert len(at.cluster.running) == 3

    trial(scenario)


def test_digest_entry_of_a_peer_is_refused_by_the_leader() -> None:
    async def scenario(at: Trial) -> None:
        await at.until_all_agree()
        leader, peer = await at.leader(), (await at.followers())[0]
        driver = leader.driver
        assert driver is not None
        sender = at.cluster.node_id(peer)
        members = [at.cluster.node_id(server) for server in at.servers()]
        lie = DigestEntry(INTERVAL, at.digests(leader)._version, tuple((one, bytes(16)) for one in members))
        data = encode(Proposal(Kind.DIGEST, sender, 7, encode(lie)))
        before = driver.core.last_index
        forged = Forward([ForwardedProposal(7, 0, data)], driver.core.term)
        await leader.call(lambda: driver.on_messages(sender, [forged]))
        await at.until_all_agree()
        entries = driver.parts.log.entries(before + 1, driver.core.last_index + 1, 1 << 20)
        assert data not in [entry.data for entry in entries]
        assert len(at.cluster.running) == 3

    trial(scenario)


def test_digest_entry_that_is_malformed_is_a_counted_no_op() -> None:
    async def scenario(at: Trial) -> None:
        await at.until_all_agree()
        leader = await at.leader()
        driver = leader.driver
        assert driver is not None
        contents = [b"", b"\xc1garbage", encode(DigestEntry(INTERVAL + 1, 1, ())), encode(DigestEntry(2**40, 1, ()))]
        for content in contents:
            payload = encode(Proposal(Kind.DIGEST, at.cluster.node_id(leader), 0, content))
            await leader.call(lambda payload=payload: driver.core.propose_batch([payload]))  # type: ignore[misc]
        await at.until_all_agree()
        assert [at.digests(server).ignored for server in at.servers()] == [len(contents)] * 3
        assert all(server.condition is Condition.RUNNING for server in at.servers())

    trial(scenario)


def test_digest_of_the_registry_stops_a_node_whose_registry_differs() -> None:
    """Names and addresses are replicated state too: a node with others would dial, and admit, other peers."""

    async def scenario(at: Trial) -> None:
        await at.until_all_agree()
        wrong = (await at.followers())[0]
        assert wrong.driver is not None
        book = wrong.driver.parts.book
        leader_id = at.cluster.node_id(await at.leader())
        book.members[leader_id] = msgspec.structs.replace(book.members[leader_id], name="changed")
        assert "differs from that of the majority" in await at.until_failed(wrong)
        await at.until_all_agree()
        assert len(at.cluster.running) == 2

    trial(scenario)
