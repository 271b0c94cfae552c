"""What a run tells: its figures, and the evidence where something is wrong."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from syncline.testing.linearizability.history import Operation, write_history
from tests.chaos.fleet import Fleet
from tests.chaos.schedule import Phase

__all__ = ["Report", "keep_evidence", "table", "write_evidence"]

SHOWN: Final = 20
SHOWN_CHARACTERS: Final = 1500


@dataclass
class Report:
    """The figures of one run."""

    seed: int
    nodes: int
    network: str
    seconds: float = 0.0
    phases: int = 0
    operations: int = 0
    unknown: int = 0
    not_applied: int = 0
    elections: int = 0
    longest_recovery_s: float = 0.0
    revision: int = 0
    digest: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    anomalies: list[str] = field(default_factory=list)
    evidence: str = ""

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self))


def table(report: Report) -> str:
    """The end of a run, for people."""
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(report.faults.items()))
    rows = {
        "seed": report.seed,
        "nodes": f"{report.nodes}, {report.network}",
        "time": f"{report.seconds:.0f} s, {report.phases} phases",
        "operations": f"{report.operations}, {report.unknown} unknown, {report.not_applied} not applied",
        "faults": f"{report.faults.total()} ({faults})",
        "elections": f"{report.elections} leaders seen",
        "longest recovery": f"{report.longest_recovery_s:.1f} s",
        "final state": f"revision {report.revision}, digest {report.digest}" if report.digest else "none in common",
        "anomalies": len(report.anomalies),
    }
    lines = [f"{name:18}{value}" for name, value in rows.items()]
    lines += [f"\nANOMALY: {text[:SHOWN_CHARACTERS]}" for text in report.anomalies[:SHOWN]]
    if len(report.anomalies) > SHOWN:
        lines.append(f"\n… and {len(report.anomalies) - SHOWN} more")
    if report.evidence:
        lines.append(f"\nhistory, schedule and logs: {report.evidence}")
    return "\n".join(lines)


def write_evidence(
    directory: str, fleet: Fleet, history: Sequence[Operation], done: Sequence[tuple[Phase, str]], report: Report
) -> None:
    """Write down what is needed to understand a run: its history, what was done to the nodes, what they said."""
    with open(os.path.join(directory, "history.jsonl"), "wb") as file:
        write_history(file, history, {"seed": report.seed, "nodes": report.nodes})
    with open(os.path.join(directory, "schedule.json"), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode([{"phase": phase, "done": what} for phase, what in done])))
    fleet.copy_logs(directory)


def keep_evidence(directory: str, target: str, report: Report) -> None:
    """Keep for good what was written to `directory`, with the report."""
    shutil.copytree(directory, target, dirs_exist_ok=True)
    report.evidence = target
    with open(os.path.join(target, "report.json"), "wb") as file:
        file.write(report.as_json())
