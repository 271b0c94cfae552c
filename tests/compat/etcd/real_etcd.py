"""Starts a real etcd with one node."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

from tests.compat.waiting import until
from tests.helpers.ports import free_block

__all__ = ["healthy", "real_etcd"]


@contextmanager
def real_etcd(program: str, directory: Path, *flags: str) -> Iterator[str]:
    """The URL of a node that runs until the end of the block, with its data and log in `directory`."""
    port = free_block(2)
    url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [
                *(program, "--name", "n", "--data-dir", str(directory / "data"), "--log-level", "error", *flags),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"n={peer}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        until("etcd serves", lambda: healthy(url))
        yield url
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def healthy(url: str) -> bool:
    """Whether a node says that it serves."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
            return bool(json.load(answer)["health"] == "true")
    except (URLError, OSError):
        return False
