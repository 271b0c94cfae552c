"""The tutorial's text is true: its commands are typed into a shell, and what they print is compared with the page."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.ports import free_block

ROOT: Final = Path(__file__).resolve().parents[2]
TEXT: Final = (ROOT / "docs" / "tutorial.md").read_text()
STAGES: Final = ROOT / "examples" / "tutorial"
LIMIT_S: Final = 45.0
"""For one command and all lines that it should print."""

FIRST_PORT: Final = 9001
END: Final = "-- end of this command --"
OF_THE_SHELL: Final = re.compile(r"(bash: line \d+:|\[\d+\]).*")
"""What a shell says of its jobs is not the tutorial's; it may come behind a line that is not ended yet."""


class Shell:
    """A bash that is told one command after the other, and what it and its jobs print."""

    def __init__(self, folder: Path, first_port: int) -> None:
        self._offset = first_port - FIRST_PORT
        self._lines: queue.Queue[str] = queue.Queue()
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TUTORIAL_PORT": str(first_port),
        }
        environment.pop("PYTHONUNBUFFERED", None)  # with it the lines of two programs may run into each other
        self._bash = subprocess.Popen(
            ["bash", "--norc"], cwd=folder, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._bash.stdout is not None
        for line in self._bash.stdout:
            self._lines.put(line.rstrip("\n"))

    def run(self, command: str, expected: list[str]) -> None:
        """Type a command; return when it has ended and printed what is expected, and nothing else."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{self._moved(command)}\necho; echo '{END}'\n")
        self._bash.stdin.flush()
        left = [_pattern(self._moved(line)) for line in expected]
        told: list[str] = []
        ended, deadline_s = False, time.monotonic() + LIMIT_S
        while left or not ended:
            try:
                line = self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"$ {command}\nprinted {told}\nand not in time {[pattern.pattern for pattern in left]}")
            line = OF_THE_SHELL.sub("", line)
            ended = ended or line == END
            if line in {"", END}:
                continue
            told.append(line)
            found = next((pattern for pattern in left if pattern.fullmatch(line)), None)
            assert found is not None, f"$ {command}\nprinted {told}\nthe page expects {expected}"
            left.remove(found)

    def _moved(self, text: str) -> str:
        """With this test's ports in place of the page's."""
        return re.sub(r"\b900\d\b", lambda port: str(int(port[0]) + self._offset), text)

    def close(self) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait(20)
        self._reader.join(20)
        for stream in (self._bash.stdin, self._bash.stdout):
            assert stream is not None
            stream.close()


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, line.split("…"))))


def transcript() -> Iterator[tuple[str, list[str]]]:
    """The page's commands in order, each with the lines below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        command = ""
        lines: list[str] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, lines
                command, lines = line[2:], []
            else:
                lines.append(line)
        yield command, lines


@pytest.mark.timeout(300)
def test_tutorial_commands_print_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / ".curlrc").write_text("silent\n")  # no meter, as on a terminal
    shell = Shell(tmp_path, free_block(110))
    try:
        shell.run(f"export CURL_HOME={tmp_path}", [])
        for command, expected in transcript():
            shell.run(command, expected)
    finally:
        shell.close()


def test_tutorial_snippets_are_in_the_files_that_run() -> None:
    """Both without their indentation: the page shows methods alone."""

    def stripped(text: str) -> str:
        return "\n".join(line.strip() for line in text.splitlines())

    files = [stripped(path.read_text()) for path in STAGES.glob("*.py")]
    snippets = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 8
    for snippet in snippets:
        assert any(stripped(snippet) in file for file in files), snippet


def test_tutorial_runs_every_stage() -> None:
    run = {command.split()[2] for command, _ in transcript() if command.startswith("python -m ")}
    run |= set(re.findall(r"python -m (\S+)", " ".join(command for command, _ in transcript())))
    stages = {f"examples.tutorial.{path.stem}" for path in STAGES.glob("*.py") if "__main__" in path.read_text()}
    assert run == stages


def test_tutorial_keeps_clear_of_the_ports_of_make_run() -> None:
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", TEXT)}
    assert ports <= set(range(9001, 9008))
    assert FIRST_PORT > 8282
