"""The machine that figures come from, and how much of it others used meanwhile."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

CALLS = 200_000
"""A few milliseconds' worth: the best of five is not disturbed by neighbours."""

UNKNOWN = "unknown"


def describe(directory: str) -> list[str]:
    """A few lines: processors, memory, system, filesystem of the data."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    with open("/proc/meminfo", encoding="ascii") as file:
        memory_kib = int(file.readline().split()[1])
    kind, device = filesystem(directory)
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    return [
        f"{os.cpu_count()} processors: {model[1] if model else platform.machine()}",
        f"{memory_kib / (1 << 20):.1f} GiB of memory",
        f"{platform.system()} {platform.release()}, Python {sys.version.split()[0]} "
        f"({calls_per_s() / 1e6:.1f} million calls a second: builds of one version differ)"
        + (f"; everything that is measured runs with nice {priority}" if priority else ""),
        f"data on {kind} ({device})" + (", MEMORY: a sync costs nothing there" if kind == "tmpfs" else ""),
    ]


def calls_per_s() -> float:
    """Calls of a small function that this interpreter makes in a second, at its best: how well it was built."""

    def small(number: int) -> int:
        return number + 1

    best_s = math.inf
    for _ in range(5):
        start_s = time.perf_counter()
        for number in range(CALLS):
            small(number)
        best_s = min(best_s, time.perf_counter() - start_s)
    return CALLS / best_s


def filesystem(directory: str) -> tuple[str, str]:
    """Type and device of the filesystem that `directory` is on, or `UNKNOWN`: figures are worth having without them.

    A container whose root is no mount point can't tell, nor can a system without `findmnt`.
    """
    command = ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", directory]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        shown = ""
    kind, device = [*shown.split(), UNKNOWN, UNKNOWN][:2]
    return kind, device


def busy_s() -> float:
    """Processor seconds that the machine has worked since its start, all processors together."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_S
