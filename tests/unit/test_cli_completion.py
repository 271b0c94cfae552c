"""`syncline completion`: scripts that shells can read, and what they complete."""

from __future__ import annotations

import os
import re
import shlex
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


def complete_in_bash(lines: tuple[str, ...], folder: Path, url: str, after: str = 'echo "${COMPREPLY[@]}"') -> str:
    """Ask as bash does: the line, its words, and the number of the one at the cursor; then run `after`."""
    script, program = folder / "script", folder / "syncline"
    script.write_bytes(syncline("completion", "bash").out)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m syncline "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    asks = ""
    for line in lines:
        words = [word for word in re.split(r"\s+|([:=@])", line) if word] + [""] * line.endswith(" ")
        quoted = " ".join(map(shlex.quote, words))
        asks += f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE={shlex.quote(line)}; "
        asks += f"COMP_POINT=${{#COMP_LINE}}; _syncline_completion syncline; {after}\n"
    ran = subprocess.run(
        ["bash", "-c", f"source {script}\n{asks}"],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SYNCLINE_ENDPOINTS": url},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == ""
    return ran.stdout


def test_completion_in_bash_completes_commands_options_and_keys(tmp_path: Path) -> None:
    """A URL and a key with colons are several words for bash, of which it replaces the last one."""
    with site_in_thread() as site:
        for key in ("jobs/a", "jobs/b/c", "jobs/b/d", "other", "user:1:name"):
            assert syncline("put", key, "1", endpoints=site.url).status == 0
        lines = (
            *("syncline comp", "syncline status --wi", "syncline get jo", "syncline get jobs/", "syncline get none"),
            *(f"syncline get --endpoints={site.url} user:1:", f"syncline --endpoints {site.url} get oth"),
        )
        shown = complete_in_bash(lines, tmp_path, site.url)
    assert shown.splitlines() == ["compact completion", "--wide", "jobs/", "jobs/a jobs/b/", "", "name", "other"]


HOSTILE = ("a$(touch${IFS}x)", "b;touch${IFS}x", "c`touch${IFS}x`", "d'$(touch${IFS}x)'", 'e"$(touch${IFS}x)"',
           "f\\g", "h*", "i|touch<x", "j&touch>x", "k!l", "m,n,", "~o", "#p", "q:$(touch<x)", "r{s,t}")  # fmt: skip


def test_completion_in_bash_quotes_what_bash_would_run(tmp_path: Path) -> None:
    """Anyone who may write a key could else run a command as the user who completes it."""
    with site_in_thread() as site:
        for key in HOSTILE:
            assert syncline("put", key, "1", endpoints=site.url).status == 0
        lines = tuple(f"syncline get {chr(92) * (key[0] in '~#')}{key[0]}" for key in HOSTILE)
        run = complete_in_bash(lines, tmp_path, site.url, "eval printf '%s' \"${COMPREPLY[0]}\"; echo")
        opened = tuple(f"syncline get {quote}{key[0]}" for key in HOSTILE[:5] for quote in "\"'")
        closed = '[[ -z ${COMPREPLY[0]} ]] || eval echo "${COMP_WORDS[2]:0:1}${COMPREPLY[0]}${COMP_WORDS[2]:0:1}"'
        quoted = complete_in_bash(opened, tmp_path, site.url, closed)
    assert run.splitlines() == list(HOSTILE)
    assert quoted.splitlines() == [HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4]]
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_completion_in_fish_keeps_a_key_with_a_comma_whole(tmp_path: Path) -> None:
    script, program = tmp_path / "script", tmp_path / "syncline"
    script.write_bytes(syncline("completion", "fish").out)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m syncline "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with site_in_thread() as site:
        assert syncline("put", "a,b,c", "1", endpoints=site.url).status == 0
        ran = subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete -C 'syncline get a'"],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SYNCLINE_ENDPOINTS": site.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.stdout == "a,b,c\n"


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
