"""Everything that a page is made of: kept as a file of JSON, so that a page can be made anew and a run in parts."""

from __future__ import annotations

import os

import msgspec

from bench.figures import Figure
from bench.load import Workload
from bench.stats import median
from bench.turns import Sample


class System(msgspec.Struct, frozen=True):
    """A measured system, or why it is missing."""

    version: str = ""
    how: str = ""
    missing: str = ""


class Row(msgspec.Struct):
    """The samples of one system under one load, in the order of the repeats."""

    system: str
    workload: Workload
    clients: int
    seconds: float
    samples: list[Sample]

    def median(self, field: str) -> float:
        return median(self.values(field))

    def values(self, field: str) -> list[float]:
        return [getattr(sample, field) for sample in self.samples]


class Results(msgspec.Struct):
    """A run, or several parts of one."""

    date: str
    machine: list[str]
    commit: str
    systems: dict[str, System] = {}
    rows: list[Row] = []
    figures: list[Figure] = []

    def row(self, system: str, workload: Workload, clients: int) -> Row | None:
        for row in self.rows:
            if (row.system, row.workload, row.clients) == (system, workload, clients):
                return row
        return None

    def figure(self, key: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.key == key), None)

    def add_rows(self, rows: list[Row]) -> None:
        """Those of the same cells are replaced: all systems of one cell come from one run, so that they compare."""
        cells = {(row.workload, row.clients) for row in rows}
        self.rows = [row for row in self.rows if (row.workload, row.clients) not in cells] + rows

    def add_figures(self, figures: list[Figure]) -> None:
        keys = {figure.key for figure in figures}
        self.figures = [figure for figure in self.figures if figure.key not in keys] + figures


class Ratio(msgspec.Struct, frozen=True):
    """One system as a multiple of another: the median over the repeats of what was measured one after the other."""

    value: float
    lowest: float
    highest: float


def ratio(one: Row, other: Row, field: str) -> Ratio:
    pairs = zip(one.values(field), other.values(field), strict=True)
    ratios = [first / second for first, second in pairs]
    return Ratio(median(ratios), min(ratios), max(ratios))


def save(results: Results, path: str) -> None:
    with open(path + ".new", "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    os.replace(path + ".new", path)


def load(path: str) -> Results:
    with open(path, "rb") as file:
        return msgspec.json.decode(file.read(), type=Results)
