"""`syncline import` of a directory of small files, with its default settings."""

from __future__ import annotations

import os
import sys
import time

from bench.figures import Figure, Quiet, Scale
from bench.processes import run as run_command
from bench.workloads.cluster import fresh

FILE_BYTES = 1 << 10
PER_DIRECTORY = 100
LONGEST_S = 300.0


def run(directory: str, scale: Scale, quiet: Quiet) -> list[Figure]:
    tree = os.path.join(directory, "tree")
    for number in range(scale.files):
        own = os.path.join(tree, str(number // PER_DIRECTORY))
        os.makedirs(own, exist_ok=True)
        with open(os.path.join(own, str(number)), "wb") as file:
            file.write(b"x" * FILE_BYTES)
    with fresh(directory) as cluster, quiet():
        endpoints = ",".join(f"http://{address}" for address in cluster.addresses)
        command = [sys.executable, "-m", "syncline", "import", "--endpoints", endpoints, tree]
        start = time.monotonic()
        ran = run_command(command, timeout_s=LONGEST_S)
        elapsed = time.monotonic() - start
    title = f"`syncline import` of {scale.files:,} files of 1 KiB"
    note = f"{elapsed:.1f} s, the command's own processor time {ran.cpu_s:.1f} s"
    return [Figure("import", title, scale.files / elapsed, "files/s", note)]
