"""The progress bar of `import` and `export`. Loads rich, which is slow, only when a bar is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["bar"]


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._size_bytes = 0

    def advance(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        self._progress.update(self._task, advance=1, size=decimal(self._size_bytes))


@contextmanager
def bar(title: str, total: int, unit: str) -> Iterator[_Bar]:
    """A bar over files or keys (`unit`), with the bytes done, on the error output."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn(unit + ", {task.fields[size]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress, progress.add_task(title, total=total, size="0 bytes"))
