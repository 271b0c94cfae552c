"""Work that is done once in the whole cluster, and once for each period."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Coroutine
from pathlib import PurePath
from typing import Any, Final, ParamSpec, TypeVar, overload

from syncline.client.calls import Key
from syncline.client.coordination.calls import TimedCalls
from syncline.client.coordination.claim import Claim, checked_on_crash, kept_s, until_free
from syncline.client.coordination.names import needed_ttl_s, shown, word_key
from syncline.errors import ConfigError
from syncline.platform.times import interval_s, time_text
from syncline.platform.user_calls import result_in

__all__ = ["Once", "OncePlan", "name_of"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

TIME_BYTES = 24
"""A slash, and the begin of a period."""


class OncePlan:
    """What `once` was asked for, without a client: the periods, and what is done after a crash."""

    def __init__(self, name: Key | None, every: str | float | None, on_crash: str, ttl: float) -> None:
        """See `AsyncClient.once`."""
        self._name = name
        self._every_s = None if every is None else interval_s(every)
        self._on_crash = checked_on_crash(on_crash)
        self._ttl_s = needed_ttl_s(ttl, "the lease of a function that runs once")
        if callable(name):
            raise TypeError('kv.once takes a name, not a function: write @kv.once("name"), or @kv.once()')
        if name is not None:
            self._key(name)

    def key_for(self, function: Callable[..., object]) -> bytes:
        """The key of a function, without the period.

        Raises:
            TypeError: it is no function.
            ConfigError: it has no name that other processes know it by.
        """
        if not callable(function):
            raise TypeError(f"kv.once decorates a function, not {type(function).__name__}")
        return self._key(name_of(function, "kv.once") if self._name is None else self._name)

    async def begin(self, kv: TimedCalls, key: bytes) -> Claim | None:
        """Claim the present period. None: it is done, or another client does it.

        Raises:
            OperationError: the servers could not be reached, or refused it. See its `outcome`.
        """
        record, keep_s = key, None
        if self._every_s is not None:
            period_s = math.floor(kv._wall_time_s() / self._every_s) * self._every_s
            record += b"/" + time_text(period_s).encode()
            keep_s = kept_s(self._every_s)
        what = f"the run of {shown(record)}"
        while True:
            if self._on_crash == "rerun" and not await until_free(kv, record):
                return None
            claim = Claim(kv, record, on_crash=self._on_crash, keep_s=keep_s, ttl_s=self._ttl_s, what=what)
            claimed = False
            try:
                claimed = await claim.claim()
            finally:
                if not claimed:
                    await claim.leave()
            if claimed:
                return claim
            if self._on_crash == "skip":
                return None

    def _key(self, name: Key) -> bytes:
        return word_key(b"once", name, "a function that runs once", room=TIME_BYTES)


class Once:
    """Decorates functions that are to run once. `AsyncClient.once` makes it.

    @kv.once("nightly", every="1d")
    async def report() -> str:
        return "sent"

    print(await report())  # None in all processes but one
    """

    def __init__(
        self, kv: TimedCalls, name: Key | None, *, every: str | float | None, on_crash: str, ttl: float
    ) -> None:
        """See `AsyncClient.once`."""
        self._kv = kv
        self._plan = OncePlan(name, every, on_crash, ttl)

    @overload
    def __call__(
        self, function: Callable[Arguments, Coroutine[Any, Any, Result]]
    ) -> Callable[Arguments, Coroutine[Any, Any, Result | None]]: ...
    @overload
    def __call__(
        self, function: Callable[Arguments, Result]
    ) -> Callable[Arguments, Coroutine[Any, Any, Result | None]]: ...
    def __call__(self, function: Callable[Arguments, Any]) -> Callable[Arguments, Coroutine[Any, Any, Any]]:
        """Decorate a function. A plain one runs in a thread: the event loop goes on meanwhile.

        Raises:
            TypeError: it is no function.
            ConfigError: it has no name that other processes know it by.
        """
        key = self._plan.key_for(function)

        @functools.wraps(function)
        async def once(*arguments: Arguments.args, **named: Arguments.kwargs) -> object:
            claim = await self._plan.begin(self._kv, key)
            if claim is None:
                return None
            async with claim:
                return await result_in(function, *arguments, **named)

        return once


def name_of(function: Callable[..., object], what: str) -> str:
    """The name of a function for all processes: its module and its own.

    A function of the program itself has the name of the program's file in place of `__main__`. Raises `ConfigError` if
    it has no name.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module in _PROGRAMS:
        module = _program_name(module)
    if not isinstance(module, str) or not isinstance(name, str) or "<lambda>" in name:
        raise ConfigError(
            f"{what} needs a name for {name or function!r}: other programs would use the same one. "
            'Give it one, such as "nightly"'
        )
    return f"{module}.{name}"


_PROGRAMS: Final = ("__main__", "__mp_main__")
"""The second one: in a child that `multiprocessing` has spawned."""


def _program_name(module: str) -> str | None:
    """The name that another program would import the main module by; None without a file, as at a prompt."""
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in _PROGRAMS:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if not isinstance(file, str):
        return None
    path = PurePath(file)
    return (path.parent if path.stem == "__main__" else path).stem or None
