"""Typed state machines: a class with declared state, commands and queries. And ready ones.

class Jobs(Machine):
    queue: list[str]

    @command
    def put(self, job: str) -> None:
        self.queue.append(job)
"""

from syncline.machines.batteries import (
    ReplicatedCounter,
    ReplicatedDict,
    ReplicatedList,
    ReplicatedLock,
    ReplicatedPriorityQueue,
    ReplicatedQueue,
    ReplicatedSet,
)
from syncline.machines.commands import CommandMethod, MachineMethod, QueryMethod, command, query
from syncline.machines.machine import Machine

__all__ = [
    "CommandMethod",
    "Machine",
    "MachineMethod",
    "QueryMethod",
    "ReplicatedCounter",
    "ReplicatedDict",
    "ReplicatedList",
    "ReplicatedLock",
    "ReplicatedPriorityQueue",
    "ReplicatedQueue",
    "ReplicatedSet",
    "command",
    "query",
]
