"""The conformance suite of engines on a log that two programs with different state machines open by one URL."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from syncline import Entry
from syncline.errors import NodeFailed, Outcome
from tests.helpers.engine_checks import LogCheck, LogSite, Registers
from tests.helpers.node_cluster import Listing

__all__ = ["MACHINES"]

OTHERS: Final = "this log is of the machine 'Listing', and Registers is the machine 'Registers'"
PUT: Final = msgspec.msgpack.encode((b"key", b"value"))


async def log_of_another_machine_is_refused(site: LogSite) -> None:
    """Nothing is written to it, and the nodes that have it open go on."""
    machine = Listing()
    node, _ = await site.open_faulty(machine)
    await node.apply(b"one", timeout=20)
    position = node.stats().position
    with pytest.raises(NodeFailed, match=OTHERS):
        await site.open_faulty(Registers())
    await node.snapshot()
    with pytest.raises(NodeFailed, match='If the class was renamed, write machine_name = "Listing" in Registers'):
        await site.open_faulty(Registers())
    await node.read_index(timeout=20)
    assert node.stats().position == position
    assert await node.apply(b"two", timeout=20) == 2
    assert machine.items == [b"one", b"two"]


async def empty_log_is_of_the_first_machine(site: LogSite) -> None:
    """It has no entries yet: a program with a wrong URL must not be the one that writes the first."""
    machine = Listing()
    node, _ = await site.open_faulty(machine)
    with pytest.raises(NodeFailed, match=OTHERS):
        await site.open_faulty(Registers())
    assert await node.apply(b"one", timeout=20) == 1


async def renamed_class_opens_its_log_by_its_name(site: LogSite) -> None:
    node, _ = await site.open_faulty(Listing())
    await node.apply(b"one", timeout=20)
    renamed = Renamed()
    other, _ = await site.open_faulty(renamed)
    extended = Extended()
    third, _ = await site.open_faulty(extended)
    assert await other.apply(b"two", timeout=20) == 2
    await third.read_index(timeout=20)
    assert extended.items == renamed.items == [b"one", b"two"]


async def log_without_a_name_is_of_the_first_that_appends(site: LogSite) -> None:
    """An earlier version has written it. Both programs may look; the one that appends first goes on alone."""
    machine, other, late = Listing(), Registers(), Listing()
    before, _ = await site.open_faulty(machine)
    await before.apply(PUT, timeout=20)
    await site.forget_machine()
    node, _ = await site.open_faulty(late)
    second, _ = await site.open_faulty(other)
    assert await node.apply(PUT, timeout=20) == 2
    with pytest.raises(NodeFailed, match=OTHERS) as raised:
        await second.apply(PUT, timeout=20)
    assert raised.value.outcome is Outcome.NOT_APPLIED
    assert await before.apply(PUT, timeout=20) == 3
    assert await node.apply(PUT, timeout=20) == 4
    await before.read_index(timeout=20)
    assert machine.items == [PUT] * 4
    with pytest.raises(NodeFailed, match=OTHERS):
        await site.open_faulty(Registers())


class Renamed(Listing):
    """A class with another name for the same log."""

    machine_name = "Listing"

    def apply(self, entry: Entry) -> object:
        return super().apply(entry)


class Extended(Listing):
    """A class that adds to another one, and says nothing of a name."""


MACHINES: Final[list[LogCheck]] = [
    log_of_another_machine_is_refused,
    empty_log_is_of_the_first_machine,
    renamed_class_opens_its_log_by_its_name,
    log_without_a_name_is_of_the_first_that_appends,
]
