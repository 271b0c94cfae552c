"""`Machine`: a replicated class with declared state, commands and queries.

    class Jobs(Machine):
        waiting: list[str]
        taken: dict[str, str]

        @command
        def put(self, job: str) -> None:
            self.waiting.append(job)

        @command
        def take(self, worker: str) -> str | None:
            if not self.waiting:
                return None
            job = self.waiting.pop(0)
            self.taken[job] = worker
            return job

        @query
        def count(self) -> int:
            return len(self.waiting)

    async with Jobs.open("cluster.toml") as jobs:
        await jobs.put("t1")
        job = await jobs.take("w3")

An open machine makes calls; the state is in another object, to which its node applies the log. `docs/machines.md` is
the guide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable, Mapping
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final, Self, TypeVar, cast

import msgspec

from syncline.engines.protocol import Engine
from syncline.engines.urls import is_url
from syncline.errors import ConfigError, NodeFailed, Rejected, UsageError
from syncline.machines.calls import CallSettings, MachineCalls, checked_consistency
from syncline.machines.commands import LINK, CommandMethod
from syncline.machines.declared import DECLARATION, Declared, check_declared
from syncline.machines.opening import open  # noqa: A004 - its public name
from syncline.machines.plan import DECLARED, Plan, plan_of
from syncline.machines.snapshots import StateSnapshot, dump_state, read_declared, read_fields
from syncline.node.arguments import check_timeout
from syncline.node.config import Config
from syncline.node.fsm import Entry, FSMSnapshot
from syncline.node.joining import Ask
from syncline.node.raft import Raft
from syncline.node.settings.load import config_of
from syncline.node.startups import Startup
from syncline.platform.world import World

__all__ = ["Machine"]

DEFAULT_TIMEOUT_S: Final = 5.0
DIGEST_BYTES: Final = 32
OPEN_FORM: Final = "_open_class"
"""The attribute of a class, and of its open form, that has the open form."""

_CALL: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_DECLARED: Final = msgspec.msgpack.Decoder(Declared)

MachineT = TypeVar("MachineT", bound="Machine")


def _set_on_open(machine: Machine, name: str, value: object) -> None:
    if any(field.name == name for field in machine._plan.fields):
        kind = type(machine).__name__
        raise UsageError(f"{kind}.{name}: an open machine has no state of its own; write a command that sets it")
    object.__setattr__(machine, name, value)


class Machine:
    """A replicated class. Declare its state by annotations, and its methods by `command` and `query`.

        class Counter(Machine):
            count: int

            @command
            def add(self, by: int = 1) -> int:
                self.count += by
                return self.count

            @query
            def value(self) -> int:
                return self.count

        async with Counter.open(config) as counter:
            await counter.add(by=2)

    In a command, `self.entry` is the entry that is being applied, with the time and random numbers (`Machine.entry`).

    The state is what msgspec can encode: numbers, texts, bytes, lists, dicts, sets, `msgspec.Struct`, dataclasses. It
    starts empty, or with the default that the annotation has. A machine is also an `FSM`: `Raft.open(config,
    Counter())`, `check_fsm(Counter, …)` and `simulate(Counter, …)` take it.

    Class arguments: `name` is the machine's name in its log (default: that of the class). `version` is the
    machine version (default: the highest `since`). `removed` and `dropped` name commands and fields that an earlier
    version had (docs/machines.md).
    """

    machine_version: ClassVar[int] = 1
    """The newest commands that this class can apply."""
    digest_version: ClassVar[int] = 1
    __slots__ = ("__dict__", "__weakref__", "_applying")  # so that `vars` has the state and nothing else
    _applying: Entry | None
    _plan: ClassVar[Plan]
    _machine_name: ClassVar[str]
    _declared: Declared

    def __init_subclass__(
        cls,
        *,
        name: str = "",
        version: int = 0,
        removed: Mapping[str, int] | None = None,
        dropped: Iterable[str] = (),
        **others: Any,
    ) -> None:
        super().__init_subclass__(**others)
        if OPEN_FORM in vars(cls):
            return  # all that it has is that of the class whose open form it is
        if "machine_version" in vars(cls):
            raise ConfigError(f"{cls.__name__}.machine_version: write class {cls.__name__}(Machine, version=…)")
        before = cls._plan_before()
        if before is not None:
            name, version = name or before.name, version or before.version
            removed, dropped = {**before.removed, **(removed or {})}, {*before.dropped, *dropped}
        cls._plan = plan = plan_of(cls, Machine, name, removed, dropped, frame=1)
        newest = max([plan.newest, *plan.removed.values()])
        if type(version) is not int or (version and version < newest):
            raise ConfigError(f"the version of {cls.__name__} is {version!r}: a command or `removed` says {newest}")
        cls._machine_name = plan.name
        cls.machine_version = plan.version = version or newest
        cls.digest_version = plan.digest_version(cls.machine_version)

    @classmethod
    def _plan_before(cls) -> Plan | None:
        """The plan of a class to whose log this one gives another face."""
        return None

    def __init__(self) -> None:
        if type(self) is Machine:
            raise UsageError("Machine has no state of its own: make a class of it, with annotations and commands")
        self._applying = None
        state = vars(self)
        state[DECLARED] = Declared()
        for field in self._plan.fields:
            state[field.name] = field.default()

    def __repr__(self) -> str:
        calls = self._calls
        return f"<{type(self).__name__}: {'not open' if calls is None else f'on {calls.replica!r}'}>"

    if not TYPE_CHECKING:  # with it a type checker would take any name

        def __getattr__(self, name: str) -> object:
            kind = type(self).__name__
            if LINK in vars(self) and any(field.name == name for field in self._plan.fields):
                raise UsageError(
                    f"{kind}.{name}: an open machine has no state of its own; write a query that returns it"
                )
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")

    # -- open ---------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls, config: Config | str | PathLike[str], *, timeout: float = DEFAULT_TIMEOUT_S, world: World | None = None
    ) -> Startup[Self]:
        """Start a node of this machine: from a `Config`, the path of a TOML file with its settings, or an engine's URL.

            jobs = await Jobs.open("cluster.toml")          # the caller calls `close`
            async with Jobs.open("cluster.toml") as jobs:   # closed at the end of the block
                ...
            async with Jobs.open("etcd://10.0.0.1:2379/jobs") as jobs:   # as `syncline.open` (docs/engines.md)
                ...

        `timeout` (seconds) bounds each call; see `using`. `world` replaces what is outside the node, for tests.

        Raises:
            ConfigError: a setting can't be used; or this is the data directory of another node.
            TypeError, StorageError, OSError: as `Raft.open` does.
            Unreachable: no server of the engine answers (`not_applied`).
            NodeFailed: the log is of another machine, or has commands that this class does not.
        """
        cls._check_made()
        check_timeout(timeout)
        machine = cls()
        if isinstance(config, str) and is_url(config):
            return Startup(cls._opened(open(config, machine, world=world), machine, timeout), Machine.close)
        opening = Raft.open(config_of(config), machine, world=world)
        return Startup(cls._opened(opening, machine, timeout), Machine.close)

    @classmethod
    def join(
        cls,
        config: Config | str | PathLike[str],
        ask: Ask,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        world: World | None = None,
    ) -> Startup[Self]:
        """`open` for a node that joins a running cluster: `ask` has a member add it, as in `Raft.join`.

            jobs = await Jobs.join(config, ask)

        Raises:
            OSError, SynclineError, TypeError: as `open` does.
            Exception: whatever `ask` raises.
        """
        cls._check_made()
        check_timeout(timeout)
        machine = cls()
        opening = Raft.join(config_of(config), machine, ask, world=world)
        return Startup(cls._opened(opening, machine, timeout), Machine.close)

    @classmethod
    def _check_made(cls) -> None:
        if cls is Machine:
            raise UsageError("Machine has no state of its own: open a class of it")

    @classmethod
    async def _opened(cls, opening: Awaitable[Engine[bytes]], machine: Self, timeout_s: float) -> Self:
        return cls._calling(
            MachineCalls(await opening, machine, cls._plan, CallSettings(timeout_s, "linearizable", None))
        )

    @classmethod
    def _calling(cls, calls: MachineCalls) -> Self:
        form = cls._open_form()
        opened = form.__new__(form)
        vars(opened)[LINK] = calls
        return opened

    @classmethod
    def _open_form(cls) -> type[Self]:
        """The class of open machines: a field can't be set there, because no node and no snapshot would have it.

        A class of its own, since a `__setattr__` on the machines that apply commands would double the time of an apply.
        """
        form = cast("type[Self] | None", vars(cls).get(OPEN_FORM))
        if form is None:
            shown = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
            made = type(cls.__name__, (cls,), {**shown, OPEN_FORM: None, "__setattr__": _set_on_open})
            form = cast("type[Self]", made)
            setattr(form, OPEN_FORM, form)
            setattr(cls, OPEN_FORM, form)
        return form

    @property
    def _calls(self) -> MachineCalls | None:
        return cast("MachineCalls | None", vars(self).get(LINK))

    def _opened_calls(self) -> MachineCalls:
        calls = self._calls
        if calls is None:
            raise UsageError(f"this {type(self).__name__} is not open: use `{type(self).__name__}.open(config)`")
        return calls

    @property
    def raft(self) -> Raft[bytes]:
        """The node: its members, its leader, snapshots, events.

            print(jobs.raft.leader)

        Raises:
            UsageError: the machine is not open, or is on another engine than Raft: see `replica`.
        """
        replica = self.replica
        if isinstance(replica, Raft):
            return replica
        raise UsageError(f"this {type(self).__name__} is not on Raft: `replica` is its node, on each engine")

    @property
    def replica(self) -> Engine[bytes]:
        """The node, on whichever engine: its figures, snapshots, events, leadership.

            print(jobs.replica.stats().applied)

        Raises:
            UsageError: the machine is not open.
        """
        return self._opened_calls().replica

    def using(self, *, timeout: float | None = None, consistency: str | None = None) -> Self:
        """The same machine, whose calls have another deadline or consistency.

            waiting = await jobs.using(timeout=0.5, consistency="stale").waiting()

        `timeout` (seconds) bounds a call. `consistency` is for queries: `linearizable` sees every command that was
        answered before. `stale` looks at this node's own state: it may be old, and it needs no quorum.

        Raises:
            UsageError: the machine is not open.
            ConfigError, TypeError: an argument can't be used.
        """
        calls = self._opened_calls()
        settings = calls.settings
        if timeout is not None:
            check_timeout(timeout)
        return self._calling(
            calls.with_settings(
                CallSettings(
                    settings.timeout_s if timeout is None else timeout,
                    settings.consistency if consistency is None else checked_consistency(consistency),
                    settings.session,
                )
            )
        )

    def session(self) -> Startup[Self]:
        """Open a session: commands through it take effect exactly once (docs/exactly-once.md).

            async with jobs.session() as once:
                job = await once.take("w3")

        If the outcome of an attempt is unknown, it is repeated until the deadline, and applied once.

        Raises:
            UsageError: the machine is not open.
            OperationError: as `Raft.session` does.
        """
        return Startup(self._with_session(self._opened_calls()), Machine._end_session)

    async def _with_session(self, calls: MachineCalls) -> Self:
        settings = calls.settings
        session = await calls.replica.session(timeout=settings.timeout_s)
        return self._calling(calls.with_settings(CallSettings(settings.timeout_s, settings.consistency, session)))

    async def _end_session(self) -> None:
        session = self._opened_calls().settings.session
        if session is not None:
            await session.close()

    async def close(self) -> None:
        """Stop the node, as `Raft.close` does. Idempotent.

            await jobs.close()

        Raises:
            UsageError: the machine is not open.
        """
        await self._opened_calls().replica.close()

    async def __aenter__(self) -> Self:
        """For a machine that was opened with `await`: its node is closed at the end of the block.

        Of one that `session` has made, the session alone ends.
        """
        self._opened_calls()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened_calls().settings.session is not None:
            await self._end_session()
        else:
            await self.close()

    # -- the state machine --------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> bytes:
        """Apply one command, and return its encoded answer: part of `FSM`, called by the node.

            answer = Jobs.take.answer(machine.apply(Entry(1, 1, Jobs.take.encode("w3"))))

        Raises:
            Rejected: the command refused, or this is no command at all.
            NodeFailed: the log holds a command or arguments that this class does not have.
        """
        name, data = self._read(entry.data)
        if name == DECLARATION:
            self._declare(data)
            return b""
        where = f"entry {entry.index}"
        command = self._command(name, where)
        arguments = self._arguments(command, data, where)
        self._applying = entry
        try:
            answer = command(self, **arguments)
        finally:
            self._applying = None
        state = vars(self)
        if len(state) != self._plan.size:
            known = {DECLARED, *(field.name for field in self._plan.fields)}
            odd = sorted(state.keys() ^ known)
            raise NodeFailed(
                f"{command.signature.where} has made or deleted the attribute {odd[0]}, which is not declared:"
                " it would not be in a snapshot. Declare it by an annotation, or leave it, and deploy that on all nodes"
            )
        return command.signature.dump_answer(answer)

    @property
    def entry(self) -> Entry:
        """The log entry that is being applied, for a command: its time and random numbers are the same on all nodes.

            class Raffle(Machine):
                names: list[str]
                drawn_s: float

                @command
                def draw(self) -> str:
                    self.drawn_s = self.entry.time_s
                    return self.entry.random.choice(self.names)

        See `Entry.time_s` and `Entry.random`.

        Raises:
            UsageError: no command is being applied. A query has no entry, nor has a command that is called as a plain
                function.
        """
        entry: Entry | None = getattr(self, "_applying", None)
        if entry is None:
            kind = type(self).__name__
            raise UsageError(
                f"{kind}.entry is there while a command is applied, and none is. A query has no entry: keep the time in"
                f" the state. In a test write machine.apply(Entry(1, 1, {kind}.NAME.encode(…), time_s=…))"
            )
        return entry

    def check(self, data: bytes) -> None:
        """Refuse what `apply` could not read, before it enters the log: part of `CheckingFSM`.

            machine.check(Jobs.take.encode("w3"))

        Raises:
            Rejected: there is no such command, or its arguments do not fit.
        """
        name, arguments = self._read(data)
        try:
            if name == DECLARATION:
                self._check_declared(_declared_in(arguments))
            else:
                self._command(name, "a call").signature.load(arguments)
        except NodeFailed as error:
            raise Rejected(str(error), code="unknown_command") from None
        except msgspec.DecodeError as error:
            text = f"the arguments of {type(self).__name__}.{name} do not fit: {error}"
            raise Rejected(text, code="invalid_command") from None

    def snapshot(self) -> FSMSnapshot:
        """Encode the state: part of `FSM`, called by the node.

            machine.snapshot().persist(file)

        Nothing is applied meanwhile.
        """
        fields = self._plan.fields
        return StateSnapshot(dump_state(self._declared, fields, vars(self)), fields, type(self).__name__)

    def restore(self, source: BinaryIO) -> None:
        """Load a snapshot: part of `FSM`.

            machine.restore(file)

        Raises:
            NodeFailed: it is of another machine, or holds what this class does not declare. The state is as it was.
        """
        declared = read_declared(source)
        self._check_declared(declared)
        state = read_fields(source, self._plan.fields, self._plan.dropped, type(self).__name__)
        vars(self).update(state)
        self._declared = declared

    def renumber(self, jump: int, source: BinaryIO | None) -> None:  # noqa: ARG002 - for machines that override it
        """Load a snapshot in place of a newer state: part of `RenumberingFSM`, called by the node.

        A machine with a number that must only rise has a method of its own, so that none is given twice:

            class Tickets(Machine):
                newest: int

                def renumber(self, jump: int, source: BinaryIO | None) -> None:
                    known = self.newest
                    super().renumber(jump, source)
                    self.newest = max(known, self.newest) + jump

        `source` is None after a recovery: the present state is kept. See docs/recovery.md.

        Raises:
            NodeFailed: as `restore`.
        """
        if source is not None:
            self.restore(source)

    def digest(self) -> bytes:
        """Return a digest of the state: part of `DigestingFSM`, called by the node.

            print(machine.digest().hex())

        Of large containers it takes both ends.
        """
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        digest.update(msgspec.msgpack.encode(self._declared))
        for field in self._plan.fields:
            field.digest_into(digest, vars(self)[field.name])
        return digest.digest()

    def _read(self, data: bytes) -> tuple[str, msgspec.Raw]:
        try:
            return _CALL.decode(data)
        except msgspec.DecodeError:
            text = f"this is no command of {type(self).__name__}: encode it by {type(self).__name__}.NAME.encode(…)"
            raise Rejected(text, code="invalid_command") from None

    def _command(self, name: str, where: str) -> CommandMethod[Any, ..., object]:
        command = self._plan.commands.get(name)
        if command is not None:
            return command
        kind = type(self).__name__
        if name in self._plan.removed:
            raise NodeFailed(
                f"{where} is the command {name}, which {kind} has removed in version {self._plan.removed[name]}. Start"
                " the version before it on all nodes, take a snapshot on each, and upgrade then"
            )
        raise NodeFailed(f"{where} is the command {name}, which {kind} does not have: deploy the version that has it")

    def _arguments(self, command: CommandMethod[Any, ..., object], data: msgspec.Raw, where: str) -> dict[str, object]:
        try:
            return command.signature.load(data)
        except msgspec.DecodeError as error:
            # Not `Rejected`: a node of another version may be able to read it, and the states would differ.
            raise NodeFailed(
                f"{where} calls {command.signature.where} with arguments that do not fit: {error}. A node"
                " with another version of the class has let it pass: deploy the version that has these parameters"
            ) from None

    def _declare(self, data: msgspec.Raw) -> None:
        found = _declared_in(data)
        self._check_declared(found)
        if self._declared.machine and found.machine != self._declared.machine:
            raise Rejected(f"this log is of the machine {self._declared.machine!r}", code="wrong_machine")
        self._declared = self._declared.joined(found)

    def _check_declared(self, found: Declared) -> None:
        plan = self._plan
        check_declared(
            found, kind=type(self).__name__, machine=plan.name, known=plan.commands.keys(), removed=plan.removed
        )


def _declared_in(data: msgspec.Raw) -> Declared:
    try:
        return _DECLARED.decode(data)
    except msgspec.DecodeError as error:
        raise Rejected(f"this declares no commands: {error}", code="invalid_command") from None
