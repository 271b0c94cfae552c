"""Programs that fork, and web servers that fork before they serve, for tests of the blocking client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

__all__ = ["post_all", "program", "serving"]

EXIT_S: Final = 20.0
ANSWER_S: Final = 20.0
ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def _environment(endpoints: list[str]) -> dict[str, str]:
    paths = os.pathsep.join((ROOT, os.path.join(ROOT, "src")))  # this tree, whichever one is installed
    return {**os.environ, "SYNCLINE_ENDPOINTS": ",".join(endpoints), "PYTHONPATH": paths}


def program(source: str, *arguments: str, endpoints: list[str]) -> list[str]:
    """Run a program; the lines that it has printed. It must end well, and say nothing on its standard error."""
    command = [sys.executable, "-W", "ignore:.*multi-threaded:DeprecationWarning", "-c", textwrap.dedent(source)]
    done = subprocess.run(
        [*command, *arguments], env=_environment(endpoints), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


@contextmanager
def serving(app: str, *options: str, endpoints: list[str]) -> Iterator[str]:
    """Serve an application by gunicorn; the URL. Its listener is bound and listens before gunicorn starts."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--no-control-socket"]
        process = subprocess.Popen(
            [*command, *options, app], env=_environment(endpoints), pass_fds=[listener.fileno()], cwd=ROOT,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=EXIT_S)[1]
            assert process.returncode == 0, said
            assert "Traceback" not in said, said
        except BaseException:
            process.kill()
            print(process.communicate(timeout=EXIT_S)[1])
            raise


def post_all(url: str, count: int, *, threads: int = 8) -> list[dict[str, int]]:
    """The answers to so many POST requests, from several threads, each on a connection of its own."""

    def post(_: int) -> dict[str, int]:
        request = urllib.request.Request(url, b"", method="POST")
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            answer: dict[str, int] = json.loads(response.read())
            return answer

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(post, range(count)))
