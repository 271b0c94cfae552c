"""Whatever becomes of a read, the server never calls its outcome unknown."""

from __future__ import annotations

import asyncio

import pytest

from syncline.errors import Closed, DeadlineExceeded, NodeFailed
from syncline.node.futures import ReadFuture
from tests.helpers.kv_node import KvWire, error_in


@pytest.mark.parametrize(
    "error",
    [Closed("the node is closing"), NodeFailed("its disk"), DeadlineExceeded("late"), ZeroDivisionError("a bug")],
)
@pytest.mark.parametrize("path", ["/key/a", "/keys", "/key/a?timeout=2s", "/keys?count=true"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_read_that_fails_is_never_of_unknown_outcome(error: Exception, path: str, at_once: bool) -> None:
    """A read has no effect to doubt, whatever becomes of the node: the same error of a write stays unknown."""
    wire = KvWire()

    def failing(timeout_s: float) -> ReadFuture:
        if at_once:
            raise error
        future = ReadFuture(loop=asyncio.get_running_loop())
        future.get_loop().call_soon(future.set_exception, error)
        return future

    wire.backend.read_index = failing  # type: ignore[method-assign]
    wire.backend.propose_error = error  # type: ignore[assignment]
    for _ in range(3):  # the third one takes the fast path
        answer = await wire.ask("GET", path)
        assert answer.status >= 500
        assert error_in(answer)["outcome"] == "not_applied"
    assert error_in(await wire.ask("PUT", "/key/a", b"v"))["outcome"] == "unknown"
