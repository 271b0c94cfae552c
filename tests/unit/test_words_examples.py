"""The docstrings of the words about data: each method lists what it raises, and has an example that runs."""

from __future__ import annotations

import asyncio
import inspect
import re
import textwrap
from collections.abc import Callable, Coroutine

import pytest

import syncline.client
from syncline.client.blocking.mapping import BlockingMapping
from syncline.client.blocking.queue import BlockingQueue, BlockingQueueItem
from syncline.client.blocking.registry import BlockingRegistration, BlockingServices
from syncline.client.blocking.shared import BlockingCounter, BlockingSessions
from syncline.client.coordination.counter import SharedCounter
from syncline.client.coordination.data_words import DataWords
from syncline.client.coordination.mapping import LiveMapping
from syncline.client.coordination.queue import Queue
from syncline.client.coordination.queue_claim import QueueItem
from syncline.client.coordination.registry import LiveServices, Registration
from syncline.client.coordination.sessions import Sessions
from tests.helpers.words import client_of_site
from tests.unit.test_docstring_examples import example_of

KINDS = (DataWords, LiveMapping, Queue, QueueItem, Registration, LiveServices, SharedCounter, Sessions)
BLOCKING = (
    BlockingMapping, BlockingQueue, BlockingQueueItem, BlockingRegistration, BlockingServices, BlockingCounter,
    BlockingSessions,
)  # fmt: skip


def methods(kind: type) -> dict[str, str]:
    """The methods of a class that are its own, with their docstrings."""
    found = {}
    for name, member in vars(kind).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            found[name] = inspect.getdoc(member) or ""
    return found


METHODS = {f"{kind.__name__}.{name}": text for kind in KINDS for name, text in methods(kind).items()}
BLOCKING_METHODS = {f"{kind.__name__}.{name}": text for kind in BLOCKING for name, text in methods(kind).items()}


@pytest.mark.parametrize("name", METHODS)
def test_words_method_lists_what_it_raises(name: str) -> None:
    assert "\nRaises:\n    " in METHODS[name]


@pytest.mark.parametrize("name", BLOCKING_METHODS)
def test_blocking_words_method_has_an_example_and_names_its_async_one(name: str) -> None:
    text = BLOCKING_METHODS[name]
    compile(example_of(text), name, "exec")
    assert example_of(text)
    assert re.search(r"are those of `\w+\.\w+`", text), text


def run_example(name: str, space: dict[str, object]) -> asyncio.Future[dict[str, object]]:
    code = example_of(METHODS[name])
    assert code, name
    names: dict[str, Callable[[], Coroutine[None, None, dict[str, object]]]] = {}
    source = f"async def example():\n{textwrap.indent(code, '    ')}\n    return locals()"
    exec(compile(source, name, "exec"), {**vars(syncline.client), **space}, names)
    return asyncio.ensure_future(names["example"]())


async def test_words_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    async with client_of_site() as (kv, _):
        mail, visits, sessions = kv.queue("mail"), kv.counter("visits"), kv.sessions()
        space: dict[str, object] = {"kv": kv, "mail": mail, "visits": visits, "sessions": sessions}
        left = dict.fromkeys(METHODS)

        async def run(*names: str) -> None:
            for name in names:
                del left[name]
                space.update(await run_example(name, space))

        await run(*(f"DataWords.{name}" for name in methods(DataWords)))
        async with kv.mapping("config/") as config:
            space["config"] = config
            first = [f"LiveMapping.{name}" for name in ("snapshot", "set", "delete", "changed", "refresh")]
            await run(*first)
            changes = run_example("LiveMapping.changes", space)
            await asyncio.sleep(0)
            await config.set("mode", "red")
            await changes
            del left["LiveMapping.changes"]
        async with kv.register("api", "a:1") as registration, kv.register("api", "a:2"), kv.services("api") as api:
            space |= {"registration": registration, "api": api}
            await run("Registration.states", "Registration.update", "LiveServices.wait", "LiveServices.changed")
        await run("Queue.put", "Queue.put_many", "Queue.size", "Queue.counts", "Queue.peek", "Queue.claim")
        for name in ("done", "give_back"):
            async with mail.claim() as item:
                space["item"] = item
                if name == "done":
                    await run("QueueItem.check")
                await run(f"QueueItem.{name}")
        space["item"] = "0" * 32
        await run("Queue.dead_letters", "Queue.restore", "Queue.discard")
        await run("SharedCounter.add", "SharedCounter.value", "SharedCounter.reset")
        space["session"] = await sessions.create({"cart": 1})
        await run(*(f"Sessions.{name}" for name in ("create", "get", "set", "update", "touch", "delete")))
    assert not left
    assert "{'user': 'ada', 'cart': 4}" in capsys.readouterr().out
