"""A command line as the command's own parser reads it, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from syncline.cli.main import cli

__all__ = ["parsed"]


def parsed(arguments: list[str]) -> tuple[click.Command, Mapping[str, Any]]:
    """The command that these arguments call, and the values of its parameters.

    Raises:
        click.ClickException: there is no such command or option, or a value can't be used.
    """
    command: click.Command = cli
    context = click.Context(cli)
    rest = cli.make_parser(context).parse_args(list(arguments))[1] if arguments[:1] == ["--endpoints"] else arguments
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = click.Context(command, info_name=name)
    return command, command.make_context("syncline", rest).params
