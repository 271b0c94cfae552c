"""Functions that run once, in virtual time: at most once, at least once, and once for each period."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from syncline.client.coordination.claim import kept_s
from syncline.client.coordination.once import name_of
from syncline.errors import ConfigError, DeadlineExceeded, LockLost, UsageError
from tests.helpers.virtual_kv import LOST_ANSWER, LOST_REQUEST, VirtualKv, VirtualStore, virtual

NAME = "nightly"


class Work:
    """Counts its runs."""

    def __init__(self, hold_s: float = 0.5) -> None:
        self.hold_s = hold_s
        self.runs = 0
        self.ended = 0
        self.failing = 0

    async def __call__(self) -> str:
        self.runs += 1
        await asyncio.sleep(self.hold_s)
        if self.failing:
            self.failing -= 1
            raise ValueError("mine")
        self.ended += 1
        return "ran"

    def on(self, kv: VirtualKv, **options: object) -> Callable[[], Coroutine[Any, Any, str | None]]:
        async def work() -> str:
            return await self()

        return kv.once(NAME, **options)(work)  # type: ignore[arg-type]


def runners(store: VirtualStore, work: Work, count: int, **options: object) -> list[asyncio.Task[str | None]]:
    return [asyncio.create_task(work.on(store.client(), **options)()) for _ in range(count)]


@pytest.mark.parametrize("on_crash", ["skip", "rerun"])
def test_once_runs_in_one_of_many_callers(on_crash: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        work = Work()
        results = await asyncio.gather(*runners(store, work, 8, on_crash=on_crash))
        assert sorted(results, key=str) == [None] * 7 + ["ran"]
        assert work.runs == 1
        assert await work.on(store.client(), on_crash=on_crash)() is None
        assert list(store.keys) == [b"once/nightly"]
        assert store.keys[b"once/nightly"].lease == 0, "the record lasts"

    virtual(scenario)


@pytest.mark.parametrize("on_crash", ["skip", "rerun"])
def test_once_runs_in_each_period(on_crash: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        work = Work(0.0)
        for expected in (1, 1, 2, 2, 3):
            await asyncio.gather(*runners(store, work, 3, every="1h", on_crash=on_crash))
            assert work.runs == expected
            await asyncio.sleep(1800)
        await asyncio.sleep(kept_s(3600) + 10)
        assert not store.keys, "the records have gone"

    virtual(scenario)


def test_once_key_has_the_begin_of_the_period() -> None:
    async def scenario(store: VirtualStore) -> None:
        await Work(0.0).on(store.client(), every="1d")()
        assert list(store.keys) == [b"once/nightly/2026-09-21T00:00:00Z"]

    virtual(scenario)


@pytest.mark.parametrize("off_s", [-500.0, 500.0])
def test_once_with_a_wrong_clock_runs_once_in_each_of_its_periods(off_s: float) -> None:
    """Within the time for which a record is kept."""

    async def scenario(store: VirtualStore) -> None:
        work = Work(0.0)
        for _ in range(40):
            for clock_s in (0.0, off_s):
                kv = store.client()
                kv.wall_off_s = clock_s
                await work.on(kv, every=60)()
            await asyncio.sleep(30)
        periods = (40 * 30 + abs(off_s)) / 60
        assert work.runs <= periods + 2

    virtual(scenario)


def test_once_skip_does_not_run_again_after_an_exception() -> None:
    async def scenario(store: VirtualStore) -> None:
        work = Work()
        work.failing = 1
        with pytest.raises(ValueError, match="mine"):
            await work.on(store.client())()
        assert await work.on(store.client())() is None

    virtual(scenario)


def test_once_rerun_is_taken_over_after_an_exception() -> None:
    async def scenario(store: VirtualStore) -> None:
        work = Work()
        work.failing = 2
        results = await asyncio.gather(*runners(store, work, 5, on_crash="rerun"), return_exceptions=True)
        assert sorted(map(str, results)) == ["None", "None", "mine", "mine", "ran"]
        assert (work.runs, work.ended) == (3, 1)

    virtual(scenario)


def test_once_rerun_is_taken_over_after_a_crash() -> None:
    async def scenario(store: VirtualStore) -> None:
        work = Work(5.0)
        dead = store.client()
        task = asyncio.create_task(work.on(dead, on_crash="rerun", ttl=3)())
        await asyncio.sleep(1)
        others = runners(store, work, 2, on_crash="rerun")
        dead.connect(False)
        with pytest.raises(LockLost, match="Another client may run it"):
            await task
        assert sorted(map(str, await asyncio.gather(*others))) == ["None", "ran"]
        assert (work.runs, work.ended) == (2, 1)
        assert asyncio.get_running_loop().time() < 1 + 3 + 5 + 1
        dead.connect(True)

    virtual(scenario)


def test_once_rerun_whose_caller_is_cancelled_is_taken_over() -> None:
    async def scenario(store: VirtualStore) -> None:
        work = Work()
        first, second = runners(store, work, 2, on_crash="rerun")
        await asyncio.sleep(0.1)
        first.cancel()
        assert await second == "ran"
        await asyncio.wait([first])
        assert first.cancelled()

    virtual(scenario)


@pytest.mark.parametrize("fault", [LOST_ANSWER, LOST_REQUEST])
def test_once_skip_with_an_unknown_claim_runs_at_most_once(fault: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        work, kv = Work(), store.client()
        kv.faults = [("txn", fault)]
        with pytest.raises(DeadlineExceeded):
            await work.on(kv)()
        await work.on(store.client())()
        assert work.runs == (0 if fault == LOST_ANSWER else 1)

    virtual(scenario)


def test_once_rerun_with_an_unknown_claim_is_free_again() -> None:
    async def scenario(store: VirtualStore) -> None:
        work, kv = Work(), store.client()
        kv.faults = [("txn", LOST_ANSWER)]
        with pytest.raises(DeadlineExceeded):
            await work.on(kv, on_crash="rerun")()
        assert await work.on(store.client(), on_crash="rerun")() == "ran"

    virtual(scenario)


def test_once_rerun_records_its_end_after_a_lost_answer() -> None:
    async def scenario(store: VirtualStore) -> None:
        work, kv = Work(0.5), store.client()
        task = asyncio.create_task(work.on(kv, on_crash="rerun", ttl=30)())
        await asyncio.sleep(0.1)
        kv.faults = [("txn", LOST_ANSWER)]
        assert await task == "ran"
        assert store.keys[b"once/nightly"].value.startswith(b"done ")  # type: ignore[union-attr]

    virtual(scenario)


def test_once_takes_plain_functions_and_their_arguments() -> None:
    async def scenario(store: VirtualStore) -> None:
        @store.client().once()
        def add(one: int, *, other: int) -> int:
            return one + other

        assert await add(1, other=2) == 3
        assert add.__name__ == "add"
        [key] = store.keys
        assert key.endswith(
            b"test_run_once.test_once_takes_plain_functions_and_their_arguments.<locals>.scenario.<locals>.add"
        )

    async def main() -> None:
        await scenario(VirtualStore())

    asyncio.run(main())  # a thread needs a real loop


BAD: list[tuple[dict[str, object], type[Exception], str]] = [
    ({"every": "5"}, ConfigError, "expected a duration"),
    ({"every": 0}, ConfigError, "positive"),
    ({"every": 1.5}, ConfigError, "whole seconds"),
    ({"every": "* * * * *"}, ConfigError, "expected a duration"),
    ({"on_crash": "again"}, ConfigError, "accepted are skip"),
    ({"on_crash": None}, ConfigError, "accepted are skip"),
    ({"ttl": 0}, ConfigError, "needs a TTL"),
    ({"name": ""}, ConfigError, "is empty"),
    ({"name": "x" * 5000}, ConfigError, "at most"),
    ({"name": len}, TypeError, "takes a name, not a function"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD, ids=lambda value: str(value)[:40])
def test_once_arguments_that_cannot_be_used_are_refused(
    arguments: dict[str, object], kind: type[Exception], text: str
) -> None:
    kv: VirtualKv = VirtualStore().client()
    with pytest.raises(kind, match=text):
        kv.once(**{"name": NAME, **arguments})  # type: ignore[arg-type]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The main module, as it is at a prompt."""
    program = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.setitem(sys.modules, "__mp_main__", program)
    return program


@pytest.mark.parametrize(
    ("file", "spec", "name"),
    [
        ("/opt/app/nightly.py", None, "nightly"),
        ("nightly", None, "nightly"),
        ("/opt/app/jobs/report.py", "jobs.report", "jobs.report"),
        ("/opt/app/jobs/__main__.py", "jobs.__main__", "jobs"),
        ("/opt/app.pyz/__main__.py", "__main__", "app"),
    ],
)
@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_once_function_of_the_program_is_named_by_its_file(
    program: ModuleType, module: str, file: str, spec: str | None, name: str
) -> None:
    """A script has its name in all its processes, also in those that `multiprocessing` spawns."""
    program.__file__ = file
    program.__spec__ = None if spec is None else ModuleSpec(spec, None)

    def report() -> None: ...

    report.__module__, report.__qualname__ = module, "report"
    assert name_of(report, "kv.once") == f"{name}.report"


@pytest.mark.usefixtures("program")
def test_once_function_without_a_name_for_all_is_refused() -> None:
    kv: VirtualKv = VirtualStore().client()

    def job() -> None: ...

    main = functools.wraps(job)(lambda: None)
    main.__module__ = "__main__"
    for function in (lambda: None, functools.partial(job), main):
        with pytest.raises(ConfigError, match="needs a name"):
            kv.once()(function)
    with pytest.raises(TypeError, match="decorates a function"):
        kv.once(NAME)(5)  # type: ignore[call-overload]


def test_once_on_a_closed_client_is_refused() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        kv.closed = True
        for on_crash in ("skip", "rerun"):
            with pytest.raises(UsageError, match="closed"):
                await Work().on(kv, on_crash=on_crash)()

    virtual(scenario)
