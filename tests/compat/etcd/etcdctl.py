"""Runs etcdctl on a cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

__all__ = ["Etcdctl"]

CALL_S: Final = 30.0
EXIT_S: Final = 10.0


class Etcdctl:
    """Calls return what was printed."""

    def __init__(self, program: str, endpoints: Sequence[str], *flags: str) -> None:
        """`flags` are global ones, given with each call."""
        self._command = [program, "--endpoints", ",".join(endpoints), *flags]
        self._environment = {**os.environ, "ETCDCTL_API": "3"}

    def __call__(self, *arguments: str) -> str:
        """Must succeed."""
        ran = self._ran(arguments)
        assert ran.returncode == 0, f"etcdctl {' '.join(arguments)}: {ran.stderr}"
        return ran.stdout

    def tried(self, *arguments: str) -> str:
        """May fail."""
        return self._ran(arguments).stdout

    @contextmanager
    def started(self, *arguments: str, output: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A call that goes on until it is terminated at the end, if not before."""
        process = subprocess.Popen(
            [*self._command, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(EXIT_S)

    def _ran(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CALL_S,
            check=False,
        )
