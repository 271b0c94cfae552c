"""The command `shell`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Final

import click

from syncline.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, Told
from syncline.cli.main import cli, main
from syncline.cli.output import print_line
from syncline.cli.shell.completer import Completer
from syncline.cli.shell.history import ShellHistory
from syncline.cli.streams import say

__all__ = ["shell"]

PROMPT: Final = "syncline> "
ENDS: Final = ("exit", "quit")
OWN: Final = (*ENDS, "help")
NESTED: Final = ("shell",)
"""Commands that make no sense inside of it."""

BREAKS: Final = " \t\n\"'"
"""What ends a word for readline: a key may hold all else."""


@click.command("shell", short_help="Type commands one after the other, with history and completion.")
@click.option("--endpoints", metavar="URL,…", help="Any of the cluster's servers, for all commands.")
def shell(endpoints: str | None) -> None:
    """Type commands without `syncline` before them: `put a 1`, `get a`, `list`. Tab completes commands and keys.

    `help` lists the commands, `help get` explains one; `exit`, `quit` or Ctrl-D ends it. Ctrl-C ends a command that
    runs. Words are split as in a shell: "two words" is one. Further options of the connection come from the
    environment (SYNCLINE_TOKEN_FILE, SYNCLINE_CACERT).

    If the input is no terminal, its lines are run one after the other; the exit status is 1 if one has failed. A line
    that begins with # is a comment.
    """
    chosen = endpoints or click.get_current_context().find_root().params.get("endpoints")
    if not sys.stdin.isatty():
        statuses = [_run(line, chosen) for line in _lines_of_input()]
        if any(statuses):
            raise Told(EXIT_FAILED)
        return
    if find_spec("readline") is None:  # some builds of Python have none: lines can be typed all the same
        for line in _typed():
            _run(line, chosen)
        return
    history = ShellHistory()
    history.load()
    _complete(Completer(cli, chosen, OWN))
    try:
        for line in _typed():
            _run(line, chosen)
    finally:
        history.save()


def _lines_of_input() -> Iterator[str]:
    for line in sys.stdin:
        if _words(line)[:1] and _words(line)[0] in ENDS:
            return
        yield line


def _typed() -> Iterator[str]:
    """The lines of a user, up to the end."""
    while True:
        try:
            line = input(PROMPT)
        except KeyboardInterrupt:
            print_line("")
            continue
        except EOFError:
            print_line("")
            return
        if line.strip() in ENDS:
            return
        yield line


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=line.lstrip().startswith("#"))
    except ValueError:
        return []


def _run(line: str, endpoints: str | None) -> int:
    """Carry out one line; its exit status."""
    try:
        words = shlex.split(line, comments=line.lstrip().startswith("#"))
    except ValueError as error:
        say(f"syncline: {str(error).lower()}: {line.strip()}")
        return EXIT_FAILED
    if not words:
        return 0
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if words[0] in NESTED:
        say(f"syncline: {words[0]} can't be used inside of the shell")
        return EXIT_FAILED
    try:
        return main([*([] if endpoints is None else ["--endpoints", endpoints]), *words])
    except KeyboardInterrupt:  # between two steps of the command
        say("syncline: interrupted")
        return EXIT_INTERRUPTED


def _complete(completer: Callable[[str, str, int], str | None]) -> None:
    import readline

    def answer(word: str, at: int) -> str | None:
        return completer(readline.get_line_buffer()[: readline.get_endidx()], word, at)

    readline.set_completer(answer)
    readline.set_completer_delims(BREAKS)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
