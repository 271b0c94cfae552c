"""Text for the terminal: a line per measurement as it is made, and the medians with ratios at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.load import Load
from bench.turns import Cell, Sample, middle

HEAD = (
    f"{'workload':<8} {'clients':>7}  {'system':<10} {'per s':>9} {'p50 ms':>8} {'p99 ms':>8} {'p99.9':>8} "
    f"{'CPU s/1000':>10} {'MiB':>6} {'generator':>9} {'others':>6} {'errors':>6}"
)


def line(name: str, load: Load, sample: Sample) -> str:
    return (
        f"{load.workload:<8} {load.clients:>7}  {name:<10} {sample.per_s:>9,.0f} {sample.p50_ms:>8.2f} "
        f"{sample.p99_ms:>8.2f} {sample.p999_ms:>8.2f} {sample.cpu_s_per_1000:>10.3f} {sample.resident_mib:>6.0f} "
        f"{sample.generator_cores:>9.2f} {sample.others_cores:>6.2f} {sample.errors:>6}"
    )


def medians(samples: Mapping[Cell, Sequence[Sample]], ours: str) -> list[str]:
    """The medians, and ours as a multiple of each other system's throughput and p99."""
    lines = [HEAD + "   ours against it: throughput, p50, p99"]
    for (name, load), taken in samples.items():
        sample = middle(taken)
        text = line(name, load, sample)
        if name != ours and (ours, load) in samples:
            our = middle(samples[ours, load])
            ratios = our.per_s / sample.per_s, our.p50_ms / sample.p50_ms, our.p99_ms / sample.p99_ms
            text += "   " + " ".join(f"{ratio:.2f}x" for ratio in ratios)
        lines.append(text)
    return lines
