"""Handle the outcomes of applied entries: answers, changes of the membership, reads that can go on."""

from __future__ import annotations

from syncline.consensus.types import LogEntry
from syncline.node.applier import Applied, Outcome, Restored, Viewed
from syncline.node.envelope import MemberRecord
from syncline.node.events import MembershipChanged, StateRestored
from syncline.node.looks import LookWork
from syncline.node.runtime import Driver

__all__ = ["on_outcome"]


def on_outcome(driver: Driver, outcome: Outcome) -> None:
    """Called on the event loop with each outcome of the applier, in log order."""
    try:
        if isinstance(outcome, Applied):
            _on_applied(driver, outcome)
        elif isinstance(outcome, Restored):
            _on_restored(driver, outcome)
        elif isinstance(outcome, LookWork):
            outcome.deliver()
        elif isinstance(outcome, Viewed):
            driver.snapshotter.viewed(outcome.view)
        else:
            driver.snapshotter.not_viewed(outcome.error)
    except Exception as error:  # noqa: BLE001 - see `Driver.fail`
        driver.fail(error)


def _on_applied(driver: Driver, done: Applied) -> None:
    if driver.running.stopped:
        return
    assert done.first_index == driver.applied + 1, (done.first_index, driver.applied)
    for item in done.runtime:  # in log order: the effect of one can depend on the one before it
        if isinstance(item, LogEntry):
            driver.reconfiguration.applied(item)
        elif isinstance(item, MemberRecord):
            driver.reconfiguration.announced(item)
        elif not driver.restoring:  # else the registry of the snapshot takes the place of this one
            driver.parts.levels.applied(item)
            driver.running.wake()
    if done.runtime:
        driver.role_watch.look()
    for index, reason in done.ignored:
        driver.ignored.note(index, reason)
    driver.applied = done.last_index
    driver.parts.book.time_s = done.time_s
    driver.stages.applied(done.last_index, done.took_s)
    if done.replaced:
        driver.emit(StateRestored(restored_index=done.last_index))
    if (done.at_point or done.compared is not None) and not _on_digests(driver, done):
        return
    proposals = driver.proposals
    for number, index, term, answer in done.answers:
        proposals.resolved(number, index, term, answer)
    proposals.passed(range(done.first_index, done.last_index + 1))
    if done.last_term > proposals.applied_term:  # after the answers: they may be of the terms before it
        driver.forwarding.term_applied(done.last_term)
    driver.snapshotter.applied(done.size_bytes)
    driver.reads.applied(driver.applied)
    driver.on_applied(done.responses)


def _on_digests(driver: Driver, done: Applied) -> bool:
    """Record the digest of the state after the last entry, and compare the digests in that entry. False: the node
    stopped.
    """
    if driver.restoring:
        return True  # the membership is that of the newer snapshot already
    if done.at_point:
        driver.digests.passed(done.last_index, done.digest, done.sessions)
    if done.compared is not None:
        driver.digests.applied(done.last_index, done.compared)
    return not driver.running.stopped


def _on_restored(driver: Driver, done: Restored) -> None:
    if driver.running.stopped:
        return
    assert done.meta.index > driver.applied, (done.meta.index, driver.applied)
    book = driver.parts.book
    known = book.membership_index
    book.load(done.runtime)
    driver.parts.levels.check()
    driver.reconfiguration.restored(done.meta.index)
    driver.applied = done.meta.index
    driver.role_watch.look()
    driver.running.wake()
    if book.membership_index != known:
        driver.emit(MembershipChanged(book.membership(driver.core.membership)))
    driver.proposals.jumped(done.meta.index)
    driver.forwarding.term_applied(done.meta.term)
    driver.digests.restored(done.meta.index)
    driver.snapshotter.restored(done.meta.index)
    driver.reads.applied(driver.applied)
    driver.parts.intake.look(driver.core.commit_index - driver.applied)  # the turn need not have anything to do
    driver.schedule()
