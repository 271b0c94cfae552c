"""The dated page of Markdown, with its plots beside it. The machine is on top, and ratios come first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from bench.load import KEYS, VALUE_BYTES, Workload
from bench.outputs import etcd_face
from bench.outputs.svg import COLOURS, OTHER_COLOUR, Series, plot
from bench.results import Results, Row, ratio
from bench.targets import TARGETS, Verdict

OURS = "syncline"
HOLDS = {True: "yes", False: "**no**", None: "-"}


def write(results: Results, directory: str) -> str:
    """Write the page and its plots; the page's path."""
    os.makedirs(directory, exist_ok=True)
    for name, picture in plots(results).items():
        _write(os.path.join(directory, name), picture)
    path = os.path.join(directory, f"{results.date}.md")
    _write(path, render(results))
    return path


def render(results: Results) -> str:
    """The text of the page."""
    parts = [
        f"# Measured on {results.date}\n",
        *_head(results),
        "## Targets\n",
        _table(("what", "target", "measured", "holds"), map(_verdict, (one.verdict(results) for one in TARGETS))),
        *_workloads(results),
        *_etcd_face(results),
        *_figures(results),
        *_systems(results),
    ]
    return "\n".join(parts)


def _head(results: Results) -> Iterable[str]:
    yield "".join(f"- {line}\n" for line in results.machine)
    others = [value for row in results.rows for value in row.values("others_cores")]
    disturbed = f" Other programs used {min(others):.2f} to {max(others):.2f} processors meanwhile." if others else ""
    yield (
        f"Commit {results.commit}. Three nodes of each system on this one machine, which the load generators share. "
        f"Values of {VALUE_BYTES} bytes, {KEYS:,} keys, closed loop with one request in flight for each client, all "
        f"load to the leader.{disturbed} Ratios are medians over the repeats of what was measured one after the other, "
        "with the lowest and the highest beside them; other figures are medians. `bench/README.md` says how it is "
        "measured, `docs/performance.md` what it means.\n"
    )


def _verdict(one: Verdict) -> tuple[str, ...]:
    return one.what, one.target, one.measured, HOLDS[one.holds]


def _workloads(results: Results) -> Iterable[str]:
    for workload in Workload:
        rows = [row for row in results.rows if row.workload is workload]
        if not rows:
            continue
        yield f"## {TITLES[workload]}\n"
        if ratios := list(_ratios(results, rows)):
            yield "Syncline as a multiple of the other:\n"
            yield _table(("against", "clients", "throughput", "p50", "p99", "CPU per operation"), ratios)
        yield "".join(f"![{title}]({name})\n" for name, title in _names(results, workload))
        yield _table(
            COLUMNS,
            map(_row, sorted(rows, key=lambda row: row.clients)),
        )


COLUMNS = (
    *("system", "clients", "per s", "p50 ms", "p99 ms", "p99.9 ms"),
    *("CPU s / 1000", "MiB", "generator", "errors"),
)

TITLES = {
    Workload.WRITES: "Writes",
    Workload.READS: "Linearizable reads",
    Workload.STALE: "Stale reads",
    Workload.MIXED: "Half writes, half linearizable reads",
}


def _ratios(results: Results, rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    for row in rows:
        ours = results.row(OURS, row.workload, row.clients)
        if ours is None or row.system in (OURS, "library"):
            continue
        throughput = ratio(ours, row, "per_s")
        yield (
            row.system,
            str(row.clients),
            f"{throughput.value:.2f}x ({throughput.lowest:.2f} to {throughput.highest:.2f})",
            *(f"{ratio(ours, row, field).value:.2f}x" for field in ("p50_ms", "p99_ms", "cpu_s_per_1000")),
        )


def _row(row: Row) -> tuple[str, ...]:
    latencies = (f"{row.median(field):.2f}" for field in ("p50_ms", "p99_ms", "p999_ms"))
    return (
        row.system,
        str(row.clients),
        f"{row.median('per_s'):,.0f}",
        *latencies,
        f"{row.median('cpu_s_per_1000'):.3f}",
        f"{row.median('resident_mib'):.0f}",
        f"{row.median('generator_cores'):.2f}",
        f"{sum(row.values('errors')):.0f}",
    )


def _etcd_face(results: Results) -> Iterable[str]:
    if etcd_face.about(results.figures):
        yield "## etcd's interface\n"
        yield f"{etcd_face.LIMITS}\n"
        head = ("client", "syncline per s", "etcd per s", "ratio", "syncline", "etcd")
        yield _table(head, etcd_face.rows(results.figures))
        if watches := list(etcd_face.watch_rows(results.figures)):
            yield _table(("watches", "measured", ""), watches)


def _figures(results: Results) -> Iterable[str]:
    if figures := [figure for figure in results.figures if not figure.key.startswith(etcd_face.KEY)]:
        yield "## Single figures\n"
        yield _table(
            ("what", "measured", ""),
            ((figure.title, f"{_number(figure.value)} {figure.unit}", figure.note) for figure in figures),
        )


def _systems(results: Results) -> Iterable[str]:
    yield "## The systems\n"
    for name, system in results.systems.items():
        yield f"- {name}: " + (f"left out, {system.missing}" if system.missing else f"{system.version}. {system.how}")


def plots(results: Results) -> dict[str, str]:
    """Pictures by file name."""
    found = {}
    for workload in Workload:
        lines: dict[str, list[Row]] = {}
        for row in sorted(results.rows, key=lambda row: row.clients):
            if row.workload is workload:
                lines.setdefault(row.system, []).append(row)
        if lines:
            throughput, latency = (name for name, _ in _names(results, workload))
            found[throughput] = plot(f"{TITLES[workload]}: throughput", "per second", _series(lines, "per_s"))
            both = [*_series(lines, "p50_ms", " p50"), *_series(lines, "p99_ms", " p99", dashed=True)]
            found[latency] = plot(f"{TITLES[workload]}: latency, p50 and p99", "ms", both)
    return found


def _names(results: Results, workload: Workload) -> tuple[tuple[str, str], tuple[str, str]]:
    """File names of a workload's plots, with their titles."""
    stem = f"{results.date}-{workload}"
    return (f"{stem}-throughput.svg", "throughput over clients"), (f"{stem}-latency.svg", "latency over clients")


def _series(lines: dict[str, list[Row]], field: str, suffix: str = "", *, dashed: bool = False) -> list[Series]:
    return [
        Series(
            system + suffix,
            [(row.clients, row.median(field)) for row in rows],
            COLOURS.get(system, OTHER_COLOUR),
            dashed,
        )
        for system, rows in lines.items()
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
