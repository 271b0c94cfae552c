"""Lines through samples of a process, and when a line counts as growth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["LIMITS", "WARM_UP", "Growth", "Limit", "Line", "fitted", "grown"]

WARM_UP: Final = 1 / 4
"""Of a life's samples that are left out: caches, history and allocator fill up to their limits first."""

LEAST_SAMPLES: Final = 24
LEAST_S: Final = 300.0
"""A shorter life, the warm-up left out, has no line: clients come back to a node that was killed, and caches fill."""

BLOCKS: Final = 12
"""The line is fitted to the means of so many blocks. Samples that follow each other are alike, and would make the
line look surer than it is; a short peak, such as a snapshot, counts little."""

SURE: Final = 3.0
"""Standard errors that a slope must be above its limit."""


@dataclass(frozen=True)
class Limit:
    """What is still no growth: per minute, and over the whole life. `unit` is for people."""

    per_minute: float
    whole: float
    unit: str
    scale: float = 1.0


MIB: Final = float(1 << 20)
LIMITS: Final = {
    "memory": Limit(0.25 * MIB, 12 * MIB, "MiB", MIB),
    "descriptors": Limit(0.2, 12, ""),
    "threads": Limit(0.05, 2, ""),
    "disk": Limit(1.0 * MIB, 48 * MIB, "MiB", MIB),
}


@dataclass(frozen=True)
class Line:
    """A slope per second with its standard error, and where the line begins and ends."""

    slope: float
    error: float
    first: float
    last: float
    seconds: float

    @property
    def whole(self) -> float:
        return self.last - self.first


@dataclass(frozen=True)
class Growth:
    """One measure of one life of a process."""

    process: str
    measure: str
    line: Line

    @property
    def is_fault(self) -> bool:
        """Whether the slope is surely above the limit, and the whole of it is more than what a step may be."""
        limit = LIMITS[self.measure]
        surely = self.line.slope - SURE * self.line.error
        return surely * 60 > limit.per_minute and self.line.whole > limit.whole

    def __str__(self) -> str:
        limit = LIMITS[self.measure]
        slope, error = (value * 60 / limit.scale for value in (self.line.slope, self.line.error))
        whole = self.line.whole / limit.scale
        mark = "GROWS " if self.is_fault else ""
        return (
            f"{mark}{self.process} {self.measure}: {slope:+.3f} ± {error:.3f} {limit.unit}/min,"
            f" {whole:+.1f} {limit.unit} in {self.line.seconds / 60:.1f} min"
        )


def fitted(times_s: Sequence[float], values: Sequence[float]) -> Line | None:
    """The line of least squares through the means of blocks, without the warm-up; None if there are too few samples."""
    skipped = int(len(times_s) * WARM_UP)
    times_s, values = times_s[skipped:], values[skipped:]
    if len(times_s) < LEAST_SAMPLES or times_s[-1] - times_s[0] < LEAST_S:
        return None
    size = len(times_s) / BLOCKS
    cuts = [round(number * size) for number in range(BLOCKS + 1)]
    blocks = list(itertools.pairwise(cuts))
    x = [sum(times_s[low:high]) / (high - low) for low, high in blocks]
    y = [sum(values[low:high]) / (high - low) for low, high in blocks]
    middle_x, middle_y = sum(x) / BLOCKS, sum(y) / BLOCKS
    spread = sum((one - middle_x) ** 2 for one in x)
    slope = sum((one - middle_x) * (other - middle_y) for one, other in zip(x, y, strict=True)) / spread
    rest = sum((other - middle_y - slope * (one - middle_x)) ** 2 for one, other in zip(x, y, strict=True))
    error = math.sqrt(rest / (BLOCKS - 2) / spread)
    seconds = times_s[-1] - times_s[0]
    first, last = (middle_y + slope * (at - middle_x) for at in (times_s[0], times_s[-1]))
    return Line(slope, error, first, last, seconds)


def grown(process: str, times_s: Sequence[float], values: dict[str, list[float]]) -> list[Growth]:
    """The lines of one life, in the order of the limits."""
    lines = {measure: fitted(times_s, values[measure]) for measure in LIMITS}
    return [Growth(process, measure, line) for measure, line in lines.items() if line is not None]
