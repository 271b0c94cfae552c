"""The calls of an open machine: commands through the log, queries between two commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, Protocol

import msgspec

from syncline.engines.protocol import Engine
from syncline.errors import ConfigError, Rejected
from syncline.machines.commands import CommandMethod, MachineMethod, Wait
from syncline.machines.declared import DECLARATION, Declared
from syncline.machines.plan import Plan
from syncline.machines.signature import Signature
from syncline.node.entry_stamps import STAMP_LEVEL
from syncline.node.levels import LEARNING_S
from syncline.node.raft import Raft
from syncline.node.session import Session

__all__ = ["CONSISTENCIES", "CallSettings", "MachineCalls", "Consistency", "checked_consistency", "encode_declaration"]

Consistency = Literal["linearizable", "stale"]
CONSISTENCIES: Final[tuple[Consistency, ...]] = ("linearizable", "stale")


class Applying(Protocol):
    """The machine that applies: the other side of an open machine, which only calls."""

    _declared: Declared
    """The commands that its log may hold. Replaced as a whole by the thread that applies."""


class CallSettings:
    """How calls are made through one open machine. Each `using` and each session has its own."""

    def __init__(self, timeout_s: float, consistency: Consistency, session: Session[bytes] | None) -> None:
        self.timeout_s = timeout_s
        self.consistency = consistency
        self.session = session


class CommandStart:
    """What comes before the first command, once for all that call through one open machine."""

    def __init__(self) -> None:
        self.declaring: asyncio.Lock = asyncio.Lock()
        self.stamped: bool = False
        """Whether no command waits any more for the level at which entries have a time."""
        self.stamped_by_s: float | None = None
        """The end of that wait, for all commands together; None: none was called yet."""


class MachineCalls:
    """Makes the calls of one open machine. `machine` is the one that its node applies to."""

    def __init__(self, replica: Engine[bytes], machine: Applying, plan: Plan, settings: CallSettings) -> None:
        self.replica = replica
        self.machine = machine
        self.plan = plan
        self.settings = settings
        self.wait: Wait | None = None
        """What a machine without async waits with; None: its caller awaits a call."""
        self._start = CommandStart()

    def with_settings(self, settings: CallSettings) -> MachineCalls:
        """The same machine, called otherwise."""
        other = MachineCalls(self.replica, self.machine, self.plan, settings)
        other._start = self._start
        return other

    def call(self, operation: MachineMethod[Any, ..., object], data: bytes) -> Coroutine[object, None, object]:
        """Call a command or a query with encoded arguments."""
        if isinstance(operation, CommandMethod):
            return self._command(operation, data)
        return self._query(operation, data)

    async def _command(self, command: CommandMethod[Any, ..., object], data: bytes) -> object:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.settings.timeout_s
        if not self._start.stamped:
            await self._wait_for_stamps(loop.time)
        name = self.plan.proposed_as(command, self.replica.machine_version)
        if not name:  # a new cluster does not know yet what its members can do
            left_s = max(1e-3, deadline_s - loop.time())
            await self.replica.reach_machine_version(command.since, timeout=min(left_s, LEARNING_S))
            name = self.plan.proposed_as(command, self.replica.machine_version)
        if not name:
            replica = self.replica
            if isinstance(replica, Raft) and (unknown := replica._not_known_yet(command.since)) is not None:
                raise unknown
            raise Rejected(
                f"{self.plan.kind}.{command.name} needs machine version {command.since}, and the cluster has"
                f" {self.replica.machine_version}: it rises once all members run a version that has the command",
                code="needs_upgrade",
            )
        await self._declare(name, deadline_s)
        envelope, left_s = Signature.envelope(name, data), max(1e-3, deadline_s - loop.time())
        session = self.settings.session
        if session is not None:
            answer = await session.apply(envelope, timeout=left_s)
        else:
            answer = await self.replica.apply(envelope, timeout=left_s)
        return command.signature.load_answer(answer)

    async def _wait_for_stamps(self, clock: Callable[[], float]) -> None:
        """In a new cluster the first entries would have no time: it does not know yet what its members can do.

        Commands that are called together wait together. One whose caller gives up takes the wait from none of them,
        and all of them wait for `LEARNING_S` at most: a member may stay away for long.
        """
        start = self._start
        if start.stamped_by_s is None:
            start.stamped_by_s = clock() + LEARNING_S
        left_s = start.stamped_by_s - clock()
        if left_s > 0 and not await self.replica.reach_level(
            STAMP_LEVEL, timeout=min(left_s, self.settings.timeout_s / 2)
        ):
            return  # the next command waits for the rest of the time
        start.stamped = True

    async def _declare(self, name: str, deadline_s: float) -> None:
        """Let the log know the commands of this class before the first of them."""
        declared = self.machine._declared
        if name in declared.commands and declared.machine == self.plan.name:
            return
        async with self._start.declaring:
            mine = self.plan.declared(self.replica.machine_version)
            if not self.machine._declared.covers(mine):
                left_s = max(1e-3, deadline_s - asyncio.get_running_loop().time())
                await self.replica.apply(encode_declaration(mine), timeout=left_s)

    async def _query(self, query: MachineMethod[Any, ..., object], data: bytes) -> object:
        machine, signature = self.machine, query.signature
        arguments = signature.load(data)  # a copy: the caller may change its own meanwhile

        def look() -> bytes:
            return signature.dump_answer(query(machine, **arguments))

        settings = self.settings
        stale = settings.consistency == "stale"
        return signature.load_answer(await self.replica.read(look, timeout=settings.timeout_s, stale=stale))


def encode_declaration(declared: Declared) -> bytes:
    """The entry that declares commands."""
    return Signature.envelope(DECLARATION, msgspec.msgpack.encode(declared))


def checked_consistency(value: str) -> Consistency:
    """Raise ConfigError for a word that is none."""
    for known in CONSISTENCIES:
        if value == known:
            return known
    raise ConfigError(f"consistency is {value!r}: it must be {' or '.join(CONSISTENCIES)}")
