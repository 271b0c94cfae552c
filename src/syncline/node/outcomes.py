"""What follows from entries that were applied: answers, changes of the membership, reads that can go on."""

from __future__ import annotations

from syncline.node.applier import Applied, Outcome, Restored
from syncline.node.driver import Driver
from syncline.node.envelope import decode_member
from syncline.node.looks import LookWork

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
        else:
            driver.snapshotter.viewed(outcome.view)
    except Exception as error:  # noqa: BLE001 - see `Driver.fail`
        driver.fail(error)


def _on_applied(driver: Driver, done: Applied) -> None:
    if driver.stopped:
        return
    assert done.first_index == driver.applied + 1, (done.first_index, driver.applied)
    for entry in done.changes:
        driver.reconfiguration.applied(entry)
    for data in done.announced:
        driver.reconfiguration.announced(decode_member(data))
    driver.applied = done.last_index
    for number, index, term, answer in done.answers:
        driver.proposals.resolved(number, index, term, answer)
    driver.proposals.passed(range(done.first_index, done.last_index + 1))
    driver.snapshotter.applied(done.size_bytes)
    driver.reads.applied(driver.applied)
    driver.on_applied(done.responses)


def _on_restored(driver: Driver, done: Restored) -> None:
    if driver.stopped:
        return
    assert done.meta.index > driver.applied, (done.meta.index, driver.applied)
    driver.parts.book.load(done.runtime)
    driver.reconfiguration.sync_peers()
    driver.applied = done.meta.index
    driver.proposals.jumped(done.meta.index)
    driver.snapshotter.restored(done.meta.index)
    driver.reads.applied(driver.applied)
    driver.schedule()
