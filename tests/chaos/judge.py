"""The verdict on what the clients of a run were told."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.testing.linearizability.history import Operation
from syncline.testing.linearizability.verdict import Undecided, judge
from tests.chaos.agreement import Agreement

__all__ = ["judge_history"]


def judge_history(history: Sequence[Operation], agreement: Agreement | None) -> list[str]:
    """All anomalies in words, those of the final state among them where there is one. No verdict is an anomaly too."""
    final = None if agreement is None else agreement.of_keys(history)
    try:
        return [str(anomaly) for anomaly in judge(history, final=final)]
    except Undecided as undecided:
        return [str(undecided)]
