"""What the children of a test of `multiprocessing` do: a module of its own, which any child can import."""

from __future__ import annotations

from multiprocessing.queues import Queue

from syncline.client import Client

__all__ = ["child"]


def child(kv: Client, answers: Queue[int]) -> None:
    """Count twice, and send the counts."""
    for _ in range(2):
        answers.put(kv.increment("count"))
