"""The change of a blocking `update`: each question of the client has its own answer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from syncline.client import AsyncClient
from syncline.client.blocking.updates import _Update


class AskingClient:
    """Asks for a new value as often as it is told to, as if other clients were faster."""

    def __init__(self, questions: int) -> None:
        self._questions = questions
        self.answers: list[bytes | None] = []

    async def update(self, _key: str, change: Any, *, timeout: float | None) -> None:
        for number in range(self._questions):
            self.answers.append(await change(b"%d" % number))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_early", [True, False])
async def test_blocking_update_answers_each_question_once(is_early: bool) -> None:
    """If the client asks before the caller's thread waits for it, too: that thread runs when it may."""
    client = AskingClient(3)
    update = _Update(cast("AsyncClient", client), "a", None)
    for number in range(3):
        if is_early:
            await settle()
        assert not await update.asks()
        assert update.value == b"%d" % number
        await settle()  # until the caller's thread answers, the loop goes on
        update.answers(b"new %d" % number)
    assert await update.asks()
    assert client.answers == [b"new 0", b"new 1", b"new 2"]
