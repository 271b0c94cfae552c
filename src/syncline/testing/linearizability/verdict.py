"""The verdict on a history: all checks, and their findings as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from syncline.testing.linearizability.checker import Initial, check_part, parts_of
from syncline.testing.linearizability.explain import smallest_contradiction
from syncline.testing.linearizability.history import Operation, ReadCall, Seen
from syncline.testing.linearizability.promises import (
    Anomaly,
    check_applied_once,
    check_not_applied,
    check_revisions,
    check_stale_reads,
)
from syncline.testing.linearizability.search import DEFAULT_MAX_STEPS

__all__ = ["Undecided", "assert_linearizable", "judge"]

FINAL_STATE: Final = "(final)"
"""The client that reads the final state, after all others."""


class Undecided(Exception):
    """The search for an order was given up: neither good nor bad. A history that reports revisions gets a verdict."""


def judge(
    history: Sequence[Operation],
    *,
    initial: Initial | None = None,
    final: Mapping[bytes, Seen] | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> list[Anomaly]:
    """Return all anomalies of a history; an empty list means that it keeps every promise.

    - It is linearizable: writes, linearizable reads, compare-and-swaps and transactions, also those of unknown
      outcome.
    - Its stale reads respect their bound and never go back for one client on one node.
    - An operation answered with `not_applied` never shows; one write is applied once; revisions follow the clock.
    - `final` (the value of every key that was ever written, read after the run) agrees with all acknowledged
      operations.

    `initial` is the value of each key before the run. `max_steps` of 1 or 2 per operation suffice if writes report
    their revisions. Without them, and with many writers of one key, it can take any number.

        assert judge(recorder.history()) == []

    Raises:
        Undecided: `max_steps` did not suffice.
    """
    whole = [*history, *_final_reads(history, final or {})]
    anomalies = check_not_applied(whole) + check_applied_once(whole) + check_revisions(whole)
    anomalies += check_stale_reads(whole)
    for part in parts_of(whole):
        outcome = check_part(part, initial, max_steps=max_steps)
        if not outcome.decided:
            keys = ", ".join(repr(key) for key in part.keys)
            raise Undecided(f"no verdict on {keys} after {outcome.steps} steps, {len(outcome.order)} operations far")
        if not outcome.linearizable:
            core = smallest_contradiction(part, initial)
            anomalies.append(Anomaly("these operations have no order that explains them all", tuple(core)))
    return anomalies


def assert_linearizable(
    history: Sequence[Operation],
    *,
    initial: Initial | None = None,
    final: Mapping[bytes, Seen] | None = None,
) -> None:
    """Check a history with `judge`, and fail if it finds anything.

        assert_linearizable(recorder.history())

    Raises:
        AssertionError: with the findings.
        Undecided: as `judge` does.
    """
    anomalies = judge(history, initial=initial, final=final)
    if anomalies:
        raise AssertionError("\n\n".join(map(str, anomalies)))


def _final_reads(history: Sequence[Operation], final: Mapping[bytes, Seen]) -> list[Operation]:
    end_s = max((max(operation.call_s, operation.return_s or 0.0) for operation in history), default=0.0) + 1.0
    return [
        Operation(client=FINAL_STATE, request=ReadCall(key), call_s=end_s, return_s=end_s, result=seen)
        for key, seen in final.items()
    ]
