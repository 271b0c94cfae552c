"""`syncline completion`: scripts that shells can read, and what they complete."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import environment, syncline
from tests.helpers.site_server import site_in_thread

READERS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", READERS)
def test_completion_script_is_read_by_its_shell(shell: str, tmp_path: Path) -> None:
    ran = syncline("completion", shell)
    assert (ran.status, ran.err) == (0, "")
    assert f"syncline completion {shell}" in ran.text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_bytes(ran.out)
    read = subprocess.run([*READERS[shell], str(script)], capture_output=True, text=True, timeout=20, check=False)
    assert (read.returncode, read.stderr) == (0, "")


def test_completion_in_bash_completes_commands_options_and_keys(tmp_path: Path) -> None:
    """As bash calls it: the words of the line, and the number of the one at the cursor."""
    script, program = tmp_path / "script", tmp_path / "syncline"
    script.write_bytes(syncline("completion", "bash").out)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m syncline "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    lines = ("syncline comp", "syncline status --wi", "syncline get jo", "syncline get jobs/", "syncline get none")
    asks = "".join(
        f"COMPREPLY=(); COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; _syncline_completion syncline;"
        'echo "${COMPREPLY[@]}";'
        for line in lines
    )
    with site_in_thread() as site:
        for key in ("jobs/a", "jobs/b/c", "jobs/b/d", "other"):
            assert syncline("put", key, "1", endpoints=site.url).status == 0
        ran = subprocess.run(
            ["bash", "-c", f"source {script}; {asks}"],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SYNCLINE_ENDPOINTS": site.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["compact completion", "--wide", "jobs/", "jobs/a jobs/b/", ""]


def test_completion_without_a_server_gives_no_keys() -> None:
    asked = {"_SYNCLINE_COMPLETE": "bash_complete", "COMP_WORDS": "syncline get a", "COMP_CWORD": "2"}
    ran = subprocess.run(
        [sys.executable, "-m", "syncline"],
        env={**os.environ, **asked, "SYNCLINE_ENDPOINTS": "http://127.0.0.1:1"},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, b"", b"")


def test_completion_of_an_unknown_shell_names_the_known_ones() -> None:
    with environment({}):
        ran = syncline("completion", "tcsh")
    assert ran.status == 2
    assert "'bash', 'zsh', 'fish'" in ran.error()
