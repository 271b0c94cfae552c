"""Files that a start of `up` makes. If the start fails they are removed again."""

from __future__ import annotations

import contextlib
import os
import shutil

from syncline.cli.up.plan import UpPlan

__all__ = ["Traces"]


class Traces:
    """The files of a plan that don't exist yet. Make it before the start, and call `remove` with the lock held."""

    def __init__(self, plan: UpPlan) -> None:
        def new(*paths: str) -> list[str]:
            return [path for path in paths if not os.path.lexists(path)]

        self._trees = new(*(node.data_dir for node in plan.nodes), plan.tls_dir)
        self._files = new(plan.plan_path, plan.secret_path, plan.own_log_path, plan.lock_path)
        self._directories = new(*_upwards(os.path.abspath(plan.data_dir)))

    def remove(self) -> None:
        """Remove what the start has made. A directory that holds something else stays."""
        for tree in self._trees:
            shutil.rmtree(tree, ignore_errors=True)
        for path in self._files:  # the lock is the last: until then no other `up` begins here
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        for directory in self._directories:
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _upwards(path: str) -> list[str]:
    """A path and its parents, the deepest first."""
    parents = [path]
    while (parent := os.path.dirname(parents[-1])) != parents[-1]:
        parents.append(parent)
    return parents
