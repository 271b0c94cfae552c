"""`docs/cli.md` names what there is: every command, options that exist, and the statuses of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from syncline.cli import exits
from syncline.cli.main import cli
from syncline.cli.serve.command import serve

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def options(command: click.Command) -> set[str]:
    return {flag for parameter in command.params if isinstance(parameter, click.Option) for flag in parameter.opts}


def test_cli_docs_name_every_command() -> None:
    missing = [" ".join(path) for path, _ in commands(cli) if not re.search(rf"`[^`]*\b{path[-1]}\b", TEXT)]
    assert missing == []


def test_cli_docs_name_only_options_that_exist() -> None:
    known = options(cli) | options(serve) | {"--help"}
    for _, command in commands(cli):
        known |= options(command)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert len(named) > 30
    assert named - known == set()


def test_cli_docs_name_most_options_of_each_command() -> None:
    """An option without a word here is told by `--help` alone: the rarely needed ones of `serve`, and these."""
    rare = {"--cacert", "--parent-fd", "--ready-fd", "--log-file", "--help"}
    for path, command in commands(cli):
        if path == ("serve",):
            continue
        long = {flag for flag in options(command) if flag.startswith("--")} - rare
        missing = {flag for flag in long if not re.search(rf"{flag}\b", TEXT)}
        assert missing == set(), path


def test_cli_docs_statuses_are_those_of_the_code() -> None:
    table = {int(status) for status in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    assert table == {0} | {value for name, value in vars(exits).items() if name.startswith("EXIT_")}
