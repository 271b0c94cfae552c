"""What was measured, in words: one line for each load, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from syncline.cli.bench.load import Measured
from syncline.cli.doctor.disk import measure_syncs, quantile, shown_ms, sync_verdict

__all__ = ["DiskSpeed", "disk_speed", "line_of", "verdict_lines"]

DISK_SHARE: Final = 0.5
"""If the syncs take this part of a write's time, the disk decides about it."""

ELECTION_S: Final = 1.0
"""The default: a disk is judged by it."""

SLOW_P99_S: Final = 0.25
"""Writes above it: half of the pause that a leader may make before its followers ask for votes."""


class DiskSpeed(msgspec.Struct, frozen=True):
    """The times of syncs, in seconds, and the verdict of `doctor`."""

    sync_p50_s: float
    sync_p99_s: float
    verdict: str
    text: str

    @property
    def line(self) -> str:
        return f"disk          {self.text}"


def disk_speed(directory: str) -> DiskSpeed:
    """Measure the disk of a directory. Raises `OSError`."""
    syncs = measure_syncs(directory)
    finding = sync_verdict(syncs, ELECTION_S)
    text = f"{finding.text}. {finding.advice}" if finding.advice else finding.text
    return DiskSpeed(quantile(syncs, 0.5), quantile(syncs, 0.99), finding.verdict, text)


def line_of(title: str, measured: Measured) -> str:
    """One load on one line."""
    times = f"half within {shown_ms(measured.p50_s)}, 99 in 100 within {shown_ms(measured.p99_s)}"
    failed = f", {measured.failed} failed" if measured.failed else ""
    return f"{title:12}  {measured.name:11}  {measured.rate:9,.0f} a second, {times}{failed}"


def verdict_lines(disk: DiskSpeed | None, found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """What decides about the speed, and what to do."""
    lines = []
    for title, loads in found.items():
        writes = next((one for one in loads if one.name == "writes"), None)
        if writes is None:
            continue
        if any(one.failed for one in loads):
            lines.append(f"{title}: requests failed; look at the nodes' logs, and use fewer --clients")
        if writes.p99_s > SLOW_P99_S:
            lines.append(f"{title}: one write in a hundred takes {shown_ms(writes.p99_s)}: too slow for most callers")
        if disk is not None and disk.sync_p50_s > DISK_SHARE * writes.p50_s:
            lines.append(f"{title}: the disk decides about writes: a faster one, or more clients, make more of them")
        elif disk is not None:
            lines.append(f"{title}: the processor decides about writes, and not the disk")
    if disk is not None and disk.verdict != "ok":
        lines.append(f"disk: {disk.text}")
    return [f"verdict: {line}" for line in lines or ["nothing stands out"]]
