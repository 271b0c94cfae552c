"""Write the manual page `syncline.1` from the commands as they are declared: `python docs/man/make_man.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from syncline.cli.main import cli
from syncline.version import __version__

PAGE: Final = Path(__file__).with_name("syncline.1")

STATUSES: Final = {
    0: "done",
    1: "failed",
    2: "wrong usage, or settings that can't be used",
    3: "not found",
    4: "unavailable; nothing was changed",
    5: "the outcome is not known: it may take effect",
    6: "a condition did not hold",
    7: "the data directory needs 'syncline repair'",
    123: "run, lock, elect: what was held is lost",
    124: "run, lock, elect: not acquired in time",
    125: "run: the command was not run",
    126: "run: the command can't be run",
    127: "run: there is no such command",
    130: "interrupted",
}

ENVIRONMENT: Final = {
    "SYNCLINE_ENDPOINTS": "URLs of the cluster's servers, by comma, for commands that talk to one.",
    "SYNCLINE_CACERT": "PEM file with the authorities of the servers' certificates.",
    "SYNCLINE_TOKEN, SYNCLINE_TOKEN_FILE": "A token, or its file, for a cluster that asks for credentials.",
    "SYNCLINE_DATA_DIR": "The data directory, for commands that read one.",
    "SYNCLINE_DEBUG": "If it is set, an unexpected error shows its traceback.",
    "NOTIFY_SOCKET, WATCHDOG_USEC": "Set by systemd: 'serve' tells it when it is ready, and that it runs.",
}


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands that do something, with their full names."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*path, name), command


def plain(text: str) -> str:
    """A text as roff prints it: hyphens that can be copied, and no line that is taken for a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return "\n".join("\\&" + line if line[:1] in {".", "'"} else line for line in escaped.splitlines())


def paragraphs(text: str) -> str:
    """The parts of a docstring; a part that begins with \\b keeps its lines."""
    shown = []
    for part in text.strip().split("\n\n"):
        lines = [line.strip() for line in part.splitlines()]
        if lines[0] == "\b":
            shown.append(".nf\n" + plain("\n".join(lines[1:])) + "\n.fi")
        else:
            shown.append(plain(" ".join(lines)))
    return "\n.PP\n".join(shown)


def of_command(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    options = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context)) is not None
    ]
    heading = plain(" ".join([*path, usage]).strip())
    lines = [f'.SS "{heading}"', paragraphs(command.help or command.get_short_help_str(200))]
    for names, told in options:
        lines += [".TP", f"\\fB{plain(names)}\\fR", plain(" ".join(told.split()))]
    return "\n".join(lines)


def listed(entries: dict[str, str] | dict[int, str]) -> str:
    return "\n".join(f".TP\n\\fB{plain(str(name))}\\fR\n{plain(text)}" for name, text in entries.items())


def page() -> str:
    """The whole page."""
    parts = [
        '.\\" Made by docs/man/make_man.py from the commands: change those, and run `make man`.',
        f'.TH SYNCLINE 1 "" "syncline {__version__}" "User Commands"',
        ".SH NAME",
        "syncline \\- replicated, strongly consistent key\\-value server",
        ".SH SYNOPSIS",
        ".B syncline\n[\\-\\-endpoints URL,...] COMMAND [ARGUMENT]...",
        ".SH DESCRIPTION",
        paragraphs(cli.help or ""),
        ".SH COMMANDS",
        *(of_command(path, command) for path, command in commands(cli, ("syncline",))),
        ".SH EXIT STATUS",
        listed(STATUSES),
        ".SH ENVIRONMENT",
        "Each setting of 'serve' is an environment variable too: SYNCLINE_ and its name in capitals.",
        listed(ENVIRONMENT),
        ".SH SEE ALSO",
        "The handbook: https://github.com/syncline/syncline/tree/main/docs",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stderr.write(f"{PAGE}\n")
