"""Metrics of the process."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable

from syncline.platform.process import ProcessFigures, process_figures
from syncline.server.metrics import Registry, Sample
from syncline.version import __version__

__all__ = ["add_process_metrics"]


def add_process_metrics(registry: Registry) -> None:
    """Metrics of the version and of the process: processor time, memory, descriptors, threads, tasks.

    Figures that the system does not tell have no sample.
    """
    info = registry.gauges("syncline_build_info", "Always 1; the labels say what runs.", ("version", "python"))
    info.labels(__version__, platform.python_version()).value = 1
    process = _Process()
    registry.before_render(process.look)

    def single(kind: str, name: str, text: str, read: Callable[[], float | None]) -> None:
        def samples() -> list[Sample]:
            value = read()
            return [] if value is None else [((), value)]

        registry.computed(kind, name, text, (), samples)

    single("counter", "process_cpu_seconds_total", "Processor time used, in seconds.", time.process_time)
    resident = "Memory of the process that is in RAM."
    single("gauge", "process_resident_memory_bytes", resident, lambda: process.figures.resident_bytes)
    virtual = "Address space of the process."
    single("gauge", "process_virtual_memory_bytes", virtual, lambda: process.figures.virtual_bytes)
    single("gauge", "process_open_fds", "Open file descriptors.", lambda: process.figures.open_descriptors)
    single("gauge", "process_max_fds", "The limit of file descriptors.", lambda: process.figures.max_descriptors)
    single("gauge", "process_start_time_seconds", "When it started (Unix time).", lambda: process.figures.started_s)
    single("gauge", "syncline_process_threads", "Threads of the process.", lambda: process.figures.threads)
    single("gauge", "syncline_process_tasks", "Tasks of the event loop.", _tasks)


class _Process:
    """The figures of the process at the moment of rendering."""

    def __init__(self) -> None:
        self.figures: ProcessFigures = process_figures()

    def look(self) -> None:
        self.figures = process_figures()


def _tasks() -> float | None:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # rendered without an event loop
        return None
