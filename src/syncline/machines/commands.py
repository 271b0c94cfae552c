"""`@command` and `@query`: methods of a `Machine` that are replicated, or read linearizably.

On an open machine they are awaited, with the arguments and the answer of the method:

    job = await jobs.take("w3")

Through the class they are the plain function, for other methods of the machine and for tests:

    job = Jobs.take(machine, "w3")
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from syncline.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from typing import Self

from syncline.machines.signature import Signature

__all__ = ["LINK", "BlockingFace", "CommandMethod", "MachineMethod", "QueryMethod", "command", "query"]

M = TypeVar("M")
"""The machine's class."""
P = ParamSpec("P")
R = TypeVar("R")
"""What a method returns."""

LINK: Final = "_link"
"""The attribute of an open machine that makes its calls."""

FIRST_VERSION: Final = 1


class BlockingFace:
    """Base of machines whose open form is called without `await`. `syncline.blocking.Machine` is one."""


class MachineMethod(Generic[M, P, R]):
    """A method of a machine that is called over the cluster: a `CommandMethod` or a `QueryMethod`."""

    def __init__(self, function: Callable[Concatenate[M, P], R]) -> None:
        self._function = function
        self.name: str = getattr(function, "__name__", "")
        self.signature: Signature
        """Set when the class is made."""
        self.__doc__ = function.__doc__
        self.__name__: str = self.name
        self.__wrapped__ = function

    def __call__(self, machine: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function: nothing is replicated. For other methods of the machine, and for tests."""
        return self._function(machine, *args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type[object], /) -> Self: ...

    @overload
    def __get__(self, instance: BlockingFace, owner: type[object], /) -> Callable[P, R]: ...

    @overload
    def __get__(self, instance: object, owner: type[object], /) -> Callable[P, Coroutine[object, None, R]]: ...

    def __get__(
        self, instance: object | None, owner: type[object], /
    ) -> Self | Callable[P, R] | Callable[P, Coroutine[object, None, R]]:
        if instance is None:
            return self
        link = cast("CallLink | None", vars(instance).get(LINK))
        if link is None:
            kind = type(instance).__name__
            raise UsageError(
                f"{kind}.{self.name}: this machine is not open. In the machine's own methods and in tests write"
                f" {kind}.{self.name}(self, …), which calls the plain function"
            )
        opened, wait = link, link.wait

        if wait is not None:

            def call_and_wait(*args: P.args, **kwargs: P.kwargs) -> R:
                data = self.signature.dump(args, kwargs)
                return cast("R", wait(lambda: opened.call(self, data)))

            call_and_wait.__name__, call_and_wait.__doc__ = self.name, self.__doc__
            vars(call_and_wait)["__signature__"] = self.signature.shown
            return call_and_wait

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast("R", await opened.call(self, self.signature.dump(args, kwargs)))

        call.__name__, call.__doc__ = self.name, self.__doc__
        call.__qualname__ = f"{type(instance).__name__}.{self.name}"  # Python's warning of a forgotten await has it
        vars(call)["__signature__"] = self.signature.shown  # for `help`, and for frameworks that take it as a route
        return call


class Wait(Protocol):
    """Carries out a call on the thread of its node, and waits for the answer."""

    def __call__(self, make: Callable[[], Awaitable[object]], /) -> object: ...


class CallLink(Protocol):
    """Makes the calls of an open machine."""

    wait: Wait | None
    """None: the caller awaits a call."""

    def call(self, operation: MachineMethod[M, P, R], data: bytes) -> Coroutine[object, None, object]:
        """Call it with these encoded arguments."""
        ...


class CommandMethod(MachineMethod[M, P, R]):
    """A method whose calls are replicated. Made by `command`."""

    def __init__(self, function: Callable[Concatenate[M, P], R], since: int, was: tuple[str, ...]) -> None:
        super().__init__(function)
        self.since = since
        self.was = was

    def encode(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """Encode a call, as it stands in the log: for `Raft.apply`, `check_fsm` and `simulate`.

            check_fsm(Jobs, [Jobs.put.encode("t1"), Jobs.take.encode("w3")])

        Raises:
            TypeError, ConfigError: an argument does not fit its annotation.
        """
        return Signature.envelope(self.name, self.signature.dump(args, kwargs))

    def answer(self, data: bytes) -> R:
        """Decode the answer that `Machine.apply` gave to this command.

            job = Jobs.take.answer(machine.apply(Entry(1, 1, Jobs.take.encode("w3"))))

        Raises:
            RequestFailed: the command was applied, and its answer does not fit the annotation.
        """
        return cast("R", self.signature.load_answer(data))


class QueryMethod(MachineMethod[M, P, R]):
    """A method that reads the state. Made by `query`."""


@overload
def command(function: Callable[Concatenate[M, P], R], /) -> CommandMethod[M, P, R]: ...


@overload
def command(
    *, since: int = 1, was: str | Sequence[str] = ()
) -> Callable[[Callable[Concatenate[M, P], R]], CommandMethod[M, P, R]]: ...


def command(
    function: Callable[Concatenate[M, P], R] | None = None, /, *, since: int = 1, was: str | Sequence[str] = ()
) -> CommandMethod[M, P, R] | Callable[[Callable[Concatenate[M, P], R]], CommandMethod[M, P, R]]:
    """Make a method of a `Machine` a command: each call is replicated, and applied on all nodes in one order.

        class Counter(Machine):
            count: int

            @command
            def add(self, by: int = 1) -> int:
                self.count += by
                return self.count

    The method must be deterministic: neither clock nor random numbers nor files. `self.entry` has a time and random
    numbers that are the same on all nodes (`Machine.entry`). A refusal is `Rejected`, raised
    before the state is changed. Any other exception stops all nodes.

    `since`: the machine version that brought the command. It is refused (code `needs_upgrade`) until all members can
    apply it. `was`: names that it had before. While the cluster is below `since`, it is proposed under the last of
    them.

    Raises:
        ConfigError: `since` is no version.
        TypeError: an argument has another type.
    """
    if function is not None and not callable(function):
        raise TypeError(f"command takes no name, and got {function!r}: write @command, or @command(since=2)")
    if type(since) is not int:
        raise TypeError(f"since must be an int, not {type(since).__name__}")
    if since < FIRST_VERSION:
        raise ConfigError(f"since is {since}: the first machine version is {FIRST_VERSION}")
    names = (was,) if isinstance(was, str) else tuple(was)
    for name in names:
        if not _is_name(name):
            raise TypeError(f"was is {was!r}: it must be the name of a method, or several")

    def made(function: Callable[Concatenate[M, P], R]) -> CommandMethod[M, P, R]:
        return CommandMethod(function, since, names)

    return made if function is None else made(function)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier()


def query(function: Callable[Concatenate[M, P], R], /) -> QueryMethod[M, P, R]:
    """Make a method of a `Machine` a query: it reads the state linearizably, on any node, without the log.

        class Counter(Machine):
            count: int

            @query
            def value(self) -> int:
                return self.count

    It runs between two commands, on their thread: it must be short and must not change the state.
    """
    return QueryMethod(function)
