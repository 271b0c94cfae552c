"""All judges of a history."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.testing.history import Operation
from tests.chaos.revisions import judge_revisions

__all__ = ["judge_history"]


def judge_history(history: Sequence[Operation]) -> list[str]:
    """What is wrong with what the clients were told."""
    return judge_revisions(history)
