"""Functions that run once in the cluster, for blocking code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from syncline.client.blocking.portal import Portal, PortalObject
from syncline.client.client import AsyncClient
from syncline.client.coordination.claim import Claim
from syncline.client.coordination.once import OncePlan
from syncline.platform.user_calls import is_async

__all__ = ["BlockingOnce"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class BlockingOnce(PortalObject[AsyncClient]):
    """Decorates functions that are to run once. `Client.once` makes it.

        @kv.once("nightly", every="1d")
        def report() -> str:
            return "sent"

        print(report())  # None in all processes but one

    The function runs in the thread that calls it. A forked child may call it, too.
    """

    def __init__(self, portal: Portal, make: Callable[[], AsyncClient], plan: OncePlan) -> None:
        super().__init__(portal, make)
        self._plan = plan

    def __call__(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result | None]:
        """Decorate a function.

        Raises:
            TypeError: it is no function, or an asynchronous one.
            ConfigError: it has no name that other processes know it by.
        """
        if is_async(function):
            raise TypeError("the function is asynchronous: decorate it with the `once` of an AsyncClient")
        key = self._plan.key_for(function)

        @functools.wraps(function)
        def once(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result | None:
            run = _Run(self._plan, key)
            try:
                if not self._call(run.begin):
                    return None
                result = function(*arguments, **named)
            except BaseException:
                self._call(run.fail)
                raise
            self._call(run.succeed)
            return result

        return once


class _Run:
    """One run. It knows its claim as soon as there is one: a signal may interrupt the caller at any point."""

    def __init__(self, plan: OncePlan, key: bytes) -> None:
        self._plan = plan
        self._key = key
        self._claim: Claim | None = None

    async def begin(self, kv: AsyncClient) -> bool:
        self._claim = await self._plan.begin(kv, self._key)
        return self._claim is not None

    async def fail(self, _: AsyncClient) -> None:
        if self._claim is not None:
            await self._claim.finish(failed=True)

    async def succeed(self, _: AsyncClient) -> None:
        assert self._claim is not None
        await self._claim.finish(failed=False)
