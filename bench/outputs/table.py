"""Text for the terminal: a line per measurement as it is made, and the medians with ratios at the end."""

from __future__ import annotations

from bench.load import Load
from bench.results import Results, ratio
from bench.turns import Sample

HEAD = (
    f"{'workload':<8} {'clients':>7}  {'system':<10} {'per s':>9} {'p50 ms':>8} {'p99 ms':>8} {'p99.9':>8} "
    f"{'CPU s/1000':>10} {'MiB':>6} {'generator':>9} {'others':>6} {'errors':>6}"
)


def line(name: str, load: Load, sample: Sample) -> str:
    """One measurement."""
    return (
        f"{load.workload:<8} {load.clients:>7}  {name:<10} {sample.per_s:>9,.0f} {sample.p50_ms:>8.2f} "
        f"{sample.p99_ms:>8.2f} {sample.p999_ms:>8.2f} {sample.cpu_s_per_1000:>10.3f} {sample.resident_mib:>6.0f} "
        f"{sample.generator_cores:>9.2f} {sample.others_cores:>6.2f} {sample.errors:>6}"
    )


def medians(results: Results, ours: str) -> list[str]:
    """Medians, and ours as a multiple of each other system: medians of the ratios of each repeat."""
    head = f"{'workload':<8} {'clients':>7}  {'system':<10} {'per s':>9} {'p50 ms':>8} {'p99 ms':>8}"
    lines = [head + "   ours against it: throughput (lowest to highest), p50, p99"]
    for row in results.rows:
        text = (
            f"{row.workload:<8} {row.clients:>7}  {row.system:<10} {row.median('per_s'):>9,.0f} "
            f"{row.median('p50_ms'):>8.2f} {row.median('p99_ms'):>8.2f}"
        )
        our = results.row(ours, row.workload, row.clients)
        if our is not None and row.system != ours:
            found = ratio(our, row, "per_s")
            text += f"   {found.value:.2f}x ({found.lowest:.2f} to {found.highest:.2f})"
            text += "".join(f", {ratio(our, row, field).value:.2f}x" for field in ("p50_ms", "p99_ms"))
        lines.append(text)
    return lines
