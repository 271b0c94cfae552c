"""`BlockingMachine`, which is `syncline.blocking.Machine`: a typed machine whose calls return their answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from types import TracebackType
from typing import Self, cast

from syncline.blocking.raft import AskBlocking, BlockingRaft
from syncline.engines.urls import is_url
from syncline.errors import ConfigError, UsageError
from syncline.machines.calls import CallSettings, MachineCalls
from syncline.machines.commands import BlockingFace, Wait
from syncline.machines.machine import DEFAULT_TIMEOUT_S, Machine
from syncline.machines.plan import Plan
from syncline.node.arguments import check_timeout
from syncline.node.config import Config
from syncline.node.settings.load import config_of
from syncline.platform.world import World

__all__ = ["BlockingMachine"]


class BlockingMachine(BlockingFace, Machine):
    """A `Machine` for code without async: an open one is called without `await`, by any number of threads.

        class Jobs(blocking.Machine):
            queue: dict[str, str]

            @command
            def put(self, job: str) -> None:
                self.queue.setdefault(job, "")

            @query
            def jobs(self) -> dict[str, str]:
                return self.queue

        with Jobs.open("cluster.toml") as jobs:
            jobs.put("t1")
            print(jobs.jobs())

    State, commands, queries and class arguments are those of `syncline.Machine`. With a class that has them already,
    this one gives it a second face on the same log:

        class BlockingJobs(blocking.Machine, Jobs):
            pass

    That class has the name, the version and the removed commands of the other one.
    """

    @classmethod
    def _check_made(cls) -> None:
        if cls is BlockingMachine:
            raise UsageError("Machine has no state of its own: open a class of it")
        super()._check_made()

    @classmethod
    def _plan_before(cls) -> Plan | None:
        for base in cls.__mro__[1:]:
            if issubclass(base, Machine) and not issubclass(base, BlockingFace) and base is not Machine:
                return base._plan
        return None

    @classmethod
    def open(  # type: ignore[override]  # an open machine itself, and no coroutine of it
        cls, config: Config | str | PathLike[str], *, timeout: float = DEFAULT_TIMEOUT_S, world: World | None = None
    ) -> Self:
        """Start a node of this machine: from a `Config`, or the path of a TOML file with its settings.

            jobs = Jobs.open("cluster.toml")          # the caller calls `close`
            with Jobs.open("cluster.toml") as jobs:   # closed at the end of the block
                ...

        Its arguments and errors are those of `syncline.Machine.open`.

        Raises:
            ConfigError: also for the URL of another engine.
        """
        cls._check_made()
        check_timeout(timeout)
        if is_url(config):
            raise ConfigError(f"{config!r}: without async a machine opens on Raft alone: give a Config, or a TOML file")
        machine = cls()
        return cls._on(BlockingRaft.open(config_of(config), machine, world=world), machine, timeout)

    @classmethod
    def join(  # type: ignore[override]  # as `open`
        cls,
        config: Config | str | PathLike[str],
        ask: AskBlocking,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        world: World | None = None,
    ) -> Self:
        """`open` for a node that joins a running cluster: `ask` has a member add it, as in `blocking.Raft.join`.

            jobs = Jobs.join(config, ask)

        `ask` is an ordinary function, which may block. Its arguments and errors are those of `syncline.Machine.join`.
        """
        cls._check_made()
        check_timeout(timeout)
        machine = cls()
        return cls._on(BlockingRaft.join(config_of(config), machine, ask, world=world), machine, timeout)

    @classmethod
    def _on(cls, node: BlockingRaft[bytes], machine: Self, timeout_s: float) -> Self:
        return cls._calling(BlockingCalls(node, machine, cls._plan, CallSettings(timeout_s, "linearizable", None)))

    @property
    def raft(self) -> BlockingRaft[bytes]:  # type: ignore[override]  # the node's blocking face
        """The node: its members, its leader, snapshots, events.

            print(jobs.raft.leader)

        Raises:
            UsageError: the machine is not open.
        """
        return cast("BlockingCalls", self._opened_calls()).node

    @contextmanager
    def session(self) -> Iterator[Self]:  # type: ignore[override]  # for `with`
        """Open a session: commands through it take effect exactly once (docs/exactly-once.md).

            with jobs.session() as once:
                job = once.take("w3")

        Its errors are those of `syncline.Machine.session`.
        """
        node, calls = self.raft, self._opened_calls()
        settings = calls.settings
        with node.session(timeout=settings.timeout_s) as session:
            own = CallSettings(settings.timeout_s, settings.consistency, session._here())
            yield self._calling(calls.with_settings(own))

    def close(self) -> None:  # type: ignore[override]  # returns when the node is closed
        """Stop the node, as `blocking.Raft.close` does. Idempotent.

            jobs.close()

        Its errors are those of `syncline.Machine.close`.
        """
        self.raft.close()

    async def __aenter__(self) -> Self:
        raise UsageError(f"this {type(self).__name__} is called without async: enter it by `with`, not `async with`")

    def __enter__(self) -> Self:
        self._opened_calls()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlockingCalls(MachineCalls):
    """Makes the calls of one open blocking machine."""

    def __init__(self, node: BlockingRaft[bytes], machine: Machine, plan: Plan, settings: CallSettings) -> None:
        super().__init__(node._here(), machine, plan, settings)
        self.node = node
        self.wait: Wait | None = node._wait

    def with_settings(self, settings: CallSettings) -> BlockingCalls:
        other = BlockingCalls(self.node, cast("Machine", self.machine), self.plan, settings)
        other._start = self._start
        return other
